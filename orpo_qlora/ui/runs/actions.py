"""Actions on the run that is shown: stop, end, resume, move in the queue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch
from orpo_qlora.runs.store import RunPaths
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates, guarded
from orpo_qlora.ui.runs.snapshot import Snapshot

STOP = "Stop and keep adapter"
LEAVE = "Remove from queue"


@dataclass(frozen=True)
class RunActions:
    """The buttons; each is visible only while it applies."""

    stop: gr.Button
    force: gr.Button
    resume: gr.Button
    earlier: gr.Button
    later: gr.Button

    @property
    def outputs(self) -> list[gr.Button]:
        """Every button."""
        return [self.stop, self.force, self.resume, self.earlier, self.later]


def build_run_actions() -> RunActions:
    """Return the buttons, all hidden."""
    options: dict[str, Any] = {"visible": False, "scale": 0, "min_width": 260}
    return RunActions(
        stop=gr.Button(STOP, variant="stop", elem_id="run-stop", **options),
        force=gr.Button("End now", variant="stop", elem_id="run-force", **options),
        resume=gr.Button("Resume", elem_id="run-resume", **options),
        earlier=gr.Button("Earlier in queue", elem_id="run-earlier", **options),
        later=gr.Button("Later in queue", elem_id="run-later", **options),
    )


def action_updates(actions: RunActions, now: Snapshot) -> Updates:
    """Return which buttons apply to a run, and their labels."""
    run, status = now.run, now.run.state.status
    queue = [waiting.id for waiting in now.waiting]
    place = queue.index(run.id) if run.id in queue else None
    begins = f"Resume after step {now.checkpoint_step:,}" if now.checkpoint_step else "Start again"
    return {
        actions.stop: gr.Button(
            LEAVE if status == "queued" else STOP,
            visible=run.is_active,
            interactive=status != "stopping",
        ),
        actions.force: gr.Button(visible=now.can_be_forced),
        actions.resume: gr.Button(begins, visible=run.is_resumable),
        actions.earlier: gr.Button(visible=bool(place)),
        actions.later: gr.Button(visible=place is not None and place < len(queue) - 1),
    }


@dataclass(frozen=True)
class Render:
    """How the run that is shown is rendered again after a change."""

    inputs: list[Any]
    """The run's id and the choices about how it is shown."""
    outputs: list[Any]
    update: Callable[..., Updates]
    on_error: Updates
    """Changes after a refused action, because the page was out of date."""
    card: gr.HTML
    """Where errors appear."""


def connect_action(render: Render, button: gr.Button, act: Callable[[RunPaths], object]) -> None:
    """Run an action on the run that is shown when a button is pressed, then render the run."""

    def on_click(run_id: str, *chosen: object) -> Updates:
        act(store.paths_of(run_id))
        return render.update(run_id, *chosen)

    handler = guarded(render.card, on_click, render.on_error)
    button.click(handler, render.inputs, render.outputs, trigger_mode="once", **QUIET)


def connect_run_actions(actions: RunActions, render: Render) -> None:
    """Connect the buttons."""
    for button, act in (
        (actions.stop, launch.stop_run),
        (actions.force, lambda paths: launch.end_run(paths, grace_seconds=0.0)),
        (actions.resume, _resume_or_begin),
        (actions.earlier, lambda paths: launch.shift_run(paths, by=-1)),
        (actions.later, lambda paths: launch.shift_run(paths, by=1)),
    ):
        connect_action(render, button, act)


def _resume_or_begin(paths: RunPaths) -> None:
    """Resume from the newest checkpoint; without one the run starts again."""
    launch.resume_run(paths, from_start=store.read_run(paths).checkpoint_step == 0)
