"""The panel on a run's page that evaluates answers: inputs, progress, results, downloads."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from orpo_qlora import storage
from orpo_qlora.chat.vote_rows import vote_rows
from orpo_qlora.chat.votes import read_votes, scores, votes_file
from orpo_qlora.errors import InputError
from orpo_qlora.evaluation.embeddings import WORDLLAMA, is_installed
from orpo_qlora.evaluation.judge.settings import KEY_VARIABLE
from orpo_qlora.evaluation.suite import results as suite_results
from orpo_qlora.evaluation.suite import table
from orpo_qlora.evaluation.suite.request import JOB, SuiteAnswer, latest_of, request_with
from orpo_qlora.evaluation.suite.results import SuitePaths, SuiteResults
from orpo_qlora.export.reports.answers_report import AnswersReport, draw_answers, write_answers_html
from orpo_qlora.runs import store
from orpo_qlora.ui.evaluate.form import LABELS, Inputs, offer, other_runs, request_of, upload
from orpo_qlora.ui.parts import cards, downloads
from orpo_qlora.ui.parts.events import QUIET, UNCHECKED, UNMARKED
from orpo_qlora.ui.parts.guard import Updates, guarded

POLL_SECONDS = 2.0
FILE_TYPES = [".csv", ".tsv", ".json", ".jsonl", ".parquet"]
ABOUT = (
    "Base and runs answer the same prompts, with the same sampling. Answers are kept and never "
    "generated twice. Stopping the page does not stop the evaluation."
)
KINDS = {"json": "Results (JSON)", "csv": "Results (CSV)", "html": "Report (HTML)"}


@dataclass(frozen=True)
class EvaluatePanel:
    """The components."""

    offer: gr.HTML
    others: gr.Dropdown
    parts: gr.CheckboxGroup
    prompts: gr.Textbox
    prompts_file: gr.File
    prompts_key: gr.Textbox
    """Key of the file's prompts; empty without one."""
    max_prompts: gr.Number
    samples: gr.Number
    max_tokens: gr.Number
    reward_model: gr.Textbox
    judge_url: gr.Textbox
    judge_model: gr.Textbox
    start: gr.Button
    card: gr.HTML
    status: gr.HTML
    results: gr.HTML
    downloads: dict[str, gr.Button]
    file: gr.File
    seen: gr.Textbox
    """Key of the evaluation that is shown, and prints of its progress and of its results."""
    timer: gr.Timer

    @property
    def inputs(self) -> list[Any]:
        """What a request is made of, besides the run."""
        return [
            *(self.others, self.parts, self.prompts, self.max_prompts, self.samples),
            *(self.max_tokens, self.reward_model, self.judge_url, self.judge_model),
            self.prompts_key,
        ]

    @property
    def changes(self) -> list[Any]:
        """Events after which something else would be evaluated."""
        chosen = (self.others, self.parts, self.max_prompts, self.samples, self.max_tokens)
        typed = (self.prompts, self.reward_model, self.judge_url, self.judge_model)
        return [
            *(one.change for one in (*chosen, self.prompts_key)),
            *(one.blur for one in typed),
        ]

    @property
    def shown(self) -> list[Any]:
        """What changes while an evaluation works."""
        return [self.seen, self.status, self.results, self.timer, *self.downloads.values()]


