"""Preference pairs: made from a file, split, written and read back. Floor 1; no torch."""

from __future__ import annotations

import json
import random
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from orpo_qlora import storage
from orpo_qlora.data.columns import (
    ColumnMapping,
    check_mapping,
    guess_mapping,
    ignored_columns,
)
from orpo_qlora.data.doctor.examine import Doctor, digest
from orpo_qlora.data.files.choices import DEFAULT_RANKING, ReadChoices
from orpo_qlora.data.files.hub import recorded_source
from orpo_qlora.data.files.remembered import (
    recall_mapping,
    recall_ranking,
    remember_mapping,
    remember_ranking,
)
from orpo_qlora.data.messages import NO_TOOLS, Message, ToolUse
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.readers.source import Progress
from orpo_qlora.data.readers.table import Table, open_table
from orpo_qlora.data.shapes import inside
from orpo_qlora.data.shapes.base import Candidate, Head, Preference, Shape, Side
from orpo_qlora.data.shapes.common_prefix import without_prompt
from orpo_qlora.data.shapes.content.media import refuse_media
from orpo_qlora.data.shapes.content.prompts import similar_prompt
from orpo_qlora.data.shapes.content.tools import tools_column, with_tools
from orpo_qlora.data.shapes.no_preference import explained
from orpo_qlora.data.shapes.registry import recognise, shape_of_mapping
from orpo_qlora.data.spool import Chosen, Spool
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.data.wording import listed, plural
from orpo_qlora.errors import DataError, NeedsColumns

PROMPTS_TO_SPLIT = 5
"""With fewer distinct prompts nothing is held out."""
HEAD_SAMPLE = 200
"""First rows from which the shape of a file is recognised."""
EXPLAINED = {"no-text", "no-messages", "unknown-role", "tool-calls", "media", "bad-history",
             "unclear-verdict", "no-ranking"}  # fmt: skip
"""Drops whose first example is part of the error of a file without pairs."""


@dataclass(frozen=True)
class PreferencePair:
    """One prompt with its chosen and its rejected response."""

    prompt: str
    """The last message of the user, which both responses answer."""
    chosen: str
    rejected: str
    row: int
    """Row number in the file, the first row under the header being 1."""
    earlier: tuple[Message, ...] = ()
    """Turns before the prompt; a system message, if there is one, is the first."""
    tool_use: ToolUse = NO_TOOLS
    single: Side = ""
    """The side that a single labelled response is on; the other response is empty and not trained
    on."""

    @property
    def conversation(self) -> tuple[Message, ...]:
        """All turns before the response, the prompt included."""
        return (*self.earlier, Message("user", self.prompt), *self.tool_use.steps)

    @property
    def responses(self) -> tuple[Message, Message]:
        """The chosen and the rejected response as messages, with their tool calls."""
        use = self.tool_use
        return (
            Message("assistant", self.chosen, use.chosen_calls),
            Message("assistant", self.rejected, use.rejected_calls),
        )

    def has(self, side: Side) -> bool:
        """Whether the pair has a response on this side."""
        return self.single in ("", side)


_PAIR = TypeAdapter(PreferencePair)


@dataclass(frozen=True)
class PreferenceData:
    """The usable pairs of a file, in file order, and its data summary."""

    pairs: Sequence[PreferencePair]
    """Kept as bytes, and on disk when large: iterate instead of making a list."""
    report: DataSummary


@dataclass(frozen=True)
class Split:
    """Pairs to train on and pairs to evaluate on, in file order; no prompt is on both sides."""

    train: Sequence[PreferencePair]
    held_out: Sequence[PreferencePair]


