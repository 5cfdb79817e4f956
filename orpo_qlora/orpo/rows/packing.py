"""Pairs of an optimizer step to rows of tokens under a token budget. Floor 2.

Three layouts, fastest first, that give the same numbers:

- shared: every pair is `prompt chosen rejected` in one long row without padding; both answers
  attend to the prompt, not to each other; positions of the rejected response continue from the
  prompt. Pairs of one prompt have it once, followed by each of their distinct responses.
- packed: `prompt chosen` and `prompt rejected` of all pairs one after another, without padding.
- padded: one row a sequence, padded on the right to the longest of the micro-step.

In every layout, pairs of one prompt share equal responses (`prompt_groups`).

The last token of an answer predicts nothing that the loss needs, so it is a target only and never
sent through the model.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from orpo_qlora.orpo.objectives.base import PROMPT
from orpo_qlora.orpo.rows.prompt_groups import (
    Key,
    PromptGroup,
    by_prompt,
    prompt_groups,
    wanted_responses,
)
from orpo_qlora.orpo.rows.tokens import TokenizedPair

Layout = Literal["shared", "packed", "padded"]
LAYOUTS: tuple[Layout, ...] = ("shared", "packed", "padded")
"""Fastest first."""
KEYS_A_TOKEN = 2
"""Keys that a pair attends over per token of its row, at most; the memory model counts on it."""
TOKENS_A_KEY = 1 / 8
"""Share of a token's kept activations that one key and value are, at most: with as many key heads
as query heads."""


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
    `slots` (N,) say where the log-prob belongs: pair · 3 + part. `origins` (3·B,) are the slots
    whose sums the pairs take, where some responses or prompts are shared.
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
    """Where the tokens of each group end in the only row; with padding, where its rows end."""
    origins: Tensor | None = None

    @property
    def uses(self) -> Tensor:
        """How many sums each log-prob goes into, shape (N,)."""
        if self.origins is None:
            return torch.ones_like(self.slots)
        return torch.bincount(self.origins, minlength=self.counts.numel())[self.slots]


def cost_in_tokens(pair: TokenizedPair, layout: Layout, needs: Needs) -> int:
    """Return the tokens a pair sends through the model on its own, padding aside."""
    return tokens_of([pair], layout, needs)


def tokens_of(pairs: Sequence[TokenizedPair], layout: Layout, needs: Needs) -> int:
    """Return the tokens that pairs send through the model in one forward, padding aside."""
    groups = prompt_groups(pairs, rejected=needs.rejected)
    return sum(_tokens(group, layout) for group in groups)


def _tokens(group: PromptGroup, layout: Layout) -> int:
    prompts = 1 if layout == "shared" else len(group.responses)
    return prompts * len(group.prompt) + sum(len(one.tokens) - 1 for one in group.responses)


def _budget_cost(
    prompt: Sequence[int], responses: Collection[Key], layout: Layout, width: int
) -> int:
    """Return what a group takes of the budget: its tokens, or more where there are many keys.

    Args:
        prompt: tokens of the group.
        responses: the distinct ones.
        layout: of the forward.
        width: tokens of a padded row.
    """
    count, answers = len(responses), sum(len(tokens) - 1 for tokens, _ in responses)
    if layout == "padded":
        return width * count
    if layout == "packed":
        return count * len(prompt) + answers
    tokens, keys = len(prompt) + answers, count * len(prompt) + answers
    return tokens + math.ceil(max(0, keys - KEYS_A_TOKEN * tokens) * TOKENS_A_KEY)


def cut_into_micro_steps(
    pairs: Sequence[TokenizedPair],
    layout: Layout,
    needs: Needs,
    budget: int,
    *,
    shares: bool = True,
) -> list[list[TokenizedPair]]:
    """Return the pairs in micro-steps of similar length, each at most `budget` tokens with padding.

    Pairs of one prompt are in one micro-step unless they exceed the budget together. A pair that is
    larger than the budget on its own gets a micro-step of its own. Without `shares`, pairs are
    independent of each other.
    """
    ordered = sorted(pairs, key=lambda pair: (-pair.longest, pair.row))
    groups = by_prompt(ordered) if shares else [[pair] for pair in ordered]
    micro_steps: list[list[TokenizedPair]] = []
    filled = rows = widest = 0
    for part in (part for group in groups for part in _split(group, layout, needs, budget)):
        # The first pair of a part is its longest. That of a micro-step need not be: the end of a
        # group that was split is followed by longer pairs.
        width = part[0].longest - 1
        responses = {key for pair in part for key in _keys(pair, needs)}
        cost = _budget_cost(part[0].prompt, responses, layout, width)
        together = filled + cost
        if layout == "padded":
            together = max(widest, width) * (rows + len(responses))
        if not micro_steps or together > budget:
            micro_steps.append([])
            together, rows, widest = cost, 0, 0
        micro_steps[-1].extend(part)
        filled, rows, widest = together, rows + len(responses), max(widest, width)
    return micro_steps


def _split(
    group: Sequence[TokenizedPair], layout: Layout, needs: Needs, budget: int
) -> Iterator[list[TokenizedPair]]:
    """Yield the pairs of one prompt in parts within the budget, or of a single pair."""
    part: list[TokenizedPair] = []
    held: set[Key] = set()
    for pair in group:
        keys = held | _keys(pair, needs)
        width = (part or [pair])[0].longest - 1
        if part and _budget_cost(pair.prompt, keys, layout, width) > budget:
            yield part
            part, keys = [], _keys(pair, needs)
        part.append(pair)
        held = keys
    yield part


def _keys(pair: TokenizedPair, needs: Needs) -> set[Key]:
    return {key for _, _, key in wanted_responses(pair, rejected=needs.rejected)}


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
        self.origins: dict[int, int] = {}

    def share(self, slots: Sequence[int]) -> None:
        """Let all slots but the first take the first one's sum."""
        self.origins.update(dict.fromkeys(slots[1:], slots[0]))

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
    pairs: Sequence[TokenizedPair],
    layout: Layout,
    needs: Needs,
    device: torch.device | str = "cpu",
    *,
    shares: bool = True,
) -> PackedBatch:
    """Return one micro-step's tensors in a layout, on a device.

    Args:
        pairs: of the micro-step.
        layout: of the row.
        needs: which log-probs are wanted.
        device: for the tensors.
        shares: whether pairs of one prompt share it and equal responses.
    """
    writer = _Writer()
    for group in prompt_groups(pairs, rejected=needs.rejected, shares=shares):
        _write(writer, group, layout, needs)
        writer.ends.append(len(writer.segments) if layout == "padded" else len(writer.ids))
    counts = _counts(pairs, needs)
    batch = _padded(writer, counts) if layout == "padded" else _packed(writer, counts)
    if writer.origins:
        origins = torch.arange(counts.numel())
        origins[list(writer.origins)] = torch.tensor(list(writer.origins.values()))
        batch = replace(batch, origins=origins)
    return _moved(batch, torch.device(device))


