"""Request and answer of an evaluation: a run's report card. Floor 5; no torch.

The program is `evaluation/measure.py`. Its folder under the home's `evaluations/` is named after
the run; the card itself is kept in the run's folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from orpo_qlora.data.wording import plural
from orpo_qlora.errors import InputError
from orpo_qlora.evaluation.report_card import ReportCard, read_card
from orpo_qlora.jobs.job import BackgroundJob, JobState, lost_card
from orpo_qlora.runs import store
from orpo_qlora.runs.process.shared.process_count import processes_for
from orpo_qlora.runs.store import Run


class EvaluationRequest(BaseModel):
    """Which run to evaluate."""

    model_config = ConfigDict(frozen=True)

    run: str


@dataclass(frozen=True)
class Evaluation:
    """What is known about a run's report card."""

    state: JobState
    card: ReportCard | None


class EvaluationJob(BackgroundJob[Run, Evaluation]):
    """Measures a run's adapter against its base; needs the machine to itself.

    Args of the constructor: the processes that share it, 0 for one on each visible GPU.
    """

    program = "orpo_qlora.evaluation.measure"
    folder_name = "evaluations"
    kept = 50
    lost = lost_card(
        "The evaluation",
        "Close other programs and evaluate again.",
    )
    alone = "an evaluation"
    alone_hint = "Evaluate once it has ended."

    def __init__(self, processes: int = 0) -> None:
        self._processes = processes

    def process_count(self, request: Run) -> int:
        """Return the processes that share it: as given, or one for each visible GPU.

        Raises:
            ConfigError: more are given than there are GPUs, or on a CPU than held-out pairs.
        """
        pairs = len(store.held_out_pairs(request.paths))
        has_pairs = f"the run has {plural(pairs, 'held-out pair')}"
        return processes_for(self._processes, pairs, has_pairs)

    def key(self, request: Run) -> str:
        """Return the run's id."""
        return request.id

    def question(self, request: Run) -> EvaluationRequest:
        """Return the request that the program reads."""
        return EvaluationRequest(run=request.id)

    def answer(self, request: Run, state: JobState) -> Evaluation:
        """Return the run's card, None while it is measured or has become outdated."""
        return Evaluation(state, None if state.is_busy else read_card(request))

    def is_complete(self, request: Run, answer: Evaluation) -> bool:
        """Whether there is a card."""
        return answer.card is not None

    def ask(self, request: Run, *, again: bool = False) -> Evaluation:
        """Return what is known, and start an evaluation if there is no card.

        Raises:
            InputError: the run cannot be evaluated; and what `BackgroundJob.ask` raises.
        """
        check_evaluable(request)
        return super().ask(request, again=again)


def is_evaluable(run: Run) -> bool:
    """Whether a run has ended with an adapter and held-out pairs to measure it on."""
    held_out = run.paths.held_out
    return run.has_final_adapter and held_out.is_file() and held_out.stat().st_size > 0


def check_evaluable(run: Run) -> None:
    """Refuse a run that cannot be evaluated.

    Raises:
        InputError: the run cannot be evaluated.
    """
    if run.is_active:
        raise InputError(
            f"Run “{run.title}” is {run.state.status}, so there is nothing final to evaluate.",
            hint="Wait until it ends, or stop it: a stopped run keeps what it learned.",
        )
    if not run.has_final_adapter:
        raise InputError(
            f"Run “{run.title}” is {run.state.status} and has no final adapter to evaluate.",
            hint="Choose a run that finished, or resume this one.",
        )
    if not is_evaluable(run):
        raise InputError(
            f"Run “{run.title}” kept no pairs away from training, so there is nothing to measure "
            "it on.",
            hint="Train again with “Held-out share” above 0 and at least five different prompts.",
        )


JOB = EvaluationJob()
ask, read_evaluation = JOB.ask, JOB.read


def wait_for(
    run: Run,
    on_progress: Callable[[JobState], None],
    *,
    again: bool = False,
    processes: int = 0,
) -> ReportCard:
    """Return the report card once it is complete; raises what `ask` and `BackgroundJob.wait` do.

    With `processes` 0 each visible GPU has one.
    """
    card = EvaluationJob(processes).wait(run, on_progress, again=again).card
    if card is None:
        raise ValueError("a complete evaluation has a card")
    return card