def load_preferences(
    path: Path,
    source: str = "",
    choices: ReadChoices | None = None,
    progress: Progress | None = None,
) -> PreferenceData:
    """Read a preference file into pairs; except for fixes, texts are exactly those of the file.

    Args:
        path: the file.
        source: the file name shown to the user; the path's own name if empty.
        choices: how to read it; recorded in the summary.
        progress: called now and then with the share done, 0 to 1.

    Raises:
        NeedsEncoding: it is text, but not Unicode, and no encoding was chosen.
        NeedsColumns: a part of a preference has no column.
        BrokenRows: some rows cannot be read, and dropping them was not chosen.
        DataError: the file cannot be read, or has no usable pair.
    """
    examination = _Examination(path, source, choices or ReadChoices(), progress)
    pairs: Spool[PreferencePair] = Spool(_packed, _PAIR.validate_json)
    for pair in examination.pairs():
        pairs.append(pair)
    if examination.is_labelled_without_pairs:
        return load_preferences(path, source, _as_single(choices), progress)
    return PreferenceData(pairs, examination.report())


def check_file(
    path: Path,
    source: str = "",
    choices: ReadChoices | None = None,
    progress: Progress | None = None,
) -> DataSummary:
    """Return the data summary of a preference file without keeping its pairs.

    Arguments and errors are those of `load_preferences`.
    """
    examination = _Examination(path, source, choices or ReadChoices(), progress)
    for _ in examination.pairs():
        pass
    if examination.is_labelled_without_pairs:
        return check_file(path, source, _as_single(choices), progress)
    return examination.report()


def _as_single(choices: ReadChoices | None) -> ReadChoices:
    return (choices or ReadChoices()).model_copy(update={"labelled": "single"})


def preview(
    path: Path, source: str = "", choices: ReadChoices | None = None, count: int = 20
) -> tuple[Table, list[PreferencePair]]:
    """Return the columns of a file and the pairs of its first rows, whatever its size.

    Raises:
        DataError: as `load_preferences`, as far as the first rows show.
    """
    choices = choices or ReadChoices()
    table = open_table(path, source, choices, is_whole=False)
    shape, _ = _shape_of(table, _with_ranking(choices, table))
    doctor = Doctor(choices.fixes)
    kept = [
        (row.number, doctor.examine(row, found, detail))
        for row, found, detail in with_tools(
            shape.candidates(iter(table.head(count))), table.columns
        )
    ]
    return table, [_pair(found, number) for number, found in kept if found is not None]


def _pair(found: Preference, row: int) -> PreferencePair:
    return PreferencePair(
        found.prompt,
        found.chosen,
        found.rejected,
        row,
        found.earlier,
        found.tool_use,
        found.single,
    )


