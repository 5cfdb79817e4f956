"""Preference pairs: made from a table, split, written and read back. Floor 1; no torch."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from orpo_qlora import storage
from orpo_qlora.data.columns import ColumnMapping, find_mapping, ignored_columns
from orpo_qlora.data.doctor import examine
from orpo_qlora.data.read import Row, Table, read_table
from orpo_qlora.data.report import DataReport, plural
from orpo_qlora.errors import DataError

PROMPTS_TO_SPLIT = 5
"""With fewer distinct prompts nothing is held out: every one is needed for training."""


@dataclass(frozen=True)
class PreferencePair:
    """One prompt with the answer people preferred and the one they did not."""

    prompt: str
    chosen: str
    rejected: str
    row: int
    """Row number in the file, the first row under the header being 1."""


_PAIR = TypeAdapter(PreferencePair)


@dataclass(frozen=True)
class Dataset:
    """The usable pairs of a file, in file order, and the account of the rest."""

    pairs: tuple[PreferencePair, ...]
    report: DataReport


@dataclass(frozen=True)
class Split:
    """Pairs to train on and pairs to measure on, in file order; no prompt is on both sides."""

    train: tuple[PreferencePair, ...]
    held_out: tuple[PreferencePair, ...]


def load_dataset(path: Path, source: str = "") -> Dataset:
    """Read a preference file into pairs; the texts kept are exactly the file's.

    Args:
        path: the file.
        source: the name the person knows the file by; the path's own name if empty.

    Raises:
        DataError: the file cannot be read, lacks a column, or has no usable pair.
    """
    table = read_table(path, source)
    mapping = find_mapping(table.columns, table.source)
    examination = examine(table, mapping)
    report = DataReport(
        source=table.source,
        sha256=table.sha256,
        rows_read=len(table.rows),
        pairs=len(examination.usable),
        drops=examination.drops,
        ignored_columns=ignored_columns(table.columns, mapping),
    )
    _refuse_useless(report)
    return Dataset(_build_pairs(table, mapping, examination.usable), report)


def _refuse_useless(report: DataReport) -> None:
    if report.pairs:
        return
    reasons = ", ".join(f"{drop.label} in {len(drop.rows):,}" for drop in report.drops)
    raise DataError(
        f"{report.source} has {plural(report.rows_read, 'row')} and no usable pair: {reasons}.",
        where=report.source,
        hint="Every pair needs a prompt and two different answers.",
    )


def _build_pairs(
    table: Table, mapping: ColumnMapping, rows: Sequence[Row]
) -> tuple[PreferencePair, ...]:
    prompt, chosen, rejected = mapping.positions_in(table.columns)
    return tuple(
        PreferencePair(row.cells[prompt], row.cells[chosen], row.cells[rejected], row.number)
        for row in rows
    )


def split_pairs(pairs: Sequence[PreferencePair], held_out: float, seed: int) -> Split:
    """Keep about a share of the pairs away from training, whole prompts at a time.

    Prompts that differ only in outer whitespace count as one. The same pairs, share and seed give
    the same split. With `PROMPTS_TO_SPLIT` distinct prompts or more and a share above 0, at least
    one prompt is held out; training always keeps at least one.
    """
    by_prompt: defaultdict[str, list[PreferencePair]] = defaultdict(list)
    for pair in pairs:
        by_prompt[pair.prompt.strip()].append(pair)
    prompts = list(by_prompt)
    if held_out <= 0 or len(prompts) < PROMPTS_TO_SPLIT:
        return Split(tuple(pairs), ())
    random.Random(seed).shuffle(prompts)
    target = round(held_out * len(pairs))
    kept_away: set[str] = set()
    count = 0
    # The first prompt of the shuffle always trains, so a share of 1 cannot empty the training side.
    for prompt in prompts[1:]:
        size = len(by_prompt[prompt])
        # A prompt with very many pairs would overshoot the share; smaller ones still fit.
        if count + size <= target:
            kept_away.add(prompt)
            count += size
    if not kept_away:
        kept_away.add(min(prompts, key=lambda prompt: len(by_prompt[prompt])))
    return Split(
        train=tuple(pair for pair in pairs if pair.prompt.strip() not in kept_away),
        held_out=tuple(pair for pair in pairs if pair.prompt.strip() in kept_away),
    )


def write_pairs(path: Path, pairs: Iterable[PreferencePair]) -> None:
    """Write pairs as one JSON object per line; the file appears whole or not at all.

    Raises:
        DiskFull: a file that was there before is kept.
    """
    lines = (json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs)
    storage.write_whole(path, "".join(lines))


def read_pairs(path: Path) -> tuple[PreferencePair, ...]:
    """Read pairs that `write_pairs` wrote, exactly.

    Raises:
        DataError: the file is missing or damaged; no pair is skipped.
    """
    pairs: list[PreferencePair] = []
    try:
        with path.open("rb") as file:
            for line in file:
                pairs.append(_PAIR.validate_json(line, strict=True))
    except ValidationError as exc:
        raise DataError(
            f"Line {len(pairs) + 1:,} of {path.name} is damaged.",
            where=str(path),
            hint="Start a new run from the original file.",
        ) from exc
    except OSError as exc:
        raise DataError(
            f"{path.name} cannot be opened ({exc.strerror}).",
            where=str(path),
            hint="Start a new run from the original file.",
        ) from exc
    return tuple(pairs)
