"""What can be done to the run that is shown: stop, end, resume, change its place. Floor 5."""

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

STOP = "Stop and keep the adapter"
LEAVE = "Take out of the queue"


@dataclass(frozen=True)
class RunActions:
    """The buttons; each is there only while it can do something."""

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
    look: dict[str, Any] = {"visible": False, "scale": 0, "min_width": 260}
    return RunActions(
        gr.Button(STOP, variant="stop", elem_id="run-stop", **look),
        gr.Button("End it now", variant="stop", elem_id="run-force", **look),
        gr.Button("Resume", elem_id="run-resume", **look),
        gr.Button("Earlier in the queue", elem_id="run-earlier", **look),
        gr.Button("Later in the queue", elem_id="run-later", **look),
    )


def action_updates(actions: RunActions, now: Snapshot) -> Updates:
    """Return which buttons a run has, and what they say."""
    run, status = now.run, now.run.state.status
    place = now.waiting.index(run.id) if run.id in now.waiting else None
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
        actions.later: gr.Button(visible=place is not None and place < len(now.waiting) - 1),
    }


def wire_run_actions(
    actions: RunActions,
    shown: list[Any],
    card: gr.HTML,
    show: Callable[..., Updates],
    outputs: list[Any],
    on_error: Updates,
) -> None:
    """Join the buttons to what they do.

    Args:
        actions: the buttons.
        shown: hold the run that is shown, and how.
        card: where errors appear.
        show: draws the run anew.
        outputs: what `show` changes.
        on_error: what changes when an action is refused, because the page was behind the truth.
    """

    def on_click(act: Callable[[RunPaths], object]) -> Callable[..., Updates]:
        def handler(run_id: str, *chosen: object) -> Updates:
            act(store.paths_of(run_id))
            return show(run_id, *chosen)

        return guarded(card, handler, on_error)

    for button, act in (
        (actions.stop, launch.stop_run),
        (actions.force, lambda paths: launch.end_run(paths, grace_seconds=0.0)),
        (actions.resume, _resume_or_begin),
        (actions.earlier, lambda paths: launch.shift_run(paths, by=-1)),
        (actions.later, lambda paths: launch.shift_run(paths, by=1)),
    ):
        button.click(on_click(act), shown, outputs, trigger_mode="once", **QUIET)


def _resume_or_begin(paths: RunPaths) -> None:
    """Do what the button says: without a checkpoint to resume from, the run begins anew."""
    launch.resume_run(paths, from_start=store.read_run(paths).checkpoint_step == 0)
