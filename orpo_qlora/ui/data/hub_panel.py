"""The Data tab's Hub panel: fetch a data set by its id, follow the fetch, cancel it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from pydantic import ValidationError

from orpo_qlora.data.files.hub import HubRequest, request_of
from orpo_qlora.data.wording import in_bytes, plural
from orpo_qlora.errors import InputError
from orpo_qlora.jobs.hub.job import JOB, FetchAnswer, HubListing
from orpo_qlora.presets import Recipe
from orpo_qlora.ui.data import uploads
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates, guarded

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class HubPanel:
    """The components of the panel."""

    fold: gr.Accordion
    id: gr.Textbox
    config: gr.Dropdown
    split: gr.Dropdown
    revision: gr.Textbox
    max_rows: gr.Number
    fetch: gr.Button
    cancel: gr.Button
    view: gr.HTML
    requested: gr.Textbox
    """The fetch that the panel follows, as JSON."""
    ready: gr.Textbox
    """Id of the fetched file, and a time, so that it changes with every fetch."""
    timer: gr.Timer

    @property
    def inputs(self) -> list[Any]:
        """The fields of a request."""
        return [self.id, self.config, self.split, self.revision, self.max_rows]

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes while a fetch is followed."""
        return [
            *(self.fold, self.config, self.split, self.fetch, self.cancel, self.view),
            *(self.requested, self.ready, self.timer),
        ]


def build() -> HubPanel:
    """Return the panel's components."""
    with gr.Accordion("From the Hugging Face Hub", open=False, elem_id="hub-fold") as fold:
        with gr.Row():
            name = gr.Textbox(
                label="Data set",
                info="owner/name, or the address of its page.",
                placeholder="owner/name",
                max_length=300,
                elem_id="hub-id",
                scale=3,
                min_width=260,
            )
            config = _choice("Config", "Empty is the default.", "hub-config")
            split = _choice("Split", "Empty is train.", "hub-split")
            revision = gr.Textbox(
                label="Revision",
                info="Branch, tag or commit.",
                placeholder="main",
                max_length=200,
                elem_id="hub-revision",
                min_width=150,
            )
            max_rows = gr.Number(
                0,
                label="Rows at most",
                info="0 is all rows.",
                precision=0,
                minimum=0,
                elem_id="hub-rows",
                min_width=130,
            )
        with gr.Row(elem_classes="actions"):
            fetch = gr.Button("Fetch", elem_id="hub-fetch", scale=0, min_width=120)
            cancel = gr.Button(
                "Cancel", visible=False, elem_id="hub-cancel", scale=0, min_width=120
            )
        view = gr.HTML(elem_id="hub-view")
    return HubPanel(
        fold=fold,
        id=name,
        config=config,
        split=split,
        revision=revision,
        max_rows=max_rows,
        fetch=fetch,
        cancel=cancel,
        view=view,
        requested=gr.Textbox(visible="hidden", elem_id="hub-requested", label="Fetch"),
        ready=gr.Textbox(visible="hidden", elem_id="hub-ready", label="Fetched"),
        timer=gr.Timer(POLL_SECONDS, active=False),
    )


def _choice(label: str, info: str, elem_id: str) -> gr.Dropdown:
    return gr.Dropdown(
        [],
        label=label,
        info=info,
        allow_custom_value=True,
        interactive=True,
        elem_id=elem_id,
        min_width=150,
    )


def start(panel: HubPanel, values: tuple[object, ...]) -> Updates:
    """Start a fetch, or use the stored file if the Hub still has the same commit.

    Raises:
        DataError: a field cannot be what it should be; nothing is started.
    """
    name, config, split, revision = (str(text or "") for text in values[:4])
    rows = int(values[4]) if isinstance(values[4], int | float) else 0
    request = request_of(name, config, split, revision, rows)
    answer = JOB.ask(request, again=True)
    JOB.paths(request).page.touch(mode=0o600)
    return follow(panel, request, answer)


def start_data(panel: HubPanel, data: Recipe.Data) -> Updates:
    """Fill in the fields from a recipe and start the fetch.

    Raises:
        DataError: a part cannot be what it should be; nothing is started.
    """
    fields = {
        panel.id: data.id,
        panel.config: gr.Dropdown(value=data.config or None),
        panel.split: gr.Dropdown(value=data.split or None),
        panel.revision: data.revision,
        panel.max_rows: 0,
    }
    followed = start(panel, (data.id, data.config, data.split, data.revision, 0))
    return {**followed, **fields}


