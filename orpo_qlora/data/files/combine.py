"""Several files as one data set, with a share or a cap of each. Floor 1; no torch."""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orpo_qlora.data.doctor.across import LABELS, AcrossFiles, NumberedPreference
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.files.sources import FileSet, Quota, SourceFile, joined_name
from orpo_qlora.data.pairs import (
    PreferenceData,
    PreferencePair,
    check_file,
    load_preferences,
)
from orpo_qlora.data.readers.source import Progress
from orpo_qlora.data.shapes.base import Preference
from orpo_qlora.data.spool import Chosen, Lazy
from orpo_qlora.data.summary import DataSummary, Drop, FilePart, Finding
from orpo_qlora.errors import InputError

ABOUT_ALL = {"length-bias", "few-pairs"}
"""Findings that are made again for all files together."""
NOT_TAKEN = "not-taken"
"""Reason of the pairs that a share or a cap leaves out."""
ReadFile = Callable[[SourceFile, Progress | None], PreferenceData]


def read_file(file: SourceFile, progress: Progress | None = None) -> PreferenceData:
    """Return all pairs of one file and its summary; raises what `load_preferences` does."""
    return load_preferences(Path(file.path), file.source, file.choices, progress)


def load_files(
    data: FileSet, progress: Progress | None = None, *, read: ReadFile | None = None
) -> PreferenceData:
    """Read the files of a data set into pairs, in their order; rows count through all files.

    A single file of which all pairs are taken gives exactly what `load_preferences` gives.

    Args:
        data: the files.
        progress: called now and then with the share done, 0 to 1.
        read: reads one file; may return what was read before.

    Raises:
        InputError: two of the files are the same file.
        DataError: a file cannot be used, as `load_preferences` raises it.
    """
    read = read or read_file
    if data.is_one_file:
        return read(data.files[0], progress)
    _refuse_same(data)
    combined = _Combined(data, read)
    for place in range(len(data.files)):
        combined.add(place, progress_part(progress, place, len(data.files)))
    return combined.result()


def check_files(data: FileSet, progress: Progress | None = None) -> DataSummary:
    """Return the data summary of the files; the pairs of a single one are not kept."""
    if data.is_one_file:
        only = data.files[0]
        return check_file(Path(only.path), only.source, only.choices, progress)
    return load_files(data, progress).report


def pinned(data: FileSet, report: DataSummary) -> FileSet:
    """Return the files with what was remembered about them as the user's own choices.

    What is remembered may change before another process reads the files.
    """
    if data.is_one_file:
        return data.with_choices({0: pinned_choices(report)})
    parts = enumerate(report.files)
    return data.with_choices({place: pinned_choices(part.summary) for place, part in parts})


def pinned_choices(report: DataSummary) -> ReadChoices:
    """Return how a file was read, with columns that were remembered as the user's own choice."""
    if not report.is_remembered:
        return report.choices
    return report.choices.model_copy(update={"mapping": report.mapping})


def sample(
    pairs: Sequence[PreferencePair], places: array[int], quota: Quota, seed: int
) -> array[int]:
    """Return which of these places a share or a cap takes, in file order.

    Pairs are taken in the order of a hash of their prompt, then of their responses, so pairs of one
    prompt stay together and the choice does not depend on the order of the rows.
    """
    count = quota.count(len(places))
    if count == len(places):
        return places
    ranked = sorted(places, key=lambda place: _rank(pairs[place], seed))
    return array("Q", sorted(ranked[:count]))


def _rank(pair: PreferencePair, seed: int) -> bytes:
    asked = "\0".join(f"{turn.role}\0{turn.text}" for turn in pair.conversation)
    chosen, rejected = pair.responses
    return _digest(f"{seed}\0{asked}") + _digest(f"{chosen.text}\0{rejected.text}")


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _refuse_same(data: FileSet) -> None:
    paths = [Path(file.path).expanduser().resolve() for file in data.files]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise InputError(f"{twice.name} is given twice.", hint="Name each file once.")


def progress_part(progress: Progress | None, place: int, files: int) -> Progress | None:
    """Return the progress of one of several files, as part of the whole."""
    if progress is None:
        return None
    return lambda share: progress((place + share) / files)


