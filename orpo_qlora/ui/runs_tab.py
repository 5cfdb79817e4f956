"""The Runs tab: choose a run and watch it. Everything shown comes from the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.config import setting_fields
from orpo_qlora.runs import store, watch
from orpo_qlora.runs.metrics import shared_tail
from orpo_qlora.ui import cards, form, plots, present, snapshot
from orpo_qlora.ui.chart_view import Choices
from orpo_qlora.ui.guard import Updates
from orpo_qlora.ui.live_view import LiveView, build_live_view, live_updates
from orpo_qlora.ui.report_card import ReportPanel, build_report_panel, report_updates
from orpo_qlora.ui.run_actions import RunActions, action_updates, build_run_actions
from orpo_qlora.ui.snapshot import Snapshot
from orpo_qlora.ui.take_home import TakeHome, build_take_home, take_home_updates


@dataclass(frozen=True)
class RunsTab:
    """The components of the tab."""

    tab: gr.Tab
    picker: gr.Dropdown
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
    take_home: TakeHome
    facts: gr.HTML
    settings: gr.HTML
    log: gr.Textbox

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
        picker = gr.Dropdown(
            [], label="Run", info="Newest first.", elem_id="run-picker", interactive=True
        )
        seen = gr.Textbox(visible="hidden", elem_id="run-seen", label="Drawn so far")
        card = gr.HTML(elem_id="runs-error")
        empty = gr.HTML(
            cards.empty_card(
                "No run yet",
                "Choose preference pairs on the Data tab, then press “Start training” on the "
                "Train tab. The run appears here, step by step.",
            ),
            elem_id="runs-empty",
        )
        with gr.Column(visible=False, elem_id="run-view") as view:
            status = gr.HTML(elem_id="run-status")
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
            queue = gr.HTML(elem_id="run-queue")
            live = build_live_view()
            report = build_report_panel()
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
                    elem_id="run-log",
                    elem_classes="log",
                )
    return RunsTab(
        *(tab, picker, seen, empty, view, card, status, failure, queue, actions, chat),
        *(live, report, take_home, facts, settings, log),
    )


def choices() -> list[tuple[str, str]]:
    """Return every run as a choice, newest first."""
    return [(present.run_label(run), run.id) for run in store.list_runs()]


def chosen_or_newest(run_id: str) -> str:
    """Return the run asked for if there is one, else the one at work, else the newest."""
    runs = store.list_runs()
    if run_id in {run.id for run in runs}:
        return run_id
    active = next((run for run in runs if run.is_at_work), None)
    return active.id if active else (runs[0].id if runs else "")


def select_updates(tab: RunsTab, run_id: str) -> Updates:
    """Return what makes the picker show a run; the picker's change then draws it."""
    options = choices()
    return {tab.picker: gr.Dropdown(options, value=run_id if options else None)}


def show_updates(
    tab: RunsTab, run_id: str | None, seen: str = "", chosen: Choices = snapshot.AT_FIRST
) -> Updates | None:
    """Return what changed of a run since the page drew it; None when nothing did."""
    if not run_id:
        return {tab.view: gr.Column(visible=False), tab.empty: gr.HTML(visible=True), tab.seen: ""}
    now = snapshot.take_snapshot(run_id)
    changed = snapshot.changed_parts(now, seen, chosen)
    if not changed:
        return None
    updates: Updates = {tab.seen: snapshot.seen_token(now, chosen)}
    if not seen:
        updates |= _fixed_updates(tab, now)
    if "status" in changed:
        updates |= _status_updates(tab, now)
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


def _status_updates(tab: RunsTab, now: Snapshot) -> Updates:
    run, error = now.run, now.run.state.error or now.stalled
    failure = cards.error_card(error.message, hint=error.hint, where=error.where) if error else ""
    facts = [f"{run.report.source}: {run.report.sentences()[0]}", *run.report.sentences()[1:]]
    return {
        tab.picker: gr.Dropdown(choices()),
        tab.status: cards.run_card(run, plots.headline_tiles(now.metrics)),
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
