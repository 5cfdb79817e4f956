"""Joins the Data tab's components to their handlers. Floor 5."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import gradio as gr

from orpo_qlora.ui.data import tab as data_tab
from orpo_qlora.ui.data import token_panel
from orpo_qlora.ui.data.tab import DataTab
from orpo_qlora.ui.parts import downloads
from orpo_qlora.ui.parts.events import QUIET, UNCHECKED
from orpo_qlora.ui.parts.guard import Updates, guarded, guarded_stream

PROGRESS = gr.Progress()
"""Gradio puts a bar of its own in the place of this default."""
Then = Callable[[Any], None]
"""What else happens once an event is over, given gradio's dependency."""


def wire_data_tab(tab: DataTab, settings: Mapping[str, Any], then: Then) -> None:
    """Join the tab to its handlers.

    Args:
        tab: the tab's components.
        settings: the Train tab's inputs that decide what a pair looks like to the model.
        then: what else depends on the data.
    """

    def after(event: Any) -> None:  # noqa: ANN401 - gradio's dependency
        then(event)
        look_after(tab, settings, event)

    _wire_choosing(tab, after)
    _wire_answers(tab, after)
    _wire_downloads(tab)
    _wire_tokens(tab, settings)


def _wire_choosing(tab: DataTab, after: Then) -> None:
    nothing = data_tab.dataset_updates(tab, "")

    def on_upload(path: str | None, progress: gr.Progress = PROGRESS) -> Iterator[Updates]:
        return data_tab.upload_updates(tab, path, _shown(progress))

    def on_clear() -> Updates:
        return nothing

    handler = guarded_stream(tab.card, on_upload, nothing)
    reading = {"show_progress_on": tab.card, "api_visibility": "private"}
    after(tab.upload.upload(handler, tab.upload, tab.outputs, **reading))
    after(tab.upload.clear(guarded(tab.card, on_clear), None, tab.outputs, **QUIET))
    for name, button in tab.examples.items():
        handler = guarded(tab.card, partial(data_tab.example_updates, tab, name), nothing)
        after(button.click(handler, None, [tab.upload, *tab.outputs], **QUIET))


def _wire_answers(tab: DataTab, after: Then) -> None:
    row = tab.columns

    def on_choice(
        dataset_id: str, event: gr.EventData, progress: gr.Progress = PROGRESS
    ) -> Updates:
        choice = str(event._data.get("choice", ""))
        return data_tab.answer_updates(tab, dataset_id, choice, _shown(progress))

    def on_columns(dataset_id: str, *values: object, progress: gr.Progress = PROGRESS) -> Updates:
        return data_tab.column_updates(tab, dataset_id, values, _shown(progress))

    for part in (tab.card, tab.account, tab.findings):
        handler = guarded(tab.card, on_choice)
        reading = {"show_progress_on": part, "trigger_mode": "once", **UNCHECKED}
        after(part.click(handler, tab.dataset_id, tab.outputs, **reading))
    handler = guarded(tab.card, on_columns)
    reading = {"show_progress_on": row.note, "trigger_mode": "once", **UNCHECKED}
    after(row.use.click(handler, [tab.dataset_id, *row.inputs], tab.outputs, **reading))


def _wire_downloads(tab: DataTab) -> None:
    def on_download(
        kind: downloads.Kind, dataset_id: str, progress: gr.Progress = PROGRESS
    ) -> Updates:
        progress(0, desc="Writing the file")
        return downloads.download_updates(tab.downloads, dataset_id, kind)

    for kind, button in tab.downloads.buttons.items():
        # Writing a million pairs takes a while: queued, and said.
        handler = guarded(tab.card, partial(on_download, kind))
        parts = [tab.card, tab.downloads.file]
        event = button.click(handler, tab.dataset_id, parts, trigger_mode="once", **UNCHECKED)
        event.success(None, tab.downloads.file, None, js=downloads.SAVE, **QUIET)


