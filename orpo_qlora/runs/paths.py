"""The files of one run folder, by name. Floor 3; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """The files of one run folder."""

    folder: Path

    @property
    def id(self) -> str:
        """The run's id, which is its folder's name."""
        return self.folder.name

    @property
    def config(self) -> Path:
        """Settings, versions and data hash; written once."""
        return self.folder / "config.yaml"

    @property
    def train(self) -> Path:
        """Pairs trained on."""
        return self.folder / "data" / "train.jsonl"

    @property
    def held_out(self) -> Path:
        """Pairs kept away from training."""
        return self.folder / "data" / "held_out.jsonl"

    @property
    def report(self) -> Path:
        """The data summary of the uploaded file."""
        return self.folder / "data" / "report.json"

    @property
    def state(self) -> Path:
        """State written by the worker."""
        return self.folder / "state.json"

    @property
    def lock(self) -> Path:
        """Held by the worker for its life."""
        return self.folder / "lock"

    @property
    def label(self) -> Path:
        """Name and tags given by the user."""
        return self.folder / "label.json"

    @property
    def stop(self) -> Path:
        """Its presence asks the worker to stop."""
        return self.folder / "stop"

    @property
    def metrics(self) -> Path:
        """One object per optimizer step or evaluation."""
        return self.folder / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        """Answers to the sample prompts over time."""
        return self.folder / "samples.jsonl"

    @property
    def log(self) -> Path:
        """Everything the worker prints."""
        return self.folder / "log.txt"

    @property
    def reserve(self) -> Path:
        """Space reserved for the final state when the disk is full."""
        return self.folder / ".reserve"

    @property
    def checkpoints(self) -> Path:
        """Holds one folder for each checkpoint."""
        return self.folder / "checkpoints"

    @property
    def start(self) -> Path:
        """Copy of the adapter that the training starts from, with its chain."""
        return self.folder / "start"

    @property
    def reference(self) -> Path:
        """The reference's log-probs of the pairs, for methods that need them."""
        return self.folder / "reference.jsonl"

    @property
    def adapter(self) -> Path:
        """The final PEFT adapter."""
        return self.folder / "adapter"
