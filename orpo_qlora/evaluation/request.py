"""Asking for a report card: a short job in a process of its own. Floor 4; no torch here.

The job's folder is under the home's `evaluations/`, named for the run; the card itself is kept in
the run's folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from orpo_qlora.errors import Busy, InputError
from orpo_qlora.evaluation.report_card import ReportCard, read_card
from orpo_qlora.jobs import job as jobs
from orpo_qlora.jobs.job import JobPaths, JobState
from orpo_qlora.runs import store
from orpo_qlora.runs.state import ErrorCard
from orpo_qlora.runs.store import Run

PROGRAM = "orpo_qlora.evaluation.measure"
JOBS_KEPT = 50


class EvaluationRequest(BaseModel):
    """Which run to evaluate."""

    model_config = ConfigDict(frozen=True)

    run: str


@dataclass(frozen=True)
class Evaluation:
    """What is known about a run's report card."""

    state: JobState
    card: ReportCard | None


def paths_of(run_id: str) -> JobPaths:
    """Return the folder of a run's evaluation, there or not."""
    return JobPaths(jobs.jobs_folder("evaluations") / run_id)


def read_evaluation(run: Run) -> Evaluation:
    """Return what is known, without starting anything."""
    # The state is read first: whatever it says is done is then on disk.
    state = _read_state(run)
    return Evaluation(state, None if state.is_busy else read_card(run))


def is_evaluable(run: Run) -> bool:
    """Whether a run has ended with an adapter and held-out pairs to measure it on."""
    has_ended = run.state.status in {"finished", "stopped"} and run.has_adapter
    return has_ended and run.paths.held_out.is_file() and run.paths.held_out.stat().st_size > 0


def check_evaluable(run: Run) -> None:
    """Refuse a run that cannot be evaluated.

    Raises:
        InputError: says what to do.
    """
    if run.is_active:
        raise InputError(
            f"Run “{run.title}” is {run.state.status}, so there is nothing final to evaluate.",
            hint="Wait until it ends, or stop it: a stopped run keeps what it learnt.",
        )
    if run.state.status not in {"finished", "stopped"} or not run.has_adapter:
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


def ask(run: Run, *, again: bool = False) -> Evaluation:
    """Return what is known, and start an evaluation if there is no card; returns at once.

    One that failed or was lost stays so until asked `again`.

    Raises:
        InputError: the run cannot be evaluated.
        Busy: a run is at work; nothing was started.
        DiskFull: nothing was started.
    """
    check_evaluable(run)
    paths = paths_of(run.id)
    known = read_evaluation(run)
    is_under_way = paths.state.is_file() and known.state.is_busy
    if is_under_way or (not again and (known.card or known.state.error)):
        return known
    active = store.active_run()
    if active is not None:
        raise given_way(active)
    if not paths.folder.is_dir():
        jobs.forget_oldest(paths.folder.parent, JOBS_KEPT)
        paths.folder.mkdir(mode=0o700, exist_ok=True)
    jobs.write_request(paths, EvaluationRequest(run=run.id))
    return Evaluation(jobs.start_job(paths, PROGRAM), None)


def given_way(run: Run) -> Busy:
    """Return why there is no evaluation while a run is at work."""
    return Busy(
        f"Run “{run.title}” is {run.state.status}: an evaluation needs the machine to itself.",
        hint="Evaluate once it has ended.",
    )


def wait_for(run: Run, tell: Callable[[JobState], None], *, again: bool = False) -> ReportCard:
    """Return the report card once it is complete; `tell` hears how far the evaluation is.

    Raises:
        InputError: the run cannot be evaluated.
        Busy: another run is at work.
        OrpoQloraError: the evaluation failed, with its message.
    """
    known = read_evaluation(run)
    found = ask(run, again=again or known.card is None)
    if found.card is None:
        jobs.wait_while_busy(lambda: _read_state(run), tell)
        found = read_evaluation(run)
    if found.card is None:
        raise jobs.error_of(found.state, "Nothing was measured.")
    return found.card


def _read_state(run: Run) -> JobState:
    paths = paths_of(run.id)
    lost = ErrorCard(
        slug="worker-lost",
        message="The evaluation ended without a word, as happens when the system ends the program "
        "that takes the most memory.",
        hint=f"Close other programs and evaluate again. The details are in {paths.log}.",
    )
    if not paths.state.is_file():
        return JobState(status="done")  # nobody has asked
    return jobs.read_state(paths, lost)