def _shown(progress: gr.Progress) -> Callable[[float], None]:
    return lambda share: progress(share, desc="Reading")


def look_after(tab: DataTab, settings: Mapping[str, Any], event: Any) -> None:  # noqa: ANN401
    """Look at the tokens once an event of the data is over."""
    handler, inputs = _on_look(tab, settings), _inputs(tab, settings)
    event.then(handler, inputs, tab.tokens.outputs, **QUIET)


def _inputs(tab: DataTab, settings: Mapping[str, Any]) -> list[Any]:
    return [tab.dataset_id, tab.tokens.row, *settings.values()]


def _on_look(tab: DataTab, settings: Mapping[str, Any]) -> Callable[..., Any]:
    panel = tab.tokens

    def on_look(dataset_id: str, row: object, *values: object) -> Updates | None:
        if not dataset_id:
            return token_panel.nothing(panel)
        named = dict(zip(settings, values, strict=True))
        return token_panel.look(panel, token_panel.question_of(dataset_id, row, named))

    return guarded(panel.card, on_look, {panel.timer: gr.update(active=False)})


def _wire_tokens(tab: DataTab, settings: Mapping[str, Any]) -> None:
    panel, inputs = tab.tokens, _inputs(tab, settings)
    outputs = panel.outputs
    at_rest: Updates = {panel.timer: gr.update(active=False)}

    def question(values: tuple[Any, ...]) -> token_panel.Question:
        dataset_id, row, *rest = values
        return token_panel.question_of(dataset_id, row, dict(zip(settings, rest, strict=True)))

    def on_tick(seen: str, *values: object) -> Updates | None:
        return token_panel.look(panel, question(values), seen)

    def on_count(*values: object) -> Updates | None:
        return token_panel.count(panel, question(values))

    def on_step(step: int, *values: object) -> Updates:
        asked = question(values)
        row = token_panel.nearest_row(asked.dataset, values[1], step)
        return token_panel.turn_updates(panel, asked, row)

    def on_longest(*values: object) -> Updates:
        asked = question(values)
        return token_panel.turn_updates(panel, asked, token_panel.longest_row(asked))

    def on_pick(event: gr.SelectData, *values: object) -> Updates:
        asked = question(values)
        return token_panel.turn_updates(panel, asked, int(event.row_value[0]))

    def on_remedy(event: gr.EventData, *values: Any) -> Updates:  # noqa: ANN401 - inputs' values
        dataset_id, row, *rest = values
        changed = token_panel.remedy_of(str(event._data.get("choice", "")))
        named = dict(zip(settings, rest, strict=True)) | changed
        asked = token_panel.question_of(dataset_id, row, named)
        shown = token_panel.look(panel, asked) or {}
        return {**shown, **{settings[name]: value for name, value in changed.items()}}

    look = _on_look(tab, settings)
    handler = guarded(panel.card, on_remedy, at_rest)
    panel.account.click(handler, inputs, [*outputs, *settings.values()], **QUIET)
    panel.timer.tick(guarded(panel.card, on_tick, at_rest), [panel.seen, *inputs], outputs, **QUIET)
    panel.row.input(look, inputs, outputs, trigger_mode="always_last", **QUIET)
    tab.tab.select(look, inputs, outputs, **QUIET)
    panel.count.click(guarded(panel.card, on_count, at_rest), inputs, outputs, **QUIET)
    turned = [panel.row, *outputs]
    for button, step in ((panel.previous, -1), (panel.next, 1)):
        handler = guarded(panel.card, partial(on_step, step), at_rest)
        button.click(handler, inputs, turned, **QUIET)
    panel.longest.click(guarded(panel.card, on_longest, at_rest), inputs, turned, **QUIET)
    picked = tab.preview.select(guarded(panel.card, on_pick, at_rest), inputs, turned, **QUIET)
    picked.success(None, None, None, js=token_panel.SHOW)
