"""The Runs tab: the list of runs, a comparison, or one run with its live curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from orpo_qlora.charts import view as chart_view
from orpo_qlora.charts.view import Choices
from orpo_qlora.errors import UnknownRun
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.export.formats import exports_of
from orpo_qlora.runs import history, store
from orpo_qlora.runs.curves.metrics import shared_tail
from orpo_qlora.runs.process import launch, watch
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.ui.chat import tab as chat_tab
from orpo_qlora.ui.chat.tab import ChatTab
from orpo_qlora.ui.data.tab import DataTab
from orpo_qlora.ui.evaluate.panel import connect_evaluate_panel
from orpo_qlora.ui.history import compare, listing, sweep_panel
from orpo_qlora.ui.history.compare import Comparison
from orpo_qlora.ui.history.listing import HistoryList
from orpo_qlora.ui.history.shown import Shown, ids_of
from orpo_qlora.ui.parts import theme
from orpo_qlora.ui.parts.events import QUIET, READING, parameters_of
from orpo_qlora.ui.parts.guard import Updates, card_of, guarded
from orpo_qlora.ui.runs import (
    export_panel,
    folds,
    live_view,
    model_export,
    report_card,
    run_view,
    snapshot,
)
from orpo_qlora.ui.runs import files as run_files
from orpo_qlora.ui.runs.actions import Render, connect_action, connect_run_actions
from orpo_qlora.ui.runs.run_view import RunView
from orpo_qlora.ui.train import tab as train_tab
from orpo_qlora.ui.train.tab import TrainTab

Values = Mapping[Any, Any]
"""Input values by component, as Gradio passes them to a handler whose inputs are a set."""


@dataclass(frozen=True)
class RunsTab:
    """The components of the tab."""

    tab: gr.Tab
    picker: gr.Textbox
    """Id of the run that is shown; empty while the list or a comparison is."""
    seen: gr.Textbox
    """Fingerprints of what is shown of the run."""
    stored_folds: gr.Textbox
    """Names of the open sections, from the browser's storage."""
    card: gr.HTML
    empty: gr.HTML
    history: HistoryList
    comparison: Comparison
    run: RunView

    @property
    def shown(self) -> Shown:
        """What decides between run, comparison and list."""
        return Shown(self.picker, self.comparison.ids, self.empty, self.card)

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes while a run is shown."""
        return [self.picker, self.seen, self.empty, self.card, *self.run.outputs]


@dataclass(frozen=True)
class Page:
    """The parts of the page that the tab changes or reads outside itself."""

    tabs: gr.Tabs
    timer: gr.Timer
    refresh: gr.Button
    """Pressed by the timer's script when a poll found changes."""
    data: DataTab
    train: TrainTab
    chat: ChatTab


def build() -> RunsTab:
    """Return the tab's components, empty."""
    with gr.Tab("Runs", id="runs", elem_id="tab-runs", render_children=True) as tab:
        picker = gr.Textbox(visible="hidden", elem_id="run-picker", label="Run")
        seen = gr.Textbox(visible="hidden", elem_id="run-seen", label="Run fingerprint")
        stored = gr.Textbox(visible="hidden", elem_id="run-folds", label="Open sections")
        card = gr.HTML(elem_id="runs-error")
        empty = gr.HTML(listing.NO_RUNS, elem_id="runs-empty")
        listed = listing.build_history()
        comparison = compare.build_comparison()
        run = run_view.build()
    return RunsTab(
        tab=tab,
        picker=picker,
        seen=seen,
        stored_folds=stored,
        card=card,
        empty=empty,
        history=listed,
        comparison=comparison,
        run=run,
    )


def opened_run(parameters: Mapping[str, str]) -> str:
    """Return the run that a page with this address shows; empty for the list or a comparison.

    Raises:
        UnknownRun: there is no such run, perhaps because it was deleted.
    """
    named = parameters.get("run", "")
    if named:
        return store.paths_of(named).id
    if "tab" in parameters or parameters.get("compare"):
        return ""
    active = store.active_run()
    return active.id if active else ""