def _write(writer: _Writer, group: PromptGroup, layout: Layout, needs: Needs) -> None:
    """Append the prompt of a group with each of its responses."""
    prompt, (first, *others) = group.prompt, group.responses
    start = writer.add_sequence(prompt, first.tokens, first.slots[0])
    if needs.prompt:
        slots = [3 * index + PROMPT for index in group.pairs]
        writer.want(range(start, start + len(prompt) - 1), prompt[1:], slots[0])
        writer.share(slots)
    for response in others:
        tokens, slot = response.tokens, response.slots[0]
        if layout == "shared":
            branch = writer.add_branch(start, prompt, tokens)
            sources = [start + len(prompt) - 1, *range(branch, branch + len(tokens) - 1)]
            writer.want(sources, tokens, slot)
        else:
            writer.add_sequence(prompt, tokens, slot)
    for response in group.responses:
        writer.share(response.slots)


def _counts(pairs: Sequence[TokenizedPair], needs: Needs) -> Tensor:
    """Return the tokens of each sum, shape (B, 3)."""
    counts = torch.zeros(len(pairs), 3)
    for index, pair in enumerate(pairs):
        for part, tokens, _ in wanted_responses(pair, rejected=needs.rejected):
            counts[index, part] = len(tokens)
        if needs.prompt:
            counts[index, PROMPT] = len(pair.prompt) - 1
    return counts


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
