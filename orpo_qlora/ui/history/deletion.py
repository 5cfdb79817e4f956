"""Deletion of runs from the page, after a confirmation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from orpo_qlora.chat import client
from orpo_qlora.data.wording import in_bytes, listed, plural
from orpo_qlora.errors import InputError, UnknownRun
from orpo_qlora.runs import store
from orpo_qlora.runs.process import deletion as deletion_of_runs
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates, guarded


@dataclass(frozen=True)
class Deletion:
    """The components: the button and the confirmation that it opens."""

    ask: gr.Button
    panel: gr.Column
    text: gr.HTML
    ids: gr.Textbox
    """The runs in question; only these are deleted, whatever is selected by then."""
    confirm: gr.Button
    keep: gr.Button
    release: gr.Button

    @property
    def outputs(self) -> list[Any]:
        """What changes with the confirmation."""
        return [self.panel, self.text, self.ids, self.confirm, self.release]


def build_delete_button(elem_id: str) -> gr.Button:
    """Return the button that opens the confirmation."""
    return gr.Button("Delete …", variant="stop", size="md", scale=0, min_width=110, elem_id=elem_id)


def build_deletion(ask: gr.Button, elem_id: str) -> Deletion:
    """Return the confirmation, hidden; its ids begin with the button's."""
    with gr.Column(visible=False, elem_id=f"{elem_id}-panel") as panel:
        text = gr.HTML(elem_id=f"{elem_id}-text")
        ids = gr.Textbox(visible="hidden", elem_id=f"{elem_id}-ids", label="To delete")
        with gr.Row(elem_classes="actions"):
            confirm = gr.Button(
                "Delete",
                variant="stop",
                size="md",
                scale=0,
                min_width=200,
                elem_id=f"{elem_id}-confirm",
            )
            keep = gr.Button("Keep", size="md", scale=0, min_width=110, elem_id=f"{elem_id}-keep")
            release = gr.Button(
                "Unload the chat", size="md", scale=0, min_width=160, elem_id=f"{elem_id}-release"
            )
    return Deletion(
        ask=ask,
        panel=panel,
        text=text,
        ids=ids,
        confirm=confirm,
        keep=keep,
        release=release,
    )


def held_by_chat() -> tuple[str, ...]:
    """Return the runs whose adapters the chat has in memory."""
    found = client.status()
    return found.runs if found else ()


def question_updates(part: Deletion, ids: Sequence[str]) -> Updates:
    """Return what would be deleted, and why other runs cannot be."""
    held = held_by_chat()
    runs = _existing(ids)
    reasons = {run.id: deletion_of_runs.why_not(run, held) for run in runs}
    going = [run for run in runs if not reasons[run.id]]
    removed = f"{listed([run.title for run in going])} with checkpoints, adapter, metrics and log"
    size = in_bytes(sum(map(_bytes_of, going)))
    sentences = [f"{removed}: {size}. This cannot be undone."] if going else []
    staying = [reason for reason in reasons.values() if reason]
    title = f"Delete {plural(len(going), 'run')}?" if going else "Nothing can be deleted now."
    return {
        part.panel: gr.Column(visible=True),
        part.text: cards.text_card(title, [*sentences, *staying]),
        part.ids: ",".join(run.id for run in going),
        part.confirm: gr.Button(f"Delete {plural(len(going), 'run')}", interactive=bool(going)),
        part.release: gr.Button(visible=any(run.id in held for run in runs)),
    }


def _existing(ids: Sequence[str]) -> list[Run]:
    runs = []
    for run_id in ids:
        try:
            runs.append(store.read_run(store.paths_of(run_id)))
        except UnknownRun:
            continue  # deleted on another page
    return runs


def _bytes_of(run: Run) -> int:
    return sum(path.lstat().st_size for path in Path(run.paths.folder).rglob("*"))


def closed_updates(part: Deletion) -> Updates:
    """Hide the confirmation."""
    # Not gr.Column: this also runs while the page is built, where a component is put on the page.
    return {part.panel: gr.update(visible=False), part.text: "", part.ids: ""}


def delete(ids: Sequence[str]) -> None:
    """Delete runs one by one; the first that cannot be ends it.

    Raises:
        InputError: one is in use by now; those before it are gone.
    """
    for run in _existing(ids):
        deletion_of_runs.delete_run(run.paths, held_by_chat())


def connect_deletion(
    part: Deletion,
    source: Any,  # noqa: ANN401 - any input
    card: gr.HTML,
) -> Any:  # noqa: ANN401 - gradio's dependency
    """Connect the confirmation; return the event of a deletion.

    Args:
        part: the components.
        source: holds the ids, separated by commas; empty after the deletion.
        card: where errors appear.
    """

    def on_ask(ids: str) -> Updates:
        asked = [run_id for run_id in (ids or "").split(",") if run_id]
        if not asked:
            raise InputError("No run is selected.", hint="Select one in the list.")
        return question_updates(part, asked)

    def on_release(ids: str) -> Updates:
        client.release()
        return on_ask(ids)

    def on_confirm(ids: str) -> Updates:
        delete([run_id for run_id in (ids or "").split(",") if run_id])
        return {source: "", **closed_updates(part)}

    shown = [card, *part.outputs]
    closed = closed_updates(part)
    part.ask.click(guarded(card, on_ask), source, shown, **QUIET)
    part.release.click(guarded(card, on_release), source, shown, trigger_mode="once", **QUIET)
    part.keep.click(guarded(card, lambda: closed), None, shown, **QUIET)
    handler = guarded(card, on_confirm, closed)
    return part.confirm.click(handler, part.ids, [*shown, source], trigger_mode="once", **QUIET)