def select_updates(tab: RunsTab, run_id: str) -> Updates:
    """Select a run; the change of the picker then renders it."""
    return {tab.picker: run_id}


def show_updates(
    tab: RunsTab, run_id: str | None, seen: str = "", chosen: Choices = snapshot.AT_FIRST
) -> Updates | None:
    """Return what changed since `seen`; None if nothing did."""
    if not run_id:
        return {tab.run.column: gr.Column(visible=False), tab.seen: ""}
    now = snapshot.take_snapshot(run_id)
    changed = snapshot.changed_parts(now, seen, chosen)
    if not changed:
        return None
    updates: Updates = {tab.seen: snapshot.seen_token(now, chosen)}
    if not seen:
        updates |= {tab.empty: gr.HTML(visible=False), **run_view.settings_updates(tab.run, now)}
    return updates | run_view.changed_updates(tab.run, now, changed, chosen)


def awaits_more(run_id: str | None) -> bool:
    """Return whether a run that is over still changes: cause of its end, curves, evaluation."""
    if not run_id:
        return False
    run = store.read_run(store.paths_of(run_id))
    if watch.awaits_cause(run) or shared_tail(run.paths.metrics).snapshot().share_read < 1:
        return True
    if run.is_active:
        return False
    states = [evaluation_request.read_evaluation(run).state]
    states += [export.state for export in exports_of(run).values()]
    return any(state.is_busy for state in states)


def advance_queue() -> bool:
    """Return whether a run is at work or in the queue; starts the next one if none is at work."""
    if store.active_run() is not None:
        return True
    if not run_queue.queued_runs():
        return False
    launch.start_next()  # its supervisor may have died before starting it
    return True


def connect(runs: RunsTab, page: Page) -> list[Any]:
    """Connect the tab; return the events that change data and settings."""
    shown = runs.shown
    render = _connect_run(runs, page)
    connect_run_actions(runs.run.actions, render)
    connect_action(render, runs.run.report.line.button, report_card.evaluate)
    live_view.connect_memory(runs.run.live)
    connect_evaluate_panel(runs.run.evaluate, runs.picker)
    export_panel.connect_export_panel(runs.run.export, runs.picker, runs.card)
    model_export.connect_model_export(runs.run.export.model, partial(connect_action, render))
    run_files.connect_run_files(runs.run.files, shown)
    run_files.connect_run_label(runs.run.label, render)
    listing.connect_history(runs.history, shown)
    compare.connect_comparison(runs.comparison, shown)
    _connect_view(runs, page.timer)
    _connect_own_fields(runs)
    _connect_chat(runs, page)
    _connect_sweeps(runs, page)
    _connect_watch(runs, page)
    head, settings = runs.run.files.head, page.train.form
    return [run_files.connect_again(head.again, shown, page.data, settings, page.tabs)]


def _connect_run(runs: RunsTab, page: Page) -> Render:
    """Render the selected run; return how to render it again."""
    choices = runs.run.live.choices

    def on_show(run_id: str | None, *chosen: object) -> Updates:
        updates = show_updates(runs, run_id, chosen=Choices.of(chosen))
        is_active = advance_queue() or awaits_more(run_id)
        return {**(updates or {}), page.timer: gr.Timer(active=is_active)}

    def on_pick(run_id: str | None, address: str, *chosen: object) -> Updates:
        # Back at the list, an error about a run stays readable.
        cleared: Updates = {runs.card: ""} if run_id else {}
        parameters = parameters_of(address)
        if parameters.get("reported") == "again":
            return {**cleared, **on_show(run_id, *chosen)}
        if run_id and parameters.get("run") == run_id:
            view = live_view.restored_updates(runs.run.live, parameters, run_id)
            return {**cleared, **on_show(run_id, *chart_view.values_in(parameters)), **view}
        kept = chosen[: live_view.KEPT_CHOICES]
        return {**cleared, **on_show(run_id, *kept), **live_view.reset_updates(runs.run.live)}

    shown, picked = [*runs.outputs, page.timer], [runs.picker, *choices]
    # The script passes the page's address in place of `seen`.
    outputs = list(dict.fromkeys([*shown, *choices]))
    handler = guarded(runs.card, on_pick, keeps_card=True)
    inputs = [runs.picker, runs.seen, *choices]
    runs.picker.change(handler, inputs, outputs, js=theme.READ_VIEW, **QUIET)
    gr.on(
        [component.change for component in choices],
        guarded(runs.card, _on_refresh(runs)),
        [runs.picker, runs.seen, *choices],
        runs.outputs,
        trigger_mode="always_last",
        **QUIET,
    )
    # Not gr.Timer: while the page is built that puts another one on it.
    awake = {page.timer: gr.update(active=True)}
    return Render(picked, shown, on_show, awake, runs.card)


