"""The Runs tab: choose a run and watch it. Everything shown comes from the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.charts.view import Choices
from orpo_qlora.config import setting_fields
from orpo_qlora.runs import present, store
from orpo_qlora.runs.metrics import shared_tail
from orpo_qlora.runs.process import watch
from orpo_qlora.ui.history import compare, deletion, listing, sweep_panel
from orpo_qlora.ui.history.compare import Comparison
from orpo_qlora.ui.history.listing import HistoryList
from orpo_qlora.ui.history.sweep_panel import SweepPanel
from orpo_qlora.ui.parts import cards, theme
from orpo_qlora.ui.parts.guard import Updates
from orpo_qlora.ui.runs import files as run_files
from orpo_qlora.ui.runs import snapshot
from orpo_qlora.ui.runs.actions import RunActions, action_updates, build_run_actions
from orpo_qlora.ui.runs.export_panel import ExportPanel, build_take_home, take_home_updates
from orpo_qlora.ui.runs.files import RunFiles, RunHead
from orpo_qlora.ui.runs.live_view import LiveView, build_live_view, live_updates
from orpo_qlora.ui.runs.report_card import ReportPanel, build_report_panel, report_updates
from orpo_qlora.ui.runs.snapshot import Snapshot
from orpo_qlora.ui.train import form

STATUS, LOG = "run-status", "run-log"


@dataclass(frozen=True)
class RunsTab:
    """The components of the tab."""

    tab: gr.Tab
    picker: gr.Textbox
    """Id of the run that is shown; empty while the list or a comparison is."""
    seen: gr.Textbox
    empty: gr.HTML
    view: gr.Column
    card: gr.HTML
    status: gr.HTML
    failure: gr.HTML
    queue: gr.HTML
    actions: RunActions
    chat: gr.Button
    live: LiveView
    report: ReportPanel
    take_home: ExportPanel
    facts: gr.HTML
    settings: gr.HTML
    log: gr.Textbox
    history: HistoryList
    comparison: Comparison
    files: RunFiles
    sweep: SweepPanel

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes while a run is watched."""
        return [
            *(self.picker, self.seen, self.empty, self.view, self.card, self.status, self.failure),
            *(self.queue, *self.actions.outputs, self.chat, *self.live.outputs, self.facts),
            *(*self.report.outputs, *self.take_home.outputs),
            *(self.settings, self.log),
        ]


def build_runs_tab() -> RunsTab:
    """Return the tab's components, empty."""
    with gr.Tab("Runs", id="runs", elem_id="tab-runs", render_children=True) as tab:
        picker = gr.Textbox(visible="hidden", elem_id="run-picker", label="Run")
        seen = gr.Textbox(visible="hidden", elem_id="run-seen", label="Drawn so far")
        card = gr.HTML(elem_id="runs-error")
        empty = gr.HTML(listing.NO_RUNS, elem_id="runs-empty")
        listed = listing.build_history()
        comparison = compare.build_comparison()
        with gr.Column(visible=False, elem_id="run-view") as view:
            status = gr.HTML(elem_id=STATUS, js_on_load=theme.hold(STATUS))
            failure = gr.HTML(elem_id="run-failure")
            with gr.Row(elem_classes="actions"):
                actions = build_run_actions()
                chat = gr.Button(
                    "Chat with this run",
                    variant="primary",
                    elem_id="run-chat",
                    scale=0,
                    min_width=200,
                )
                again, back, ask = run_files.build_head_buttons()
            head = RunHead(again, back, deletion.build_deletion(ask, "run-delete"))
            queue = gr.HTML(elem_id="run-queue")
            report = build_report_panel()
            live = build_live_view()
            take_home = build_take_home()
            with gr.Accordion("Data and decisions", open=False, elem_id="run-facts-fold"):
                facts = gr.HTML(elem_id="run-facts")
            with gr.Accordion("Settings used", open=False, elem_id="run-settings-fold"):
                settings = gr.HTML(elem_id="run-settings")
            with gr.Accordion("Log", open=False, elem_id="run-log-fold"):
                log = gr.Textbox(
                    label="Last lines of log.txt",
                    lines=12,
                    max_lines=20,
                    interactive=False,
                    autoscroll=True,
                    elem_id=LOG,
                    elem_classes="log",
                )
            sweep = sweep_panel.build_sweep_panel("run-sweep")
            files = run_files.build_run_files(head)
    return RunsTab(
        *(tab, picker, seen, empty, view, card, status, failure, queue, actions, chat),
        *(live, report, take_home, facts, settings, log, listed, comparison, files, sweep),
    )


