"""Request and answer of a tokenize job: tokens of pairs under a tokenizer. Floor 4; no torch.

The program is `jobs/tokenize.py`, because tokenizers need transformers. Its folder under the home's
`tokenize/` is named after the request without the rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.files.combine import load_files, pinned, pinned_choices
from orpo_qlora.data.files.sources import FileSet
from orpo_qlora.data.pairs import PreferenceData
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import DataError
from orpo_qlora.jobs.job import BackgroundJob, JobPaths, JobState
from orpo_qlora.models.templates import chat_templates
from orpo_qlora.models.templates.chat_templates import UNCHANGED, TemplateChanges, TemplateInUse
from orpo_qlora.orpo.rows.length_policy import PairLengths
from orpo_qlora.runs.state import ErrorCard

SCHEMA = 1
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class TokenizeRequest(BaseModel):
    """A preference file, how it is read, and the model whose tokenizer reads it."""

    model_config = ConfigDict(frozen=True)

    path: str
    source: str
    sha256: str
    """Of the file's content; a changed file under the same path is another request."""
    choices: ReadChoices = ReadChoices()
    files: FileSet | None = None
    """Several files, or a part of one; None for all of the file at `path`."""
    model: str
    revision: str = ""
    chat_template: str = "auto"
    """Value of the setting, a file's text in place of its path."""
    rows: tuple[int, ...] = ()
    """Rows of pairs whose tokens are returned; lengths are counted for all."""

    @property
    def key(self) -> str:
        """The same for the same file, reading and tokenizer."""
        content = self.model_dump(mode="json", exclude={"path", "source", "rows"})
        tokenizer = storage.stamps(Path(self.model).expanduser(), _TOKENIZER_FILES)
        about = [SCHEMA, content, tokenizer]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


class Token(BaseModel):
    """One token and the text it adds; empty if it only completes a character begun before."""

    model_config = ConfigDict(frozen=True)

    id: int
    text: str
    is_special: bool = False


class PairTokens(BaseModel):
    """The tokens of one whole pair, template included, before the length policy."""

    model_config = ConfigDict(frozen=True)

    row: int
    prompt: tuple[Token, ...]
    chosen: tuple[Token, ...]
    rejected: tuple[Token, ...]
    refusal: str = ""
    """Why the chat template refuses the conversation; there are no tokens then."""

    @property
    def lengths(self) -> PairLengths:
        """The counts that decide about cutting and dropping."""
        same = 0
        for left, right in zip(self.chosen, self.rejected, strict=False):
            if left.id != right.id:
                break
            same += 1
        return PairLengths(len(self.prompt), len(self.chosen), len(self.rejected), same)


class TokenLengths(BaseModel):
    """Token counts of every pair, in file order, column by column."""

    model_config = ConfigDict(frozen=True)

    rows: tuple[int, ...]
    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    same_start: tuple[int, ...]
    template: TemplateInUse | None = None
    changes: TemplateChanges = UNCHANGED

    def pairs(self) -> Iterator[PairLengths]:
        """Yield the counts pair by pair."""
        columns = (self.prompt, self.chosen, self.rejected, self.same_start)
        return (PairLengths(*counts) for counts in zip(*columns, strict=True))

    def longest(self) -> list[int]:
        """Return the tokens of each prompt with its longer answer."""
        return [pair.longest for pair in self.pairs()]


@dataclass(frozen=True)
class TokenizePaths(JobPaths):
    """Files in the folder of a tokenize job."""

    @property
    def lengths(self) -> Path:
        """Token counts of all pairs; there once they are complete."""
        return self.folder / "lengths.json"

    def tokens(self, row: int) -> Path:
        """Return the file of one row's tokens."""
        return self.folder / f"row-{row}.json"


@dataclass(frozen=True)
class Answer:
    """What is known about a request now."""

    state: JobState
    lengths: TokenLengths | None
    tokens: dict[int, PairTokens]
    """Tokens of the requested rows that are there already."""


class TokenizeJob(BackgroundJob[TokenizeRequest, Answer]):
    """Counts tokens of all pairs and shows those of some rows; both appear while it works."""

    program = "orpo_qlora.jobs.tokenize"
    folder_name = "tokenize"
    kept = 30
    is_repeatable = False
    takes_more = True
    lost = ErrorCard(
        slug="worker-lost",
        message="Counting tokens ended without an error message.",
        hint="Try again.",
    )

    def key(self, request: TokenizeRequest) -> str:
        """Return the same name for the same file, reading and tokenizer."""
        return request.key

    def paths(self, request: TokenizeRequest) -> TokenizePaths:
        """Return the files of a request's job, there or not."""
        return TokenizePaths(super().paths(request).folder)

    def answer(self, request: TokenizeRequest, state: JobState) -> Answer:
        """Return the counts and the tokens that are on disk."""
        paths, lengths = self.paths(request), None
        if paths.lengths.is_file():
            lengths = _read_lengths(paths.lengths, storage.FileStamp.of(paths.lengths))
        tokens = {
            row: PairTokens.model_validate_json(paths.tokens(row).read_bytes())
            for row in request.rows
            if paths.tokens(row).is_file()
        }
        return Answer(state, lengths, tokens)

    def is_complete(self, request: TokenizeRequest, answer: Answer) -> bool:
        """Whether all pairs are counted and all requested rows are there."""
        return answer.lengths is not None and set(request.rows) <= set(answer.tokens)


JOB = TokenizeJob()
paths_of, ask, read_answer, end_started = JOB.paths, JOB.ask, JOB.read, JOB.end_started


def request_of(
    data: FileSet | Path, report: DataSummary, config: TrainConfig, rows: tuple[int, ...] = ()
) -> TokenizeRequest:
    """Return the request for files that were read, with the model of these settings.

    Raises:
        ConfigError: the chat template cannot be used.
    """
    data = FileSet.of_file(data) if isinstance(data, Path) else data
    # What is remembered may change before the job reads the files; what was shown counts.
    return TokenizeRequest(
        path=data.files[0].path,
        source=report.source,
        sha256=report.sha256,
        choices=pinned_choices(report),
        files=None if data.is_one_file else pinned(data, report),
        model=config.model,
        revision=config.revision,
        chat_template=chat_templates.recorded(config).chat_template,
        rows=rows,
    )


def read_dataset(request: TokenizeRequest) -> PreferenceData:
    """Return the pairs of the files, read as when the request was made.

    Raises:
        DataError: a file is missing or has changed.
    """
    one = FileSet.of_file(Path(request.path), request.source, request.choices)
    dataset = load_files(request.files or one)
    if dataset.report.sha256 != request.sha256:
        raise DataError(
            f"{request.source} has changed since it was read.", hint="Choose the file again."
        )
    return dataset


def wait_for(request: TokenizeRequest, on_progress: Callable[[JobState], None]) -> TokenLengths:
    """Return the token counts once they are complete; raises what `BackgroundJob.wait` does."""
    lengths = JOB.wait(request, on_progress).lengths
    if lengths is None:
        raise ValueError("a complete answer has lengths")
    return lengths


@lru_cache(maxsize=4)
def _read_lengths(path: Path, stamp: storage.FileStamp) -> TokenLengths:
    return TokenLengths.model_validate_json(path.read_bytes())