def _on_refresh(runs: RunsTab) -> Callable[..., Updates | None]:
    """Return the handler that renders the changed parts of a run."""

    def on_refresh(run_id: str | None, seen: str, *chosen: object) -> Updates | None:
        return show_updates(runs, run_id, seen, Choices.of(chosen)) if run_id else None

    return on_refresh


def _connect_watch(runs: RunsTab, page: Page) -> None:
    """Update the run that is shown, or the list and the comparison, on every tick of the timer."""
    chosen = [runs.picker, runs.seen, *runs.run.live.choices]
    refresh = _on_refresh(runs)
    settings = page.train.form.inputs

    def on_tick(values: Values) -> Updates | None:
        updates = refresh(*(values[part] for part in chosen))
        if advance_queue() or awaits_more(values[runs.picker]):
            return updates
        dataset_id, given = values[page.data.dataset_id], [values[part] for part in settings]
        return {
            **(updates or {}),
            **chat_tab.select_updates(page.chat, values[page.chat.picker]),
            **train_tab.readiness_updates(page.train, dataset_id, given),
            page.timer: gr.Timer(active=False),
        }

    def on_list_tick(values: Values) -> Updates | None:
        if values[runs.picker]:
            return None
        if ids := values[runs.comparison.ids]:
            side, seen = values[runs.comparison.side], values[runs.comparison.seen]
            return compare.compare_updates(runs.comparison, ids_of(ids), side, seen)
        filters = [values[part] for part in runs.history.inputs]
        return listing.list_updates(runs.history, runs.empty, filters, values[runs.history.seen])

    page.timer.tick(None, chosen, None, js=theme.POLL)
    watched = {*chosen, page.chat.picker, page.data.dataset_id, *settings}
    parts = [*runs.outputs, page.timer, *page.chat.selection, *page.train.outputs]
    handler = guarded(runs.card, on_tick, keeps_card=True)
    ticked = page.refresh.click(handler, watched, parts, **QUIET)
    # After the tick: the list then shows whatever made the timer stop.
    handler = guarded(runs.card, on_list_tick, keeps_card=True)
    seen = {runs.history.seen, runs.comparison.seen}
    ticked.then(handler, _view_inputs(runs) | seen, _view_outputs(runs), **QUIET)


def _view_inputs(runs: RunsTab) -> set[Any]:
    part = runs.comparison
    return {runs.picker, part.ids, part.side, *runs.history.inputs}


def _view_outputs(runs: RunsTab) -> list[Any]:
    return [runs.card, runs.empty, *runs.history.outputs, *runs.comparison.outputs]


def _connect_view(runs: RunsTab, timer: gr.Timer) -> None:
    """Switch between run, comparison and list; while a run is at work, the timer updates them."""
    part, comparison = runs.history, runs.comparison
    awake = {timer: gr.update(active=True)}

    def on_view(values: Values) -> Updates:
        return {**view_of(values), **(awake if advance_queue() else {})}

    def view_of(values: Values) -> Updates:
        if run_id := values[runs.picker]:
            store.paths_of(run_id)  # if it was deleted elsewhere, the page goes back
            return {**listing.hidden_updates(part), **compare.hidden_updates(comparison)}
        if ids := values[comparison.ids]:
            compared = compare.compare_updates(comparison, ids_of(ids), values[comparison.side])
            empty = {runs.empty: gr.HTML(visible=False)}
            return {**listing.hidden_updates(part), **empty, **(compared or {})}
        listed = listing.list_updates(part, runs.empty, [values[one] for one in part.inputs])
        return {**compare.hidden_updates(comparison), **(listed or {})}

    # One after the other: a late answer with the list would hide a run selected since.
    gr.on(
        [runs.picker.change, comparison.ids.change, runs.tab.select],
        guarded(runs.card, on_view, {runs.picker: ""}, keeps_card=True),
        _view_inputs(runs),
        [runs.picker, *_view_outputs(runs), timer],
        trigger_mode="always_last",
        **QUIET,
    )


