"""Pairs of one prompt share a row: the prompt once, each distinct response once. Floor 2.

A prompt group is all pairs of a step that have the same prompt tokens. It is the unit of work: cut
into forwards, or assigned to one of several processes, as a whole. Two processes that share a group
would both compute its prompt. Only a group that is larger than the token budget is split, and each
part has its own copy of the prompt. Neither changes a result: every pair still takes the log-probs
of its own responses, which other pairs may take too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orpo_qlora.orpo.objectives.base import CHOSEN, REJECTED
from orpo_qlora.orpo.rows.tokens import TokenizedPair

Key = tuple[tuple[int, ...], bool]
"""What makes a response of a group distinct: its tokens, and whether they are the second time in a
pair. A pair whose responses are equal has both computed."""


@dataclass(frozen=True)
class Response:
    """One distinct response of a group; `slots` are the sums it goes into, pair · 3 + part."""

    tokens: tuple[int, ...]
    slots: tuple[int, ...]


@dataclass(frozen=True)
class PromptGroup:
    """One prompt, its pairs by their index in a forward, and their distinct responses."""

    prompt: tuple[int, ...]
    pairs: tuple[int, ...]
    responses: tuple[Response, ...]


def wanted_responses(
    pair: TokenizedPair, *, rejected: bool
) -> list[tuple[int, tuple[int, ...], Key]]:
    """Return the responses of a pair that are computed: part, tokens and key."""
    sides = [(CHOSEN, pair.chosen), (REJECTED, pair.rejected if rejected else ())]
    return [
        (part, tokens, (tokens, part == REJECTED and tokens == pair.chosen))
        for part, tokens in sides
        if tokens
    ]


def by_prompt(pairs: Iterable[TokenizedPair]) -> list[list[TokenizedPair]]:
    """Return the pairs of each prompt, the first prompt first; the units that a step consists of.

    A list is assigned to a process as a whole; see the module.
    """
    found: dict[tuple[int, ...], list[TokenizedPair]] = {}
    for pair in pairs:
        found.setdefault(pair.prompt, []).append(pair)
    return list(found.values())


def prompt_groups(
    pairs: Sequence[TokenizedPair], *, rejected: bool, shares: bool = True
) -> list[PromptGroup]:
    """Return the groups of a forward.

    Args:
        pairs: of the forward.
        rejected: whether rejected responses are computed.
        shares: False gives every pair a group of its own.
    """
    members: dict[object, list[int]] = {}
    for index, pair in enumerate(pairs):
        members.setdefault(pair.prompt if shares else index, []).append(index)
    return [_group(pairs, indices, rejected=rejected) for indices in members.values()]


def _group(
    pairs: Sequence[TokenizedPair], indices: Sequence[int], *, rejected: bool
) -> PromptGroup:
    slots: dict[Key, list[int]] = {}
    for index in indices:
        for part, _, key in wanted_responses(pairs[index], rejected=rejected):
            slots.setdefault(key, []).append(3 * index + part)
    responses = tuple(Response(key[0], tuple(places)) for key, places in slots.items())
    return PromptGroup(pairs[indices[0]].prompt, tuple(indices), responses)