def look(panel: HubPanel, requested: str) -> Updates:
    """Return the progress of the fetch that the panel follows."""
    request = _parsed(requested)
    return follow(panel, request, JOB.read(request))


def cancel(panel: HubPanel, requested: str) -> Updates:
    """End the fetch that the panel follows."""
    request = _parsed(requested)
    JOB.cancel(request)
    return follow(panel, request, JOB.read(request))


def restore(panel: HubPanel) -> Updates:
    """Follow a fetch that is at work when the page opens."""
    request = JOB.busy_for_page()
    return follow(panel, request, JOB.read(request)) if request else {}


def follow(panel: HubPanel, request: HubRequest, answer: FetchAnswer) -> Updates:
    """Return what the panel shows for a fetch."""
    is_busy, fetched = answer.state.is_busy, answer.fetched
    updates: Updates = {
        panel.requested: request.model_dump_json(),
        panel.view: _view(request, answer),
        panel.fetch: gr.Button(interactive=not is_busy),
        panel.cancel: gr.Button(visible=is_busy),
        panel.timer: gr.Timer(active=is_busy),
    }
    if is_busy:
        updates[panel.fold] = gr.Accordion(open=True)
        return updates
    updates |= _choices(panel, request, answer.listing)
    if answer.state.status == "done" and fetched is not None:
        uploads.forget(fetched.sha256)
        updates[panel.ready] = f"{fetched.sha256} {answer.state.started_at}"
    return updates


def _choices(panel: HubPanel, request: HubRequest, listing: HubListing) -> Updates:
    """Return the dropdowns with the configs and splits that were found."""
    updates: Updates = {}
    if listing.configs:
        updates[panel.config] = gr.Dropdown(list(listing.configs), value=request.config or None)
    if listing.splits:
        updates[panel.split] = gr.Dropdown(list(listing.splits), value=request.split or None)
    return updates


def _view(request: HubRequest, answer: FetchAnswer) -> str:
    state, fetched = answer.state, answer.fetched
    if state.error is not None:
        return cards.error_card(state.error.message, hint=state.error.hint)
    if state.is_busy:
        rows = f": {state.done:,}" if state.done else ""
        of = f" of {state.total:,}" if state.done and state.total else ""
        return cards.busy(f"{request.id}: {state.phase}{rows}{of} …")
    if fetched is None:
        return ""
    size = in_bytes(fetched.size_bytes)
    return cards.reason(f"{plural(fetched.rows, 'row')}, {size}. {fetched.note}".strip())


def _parsed(requested: str) -> HubRequest:
    """Return a request that the browser sends back; it is checked like a typed one.

    Raises:
        InputError: it is none.
    """
    try:
        sent = HubRequest.model_validate_json(requested)
    except ValidationError as exc:
        raise InputError("There is no fetch to follow.", hint="Reload the page.") from exc
    return request_of(sent.id, sent.config, sent.split, sent.revision, sent.max_rows)


def connect(panel: HubPanel, on_ready: Callable[[gr.Textbox], None]) -> None:
    """Connect the panel to its handlers.

    Args:
        panel: the panel's components.
        on_ready: connects what shows the fetched file once the given component changes.
    """

    def on_fetch(*values: object) -> Updates:
        return start(panel, values)

    def on_tick(requested: str) -> Updates:
        return look(panel, requested)

    def on_cancel(requested: str) -> Updates:
        return cancel(panel, requested)

    def on_load() -> Updates:
        return restore(panel)

    once: dict[str, Any] = {"trigger_mode": "once", **QUIET}
    fetch = guarded(panel.view, on_fetch, keeps_card=True)
    for event in (panel.fetch.click, panel.id.submit):
        event(fetch, panel.inputs, panel.outputs, **once)
    # gr.update, not gr.Timer: a component made while the page is built becomes part of it.
    stopped: Updates = {panel.timer: gr.update(active=False)}
    tick = guarded(panel.view, on_tick, stopped, keeps_card=True)
    panel.timer.tick(tick, panel.requested, panel.outputs, **QUIET)
    end = guarded(panel.view, on_cancel, keeps_card=True)
    panel.cancel.click(end, panel.requested, panel.outputs, **once)
    gr.on(None, guarded(panel.view, on_load, keeps_card=True), None, panel.outputs, **QUIET)
    on_ready(panel.ready)
