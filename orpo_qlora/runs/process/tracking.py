"""Sends metrics to a tracker through transformers' own integrations. Floor 3; worker."""

from __future__ import annotations

import os
from collections.abc import Mapping

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from orpo_qlora.orpo.trainer import OrpoTrainer
from orpo_qlora.runs import trackers
from orpo_qlora.runs.curves.metrics import EVAL_PREFIX
from orpo_qlora.runs.store import Run

PROJECT = "orpo-qlora"


def track(trainer: OrpoTrainer, run: Run) -> str:
    """Let a trainer report to the tracker that the settings name; return a note that says where.

    Raises:
        ConfigError: the tracker is not installed.
    """
    tracker = run.config.report_to
    if tracker == trackers.NONE:
        return ""
    trackers.check_installed(tracker)
    for name, value in _environment(run).items():
        os.environ.setdefault(name, value)
    args = trainer.args
    args.run_name, args.project = f"{run.name} {run.id}".strip(), PROJECT
    args.trackio_space_id, args.trackio_static_space_id = None, False  # on this disk only
    for kind in get_reporting_integration_callbacks(tracker):
        integration = kind()
        trainer.add_callback(integration)
        trainer.add_callback(_HeldOut(integration))
    return f"Metrics also go to {tracker}{_where(tracker)}."


def _environment(run: Run) -> dict[str, str]:
    """Return defaults for the trackers' environment variables."""
    return {
        "TENSORBOARD_LOGGING_DIR": str(run.paths.folder / "tensorboard"),
        "WANDB_DIR": str(run.paths.folder),
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": PROJECT,
        "WANDB_DISABLE_CODE": "true",
        "WANDB_DISABLE_GIT": "true",
        "GRADIO_ANALYTICS_ENABLED": "False",
    }


def _where(tracker: str) -> str:
    """Return where the metrics go, without a folder: notes are exported with a run."""
    if tracker == "wandb":
        return f", {os.environ['WANDB_MODE']}"
    return ", on this disk"


class _HeldOut(TrainerCallback):
    """Passes evaluations on: the integrations record only what is logged."""

    def __init__(self, integration: TrainerCallback) -> None:
        self._integration = integration

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **more: object,
    ) -> None:
        logs = {name.replace(EVAL_PREFIX, "eval_", 1): v for name, v in (metrics or {}).items()}
        self._integration.on_log(args, state, control, logs=logs, model=more.get("model"))
