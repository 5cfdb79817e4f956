"""LoRA dropout drawn for each pair from seed, step and row. Floor 2.

`nn.Dropout` draws from one generator for all tokens of a forward, so its masks depend on which
pairs share the forward. Here they do not: the pairs of a step may be cut into forwards, and shared
out to processes, in any way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional as F

from orpo_qlora.orpo.rows.packing import PackedBatch
from orpo_qlora.orpo.rows.tokens import TokenizedPair


@dataclass(frozen=True)
class _Span:
    """Tokens [start, end) of a row of the input, which belong to a pair."""

    pair: int
    """Row of the pair in the data."""
    row: int
    start: int
    end: int


class Draws:
    """What all dropout layers of a policy draw from; set `step` before each optimizer step."""

    def __init__(self, seed: int) -> None:
        self.seed, self.step = seed, 0
        self._spans: list[_Span] = []
        self._shape = torch.Size()
        self._generators: dict[torch.device, torch.Generator] = {}

    def place(self, pairs: Sequence[TokenizedPair], batch: PackedBatch) -> None:
        """Take note of which tokens of the next forward belong to which pair."""
        self._shape = batch.input_ids.shape
        if batch.attention_mask is None:
            ends = [0, *batch.ends]
            spans = zip(pairs, ends[:-1], ends[1:], strict=True)
            self._spans = [_Span(pair.row, 0, start, end) for pair, start, end in spans]
            return
        lengths = batch.attention_mask.sum(-1).tolist()
        firsts = [0, *batch.ends]
        self._spans = [
            _Span(pair.row, row, 0, lengths[row])
            for pair, first, last in zip(pairs, firsts[:-1], firsts[1:], strict=True)
            for row in range(first, last)
        ]

    def knows(self, x: Tensor) -> bool:
        """Whether an input is that of the current forward, token by token."""
        return x.shape[:-1] == self._shape

    def kept(self, x: Tensor, layer: int, p: float) -> Tensor:
        """Return which values of an input (R, T, H) are kept, each with probability 1 − p."""
        kept = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
        source = self._generators.get(x.device)
        if source is None:
            source = self._generators[x.device] = torch.Generator(x.device)
        pair = None
        for span in self._spans:
            if span.pair != pair:
                source.manual_seed(self._seed_of(span.pair, layer))
                pair = span.pair
            kept[span.row, span.start : span.end].bernoulli_(1 - p, generator=source)
        return kept

    def _seed_of(self, pair: int, layer: int) -> int:
        text = f"{self.seed} {self.step} {pair} {layer}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])


class PairDropout(nn.Module):
    """Dropout of one layer; the same when a forward is repeated to recompute activations."""

    def __init__(self, p: float, layer: int, draws: Draws) -> None:
        super().__init__()
        self.p, self.layer, self.draws = p, layer, draws

    def forward(self, x: Tensor) -> Tensor:
        """Return x with a share p of its values set to 0 and the others scaled by 1 / (1 − p)."""
        if not self.training or not self.p:
            return x
        if not self.draws.knows(x):
            return F.dropout(x, self.p)  # an expert's tokens, of which the pairs are not known
        dropped = ~self.draws.kept(x, self.layer, self.p)
        return x.masked_fill(dropped, 0) / (1 - self.p)


def draw_by_pair(policy: PeftModel, seed: int) -> Draws | None:
    """Replace the dropout of every LoRA layer; return what it draws from, None without any."""
    draws = Draws(seed)
    found = 0
    for module in policy.modules():
        if isinstance(module, LoraLayer):
            for name, dropout in module.lora_dropout.items():
                if isinstance(dropout, nn.Dropout | PairDropout):
                    module.lora_dropout[name] = PairDropout(dropout.p, found, draws)
                    module.lora_dropout[name].train(dropout.training)
                    found += 1
    return draws if found else None