def build_evaluate_panel() -> EvaluatePanel:
    """Return the components, without results."""
    gr.HTML(f'<p class="quiet">{ABOUT}</p>')
    shown_offer = gr.HTML(elem_id="evaluate-offer")
    parts = _measures()
    with gr.Group(elem_classes="settings-grid"):
        others = gr.Dropdown([], value=[], multiselect=True, label="Compare with",
                             elem_id="evaluate-others")  # fmt: skip
        max_prompts = _number("Most prompts", 50, "evaluate-max-prompts")
        samples = _number("Answers a prompt", 1, "evaluate-samples")
        max_tokens = _number("Longest answer", 256, "evaluate-max-tokens")
    prompts, prompts_file = _own_prompts(), _prompts_file()
    with gr.Group(elem_classes="settings-grid"):
        reward_model = _text(
            "Reward model", "Id or folder. Empty trains one on the run's pairs.", "evaluate-reward"
        )
        judge_url = _text(
            "Judge address", f"OpenAI-compatible; key from {KEY_VARIABLE}.", "evaluate-judge-url"
        )
        judge_model = _text("Judge model", "As the endpoint names it.", "evaluate-judge-model")
    start = gr.Button(
        "Evaluate answers", variant="primary", scale=0, min_width=200, elem_id="evaluate-start"
    )
    card, status, results = (
        gr.HTML(elem_id=f"evaluate-{name}") for name in ("error", "status", "results")
    )
    with gr.Row(elem_classes="actions"):
        buttons = {
            kind: gr.Button(
                f"Download: {label}",
                visible=False,
                scale=0,
                min_width=210,
                elem_id=f"evaluate-{kind}",
            )
            for kind, label in KINDS.items()
        }
    return EvaluatePanel(
        offer=shown_offer,
        others=others,
        parts=parts,
        prompts=prompts,
        prompts_file=prompts_file,
        prompts_key=gr.Textbox(visible="hidden", label="Prompts", elem_id="evaluate-prompts-key"),
        max_prompts=max_prompts,
        samples=samples,
        max_tokens=max_tokens,
        reward_model=reward_model,
        judge_url=judge_url,
        judge_model=judge_model,
        start=start,
        card=card,
        status=status,
        results=results,
        downloads=buttons,
        file=gr.File(visible="hidden", label="Download", interactive=False),
        seen=gr.Textbox(visible="hidden", elem_id="evaluate-seen", label="Evaluation"),
        timer=gr.Timer(POLL_SECONDS, active=False),
    )


def _measures() -> gr.CheckboxGroup:
    chosen = ["answers", "diversity", "guard"] if is_installed(WORDLLAMA) else ["answers", "guard"]
    return gr.CheckboxGroup(
        [(label, name) for name, label in LABELS.items()],
        value=chosen,
        label="Measures",
        elem_id="evaluate-parts",
    )


def _own_prompts() -> gr.Textbox:
    return gr.Textbox(
        label="Own prompts",
        info="One a line. Empty takes those of the file, or the run's held-out prompts.",
        lines=2,
        max_lines=8,
        elem_id="evaluate-prompts",
    )


def _prompts_file() -> gr.File:
    return gr.File(
        label="Prompts file",
        file_types=FILE_TYPES,
        type="filepath",
        height=110,
        elem_id="evaluate-prompts-file",
    )


def _number(label: str, value: int, elem_id: str) -> gr.Number:
    return gr.Number(value, label=label, precision=0, minimum=0, elem_id=elem_id)


def _text(label: str, info: str, elem_id: str) -> gr.Textbox:
    return gr.Textbox(label=label, info=info, max_lines=1, elem_id=elem_id)


def shown_updates(panel: EvaluatePanel, key: str, seen: str = "") -> Updates | None:
    """Return what has changed of an evaluation, None if nothing has.

    Args:
        panel: the components.
        key: of the evaluation; empty, or one that does not exist, empties the panel.
        seen: what the page shows of it already.
    """
    request = request_with(key)
    if request is None:
        return _nothing(panel)
    # Before the files are read: what is written meanwhile is shown next time.
    results = _print_of_results(key)
    answer = JOB.read(request)
    state = f"{hash(str(answer.state)):x}"
    now = " ".join((key, state, results))
    if now == seen:
        return None
    before = seen.split(" ") if seen.startswith(f"{key} ") else ["", "", ""]
    updates: Updates = {panel.seen: now}
    if before[1] != state:
        updates[panel.status] = _status(answer)
        # gr.update, not gr.Timer: a component made while the page is built becomes part of it.
        updates[panel.timer] = gr.update(active=answer.state.is_busy)
    if before[-1] != results:
        found = answer.results
        updates[panel.results] = draw_answers(_report(found, answer)) if found else ""
        has_figures = found is not None and bool(found.parts)
        updates |= dict.fromkeys(panel.downloads.values(), gr.update(visible=has_figures))
    return updates


def _nothing(panel: EvaluatePanel) -> Updates:
    return {
        **dict.fromkeys((panel.seen, panel.status, panel.results), ""),
        panel.timer: gr.update(active=False),
        **dict.fromkeys(panel.downloads.values(), gr.update(visible=False)),
    }


def _print_of_results(key: str) -> str:
    """Return a fingerprint of the files that the results are drawn from."""
    found = SuitePaths(JOB.folder() / key)
    files = (found.results, found.reward, votes_file())
    stamps = [storage.FileStamp.of(file) if file.is_file() else None for file in files]
    return f"{hash(tuple(stamps)):x}"


