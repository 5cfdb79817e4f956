"""One run on the Runs tab: its components, and what they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.charts.view import Choices
from orpo_qlora.config import setting_fields
from orpo_qlora.methods import settings_read
from orpo_qlora.runs import present
from orpo_qlora.ui.evaluate.panel import EvaluatePanel, build_evaluate_panel
from orpo_qlora.ui.history import deletion, sweep_panel
from orpo_qlora.ui.history.sweep_panel import SweepPanel
from orpo_qlora.ui.parts import cards, form, theme
from orpo_qlora.ui.parts.guard import Updates
from orpo_qlora.ui.runs import export_panel, folds, live_view, report_card
from orpo_qlora.ui.runs import files as run_files
from orpo_qlora.ui.runs.actions import RunActions, action_updates, build_run_actions
from orpo_qlora.ui.runs.export_panel import ExportPanel
from orpo_qlora.ui.runs.files import RunFiles, RunLabelFields
from orpo_qlora.ui.runs.live_view import LiveView
from orpo_qlora.ui.runs.report_card import ReportPanel
from orpo_qlora.ui.runs.snapshot import Snapshot

STATUS, LOG = "run-status", "run-log"


@dataclass(frozen=True)
class RunView:
    """The components of one run, in the order of the page."""

    column: gr.Column
    status: gr.HTML
    failure: gr.HTML
    actions: RunActions
    chat: gr.Button
    queue: gr.HTML
    report: ReportPanel
    live: LiveView
    facts: gr.HTML
    settings: gr.HTML
    log: gr.Textbox
    evaluate: EvaluatePanel
    export: ExportPanel
    files: RunFiles
    sweep: SweepPanel
    label: RunLabelFields
    folds: Mapping[str, gr.Accordion]

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes while a run is shown."""
        return [
            *(self.column, self.status, self.failure, self.queue, *self.actions.outputs, self.chat),
            *(*self.live.outputs, self.facts, *self.report.outputs, *self.export.outputs),
            *(self.settings, self.log),
        ]


def build() -> RunView:
    """Return the components of one run, hidden: summary first, the rest in sections."""
    with gr.Column(visible=False, elem_id="run-view") as column:
        status = gr.HTML(elem_id=STATUS, js_on_load=theme.hold(STATUS))
        insight = live_view.build_insight()
        failure = gr.HTML(elem_id="run-failure")
        with gr.Row(elem_classes="actions"):
            actions = build_run_actions()
            chat = gr.Button(
                "Chat with this run", variant="primary", elem_id="run-chat", scale=0, min_width=200
            )
            head = run_files.build_run_head()
        removal = deletion.build_deletion(head.delete, "run-delete")
        queue = gr.HTML(elem_id="run-queue")
        line = report_card.build_report_row()
        main = live_view.build_main_charts()
        report = report_card.build_report_panel(line)
        live = live_view.build_live_view(insight, main)
        with folds.build_fold("facts", "Data and decisions") as facts_fold:
            facts = gr.HTML(elem_id="run-facts")
        with folds.build_fold("settings", "Settings") as settings_fold:
            settings = gr.HTML(elem_id="run-settings")
        with folds.build_fold("log", "Log") as log_fold:
            log = _build_log()
        with folds.build_fold("evaluate", "Evaluate answers") as evaluate_fold:
            evaluate = build_evaluate_panel()
        with folds.build_fold("export", "Export") as export_fold:
            export = export_panel.build_export_panel()
            files = run_files.build_run_files(head, removal)
        sweep = sweep_panel.build_sweep_panel("run-sweep")
        with folds.build_fold("label", "Name and tags") as label_fold:
            label = run_files.build_run_label()
    known = {"report": report.fold, **live.folds, "facts": facts_fold, "settings": settings_fold}
    known |= {"log": log_fold, "evaluate": evaluate_fold, "export": export_fold}
    known |= {"sweep": sweep.fold, "label": label_fold}
    return RunView(
        column=column,
        status=status,
        failure=failure,
        actions=actions,
        chat=chat,
        queue=queue,
        report=report,
        live=live,
        facts=facts,
        settings=settings,
        log=log,
        evaluate=evaluate,
        export=export,
        files=files,
        sweep=sweep,
        label=label,
        folds=known,
    )


def _build_log() -> gr.Textbox:
    return gr.Textbox(
        label="Last lines of log.txt",
        lines=12,
        max_lines=20,
        interactive=False,
        autoscroll=True,
        elem_id=LOG,
        elem_classes="log",
    )


def changed_updates(view: RunView, now: Snapshot, changed: set[str], chosen: Choices) -> Updates:
    """Return the new values of the changed parts, named as in `Snapshot.parts`."""
    updates: Updates = {}
    if "status" in changed:
        updates[view.status] = status_card(now)
    if "around" in changed:
        updates |= _around_updates(view, now)
    if "report" in changed:
        updates |= report_card.report_updates(view.report, now)
    updates |= live_view.live_updates(view.live, now, changed, chosen)
    if "log" in changed:
        updates[view.log] = now.log
    return updates


def settings_updates(view: RunView, now: Snapshot) -> Updates:
    """Return what stays the same while a run is shown: its settings."""
    fields, values = setting_fields(), form.named_values(now.run.config)
    rows = [
        (str(fields[name].title), name, present.setting_value(values[name]))
        for name in settings_read(now.run.config)
    ]
    return {
        view.column: gr.Column(visible=True),
        view.settings: cards.settings_table(rows),
    }


def status_card(now: Snapshot) -> str:
    """Return status, progress and headline numbers as HTML."""
    return cards.run_card(now.run, cards.headline_tiles(now.metrics))


def _around_updates(view: RunView, now: Snapshot) -> Updates:
    run, error = now.run, now.run.state.error or now.stalled
    failure = cards.error_card(error.message, hint=error.hint, where=error.where) if error else ""
    facts = [f"{run.report.source}: {run.report.sentences()[0]}", *run.report.sentences()[1:]]
    return {
        view.failure: failure,
        view.queue: cards.waiting_list(waiting.title for waiting in now.waiting),
        **action_updates(view.actions, now),
        **export_panel.export_updates(view.export, now),
        view.chat: gr.Button(visible=now.outcome.has_adapter),
        view.facts: cards.notes_list([*facts, *run.state.notes, f"Run folder: {run.paths.folder}"]),
    }