class _Examination:
    """One pass over a file."""

    def __init__(
        self, path: Path, source: str, choices: ReadChoices, progress: Progress | None
    ) -> None:
        self._doctor = Doctor(choices.fixes)
        self._hub = recorded_source(path)
        source = source or (self._hub.file_name if self._hub else "")
        self._table = open_table(path, source, choices, progress)
        self._is_ranking_chosen = choices.pairs_from_ranking is not None
        self._is_labelled_chosen = choices.labelled is not None
        self._choices = choices = _with_ranking(choices, self._table)
        self._shape, self._is_remembered = _shape_of(self._table, choices)
        self._rows_read = 0
        self._doctor.has_python_lists = self._shape.has_python_lists

    def pairs(self) -> Iterator[PreferencePair]:
        """Yield the usable pairs in file order."""
        examine = self._doctor.examine
        for row, found, detail in self._candidates():
            kept = examine(row, found, detail)
            if kept is not None:
                yield _pair(kept, row.number)

    def _candidates(self) -> Iterator[Candidate]:
        candidates = self._shape.candidates(self._counted())
        candidates = refuse_media(candidates, self._table.columns, self._shape.used)
        return with_tools(candidates, self._table.columns)

    def _counted(self) -> Iterator[Row]:
        for row in self._table.rows():
            self._rows_read += 1
            yield row

    @property
    def is_labelled_without_pairs(self) -> bool:
        """Whether no prompt has both labels and nothing was chosen; call it after `pairs`."""
        counts = self._shape.labelled_counts()
        has_singles_only = not counts.get("pairs") and bool(counts.get("single"))
        return has_singles_only and not self._doctor.kept and not self._is_labelled_chosen

    def report(self) -> DataSummary:
        """Return the data summary; call it after all pairs were taken."""
        table = self._table
        report = DataSummary(
            source=table.source,
            sha256=table.sha256,
            rows_read=self._rows_read,
            candidates=self._doctor.rows_read,
            pairs=self._doctor.kept,
            single_chosen=self._doctor.singles["chosen"],
            single_rejected=self._doctor.singles["rejected"],
            drops=self._doctor.drops(),
            ignored_columns=ignored_columns(
                table.columns, (*self._shape.used, *tools_column(table.columns))
            ),
            findings=self._doctor.findings(),
            format=table.format,
            encoding=table.encoding,
            shape=self._shape.name,
            columns=table.columns,
            mapping=self._shape.mapping,
            is_remembered=self._is_remembered,
            choices=self._recorded_choices(),
            notes=self._shape.notes,
            ranking_pairs=self._shape.ranking_pairs(),
            labelled_counts=self._shape.labelled_counts(),
            is_ranking_remembered=self._is_ranking_remembered(),
            hub=self._hub,
        )
        _refuse_useless(report)
        if self._choices.mapping:
            remember_mapping(table.columns, self._choices.mapping)
        if report.ranking_pairs and self._is_ranking_chosen and self._choices.pairs_from_ranking:
            remember_ranking(table.columns, self._choices.pairs_from_ranking)
        return report

    def _recorded_choices(self) -> ReadChoices:
        """Return the choices without one that means nothing for this file."""
        if self._shape.labelled_counts():
            return self._choices
        return self._choices.model_copy(update={"labelled": None})

    def _is_ranking_remembered(self) -> bool:
        is_ranked = bool(self._shape.ranking_pairs())
        is_known = recall_ranking(self._table.columns) is not None
        return is_ranked and is_known and not self._is_ranking_chosen


def _with_ranking(choices: ReadChoices, table: Table) -> ReadChoices:
    """Return the choices with the pairs of a ranked row as chosen now, before, or by default."""
    if choices.pairs_from_ranking is not None:
        return choices
    known = recall_ranking(table.columns) or DEFAULT_RANKING
    return choices.model_copy(update={"pairs_from_ranking": known})


def _shape_of(table: Table, choices: ReadChoices) -> tuple[Shape, bool]:
    """Return the shape, and whether its columns are remembered from an earlier file.

    Remembered columns correct a recognised structure and guessed names, never exact names.
    """
    columns = table.columns
    ranking = choices.pairs_from_ranking or DEFAULT_RANKING
    head = Head(
        columns,
        table.head(HEAD_SAMPLE),
        ranking,
        choices.labelled or "pairs",
        has_header=table.has_header,
    )
    if choices.mapping:
        check_mapping(choices.mapping, columns, table.source, has_header=table.has_header)
        return _with_prompt(choices.mapping, table, head, choices), False
    known = recall_mapping(columns)
    try:
        shape = recognise(head) or inside.recognise(head)
        if shape is not None:
            if known is None:
                return shape, False
            return _with_prompt(known, table, head, choices), True
        mapping = guess_mapping(columns, table.source, has_header=table.has_header)
        if known is None or not mapping.guessed:
            return _with_prompt(mapping, table, head, choices), False
    except NeedsColumns as exc:
        if known is None:
            exc.where = exc.where or table.source
            raise explained(exc, head) from exc
    return _with_prompt(known, table, head, choices), True


def _with_prompt(mapping: ColumnMapping, table: Table, head: Head, choices: ReadChoices) -> Shape:
    shape = shape_of_mapping(mapping, head)
    if shape.name:
        return shape
    prompt = similar_prompt(mapping, head)
    if prompt:
        context = "" if mapping.context == prompt else mapping.context
        guessed = (*mapping.guessed, "prompt")
        mapping = replace(mapping, prompt=prompt, context=context, guessed=guessed)
        return shape_of_mapping(mapping, head)
    is_confirmed = choices.prompt_from_common_prefix
    return without_prompt(table, mapping, head, is_confirmed=is_confirmed)


