"""What a plan is asked and what it found: memory, disk and time of a training. Floor 3.

The plan itself is a short job (`runs/plan.py`) that takes one real step in a process of its own.
Its answer is a folder under the home's `plans/`, named for pairs, settings, model and machine, so a
second look is instant. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from orpo_qlora import __version__
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.data.wording import plural
from orpo_qlora.errors import Busy
from orpo_qlora.jobs import job as jobs
from orpo_qlora.jobs.job import JobPaths, JobState
from orpo_qlora.jobs.token_counts import TokenizeRequest, request_of
from orpo_qlora.runs import identity, store
from orpo_qlora.runs.state import ErrorCard
from orpo_qlora.runs.store import Run

PROGRAM = "orpo_qlora.jobs.estimate_steps"
SCHEMA = 1
PLANS_KEPT = 30
WITHOUT_COST = {
    *("name", "learning_rate", "scheduler", "warmup_ratio", "max_grad_norm", "lora_alpha"),
    "report_to",
}
"""Settings that change neither memory nor disk nor time."""


class EstimateRequest(BaseModel):
    """A preference file, how it is read, and every setting of the run to be."""

    model_config = ConfigDict(frozen=True)

    data: TokenizeRequest
    config: TrainConfig

    @property
    def key(self) -> str:
        """Name of the answer: the same for the same pairs, costly settings, model and machine."""
        about = [
            *(SCHEMA, __version__, _machine()),
            self.data.model_dump(mode="json", exclude={"path", "source", "rows"}),
            self.config.model_dump(mode="json", by_alias=True, exclude=WITHOUT_COST),
            _stamps(Path(self.config.model).expanduser()),
        ]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Return what tells one state of a model folder from the next, nothing for a hub model."""
    files = sorted({path for pattern in identity.MODEL_FILES for path in folder.glob(pattern)})
    return [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files]