@dataclass(frozen=True)
class _Taken:
    """The pairs taken from one file."""

    pairs: Sequence[PreferencePair]
    rows_before: int


class _Combined:
    """Files read so far."""

    def __init__(self, data: FileSet, read: ReadFile) -> None:
        self._data, self._names, self._read = data, data.names(), read
        self._across = AcrossFiles(data.fixes)
        self._rows_before = 0
        self._taken: list[_Taken] = []
        self._parts: list[FilePart] = []
        self._left_out: list[Drop] = []

    def add(self, place: int, progress: Progress | None) -> None:
        """Read the next file and take its share."""
        file, name = self._data.files[place], self._names[place]
        found = self._read(file.model_copy(update={"source": name}), progress)
        usable = self._across.usable(name, _numbered(found.pairs), len(found.pairs))
        places = sample(found.pairs, usable, file.quota, self._data.sample_seed)
        taken = _Taken(Chosen(found.pairs, places), self._rows_before)
        self._across.remember(name, _numbered(taken.pairs))
        if len(places) < len(usable):
            label = f"pairs not taken: {file.quota.sentence()}"
            count = len(usable) - len(places)
            self._left_out.append(
                Drop(reason=NOT_TAKEN, label=label, rows=(), count=count, file=name)
            )
        self._taken.append(taken)
        self._parts.append(
            FilePart(
                name=name,
                sha256=found.report.sha256,
                pairs_found=len(found.pairs),
                pairs_taken=len(places),
                quota=file.quota,
                rows_before=self._rows_before,
                summary=found.report,
            )
        )
        self._rows_before += found.report.rows_read

    def result(self) -> PreferenceData:
        """Return the pairs of all files and their summary."""
        pairs = JoinedPairs(self._taken)
        summaries = [part.summary for part in self._parts]
        hashes = "".join(f"{part.sha256}\n" for part in self._parts)
        report = DataSummary(
            source=joined_name(self._names),
            sha256=hashlib.sha256(hashes.encode()).hexdigest(),
            rows_read=self._rows_before,
            candidates=sum(summary.candidates for summary in summaries),
            pairs=len(pairs),
            single_chosen=self._across.lengths.singles["chosen"],
            single_rejected=self._across.lengths.singles["rejected"],
            drops=(*self._file_drops(), *self._across.drops, *self._left_out),
            findings=(*self._across.findings, *self._file_findings(), *self._about_all()),
            choices=ReadChoices(fixes=tuple(fix for fix in self._data.fixes if fix in LABELS)),
            files=tuple(self._parts),
            sample_seed=self._data.sample_seed,
        )
        return PreferenceData(pairs, report)

    def _file_drops(self) -> Iterator[Drop]:
        for part in self._parts:
            for drop in part.summary.drops:
                yield drop.model_copy(update={"file": part.name})

    def _file_findings(self) -> Iterator[Finding]:
        for part in self._parts:
            for finding in part.summary.findings:
                if finding.id not in ABOUT_ALL:
                    yield finding.model_copy(update={"file": part.name})

    def _about_all(self) -> Iterator[Finding]:
        lengths = self._across.lengths
        yield from filter(None, (lengths.length_bias(), lengths.few_pairs(self._rows_before)))


class JoinedPairs(Lazy[PreferencePair]):
    """The pairs taken from several files, one file after the other, without copying them."""

    def __init__(self, parts: Sequence[_Taken]) -> None:
        self._parts = [part for part in parts if part.pairs]
        self._starts = [0]
        for part in self._parts:
            self._starts.append(self._starts[-1] + len(part.pairs))

    def __len__(self) -> int:
        return self._starts[-1]

    def at(self, index: int) -> PreferencePair:
        """Return the pair at an index from 0; its row counts through all files."""
        place = bisect_right(self._starts, index) - 1
        part = self._parts[place]
        pair = part.pairs[index - self._starts[place]]
        return replace(pair, row=part.rows_before + pair.row)


def _numbered(pairs: Sequence[PreferencePair]) -> Iterator[NumberedPreference]:
    for pair in pairs:
        preference = Preference(
            pair.earlier, pair.prompt, pair.chosen, pair.rejected, pair.tool_use, pair.single
        )
        yield NumberedPreference(pair.row, preference)