def _status(answer: SuiteAnswer) -> str:
    state = answer.state
    if state.error is not None:
        return cards.error_card(state.error.message, hint=state.error.hint, where=state.error.where)
    if not state.is_busy:
        return ""
    count = f" ({state.done:,} of {state.total:,})" if state.total else ""
    return cards.busy(f"{state.phase[:1].upper()}{state.phase[1:]}{count}")


def _report(results: SuiteResults, answer: SuiteAnswer) -> AnswersReport:
    votes = vote_rows(results, scores(read_votes()))
    return AnswersReport(results, answer.reward, votes)


def answer_with(key: str) -> SuiteAnswer | None:
    """Return what is known about the evaluation of a key; None without one."""
    request = request_with(key)
    return JOB.read(request) if request else None


def make_file(key: str, kind: str) -> Path:
    """Write the results of an evaluation for a download and return the path.

    Raises:
        InputError: there are no results.
    """
    answer = answer_with(key)
    if answer is None or answer.results is None or kind not in KINDS:
        raise InputError("There are no results to download.", hint="Evaluate the answers first.")
    path = downloads.fresh_folder() / f"evaluation.{kind}"
    if kind == "html":
        write_answers_html(path, _report(answer.results, answer))
    elif kind == "csv":
        path.write_text(table.to_csv(answer.results), encoding="utf-8")
    else:
        content = json.dumps(suite_results.to_json(answer.results), ensure_ascii=False, indent=1)
        path.write_text(content, encoding="utf-8")
    return path


def connect_evaluate_panel(panel: EvaluatePanel, picker: gr.Textbox) -> None:
    """Connect the panel of the run that `picker` names."""

    def on_pick(run_id: str, *values: Any) -> Updates | None:  # noqa: ANN401 - of any component
        if not run_id:
            return {panel.timer: gr.update(active=False)}
        run = store.read_run(store.paths_of(run_id))
        now = replace(Inputs.of(run_id, values), others=[])
        return {
            panel.offer: cards.reason(offer(now)),
            panel.others: gr.update(choices=other_runs(run), value=[]),
            **(shown_updates(panel, latest_of(run)) or {}),
        }

    def on_input(run_id: str, *values: Any) -> Updates | None:  # noqa: ANN401
        return {panel.offer: cards.reason(offer(Inputs.of(run_id, values)))} if run_id else None

    def on_upload(path: str | None) -> Updates:
        return {panel.prompts_key: upload(Path(path)) if path else ""}

    def on_start(run_id: str, *values: Any) -> Updates:  # noqa: ANN401 - of any component
        request = request_of(Inputs.of(run_id, values))
        JOB.ask(request, again=JOB.read(request).state.error is not None)
        return shown_updates(panel, JOB.key(request)) or {}

    def on_tick(seen: str) -> Updates | None:
        return shown_updates(panel, seen.partition(" ")[0], seen)

    def on_download(kind: str, seen: str) -> Updates:
        return {panel.file: str(make_file(seen.partition(" ")[0], kind))}

    outputs = [panel.card, *panel.shown]
    picked = [*outputs, panel.offer, panel.others]
    values = [picker, *panel.inputs]
    picker.change(guarded(panel.card, on_pick), values, picked, **QUIET)
    gr.on(panel.changes, guarded(panel.card, on_input), values, [panel.card, panel.offer], **QUIET)
    # With Gradio's preprocessing, which accepts only the path of a file that was uploaded.
    checked = {"queue": False, "api_visibility": "private", **UNMARKED}
    uploaded = [panel.card, panel.prompts_file, panel.prompts_key]
    nothing = {panel.prompts_file: None, panel.prompts_key: ""}
    handler = guarded(panel.card, on_upload, nothing)
    panel.prompts_file.upload(handler, panel.prompts_file, uploaded, **checked)
    panel.prompts_file.clear(lambda: "", None, panel.prompts_key, **QUIET)
    panel.start.click(
        guarded(panel.card, on_start),
        values,
        outputs,
        trigger_mode="once",
        **QUIET,
    )
    ticked = guarded(panel.card, on_tick, keeps_card=True)
    panel.timer.tick(ticked, panel.seen, outputs, **QUIET)
    for kind, button in panel.downloads.items():
        saving = guarded(panel.card, partial(on_download, kind))
        event = button.click(saving, panel.seen, [panel.card, panel.file], **UNCHECKED)
        event.success(None, panel.file, None, js=downloads.SAVE, **QUIET)