def _machine() -> list[object]:
    """Return what decides how much fits and how fast it goes."""
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    chosen = [os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")]
    return [
        platform.node(),
        psutil.cpu_count(),
        psutil.virtual_memory().total,
        [card.read_text(encoding="utf-8", errors="replace") for card in cards],
        chosen,
    ]


class Seconds(BaseModel):
    """Predicted time of a training, by what it is for."""

    model_config = ConfigDict(frozen=True)

    start_up: float = 0.0
    training: float = 0.0
    evaluation: float = 0.0
    sampling: float = 0.0

    @property
    def total(self) -> float:
        """From the start to the finished adapter."""
        return self.start_up + self.training + self.evaluation + self.sampling


class Estimate(BaseModel):
    """Memory, disk and time of a training; `changes` say what to do where it does not fit."""

    model_config = ConfigDict(frozen=True)

    made_at: float
    device: str
    """`cpu` or `cuda`."""
    pairs: int
    held_out_pairs: int
    longest_tokens: int
    """Of the longest pair as it goes through the model."""
    steps: int = 0
    evaluations: int = 0
    samples: int = 0
    """How often the sample prompts are answered."""
    tokens_per_forward: int = 0
    seconds: Seconds = Seconds()
    """All zero where no step was tried."""
    memory_bytes: int
    """Expected peak of the run: measured where a step was tried, else predicted."""
    predicted_memory_bytes: int
    """What the memory model alone says; 0 for an architecture it does not know."""
    measured_memory_bytes: int = 0
    """Peak of the step that was tried; 0 without."""
    free_memory_bytes: int
    """Before anything was loaded."""
    disk_bytes: int = 0
    """At most, while the run is at work."""
    needed_disk_bytes: int = 0
    """Without so much free, a run refuses to begin."""
    free_disk_bytes: int = 0
    notes: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def is_measured(self) -> bool:
        """Whether a step was tried."""
        return self.measured_memory_bytes > 0

    @property
    def fits_memory(self) -> bool:
        """Whether the run should not run out of memory."""
        return self.memory_bytes <= self.free_memory_bytes

    @property
    def fits_disk(self) -> bool:
        """Whether the run will find the disk it wants."""
        return self.needed_disk_bytes <= self.free_disk_bytes

    @property
    def fits(self) -> bool:
        """Whether the run can be started as it is."""
        return self.fits_memory and self.fits_disk

    def sentence(self) -> str:
        """Return the forecast in one sentence."""
        memory = f"{in_bytes(self.memory_bytes)} of {_MEMORY[self.device]}"
        free = f"{in_bytes(self.free_memory_bytes)} free"
        if not self.is_measured:
            return f"Does not fit: it takes about {memory} ({free})."
        disk = f"{in_bytes(self.disk_bytes)} of disk"
        if not self.fits_disk:
            disk += f" and {in_bytes(self.needed_disk_bytes)} to begin with"
            disk += f" ({in_bytes(self.free_disk_bytes)} free)"
        begin = "" if self.fits else "Does not fit: "
        return f"{begin}{about(self.seconds.total, is_first=not begin)}, {memory} ({free}), {disk}."

    def sentences(self) -> list[str]:
        """Return the forecast with where its numbers come from, most important first."""
        told = [self.sentence(), *self.changes]
        if self.is_measured:
            told.append(self._time_sentence())
            told.append(
                f"Tried: one step on the longest pair ({self.longest_tokens:,} tokens), "
                f"{in_bytes(self.measured_memory_bytes)} at its peak"
                + (
                    f"; predicted: {in_bytes(self.predicted_memory_bytes)}."
                    if self.predicted_memory_bytes
                    else "."
                )
            )
        return [*told, *self.notes]

    def _time_sentence(self) -> str:
        seconds = self.seconds
        parts = [
            f"{about(seconds.training)} for {plural(self.steps, 'step')}",
            f"{about(seconds.evaluation)} for {plural(self.evaluations, 'evaluation')}",
            f"{about(seconds.sampling)} for {plural(self.samples, 'round')} of sample answers",
            f"{about(seconds.start_up)} to start up",
        ]
        text = ", ".join(parts)
        return f"{text[:1].upper()}{text[1:]}."


_MEMORY = {"cpu": "memory", "cuda": "GPU memory"}


def about(seconds: float, *, is_first: bool = False) -> str:
    """Return a predicted time in words that claim no more than it knows: “about 14 minutes”."""
    if seconds < 100:
        rounded = max(1, round(seconds) if seconds < 10 else 5 * round(seconds / 5))
        words = plural(rounded, "second")
    elif seconds < 5400:
        words = plural(round(seconds / 60), "minute")
    else:
        hours = seconds / 3600
        words = plural(round(hours), "hour") if hours >= 10 else f"{hours:.1f} hours"
    return f"{'About' if is_first else 'about'} {words}"


def in_bytes(count: int) -> str:
    """Return a size in two meaningful digits: “2.9 GB”, “60 MB”."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            value = count / unit
            return f"{value:.1f} {name}" if value < 10 else f"{value:,.0f} {name}"
    return f"{count / 1000:.0f} kB"


@dataclass(frozen=True)
class EstimatePaths(JobPaths):
    """The files of one plan's folder."""

    @property
    def forecast(self) -> Path:
        """The answer; there once it is complete."""
        return self.folder / "forecast.json"


@dataclass(frozen=True)
class Plan:
    """What is known about a training to be."""

    state: JobState
    forecast: Estimate | None


def plans_folder() -> Path:
    """Return the folder of all plans, made if missing."""
    return jobs.jobs_folder("plans")


def paths_of(request: EstimateRequest) -> EstimatePaths:
    """Return where the answer to a question is, or will be."""
    return EstimatePaths(plans_folder() / request.key)


def plan_request(path: Path, report: DataSummary, config: TrainConfig) -> EstimateRequest:
    """Return the question about training on a file that was read, with these settings."""
    return EstimateRequest(data=request_of(path, report, config), config=config)


def read_plan(request: EstimateRequest) -> Plan:
    """Return what is known about a question, without starting anything."""
    paths = paths_of(request)
    # The state is read first: whatever it says is done is then on disk.
    state = _read_state(paths)
    forecast = None
    if not state.is_busy and paths.forecast.is_file():
        forecast = Estimate.model_validate_json(paths.forecast.read_bytes())
    return Plan(state, forecast)


def is_asked(request: EstimateRequest) -> bool:
    """Whether anybody has asked this before."""
    return paths_of(request).state.is_file()


def ask(request: EstimateRequest, *, again: bool = False) -> Plan:
    """Return what is known, and start a plan for what is not; returns at once.

    A plan that failed or was lost stays so until asked `again`, and so does one that was made.

    Raises:
        Busy: a run is at work; nothing was started.
        DiskFull: nothing was started.
    """
    paths = paths_of(request)
    plan = read_plan(request)
    is_under_way = is_asked(request) and plan.state.is_busy
    if is_under_way or (not again and (plan.forecast or plan.state.error)):
        return plan
    run = store.active_run()
    if run is not None:
        raise given_way(run)
    if not paths.folder.is_dir():
        jobs.forget_oldest(plans_folder(), PLANS_KEPT)
        paths.folder.mkdir(mode=0o700, exist_ok=True)
    paths.forecast.unlink(missing_ok=True)
    jobs.write_request(paths, request)
    return replace(plan, state=jobs.start_job(paths, PROGRAM), forecast=None)


def given_way(run: Run) -> Busy:
    """Return why there is no estimate while a run is at work."""
    return Busy(
        f"Run “{run.title}” is {run.state.status}: an estimate needs the machine to itself.",
        hint="Estimate once it has ended, or queue the run without an estimate.",
    )


def wait_for(
    request: EstimateRequest, tell: Callable[[JobState], None], *, again: bool = False
) -> Estimate:
    """Return the forecast once it is complete; `tell` hears how far the plan is.

    Raises:
        Busy: a run is at work.
        OrpoQloraError: the plan failed, with its message.
    """
    known = read_plan(request)
    plan = ask(request, again=again or known.forecast is None)
    if plan.state.is_busy:
        jobs.wait_while_busy(lambda: _read_state(paths_of(request)), tell)
        plan = read_plan(request)
    if plan.forecast is None:
        raise jobs.error_of(plan.state, "Nothing was measured.")
    return plan.forecast


def _read_state(paths: EstimatePaths) -> JobState:
    lost = ErrorCard(
        slug="worker-lost",
        message="The step that was tried ended without a word, as happens when the system ends the "
        "program that takes the most memory.",
        hint="Lower “Longest sequence” or choose a smaller model, and estimate again. The details "
        f"are in {paths.log}.",
    )
    return jobs.read_state(paths, lost)