def _refuse_useless(report: DataSummary) -> None:
    if report.pairs:
        return
    reasons = ", ".join(f"{drop.label} in {drop.count:,}" for drop in report.drops)
    most = max(report.drops, key=lambda drop: drop.count, default=None)
    found = report.finding(most.reason) if most else None
    shown = found.examples[:1] if found and found.id in EXPLAINED else ()
    examples = [f"row {one.row:,}: {one.text}" for one in shown]
    hint = found.advice if found and found.advice else ""
    hint = hint or "Every pair needs a prompt and two different responses."
    if most and most.reason == "empty-prompt" and report.ignored_columns:
        unused = listed(report.ignored_columns)
        hint = f"Unused columns: {unused}. Choose the prompt with --map prompt=COLUMN."
    raise DataError(
        f"{report.source} has {plural(report.rows_read, 'row')} and no usable pair: {reasons}"
        f"{' (' + examples[0] + ')' if examples else ''}.",
        where=report.source,
        hint=hint,
    )


def split_pairs(pairs: Sequence[PreferencePair], held_out: float, seed: int) -> Split:
    """Split off about a share of the pairs for evaluation, whole prompts at a time.

    Prompts that differ only in outer whitespace count as one; the same words after other turns are
    another prompt. The same pairs, share and seed give the same split. With `PROMPTS_TO_SPLIT`
    distinct prompts or more and a share above 0, at least one prompt is held out; training always
    keeps at least one.
    """
    prompts = array("Q", map(_prompt_of, pairs))
    sizes = Counter(prompts)
    if held_out <= 0 or len(sizes) < PROMPTS_TO_SPLIT:
        return Split(_at(pairs, range(len(prompts))), ())
    shuffled = list(sizes)
    random.Random(seed).shuffle(shuffled)
    target = round(held_out * len(pairs))
    kept_away: set[int] = set()
    count = 0
    # The first prompt of the shuffle always trains, so a share of 1 cannot empty the training side.
    for prompt in shuffled[1:]:
        # A prompt with very many pairs would overshoot the share; smaller ones still fit.
        if count + sizes[prompt] <= target:
            kept_away.add(prompt)
            count += sizes[prompt]
    if not kept_away:
        kept_away.add(min(shuffled, key=lambda prompt: sizes[prompt]))
    places = enumerate(prompts)
    sides: tuple[list[int], list[int]] = [], []
    for place, prompt in places:
        sides[prompt in kept_away].append(place)
    return Split(train=_at(pairs, sides[0]), held_out=_at(pairs, sides[1]))


def _at(pairs: Sequence[PreferencePair], places: Iterable[int]) -> Sequence[PreferencePair]:
    return Chosen(pairs, array("Q", places))


def _prompt_of(pair: PreferencePair) -> int:
    before = [repr(turn) for turn in (*pair.earlier, *pair.tool_use.steps)]
    return digest("\0".join([*before, pair.prompt.strip()]))


def write_pairs(path: Path, pairs: Iterable[PreferencePair]) -> None:
    """Write pairs as one JSON object per line; the write is atomic.

    Raises:
        DiskFull: a file that was there before is kept.
    """
    storage.write_whole(path, (_packed(pair).decode() + "\n" for pair in pairs))


def _packed(pair: PreferencePair) -> bytes:
    record = {
        "prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected, "row": pair.row,
    }  # fmt: skip
    if pair.earlier:
        record["earlier"] = [turn.fields() for turn in pair.earlier]
    if pair.tool_use != NO_TOOLS:
        steps = [turn.fields() for turn in pair.tool_use.steps]
        record["tool_use"] = {**asdict(pair.tool_use), "steps": steps}
    if pair.single:
        record["single"] = pair.single
    return json.dumps(record, ensure_ascii=False).encode()


def read_pairs(path: Path) -> tuple[PreferencePair, ...]:
    """Read pairs that `write_pairs` wrote, exactly.

    Raises:
        DataError: the file is missing or damaged; pairs are never skipped.
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
