"""The data summary: what was read, kept and dropped. Floor 1; page, CLI and run folder."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.files.choices import Labelled, ReadChoices
from orpo_qlora.data.files.hub import HubSource
from orpo_qlora.data.files.sources import Quota
from orpo_qlora.data.wording import brief

# Imported from here by runs/present.py.
from orpo_qlora.data.wording import plural as plural

ROWS_SHOWN = 5
"""Row numbers listed per reason in a sentence; more are in `Drop.rows`."""
ROWS_KEPT = 1000
"""Row numbers kept per drop or finding; the count is exact beyond."""

Severity = Literal["error", "warning", "note"]


class Drop(BaseModel):
    """Rows that gave no pair, for one reason."""

    model_config = ConfigDict(frozen=True)

    reason: str
    """Stable id: `empty-prompt`, `identical`, or the id of the finding whose fix dropped them."""
    label: str
    """The reason, completing “In 3 rows …”."""
    rows: tuple[int, ...]
    """Row numbers, the first row under the header being 1; the first `ROWS_KEPT`."""
    file: str = ""
    """The file of these rows, in a data set of several."""
    count: int = 0
    """How many rows; runs of earlier versions kept all numbers and no count."""

    def model_post_init(self, context: object, /) -> None:
        """Count the rows where no count was given."""
        object.__setattr__(self, "count", self.count or len(self.rows))


class Example(BaseModel):
    """One row that shows a finding."""

    model_config = ConfigDict(frozen=True)

    row: int
    text: str
    """An excerpt, on one line; secrets are masked."""


class Finding(BaseModel):
    """Something about the data to know before training."""

    model_config = ConfigDict(frozen=True)

    id: str
    severity: Severity
    """`error`: unusable rows. `warning`: they teach something unwanted. `note`: worth knowing."""
    label: str
    count: int
    share: float
    """Of the rows read, 0 to 1; of the pairs, where the finding is about all of them."""
    rows: tuple[int, ...] = ()
    """The first `ROWS_KEPT` row numbers."""
    examples: tuple[Example, ...] = ()
    fix: str = ""
    """Button label of the fix that `ReadChoices.fixes` turns on; empty if there is none."""
    fixed: bool = False
    """Whether the fix is on."""
    advice: str = ""
    """The consequence for training, in a sentence."""
    file: str = ""
    """The file of these rows, in a data set of several."""

    def sentence(self) -> str:
        """Return the finding in words, with its rows, its meaning and its id."""
        where = f" ({row_list(self.rows, self.count, self.file)})" if self.rows else ""
        done = " Fixed." if self.fixed else ""
        lead = f"{plural(self.count, 'pair')}: " if self.rows else ""
        label = self.label if lead else self.label[:1].upper() + self.label[1:]
        return f"{lead}{label}{where}. {self.advice}{done} [{self.id}]".replace("  ", " ")


class FilePart(BaseModel):
    """One file of a data set of several."""

    model_config = ConfigDict(frozen=True)

    name: str
    sha256: str
    pairs_found: int
    pairs_taken: int
    quota: Quota = Quota()
    rows_before: int = 0
    """Rows of the files before it: `PreferencePair.row` counts through all files."""
    summary: DataSummary
    """What was read, kept and dropped in this file alone."""

    def sentence(self) -> str:
        """Return what was found and taken, in words."""
        quota, taken = self.quota.sentence(), f"{self.pairs_taken:,} taken"
        if quota:
            is_short = self.quota.cap is not None and self.pairs_found <= self.quota.cap
            taken += f" ({quota}{', not reached' if is_short else ''})"
        origin = f" {self.summary.hub.sentence()}" if self.summary.hub else ""
        return f"{self.name}: {plural(self.pairs_found, self.summary.noun)} found, {taken}.{origin}"


class DataSummary(BaseModel):
    """The data summary of a file or of several; `candidates == pairs + rows_dropped`."""

    model_config = ConfigDict(frozen=True)

    source: str
    """File name as shown to the user, without its folder."""
    sha256: str
    """Of the file; of several files, of their SHA-256 in order, one per line."""
    rows_read: int
    pairs: int
    """Usable pairs, single labelled responses included."""
    single_chosen: int = 0
    """Single labelled responses among `pairs` that are labelled good."""
    single_rejected: int = 0
    candidates: int = 0
    """Preferences found in the rows, dropped ones included: as many as rows, unless rows are ranked
    lists or are paired by label. Set to `rows_read` if 0."""
    drops: tuple[Drop, ...] = ()
    ignored_columns: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    format: str = ""
    """What the file is, in words: “CSV, semicolon”."""
    encoding: str = ""
    shape: str = ""
    """Name of the shape, such as `text`, `messages` or `ranked list`."""
    columns: tuple[str, ...] = ()
    """All columns of the file, for correcting the mapping."""
    mapping: ColumnMapping | None = None
    """The columns used; `mapping.guessed` lists parts the user has not confirmed."""
    is_remembered: bool = False
    """Whether the columns are those the user chose for an earlier file with the same columns."""
    is_ranking_remembered: bool = False
    """Whether `pairs_from_ranking` was chosen for an earlier file with the same columns."""
    choices: ReadChoices = ReadChoices()
    notes: tuple[str, ...] = ()
    """How the shape was understood, in sentences."""
    ranking_pairs: dict[str, int] = {}
    """Pairs that each value of `pairs_from_ranking` gives; empty if nothing is ranked."""
    labelled_counts: dict[Labelled, int] = {}
    """What each value of `labelled` gives, before the checks; empty unless responses are
    labelled."""
    files: tuple[FilePart, ...] = ()
    """The files of a data set of several; empty for a single file of which all is taken."""
    sample_seed: int = 0
    """Decided which pairs a share or a cap took."""
    hub: HubSource | None = None
    """Where the file came from, if it was fetched from the Hub."""

    def model_post_init(self, context: object, /) -> None:
        """Set `candidates` where it was not given."""
        object.__setattr__(self, "candidates", self.candidates or self.rows_read)

    @property
    def rows_dropped(self) -> int:
        """Rows that gave no pair."""
        return sum(drop.count for drop in self.drops)

    @property
    def singles(self) -> int:
        """Single labelled responses among `pairs`."""
        return self.single_chosen + self.single_rejected

    @property
    def noun(self) -> str:
        """What one of `pairs` is."""
        return "response" if self.singles == self.pairs > 0 else "pair"

    @property
    def can_be_paired(self) -> bool:
        """Whether labelled responses give pairs when they are read as such."""
        parts = [part.summary for part in self.files] or [self]
        return any(part.labelled_counts.get("pairs") for part in parts)

    def count_text(self, *, sides: bool = True) -> str:
        """Return what is usable: “3 pairs”, “5 responses (3 chosen, 2 rejected)”."""
        pairs = self.pairs - self.singles
        if not self.singles:
            return plural(pairs, "pair")
        each = f" ({self.single_chosen:,} chosen, {self.single_rejected:,} rejected)"
        single = f"{plural(self.singles, 'response')}{each if sides else ''}"
        return f"{plural(pairs, 'pair')} and {single}" if pairs else single

    def finding(self, finding_id: str) -> Finding | None:
        """Return the finding of that id, if the file has it."""
        return next((found for found in self.findings if found.id == finding_id), None)

    def place_of(self, row: int) -> str:
        """Return the place of a pair's row in words: “row 3”, “b.jsonl, row 3”."""
        for part in reversed(self.files):
            if row > part.rows_before:
                return f"{part.name}, row {row - part.rows_before:,}"
        return f"row {row:,}"

    def sentences(self) -> list[str]:
        """Return the summary as short sentences, most important first."""
        lines = [f"{plural(self.rows_read, 'row')} read, {self.count_text()} usable."]
        if self.hub:
            lines.append(self.hub.sentence())
        lines += [part.sentence() for part in self.files]
        lines += [_drop_sentence(drop) for drop in self.drops]
        lines += self.notes
        if self.ranking_pairs:
            counts = ", ".join(f"{name} {count:,}" for name, count in self.ranking_pairs.items())
            before = ", as chosen before for such a file" if self.is_ranking_remembered else ""
            used = self.choices.pairs_from_ranking
            lines.append(f"Pairs from rankings: {counts}; “{used}” is used{before}.")
        if self.mapping and self.mapping.guessed:
            parts = [part for part in self.mapping.parts() if part[0] in self.mapping.guessed]
            named = ", ".join(f"{brief(column)} as {part}" for part, column in parts)
            lines.append(f"Columns guessed from their names: {named}.")
        if self.is_remembered and self.mapping:
            named = ", ".join(f"{brief(column)} as {part}" for part, column in self.mapping.parts())
            lines.append(f"Columns as chosen before for such a file: {named}.")
        if self.ignored_columns:
            names = ", ".join(brief(name) for name in self.ignored_columns)
            lines.append(f"Columns not used: {names}.")
        return lines

    def remarks(self) -> list[str]:
        """Return the findings in rows that are kept, as sentences."""
        dropped = {drop.reason for drop in self.drops}
        return [finding.sentence() for finding in self.findings if finding.id not in dropped]

    def to_markdown(self) -> str:
        """Return the summary as a Markdown page."""
        lines = [f"# {self.source}", "", f"{self.format}, {self.encoding}".strip(", "), ""]
        lines += [f"- {sentence}" for sentence in self.sentences()]
        if self.findings:
            lines += ["", "| finding | severity | rows | share | fixed |", "| --- " * 5 + "|"]
            lines += [
                f"| `{found.id}`: {_label(found)} | {found.severity} | {found.count:,} "
                f"| {found.share:.1%} | {'yes' if found.fixed else 'no'} |"
                for found in self.findings
            ]
        lines += ["", *(f"{what}: `{value}`" for what, value in self.hashes()), ""]
        return "\n".join(lines)

    def hashes(self) -> list[tuple[str, str]]:
        """Return what was hashed and its SHA-256: the file, or each file and all of them."""
        if not self.files:
            return [("SHA-256 of the file", self.sha256)]
        parts = [(f"SHA-256 of {part.name}", part.sha256) for part in self.files]
        return [*parts, ("SHA-256 of all files", self.sha256)]


FilePart.model_rebuild()


def _label(finding: Finding) -> str:
    return f"{finding.file}: {finding.label}" if finding.file else finding.label


def _drop_sentence(drop: Drop) -> str:
    if not drop.rows:
        return f"{drop.file}: {drop.count:,} {drop.label}."
    return f"{drop.count:,} dropped: {drop.label} ({row_list(drop.rows, drop.count, drop.file)})."


def row_list(rows: tuple[int, ...], count: int, file: str = "") -> str:
    """Return row numbers for a sentence: “row 3”, “rows 1, 2, 3, 4, 5, …”, “a.csv, row 3”."""
    place = f"{file}, " if file else ""
    shown = ", ".join(f"{row:,}" for row in rows[:ROWS_SHOWN])
    more = ", …" if count > ROWS_SHOWN else ""
    return f"{place}{'row' if count == 1 else 'rows'} {shown}{more}"