def _connect_own_fields(runs: RunsTab) -> None:
    """Fill the inputs that belong to a run once, when it is selected, so that edits stay."""

    def on_pick(run_id: str) -> Updates | None:
        if not run_id:
            return None
        run = store.read_run(store.paths_of(run_id))
        labelled = run_files.label_updates(runs.run.label, run)
        return {**labelled, **sweep_panel.run_updates(runs.run.sweep, run)}

    own = [runs.card, *runs.run.label.outputs, *sweep_panel.run_outputs(runs.run.sweep)]
    handler = guarded(runs.card, on_pick, keeps_card=True)
    runs.picker.change(handler, runs.picker, own, js=theme.NEW_SELECTION, **QUIET)


def _connect_chat(runs: RunsTab, page: Page) -> None:
    def on_chat(run_id: str) -> Updates:
        chosen = chat_tab.select_updates(page.chat, run_id)
        return {**chosen, page.tabs: gr.Tabs(selected="chat")}

    parts = [runs.card, page.tabs, *page.chat.selection]
    runs.run.chat.click(guarded(runs.card, on_chat), runs.picker, parts, **QUIET)


def _connect_sweeps(runs: RunsTab, page: Page) -> None:
    """Connect the sweep of the Train tab and the one of a run."""
    train, shown, tabs = page.train, runs.shown, page.tabs
    settings = train.form.components
    sweep_panel.connect_offer(train.sweep, settings["lambda"], settings["method"])
    of_form = sweep_panel.FormSource(train.ticket, page.data.dataset_id, train.form.inputs)
    of_run = sweep_panel.RunSource(runs.picker)
    from_form = sweep_panel.connect_sweep(train.sweep, of_form, shown, tabs, train.card)
    sweep_panel.connect_group(runs.run.sweep, runs.picker, shown)
    from_run = sweep_panel.connect_sweep(runs.run.sweep, of_run, shown, tabs, runs.card)
    from_form.success(train_tab.new_ticket, None, train.ticket, **QUIET)
    for event in (from_form, from_run):
        event.success(lambda: gr.Timer(active=True), None, page.timer, **QUIET)


def connect_restore(runs: RunsTab, page: gr.Blocks, address: gr.Textbox) -> Any:  # noqa: ANN401
    """Restore the list or a comparison from the page's address; return the event."""
    part = runs.history

    def on_load(text: str) -> Updates:
        parameters = parameters_of(text)
        wanted = {name: parameters.get(key, "") for name, key in listing.IN_ADDRESS.items()}
        filters = listing.filters_of(list(wanted.values()))
        number, ids = parameters.get("page", ""), parameters.get("compare", "")
        run_id, updates = "", Updates()
        try:
            run_id = opened_run(parameters)
        except UnknownRun as error:
            updates[runs.card] = card_of(error)
        if not run_id and not ids:
            updates |= listing.list_updates(part, runs.empty, (*wanted.values(), number, "")) or {}
        return {
            **updates,
            **listing.filter_updates(part, history.read_history(), filters),
            part.page: number,
            runs.comparison.ids: ids,
            runs.comparison.side: compare.side_of(parameters.get("side", "")),
        }

    folds.connect_folds(runs.run.folds, page, runs.stored_folds)
    parts = [runs.card, runs.empty, *part.outputs, *part.filters.values(), part.page]
    outputs = list(dict.fromkeys([*parts, runs.comparison.ids, runs.comparison.side]))
    return page.load(guarded(runs.card, on_load), address, outputs, **READING)
