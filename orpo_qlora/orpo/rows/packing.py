"""Pairs of an optimizer step to rows of tokens under a token budget. Floor 2.

Three layouts, fastest first, that give the same numbers:

- shared: every pair is `prompt chosen rejected` in one long row without padding; both answers
  attend to the prompt, not to each other; positions of the rejected response continue from the
  prompt.
- packed: `prompt chosen` and `prompt rejected` of all pairs one after another, without padding.
- padded: one row a sequence, padded on the right to the longest of the micro-step.

The last token of an answer predicts nothing that the loss needs, so it is a target only and never
sent through the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from orpo_qlora.orpo.objectives.base import CHOSEN, PROMPT, REJECTED
from orpo_qlora.orpo.rows.tokens import TokenizedPair

Layout = Literal["shared", "packed", "padded"]
LAYOUTS: tuple[Layout, ...] = ("shared", "packed", "padded")
"""Fastest first."""


@dataclass(frozen=True)
class Needs:
    """Which log-probs are computed besides those of the chosen responses."""

    prompt: bool
    rejected: bool


@dataclass(frozen=True)
class Segment:
    """Tokens [start, end) of a row: they attend to a prefix, then causally to themselves.

    A prefix is the beginning of an earlier segment.
    """

    start: int
    end: int
    prefix_start: int = 0
    prefix_end: int = 0


@dataclass(frozen=True)
class PackedBatch:
    """One micro-step, ready for the model. R rows of T tokens, B pairs, N wanted log-probs.

    `sources` (N,) index the R·T hidden states, `targets` (N,) are the tokens they predict, and
    `slots` (N,) say where the log-prob belongs: pair · 3 + part.
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    segments: tuple[Segment, ...] | None
    sources: Tensor
    targets: Tensor
    slots: Tensor
    counts: Tensor
    tokens: int
    ends: tuple[int, ...]
    """Where the tokens of each pair end in the only row; with padding, where its rows end."""


def wanted_responses(pair: TokenizedPair, needs: Needs) -> list[tuple[int, tuple[int, ...]]]:
    """Return the responses of a pair that are computed: part and tokens."""
    sides = [(CHOSEN, pair.chosen), (REJECTED, pair.rejected if needs.rejected else ())]
    return [(part, tokens) for part, tokens in sides if tokens]


def cost_in_tokens(pair: TokenizedPair, layout: Layout, needs: Needs) -> int:
    """Return the tokens a pair sends through the model, padding aside."""
    responses = wanted_responses(pair, needs)
    prompts = 1 if layout == "shared" else len(responses)
    return prompts * len(pair.prompt) + sum(len(tokens) - 1 for _, tokens in responses)


def cut_into_micro_steps(
    pairs: Sequence[TokenizedPair], layout: Layout, needs: Needs, budget: int
) -> list[list[TokenizedPair]]:
    """Return the pairs in groups of similar length, each at most `budget` tokens with padding.

    A pair that is larger than the budget on its own gets a group of its own.
    """
    groups: list[list[TokenizedPair]] = []
    filled = 0
    for pair in sorted(pairs, key=lambda pair: (-pair.longest, pair.row)):
        if layout == "padded":
            # Sorted: the first pair of a group is its longest and decides the width.
            width = (groups[-1][0] if groups else pair).longest - 1
            cost = width * len(wanted_responses(pair, needs))
        else:
            cost = cost_in_tokens(pair, layout, needs)
        if not groups or filled + cost > budget:
            groups.append([])
            filled = 0
        groups[-1].append(pair)
        filled += cost
    return groups


