"""What a probe is asked and what it found: tokens of pairs under a base model's tokenizer. Floor 3.

A probe is a short job in a process of its own (`runs/probe.py`), because tokenizers need
transformers. Its answer is a folder under the home's `probes/`, named for the question without the
rows, so a second look is instant. No torch here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.choices import ReadChoices
from orpo_qlora.data.pairs import PreferenceData, load_preferences
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import DataError
from orpo_qlora.jobs import job as jobs
from orpo_qlora.jobs.job import JobPaths, JobState
from orpo_qlora.orpo.length_policy import PairLengths
from orpo_qlora.runs.state import ErrorCard

PROGRAM = "orpo_qlora.jobs.tokenize"
SCHEMA = 1
PROBES_KEPT = 30
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class TokenizeRequest(BaseModel):
    """A preference file, how it is read, and the model whose tokenizer reads it."""

    model_config = ConfigDict(frozen=True)

    path: str
    source: str
    sha256: str
    """Content of the file; another one under the same path is another question."""
    choices: ReadChoices = ReadChoices()
    model: str
    revision: str = ""
    rows: tuple[int, ...] = ()
    """Rows of pairs whose tokens are wanted; lengths are counted of all."""

    @property
    def key(self) -> str:
        """Name of the answer: the same for the same file, reading and tokenizer."""
        question = self.model_dump(mode="json", exclude={"path", "source", "rows"})
        about = [SCHEMA, question, _stamps(Path(self.model).expanduser())]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Return what tells one state of a model folder from the next, nothing for a hub model."""
    files = [folder / name for name in _TOKENIZER_FILES]
    return [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files if p.is_file()]


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

    @property
    def lengths(self) -> PairLengths:
        """The counts that the length policy looks at."""
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

    def pairs(self) -> Iterator[PairLengths]:
        """Yield the counts pair by pair."""
        columns = (self.prompt, self.chosen, self.rejected, self.same_start)
        return (PairLengths(*counts) for counts in zip(*columns, strict=True))

    def longest(self) -> list[int]:
        """Return the tokens of each prompt with its longer answer."""
        return [pair.longest for pair in self.pairs()]


@dataclass(frozen=True)
class TokenizePaths(JobPaths):
    """The files of one probe's folder."""

    @property
    def lengths(self) -> Path:
        """Token counts of all pairs; there once they are complete."""
        return self.folder / "lengths.json"

    def tokens(self, row: int) -> Path:
        """Return the file of one row's tokens."""
        return self.folder / f"row-{row}.json"


@dataclass(frozen=True)
class Answer:
    """What is known about a question now."""

    state: JobState
    lengths: TokenLengths | None
    tokens: dict[int, PairTokens]
    """Tokens of the asked-for rows that are there."""


def probes_folder() -> Path:
    """Return the folder of all probes, made if missing."""
    return jobs.jobs_folder("probes")


def paths_of(request: TokenizeRequest) -> TokenizePaths:
    """Return where the answer to a question is, or will be."""
    return TokenizePaths(probes_folder() / request.key)


def request_of(
    path: Path, report: DataSummary, config: TrainConfig, rows: tuple[int, ...] = ()
) -> TokenizeRequest:
    """Return the question about a file that was read, under the model of these settings."""
    choices = report.choices
    if report.is_remembered:
        # Memory may change before the probe reads the file; what was shown counts.
        choices = choices.model_copy(update={"mapping": report.mapping})
    return TokenizeRequest(
        path=str(path),
        source=report.source,
        sha256=report.sha256,
        choices=choices,
        model=config.model,
        revision=config.revision,
        rows=rows,
    )


def read_dataset(request: TokenizeRequest) -> PreferenceData:
    """Return the pairs of a file, read as they were when the question was asked.

    Raises:
        DataError: the file is gone, or another one by now.
    """
    dataset = load_preferences(Path(request.path), request.source, request.choices)
    if dataset.report.sha256 != request.sha256:
        raise DataError(
            f"{request.source} has changed since it was read.", hint="Choose the file again."
        )
    return dataset


def ask(request: TokenizeRequest, *, again: bool = False) -> Answer:
    """Return what is known, and start a probe for what is not; returns at once.

    A probe that failed or was lost stays so until asked `again`.

    Raises:
        DiskFull: nothing was started.
    """
    answer = read_answer(request)
    state = answer.state
    if _is_complete(answer, request) or (state.status in {"failed", "lost"} and not again):
        return answer
    paths = paths_of(request)
    if not paths.folder.is_dir():
        jobs.forget_oldest(probes_folder(), PROBES_KEPT)
        paths.folder.mkdir(mode=0o700, exist_ok=True)
    jobs.write_request(paths, request)
    if state.is_busy and paths.state.exists():
        return answer  # the probe at work looks at the question again
    return replace(answer, state=jobs.start_job(paths, PROGRAM))


def wait_for(request: TokenizeRequest, tell: Callable[[JobState], None]) -> TokenLengths:
    """Return the token counts once they are complete; `tell` hears how far the probe is.

    Raises:
        OrpoQloraError: the probe failed, with its message.
    """
    answer = ask(request, again=True)
    if answer.state.is_busy:
        jobs.wait_while_busy(lambda: _read_state(paths_of(request)), tell)
        answer = read_answer(request)
    if answer.lengths is None:
        raise jobs.error_of(answer.state, "Nothing was counted.")
    return answer.lengths


def _is_complete(answer: Answer, request: TokenizeRequest) -> bool:
    return answer.lengths is not None and set(request.rows) <= set(answer.tokens)


def read_answer(request: TokenizeRequest) -> Answer:
    """Return what is known about a question, without starting anything."""
    paths = paths_of(request)
    # The state is read first: whatever it says is done is then on disk.
    state = _read_state(paths)
    lengths = None
    if paths.lengths.is_file():
        lengths = _read_lengths(paths.lengths, paths.lengths.stat().st_mtime_ns)
    tokens = {
        row: PairTokens.model_validate_json(paths.tokens(row).read_bytes())
        for row in request.rows
        if paths.tokens(row).is_file()
    }
    return Answer(state, lengths, tokens)


@lru_cache(maxsize=4)
def _read_lengths(path: Path, changed_at: int) -> TokenLengths:
    return TokenLengths.model_validate_json(path.read_bytes())


def _read_state(paths: TokenizePaths) -> JobState:
    lost = ErrorCard(
        slug="worker-lost",
        message="Counting tokens ended without a word.",
        hint=f"Try again. The details are in {paths.log}.",
    )
    return jobs.read_state(paths, lost)
