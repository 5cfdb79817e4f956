"""Orders of responses: “2>1=3”, “B > A”, or names in a list. Floor 1; no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from orpo_qlora.data.shapes.content.cells import unpacked

NAMES = ("ranking", "rankings", "rank", "ranks", "rank_str", "ranked", "order", "ordering",
         "ranking_str", "preference_order", "preference", "winner")  # fmt: skip
"""Columns that may hold an order."""
_SIGN = re.compile(r"\s*(>+|<+|=+|≻|≈|~)\s*")
_PREFIX = re.compile(
    r"(?:model|response|answer|assistant|completion|output|option)[\s_-]*(?=\w{1,2}\Z)"
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def order_of(cell: object) -> list[list[str]] | None:
    """Return the names of an order in groups, the best first; None for a cell without one.

    Names in one group are equally good. A list is an order if it holds texts that are no numbers,
    or lists of names: a list of numbers may as well be ranks.
    """
    value = unpacked(cell)
    if isinstance(value, list):
        return _of_list(value)
    if not isinstance(value, str) or not _SIGN.search(value):
        return None
    parts = _SIGN.split(value.strip().strip("[]"))
    names = [plain_label(name) for name in parts[::2]]
    signs = {sign[0] for sign in parts[1::2]}
    if not all(names) or {">", "<"} <= signs or any(len(name.split()) > 3 for name in names):
        return None
    groups = [[names[0]]]
    for sign, name in zip(parts[1::2], names[1:], strict=True):
        if sign[0] in "><≻":
            groups.append([name])
        else:
            groups[-1].append(name)
    return groups[::-1] if "<" in signs else groups


def _of_list(value: list[object]) -> list[list[str]] | None:
    groups = [one if isinstance(one, list) else [one] for one in value]
    names = [[plain_label(str(one)) for one in group] for group in groups]
    flat = [name for group in names for name in group]
    is_nested = any(isinstance(one, list) for one in value)
    if len(flat) < 2 or any(not isinstance(one, str | int) for group in groups for one in group):
        return None
    if not is_nested and all(name.isdigit() for name in flat):
        return None
    return names


def plain_label(name: str) -> str:
    """Return the name of a response as orders use it: “Response A” is “a”."""
    plain = " ".join(name.strip(" \t\r\n\"'[]()").casefold().split())
    return _PREFIX.sub("", plain)


def first_number(orders: Sequence[list[list[str]]], sizes: Sequence[int]) -> int | None:
    """Return whether the numbers of these orders count from 0 or 1, None where nothing shows it."""
    numbers = [
        (int(name), size)
        for order, size in zip(orders, sizes, strict=True)
        for group in order
        for name in group
        if name.isdigit()
    ]
    counts_from_one = any(number == size for number, size in numbers)
    has_zero = any(number == 0 for number, _ in numbers)
    if counts_from_one == has_zero:
        return None
    return 1 if counts_from_one else 0


def names_of_places(count: int, start: int) -> dict[str, int]:
    """Return the places of a list by letter and by number."""
    letters = {_LETTERS[place]: place for place in range(min(count, len(_LETTERS)))}
    return letters | {str(place + start): place for place in range(count)}


def scores_of(order: list[list[str]], places: Mapping[str, int]) -> dict[int, float]:
    """Return a score for each place that an order names; the higher one is better."""
    return {
        places[name]: -float(rank)
        for rank, group in enumerate(order)
        for name in group
        if name in places
    }