def opened_run(parameters: Mapping[str, str]) -> str:
    """Return the run that a page with this address shows; empty for the list or a comparison.

    Raises:
        UnknownRun: there is no such run, perhaps because it was deleted.
    """
    asked = parameters.get("run", "")
    if asked:
        return store.paths_of(asked).id
    if "tab" in parameters or parameters.get("compare"):
        return ""
    active = store.active_run()
    return active.id if active else ""


def select_updates(tab: RunsTab, run_id: str) -> Updates:
    """Return what makes the page show a run; the change of the picker then draws it."""
    return {tab.picker: run_id}


def show_updates(
    tab: RunsTab, run_id: str | None, seen: str = "", chosen: Choices = snapshot.AT_FIRST
) -> Updates | None:
    """Return what changed of a run since the page drew it; None when nothing did."""
    if not run_id:
        return {tab.view: gr.Column(visible=False), tab.seen: ""}
    now = snapshot.take_snapshot(run_id)
    changed = snapshot.changed_parts(now, seen, chosen)
    if not changed:
        return None
    updates: Updates = {tab.seen: snapshot.seen_token(now, chosen)}
    if not seen:
        updates |= _fixed_updates(tab, now)
    if "status" in changed:
        updates[tab.status] = status_card(now)
    if "around" in changed:
        updates |= _around_updates(tab, now)
    updates |= live_updates(tab.live, now, changed, chosen)
    if "log" in changed:
        updates[tab.log] = now.log
    return updates


def _fixed_updates(tab: RunsTab, now: Snapshot) -> Updates:
    fields = setting_fields()
    rows = [
        (str(fields[name].title), name, present.setting_value(value))
        for name, value in form.named_values(now.run.config).items()
    ]
    return {
        tab.view: gr.Column(visible=True),
        tab.empty: gr.HTML(visible=False),
        tab.settings: cards.settings_table(rows),
    }


def status_card(now: Snapshot) -> str:
    """Return what a run is doing, and its headline numbers."""
    return cards.run_card(now.run, cards.headline_tiles(now.metrics))


def _around_updates(tab: RunsTab, now: Snapshot) -> Updates:
    run, error = now.run, now.run.state.error or now.stalled
    failure = cards.error_card(error.message, hint=error.hint, where=error.where) if error else ""
    facts = [f"{run.report.source}: {run.report.sentences()[0]}", *run.report.sentences()[1:]]
    return {
        tab.failure: failure,
        tab.queue: cards.waiting_list(map(title_of, now.waiting)),
        **action_updates(tab.actions, now),
        **report_updates(tab.report, run),
        **take_home_updates(tab.take_home, run),
        tab.chat: gr.Button(visible=run.has_adapter and not run.is_active),
        tab.facts: cards.notes_list([*facts, *run.state.notes, f"Run folder: {run.paths.folder}"]),
    }


def awaits_more(run_id: str | None) -> bool:
    """Tell whether more is yet to come of a run that is over: why it ended, or its curves."""
    if not run_id:
        return False
    run = store.read_run(store.paths_of(run_id))
    return watch.awaits_cause(run) or shared_tail(run.paths.metrics).snapshot().share_read < 1


def title_of(run_id: str) -> str:
    """Return how a run is called."""
    return store.read_run(store.paths_of(run_id)).title
