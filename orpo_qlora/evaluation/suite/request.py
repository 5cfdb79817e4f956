"""Request and answer of an evaluation of answers. Floor 5; no torch.

The program is `evaluation/suite/program.py`. Its folder under the home's `answer-evaluations/` is
named after the request without the parts, so that parts can be added later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from orpo_qlora import storage
from orpo_qlora.data.wording import plural
from orpo_qlora.errors import InputError
from orpo_qlora.evaluation import report_card
from orpo_qlora.evaluation.answers.kept import AnswerSampling
from orpo_qlora.evaluation.answers.prompts import PromptSet
from orpo_qlora.evaluation.embeddings import WORDLLAMA, check_embedder
from orpo_qlora.evaluation.judge.settings import JudgeSettings, check_settings
from orpo_qlora.evaluation.reward.verdicts import RewardDetails
from orpo_qlora.evaluation.suite.results import (
    Part,
    SuitePaths,
    SuiteResults,
    read_results,
    read_reward,
)
from orpo_qlora.jobs.job import BackgroundJob, JobState, hash_of, lost_card
from orpo_qlora.runs.process.shared.process_count import processes_for
from orpo_qlora.runs.store import Run

NEED_EMBEDDINGS = {"diversity"}
KEY = re.compile(r"[0-9a-f]{32}")


class RunAdapter(BaseModel):
    """A run and the adapter it had when the evaluation was requested."""

    model_config = ConfigDict(frozen=True)

    run: str
    name: str
    """Unlike any other of the request."""
    sha256: str


class SuiteRequest(BaseModel):
    """Which runs answer which prompts, how, and what is measured."""

    model_config = ConfigDict(frozen=True)

    adapters: tuple[RunAdapter, ...]
    prompts: PromptSet
    sampling: AnswerSampling = AnswerSampling()
    parts: tuple[Part, ...] = ("answers",)
    embedder: str = WORDLLAMA
    """`wordllama`, or the hub id or folder of a sentence-embedding model."""
    reward_model: str = ""
    """Hub id or folder; empty for one trained on the first run's training pairs."""
    judge: JudgeSettings | None = None
    """For the part `judge`."""
    text: str = ""
    """Plain text for the perplexity; empty for the shipped one."""


@dataclass(frozen=True)
class SuiteAnswer:
    """What is known about an evaluation."""

    state: JobState
    results: SuiteResults | None
    reward: RewardDetails | None = None


class SuiteJob(BackgroundJob[SuiteRequest, SuiteAnswer]):
    """Answers prompts with base and runs and measures the answers; needs the machine to itself.

    Args of the constructor: the processes that share the answers, 0 for one on each visible GPU.
    """

    program = "orpo_qlora.evaluation.suite.program"
    folder_name = "answer-evaluations"
    kept = 50
    lost = lost_card(
        "The evaluation",
        "Close other programs and evaluate again: answers given so far are kept.",
    )
    alone = "an evaluation"
    alone_hint = "Evaluate once it has ended; answers given so far are kept."

    def __init__(self, processes: int = 0) -> None:
        self._processes = processes

    def process_count(self, request: SuiteRequest) -> int:
        """Return the processes that share it: as given, or one for each visible GPU.

        Raises:
            ConfigError: more are given than there are GPUs, or on a CPU than prompts.
        """
        count = len(request.prompts.prompts)
        return processes_for(self._processes, count, f"there are {plural(count, 'prompt')}")

    def key(self, request: SuiteRequest) -> str:
        """Return the hash of everything but the parts."""
        return hash_of(request, frozenset({"parts"}))

    def paths(self, request: SuiteRequest) -> SuitePaths:
        """Return the files of a request's job, there or not."""
        return SuitePaths(super().paths(request).folder)

    def answer(self, request: SuiteRequest, state: JobState) -> SuiteAnswer:
        """Return the results so far."""
        paths = self.paths(request)
        return SuiteAnswer(state, read_results(paths), read_reward(paths))

    def is_complete(self, request: SuiteRequest, answer: SuiteAnswer) -> bool:
        """Whether every requested part has a result."""
        found = answer.results
        return found is not None and all(found.part(name) is not None for name in request.parts)

    def ask(self, request: SuiteRequest, *, again: bool = False) -> SuiteAnswer:
        """Return what is known, and start what is missing; `again` measures complete parts again.

        Answers that are kept are never generated a second time.

        Raises:
            InputError: a package that a part needs is not installed; and what
                `BackgroundJob.ask` raises.
        """
        if NEED_EMBEDDINGS.intersection(request.parts):
            check_embedder(request.embedder)
        if "judge" in request.parts or request.judge is not None:
            check_settings(_judge_of(request))
        known = self.read(request)
        if again and self.is_complete(request, known) and not known.state.is_busy:
            self.paths(request).results.unlink(missing_ok=True)
        return super().ask(request, again=again)


def _judge_of(request: SuiteRequest) -> JudgeSettings:
    if request.judge is None:
        raise InputError(
            "There is no judge.",
            hint="Name an OpenAI-compatible endpoint (--judge-url) and its model (--judge-model).",
        )
    return request.judge


JOB = SuiteJob()


def request_with(key: str) -> SuiteRequest | None:
    """Return the request whose evaluation has this key, None without one."""
    if not KEY.fullmatch(key):
        return None
    try:
        content = SuitePaths(JOB.folder() / key).request.read_bytes()
        return SuiteRequest.model_validate_json(content)
    except (FileNotFoundError, ValidationError):
        return None


def latest_of(run: Run) -> str:
    """Return the key of the latest evaluation whose first run is this one; empty without one."""
    folders = storage.oldest_first(JOB.folder().iterdir())
    for folder in (path for path in reversed(folders) if KEY.fullmatch(path.name)):
        request = request_with(folder.name)
        if request is not None and request.adapters[0].run == run.id:
            return folder.name
    return ""


def adapters_of(runs: Sequence[Run]) -> tuple[RunAdapter, ...]:
    """Return the runs' adapters, each with a name of its own.

    Raises:
        InputError: a run is at work or has no adapter, or there is none.
    """
    if not runs:
        raise InputError("There is no run to evaluate.", hint="Name at least one run.")
    different = {run.id: run for run in runs}
    for run in different.values():
        if run.is_active or not run.has_adapter:
            raise InputError(
                f"Run “{run.title}” is {run.state.status} and has no final adapter to evaluate.",
                hint="Choose a run that finished or was stopped.",
            )
    titles = [run.title for run in different.values()]
    return tuple(
        RunAdapter(
            run=run.id,
            name=run.title if titles.count(run.title) == 1 else f"{run.title} ({run.id})",
            sha256=report_card.adapter_sha256(run.paths),
        )
        for run in different.values()
    )


def wait_for(
    request: SuiteRequest,
    on_progress: Callable[[JobState], None],
    *,
    again: bool = False,
    processes: int = 0,
) -> SuiteResults:
    """Return the complete results; raises what `BackgroundJob.wait` does.

    With `processes` 0 each visible GPU has one.
    """
    results = SuiteJob(processes).wait(request, on_progress, again=again).results
    if results is None:
        raise ValueError("a complete evaluation has results")
    return results