class _Writer:
    """Collects tokens and wanted log-probs; rows are appended one after another."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.segments: list[Segment] = []
        self.sources: list[int] = []
        self.targets: list[int] = []
        self.slots: list[int] = []
        self.ends: list[int] = []

    def add_tokens(self, tokens: Sequence[int], first_position: int) -> int:
        """Append tokens; return the index of the first."""
        start = len(self.ids)
        self.ids.extend(tokens)
        self.positions.extend(range(first_position, first_position + len(tokens)))
        return start

    def want(self, sources: Sequence[int], targets: Sequence[int], slot: int) -> None:
        """Ask for the log-prob of each target given its source's hidden state."""
        self.sources.extend(sources)
        self.targets.extend(targets)
        self.slots.extend([slot] * len(targets))

    def add_sequence(self, prompt: Sequence[int], answer: Sequence[int], slot: int) -> int:
        """Append `prompt answer` as a causal segment, want the answer; return its start."""
        start = self.add_tokens(prompt, 0)
        self.add_tokens(answer[:-1], len(prompt))
        self.segments.append(Segment(start, len(self.ids)))
        first = start + len(prompt) - 1
        self.want(range(first, first + len(answer)), answer, slot)
        return start

    def add_branch(self, prompt_start: int, prompt: Sequence[int], answer: Sequence[int]) -> int:
        """Append an answer that attends to a prompt already there; return the branch's start."""
        start = self.add_tokens(answer[:-1], len(prompt))
        if len(answer) > 1:
            prompt_end = prompt_start + len(prompt)
            self.segments.append(Segment(start, len(self.ids), prompt_start, prompt_end))
        return start


def lay_out(
    pairs: Sequence[TokenizedPair], layout: Layout, needs: Needs, device: torch.device | str = "cpu"
) -> PackedBatch:
    """Return one micro-step's tensors in a layout, on a device."""
    writer = _Writer()
    counts = torch.zeros(len(pairs), 3)
    for index, pair in enumerate(pairs):
        prompt, slot = pair.prompt, 3 * index
        (part, tokens), *others = wanted_responses(pair, needs)
        start = writer.add_sequence(prompt, tokens, slot + part)
        counts[index, part] = len(tokens)
        if needs.prompt:
            writer.want(range(start, start + len(prompt) - 1), prompt[1:], slot + PROMPT)
            counts[index, PROMPT] = len(prompt) - 1
        for part, tokens in others:
            counts[index, part] = len(tokens)
            if layout == "shared":
                branch = writer.add_branch(start, prompt, tokens)
                sources = [start + len(prompt) - 1, *range(branch, branch + len(tokens) - 1)]
                writer.want(sources, tokens, slot + part)
            else:
                writer.add_sequence(prompt, tokens, slot + part)
        writer.ends.append(len(writer.segments) if layout == "padded" else len(writer.ids))
    batch = _padded(writer, counts) if layout == "padded" else _packed(writer, counts)
    return _moved(batch, torch.device(device))


def _packed(writer: _Writer, counts: Tensor) -> PackedBatch:
    return PackedBatch(
        input_ids=torch.tensor([writer.ids]),
        position_ids=torch.tensor([writer.positions]),
        attention_mask=None,
        segments=tuple(writer.segments),
        sources=torch.tensor(writer.sources),
        targets=torch.tensor(writer.targets),
        slots=torch.tensor(writer.slots),
        counts=counts,
        tokens=len(writer.ids),
        ends=tuple(writer.ends),
    )


def _padded(writer: _Writer, counts: Tensor) -> PackedBatch:
    """Spread the packed sequences over rows of equal width."""
    packed = _packed(writer, counts)
    lengths = torch.tensor([segment.end - segment.start for segment in writer.segments])
    width = int(lengths.max())
    mask = torch.arange(width) < lengths[:, None]
    input_ids = torch.zeros(mask.shape, dtype=torch.long)
    input_ids[mask] = packed.input_ids[0]
    place = torch.arange(mask.numel()).view(mask.shape)[mask]
    return PackedBatch(
        input_ids=input_ids,
        position_ids=torch.arange(width).expand(mask.shape),
        attention_mask=mask.long(),
        segments=None,
        sources=place[packed.sources],
        targets=packed.targets,
        slots=packed.slots,
        counts=counts,
        tokens=mask.numel(),
        ends=packed.ends,
    )


def _moved(batch: PackedBatch, device: torch.device) -> PackedBatch:
    if device.type == "cpu":
        return batch
    tensors = {
        name: value.to(device, non_blocking=True)
        for name, value in vars(batch).items()
        if isinstance(value, Tensor)
    }
    return replace(batch, **tensors)  # type: ignore[arg-type]  # names of tensor fields only
