"""Request and answer of an estimate: memory, disk and time of a training. Floor 4; no torch.

The program is `jobs/estimate_steps.py`, which trains a real step. Its folder under the home's
`estimates/` is named after pairs, settings, model and machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from orpo_qlora import __version__, storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.files.sources import FileSet
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.data.wording import in_bytes, plural
from orpo_qlora.jobs.job import BackgroundJob, JobPaths, JobState, lost_card
from orpo_qlora.jobs.token_counts import TokenizeRequest, request_of
from orpo_qlora.models.templates import chat_templates
from orpo_qlora.runs import identity
from orpo_qlora.runs.process.data_for_method import check_data

SCHEMA = 3
WITHOUT_COST = {
    *("name", "learning_rate", "scheduler", "warmup_ratio", "max_grad_norm", "lora_alpha"),
    "report_to",
}
"""Settings that change neither memory nor disk nor time."""


class EstimateRequest(BaseModel):
    """A preference file, how it is read, and every setting of the run."""

    model_config = ConfigDict(frozen=True)

    data: TokenizeRequest
    config: TrainConfig

    @property
    def key(self) -> str:
        """The same for the same pairs, costly settings, model and machine."""
        about = [
            *(SCHEMA, __version__, _machine()),
            self.data.model_dump(mode="json", exclude={"path", "source", "rows"}),
            self.config.model_dump(mode="json", by_alias=True, exclude=WITHOUT_COST),
            storage.stamps(Path(self.config.model).expanduser(), identity.MODEL_FILES),
        ]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _machine() -> list[object]:
    """Return what decides capacity and speed."""
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
    """Predicted time of a training, by phase."""

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
    """Memory, disk and time of a training; `changes` lists remedies if it does not fit."""

    model_config = ConfigDict(frozen=True)

    made_at: float
    device: str
    """`cpu` or `cuda`."""
    processes: int = 1
    """Processes that share the run; memory is that of one."""
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
    """All zero where no step was measured."""
    memory_bytes: int
    """Expected peak of the run: measured where a step was run, else predicted."""
    predicted_memory_bytes: int
    """Prediction of the memory model; 0 for an architecture it does not know."""
    measured_memory_bytes: int = 0
    """Peak of the measured step; 0 without."""
    free_memory_bytes: int
    """Before anything was loaded."""
    disk_bytes: int = 0
    """Maximum during the run."""
    needed_disk_bytes: int = 0
    """With less free, a run refuses to start."""
    free_disk_bytes: int = 0
    notes: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def is_measured(self) -> bool:
        """Whether a step was run."""
        return self.measured_memory_bytes > 0

    @property
    def fits_memory(self) -> bool:
        """Whether the run should not run out of memory."""
        return self.memory_bytes <= self.free_memory_bytes

    @property
    def fits_disk(self) -> bool:
        """Whether the disk has enough room."""
        return self.needed_disk_bytes <= self.free_disk_bytes

    @property
    def fits(self) -> bool:
        """Whether the run can be started as it is."""
        return self.fits_memory and self.fits_disk

    def sentence(self) -> str:
        """Return the estimate in one sentence."""
        memory = f"{in_bytes(self.memory_bytes)} of {_MEMORY[self.device]}"
        free = f"{in_bytes(self.free_memory_bytes)} free"
        if not self.is_measured:
            return f"Does not fit: it takes about {memory} ({free})."
        disk = f"{in_bytes(self.disk_bytes)} of disk"
        if not self.fits_disk:
            disk += f" and {in_bytes(self.needed_disk_bytes)} to start"
            disk += f" ({in_bytes(self.free_disk_bytes)} free)"
        prefix = "" if self.fits else "Does not fit: "
        return (
            f"{prefix}{about(self.seconds.total, is_first=not prefix)}, {memory} ({free}), {disk}."
        )

    def sentences(self) -> list[str]:
        """Return the estimate and the source of its numbers, most important first."""
        lines = [self.sentence(), *self.changes]
        if self.is_measured:
            lines.append(self._time_sentence())
            lines += self._processes_sentences()
            lines.append(
                f"Measured: one step on the longest pair ({self.longest_tokens:,} tokens), "
                f"{in_bytes(self.measured_memory_bytes)} at its peak"
                + (
                    f"; predicted: {in_bytes(self.predicted_memory_bytes)}."
                    if self.predicted_memory_bytes
                    else "."
                )
            )
        return [*lines, *self.notes]

    def _processes_sentences(self) -> list[str]:
        """Return for how many GPUs time and memory are, where there are several."""
        if self.processes == 1:
            return []
        if self.device == "cpu":
            return [f"The time is that of one process, not of {self.processes} on the same cores."]
        return [
            f"The time is for {self.processes} GPUs, each with its share of every step; the sum of "
            "gradients between them is not included. The memory is that of one GPU."
        ]

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
    """Return a predicted time, rounded to its precision: “about 14 minutes”."""
    if seconds < 100:
        rounded = max(1, round(seconds) if seconds < 10 else 5 * round(seconds / 5))
        text = plural(rounded, "second")
    elif seconds < 5400:
        text = plural(round(seconds / 60), "minute")
    else:
        hours = seconds / 3600
        text = plural(round(hours), "hour") if hours >= 10 else f"{hours:.1f} hours"
    return f"{'About' if is_first else 'about'} {text}"


@dataclass(frozen=True)
class EstimatePaths(JobPaths):
    """Files in the folder of an estimate."""

    @property
    def estimate(self) -> Path:
        """The Estimate; there once it is complete."""
        return self.folder / "estimate.json"


@dataclass(frozen=True)
class Answer:
    """What is known about a request now."""

    state: JobState
    estimate: Estimate | None


class EstimateJob(BackgroundJob[EstimateRequest, Answer]):
    """Trains a step or two to measure what a run takes; needs the machine to itself."""

    program = "orpo_qlora.jobs.estimate_steps"
    folder_name = "estimates"
    kept = 30
    lost = lost_card(
        "The measured step",
        "Lower “Longest sequence” or choose a smaller model, and estimate again.",
    )
    alone = "an estimate"
    alone_hint = "Estimate once it has ended, or queue the run without an estimate."

    def key(self, request: EstimateRequest) -> str:
        """Return the same name for the same pairs, costly settings, model and machine."""
        return request.key

    def paths(self, request: EstimateRequest) -> EstimatePaths:
        """Return the files of a request's job, there or not."""
        return EstimatePaths(super().paths(request).folder)

    def answer(self, request: EstimateRequest, state: JobState) -> Answer:
        """Return the estimate, None while it is measured."""
        file = self.paths(request).estimate
        if state.is_busy or not file.is_file():
            return Answer(state, None)
        return Answer(state, Estimate.model_validate_json(file.read_bytes()))

    def is_complete(self, request: EstimateRequest, answer: Answer) -> bool:
        """Whether the estimate is there."""
        return answer.estimate is not None

    def discard(self, request: EstimateRequest) -> None:
        """Remove an earlier estimate."""
        self.paths(request).estimate.unlink(missing_ok=True)


JOB = EstimateJob()
paths_of, ask, read_answer, is_requested = JOB.paths, JOB.ask, JOB.read, JOB.is_requested


def request_for(data: FileSet | Path, report: DataSummary, config: TrainConfig) -> EstimateRequest:
    """Return the request for training on files that were read, with these settings.

    Raises:
        ConfigError: the chat template cannot be used.
        InputError: the method cannot train on these data.
    """
    check_data(config, report)
    config = chat_templates.recorded(config)
    return EstimateRequest(data=request_of(data, report, config), config=config)


def wait_for(
    request: EstimateRequest, on_progress: Callable[[JobState], None], *, again: bool = False
) -> Estimate:
    """Return the estimate once it is complete; raises what `BackgroundJob.wait` does."""
    estimate = JOB.wait(request, on_progress, again=again).estimate
    if estimate is None:
        raise ValueError("a complete answer has an estimate")
    return estimate
