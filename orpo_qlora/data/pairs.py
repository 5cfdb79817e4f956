"""Preference pairs: made from a table, split, written and read back. Floor 1; no torch."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from orpo_qlora import storage
from orpo_qlora.data.choices import ReadChoices
from orpo_qlora.data.columns import (
    ColumnMapping,
    check_mapping,
    guess_mapping,
    ignored_columns,
    refuse_missing,
)
from orpo_qlora.data.doctor import examine
from orpo_qlora.data.read import Row, Table, read_table
from orpo_qlora.data.report import DataReport
from orpo_qlora.data.wording import plural
from orpo_qlora.errors import DataError

PROMPTS_TO_SPLIT = 5
"""With fewer distinct prompts nothing is held out: every one is needed for training."""


Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class PreferencePair:
    """One prompt with the answer people preferred and the one they did not."""

    prompt: str
    """The last message of the user, which both answers answer."""
    chosen: str
    rejected: str
    row: int
    """Row number in the file, the first row under the header being 1."""
    earlier: tuple[Message, ...] = ()
    """Turns before the prompt; a system message, if there is one, is the first."""

    @property
    def conversation(self) -> tuple[Message, ...]:
        """Everything that was said before the answer."""
        return (*self.earlier, Message("user", self.prompt))


_PAIR = TypeAdapter(PreferencePair)
_Prompt = tuple[tuple[Message, ...], str]


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


def load_dataset(path: Path, source: str = "", choices: ReadChoices | None = None) -> Dataset:
    """Read a preference file into pairs; the texts kept are exactly the file's.

    Args:
        path: the file.
        source: the name the person knows the file by; the path's own name if empty.
        choices: what the person decided about it; recorded in the report.

    Raises:
        NeedsEncoding: it is text, but not Unicode, and no encoding was chosen.
        NeedsColumns: a part of a preference has no column.
        BrokenRows: some rows cannot be read, and leaving them out was not chosen.
        DataError: the file cannot be read, or has no usable pair.
    """
    choices = choices or ReadChoices()
    table = read_table(path, source)
    if choices.mapping:
        check_mapping(choices.mapping, table.columns, table.source)
    mapping = choices.mapping or guess_mapping(table.columns, table.source)
    if not mapping.prompt:
        refuse_missing(["prompt"], table.columns, table.source, {})
    examination = examine(table, mapping)
    report = DataReport(
        source=table.source,
        sha256=table.sha256,
        rows_read=len(table.rows),
        pairs=len(examination.usable),
        drops=examination.drops,
        ignored_columns=ignored_columns(table.columns, mapping),
        columns=table.columns,
        mapping=mapping,
        choices=choices,
    )
    _refuse_useless(report)
    return Dataset(_build_pairs(table, mapping, examination.usable), report)


def _refuse_useless(report: DataReport) -> None:
    if report.pairs:
        return
    reasons = ", ".join(f"{drop.label} in {drop.count:,}" for drop in report.drops)
    raise DataError(
        f"{report.source} has {plural(report.rows_read, 'row')} and no usable pair: {reasons}.",
        where=report.source,
        hint="Every pair needs a prompt and two different answers.",
    )


def _build_pairs(
    table: Table, mapping: ColumnMapping, rows: Sequence[Row]
) -> tuple[PreferencePair, ...]:
    prompt, chosen, rejected = (
        table.columns.index(name) for name in (mapping.prompt, mapping.chosen, mapping.rejected)
    )
    return tuple(
        PreferencePair(row.cells[prompt], row.cells[chosen], row.cells[rejected], row.number)
        for row in rows
    )


def split_pairs(pairs: Sequence[PreferencePair], held_out: float, seed: int) -> Split:
    """Keep about a share of the pairs away from training, whole prompts at a time.

    Prompts that differ only in outer whitespace count as one; the same words after other turns are
    another prompt. The same pairs, share and seed give
    the same split. With `PROMPTS_TO_SPLIT` distinct prompts or more and a share above 0, at least
    one prompt is held out; training always keeps at least one.
    """
    by_prompt: defaultdict[_Prompt, list[PreferencePair]] = defaultdict(list)
    for pair in pairs:
        by_prompt[_prompt_of(pair)].append(pair)
    prompts = list(by_prompt)
    if held_out <= 0 or len(prompts) < PROMPTS_TO_SPLIT:
        return Split(tuple(pairs), ())
    random.Random(seed).shuffle(prompts)
    target = round(held_out * len(pairs))
    kept_away: set[_Prompt] = set()
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
        train=tuple(pair for pair in pairs if _prompt_of(pair) not in kept_away),
        held_out=tuple(pair for pair in pairs if _prompt_of(pair) in kept_away),
    )


def _prompt_of(pair: PreferencePair) -> _Prompt:
    return pair.earlier, pair.prompt.strip()


def write_pairs(path: Path, pairs: Iterable[PreferencePair]) -> None:
    """Write pairs as one JSON object per line; the file appears whole or not at all.

    Raises:
        DiskFull: a file that was there before is kept.
    """
    lines = (json.dumps(_record(pair), ensure_ascii=False) + "\n" for pair in pairs)
    storage.write_whole(path, "".join(lines))


def _record(pair: PreferencePair) -> dict[str, object]:
    record = asdict(pair)
    if not pair.earlier:
        del record["earlier"]
    return record


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
