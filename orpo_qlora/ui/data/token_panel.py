"""The Data tab's token panel: token counts of all pairs, and any pair token by token."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr

from orpo_qlora.charts import token_histograms
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.pairs import PreferenceData, PreferencePair
from orpo_qlora.errors import InputError
from orpo_qlora.jobs import token_counts
from orpo_qlora.jobs.token_counts import Answer, TokenizeRequest, TokenLengths
from orpo_qlora.jobs.token_report import LengthReport, fate_of, report_lengths
from orpo_qlora.models import local_files
from orpo_qlora.runs import present
from orpo_qlora.ui.data import token_view, uploads
from orpo_qlora.ui.parts import cards, form
from orpo_qlora.ui.parts.buttons import CHOICE_SCRIPT, choice_button, choice_of
from orpo_qlora.ui.parts.events import QUIET
from orpo_qlora.ui.parts.guard import Updates, guarded

HISTOGRAMS = ("whole", "prompt", "answers", "difference")
POLL_SECONDS = 1.0
REMEDIES = {
    "drop": "Drop them",
    "cut_prompt": "Cut prompts left",
    "cut_answers": "Cut responses right",
}
"""Buttons for over-long pairs, by the value of `over_length` they set."""
SETTINGS = (
    *("model", "revision", "chat_template", "max_length", "over_length"),
    *("method", "nll_on", "lambda"),
)
"""Settings of the Train tab that decide how a pair is tokenized, cut and coloured."""
SHOW = "() => { document.getElementById('token-actions')?.scrollIntoView({behavior: 'smooth'}); }"
"""Script that scrolls to the pair, far below the preview in which it was picked."""


@dataclass(frozen=True)
class TokenPanel:
    """The components of the panel."""

    view: gr.Column
    card: gr.HTML
    status: gr.HTML
    count: gr.Button
    results: gr.Column
    summary: gr.HTML
    histograms: tuple[gr.HTML, ...]
    row: gr.Number
    previous: gr.Button
    next: gr.Button
    longest: gr.Button
    tokens: gr.HTML
    seen: gr.Textbox
    """What the panel shows, the request's key first, so that a poll sends only what changed."""
    timer: gr.Timer

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes with the data, the settings or the progress of the job."""
        return [
            *(self.view, self.card, self.status, self.count, self.results, self.summary),
            *(*self.histograms, self.tokens, self.seen, self.timer),
        ]


def build() -> TokenPanel:
    """Return the panel's components, hidden until there are pairs."""
    with gr.Column(visible=False, elem_id="token-panel") as view:
        gr.HTML(
            cards.heading(
                "Tokens",
                "Every pair in the base model's chat template and tokens, with the settings of "
                "the Train tab.",
            )
        )
        card = gr.HTML(elem_id="token-error")
        status = gr.HTML(elem_id="token-status")
        count = gr.Button("Count tokens", elem_id="token-count", scale=0, min_width=200)
        with gr.Column(visible=False, elem_id="token-results") as results:
            summary = gr.HTML(elem_id="token-summary", js_on_load=CHOICE_SCRIPT)
            with gr.Row(elem_classes="plots"):
                histograms = tuple(
                    gr.HTML(elem_id=f"histogram-{name}", min_width=420) for name in HISTOGRAMS
                )
            with gr.Row(elem_classes="actions", elem_id="token-actions"):
                row = gr.Number(
                    1,
                    label="Row",
                    precision=0,
                    minimum=1,
                    elem_id="token-row",
                    scale=0,
                    min_width=120,
                )
                previous = _small_button("Previous pair", "token-previous")
                following = _small_button("Next pair", "token-next")
                longest = _small_button("Longest pair", "token-longest")
            tokens = gr.HTML(elem_id="token-view")
    seen = gr.Textbox(visible="hidden", elem_id="token-seen", label="Tokens shown")
    timer = gr.Timer(POLL_SECONDS, active=False)
    return TokenPanel(
        view=view,
        card=card,
        status=status,
        count=count,
        results=results,
        summary=summary,
        histograms=histograms,
        row=row,
        previous=previous,
        next=following,
        longest=longest,
        tokens=tokens,
        seen=seen,
        timer=timer,
    )


def _small_button(title: str, elem_id: str) -> gr.Button:
    return gr.Button(title, elem_id=elem_id, size="md", scale=0, min_width=140)


@dataclass(frozen=True)
class Question:
    """What the panel shows: the pairs of a file under these settings, one of them in full."""

    dataset: PreferenceData
    config: TrainConfig
    request: TokenizeRequest

    @property
    def row(self) -> int:
        """The row shown token by token."""
        return self.request.rows[0]


def question_of(dataset_id: str, row: object, settings: Mapping[str, object]) -> Question:
    """Return the question for an upload, a row number and the Train tab's settings by name.

    Raises:
        DataError: the upload is no longer stored.
        ConfigError: lists every wrong setting of the Train tab.
    """
    dataset = uploads.open_upload(dataset_id)
    config = form.config_from_some(settings)
    request = uploads.tokenize_request(dataset_id, config, (nearest_row(dataset, row),))
    return Question(dataset, config, request)


def nearest_row(dataset: PreferenceData, row: object, step: int = 0) -> int:
    """Return the row of the first pair at or after `row`, moved on by `step` pairs."""
    pairs = dataset.pairs
    wanted = int(row) if isinstance(row, int | float) else 0
    index = min(bisect_left(pairs, wanted, key=_row_of), len(pairs) - 1) + step
    return pairs[max(0, min(index, len(pairs) - 1))].row


def _row_of(pair: PreferencePair) -> int:
    return pair.row


def look(panel: TokenPanel, question: Question, seen: str = "") -> Updates | None:
    """Return what the panel shows now; starts the job by itself if the tokenizer is local."""
    request = question.request
    shown = seen.partition(" ")[0]
    if shown and shown != request.key:
        token_counts.end_started(shown)
    is_known = token_counts.paths_of(request).folder.is_dir()
    if not is_known and not local_files.has_tokenizer(request.model, request.revision):
        return _waiting_updates(panel, question)
    return _answer_updates(panel, question, token_counts.ask(request), seen)


def count(panel: TokenPanel, question: Question) -> Updates | None:
    """Start the job on the user's request, also after a failure."""
    return _answer_updates(panel, question, token_counts.ask(question.request, again=True), "")


def nothing(panel: TokenPanel, seen: str) -> Updates:
    """Return the panel hidden, as without a file."""
    if seen:
        token_counts.end_started(seen.partition(" ")[0])
    hidden = gr.Column(visible=False)
    return {panel.view: hidden, panel.timer: gr.Timer(active=False), panel.seen: ""}


def _waiting_updates(panel: TokenPanel, question: Question) -> Updates:
    model = present.model_title(question.config.model)
    text = f"The tokenizer of {model} is not on this disk yet. Its weights are not needed."
    return {
        **_shown(panel, is_answered=False),
        panel.status: cards.reason(text),
        panel.count: gr.Button("Download tokenizer", visible=True),
        panel.timer: gr.Timer(active=False),
        panel.seen: "",
    }


def _shown(panel: TokenPanel, *, is_answered: bool) -> Updates:
    return {panel.view: gr.Column(visible=True), panel.results: gr.Column(visible=is_answered)}


def _answer_updates(
    panel: TokenPanel, question: Question, answer: Answer, seen: str
) -> Updates | None:
    state = answer.state
    pair = answer.tokens.get(question.row)
    now = f"{question.request.key} {question.row} {question.config.model_dump_json()} "
    now += f"{answer.lengths is not None} {pair is not None} {state.status} {state.phase}"
    now += f" {state.done}"
    if now == seen:
        return None
    is_waiting = state.is_busy or (answer.lengths is not None and pair is None and not state.error)
    updates: Updates = {
        **_shown(panel, is_answered=answer.lengths is not None),
        panel.status: _status(answer) if is_waiting or state.error else "",
        panel.count: gr.Button("Try again", visible=state.error is not None),
        panel.seen: now,
        panel.timer: gr.Timer(active=is_waiting),
    }
    if answer.lengths is not None:
        updates |= _count_updates(panel, question, answer.lengths)
    if pair is not None:
        report = question.dataset.report
        place = report.place_of(pair.row) if report.files else ""
        updates[panel.tokens] = token_view.draw_tokens(pair, question.config, place)
    return updates


def _status(answer: Answer) -> str:
    state = answer.state
    if state.error:
        return cards.error_card(state.error.message, hint=state.error.hint, where=state.error.where)
    text = f"{state.phase[:1].upper()}{state.phase[1:]} …"
    if state.total and state.phase == "counting tokens":
        text += f" {state.done:,} of {state.total:,} pairs"
    return cards.busy(text)


def _count_updates(panel: TokenPanel, question: Question, counted: TokenLengths) -> Updates:
    report = report_of(question.config, counted)
    drawn = token_histograms.histograms_of(counted, report)
    sentences = [report.policy_sentence(), *report.template_sentences()]
    title = f"Tokens with {present.model_title(report.model)}"
    return {
        panel.summary: cards.text_card(title, sentences, _remedies(report)),
        **{
            component: token_histograms.draw_histogram(histogram)
            for component, histogram in zip(panel.histograms, drawn, strict=True)
        },
    }


def _remedies(report: LengthReport) -> str:
    """Return buttons for over-long pairs; each changes one setting of the Train tab."""
    if not report.cut and not report.dropped:
        return ""
    policies = [policy for policy in REMEDIES if policy != report.over_length]
    buttons = [choice_button(f"over_length:{name}", REMEDIES[name]) for name in policies]
    longest = report.whole.longest
    buttons.append(choice_button(f"max_length:{longest}", f"Raise max_length to {longest:,}"))
    return f'<p class="fix">{" ".join(buttons)}</p>'


def remedy_of(choice: str) -> dict[str, object]:
    """Return the setting that a button for over-long pairs changes.

    Raises:
        InputError: no button carries this choice.
    """
    name, _, value = choice.partition(":")
    if name == "over_length" and value in REMEDIES:
        return {name: value}
    if name == "max_length" and value.isdecimal():
        return {name: int(value)}
    raise InputError(f"“{choice}” is not a choice.", hint="Reload the page and try again.")


def length_sentence(dataset_id: str, config: TrainConfig) -> str:
    """Return what the length policy will do; empty until tokens have been counted."""
    counted = token_counts.read_answer(uploads.tokenize_request(dataset_id, config, ())).lengths
    if counted is None:
        return ""
    return fate_of(counted, config.max_length, config.over_length).sentence(config.max_length)


def report_of(config: TrainConfig, counted: TokenLengths) -> LengthReport:
    """Return the lengths and what the length policy does under these settings."""
    return report_lengths(counted, config.model, config.max_length, config.over_length)


def row_updates(panel: TokenPanel, question: Question, row: int) -> Updates:
    """Return the panel showing another row."""
    request = question.request.model_copy(update={"rows": (row,)})
    return {**(look(panel, replace(question, request=request)) or {}), panel.row: row}


def longest_row(question: Question) -> int:
    """Return the row of the pair with the most tokens; the shown row until tokens are counted."""
    counted = token_counts.read_answer(question.request).lengths
    if counted is None:
        return question.row
    return max(zip(counted.longest(), counted.rows, strict=True))[1]


@dataclass(frozen=True)
class QuestionInputs:
    """The components a question is read from; handlers take their values in this order."""

    dataset_id: gr.Textbox
    row: gr.Number
    settings: Mapping[str, Any]
    """Inputs of the Train tab by the setting's name, for each of `SETTINGS`."""

    @property
    def components(self) -> list[Any]:
        """The inputs of a handler that takes `*values`."""
        return [self.dataset_id, self.row, *self.settings.values()]

    def question(
        self, values: Sequence[Any], changed: Mapping[str, object] | None = None
    ) -> Question:
        """Return the question that these values ask, with some settings changed."""
        dataset_id, row, *rest = values
        named = dict(zip(self.settings, rest, strict=True)) | dict(changed or {})
        return question_of(dataset_id, row, named)


def refresh_after(panel: TokenPanel, inputs: QuestionInputs, event: Any) -> None:  # noqa: ANN401 - gradio's dependency
    """Update the panel once an event that changes the data is over."""
    values = [panel.seen, *inputs.components]
    event.then(_on_refresh(panel, inputs), values, panel.outputs, **QUIET)


def _on_refresh(panel: TokenPanel, inputs: QuestionInputs) -> Callable[..., Any]:
    def on_refresh(seen: str, *values: object) -> Updates | None:
        return look(panel, inputs.question(values), seen) if values[0] else nothing(panel, seen)

    return _guarded(panel, on_refresh)


def _guarded(panel: TokenPanel, handler: Callable[..., Updates | None]) -> Callable[..., Any]:
    """Guard a handler; an error also stops the timer, since polling would only repeat it."""
    # gr.update, not gr.Timer: a component made while the page is built becomes part of it.
    return guarded(panel.card, handler, {panel.timer: gr.update(active=False)})


def connect(panel: TokenPanel, inputs: QuestionInputs, tab: gr.Tab, preview: gr.Dataframe) -> None:
    """Connect the panel to its handlers.

    Args:
        panel: the panel's components.
        inputs: what the panel's question is read from.
        tab: the Data tab; selecting it updates the panel.
        preview: the table of pairs; selecting a row shows its tokens.
    """
    values, outputs = inputs.components, panel.outputs

    def on_tick(seen: str, *values: object) -> Updates | None:
        return look(panel, inputs.question(values), seen)

    def on_count(*values: object) -> Updates | None:
        return count(panel, inputs.question(values))

    def on_remedy(event: gr.EventData, *values: object) -> Updates:
        changed = remedy_of(choice_of(event))
        updates = look(panel, inputs.question(values, changed)) or {}
        return {**updates, **{inputs.settings[name]: value for name, value in changed.items()}}

    refresh = _on_refresh(panel, inputs)
    panel.timer.tick(_guarded(panel, on_tick), [panel.seen, *values], outputs, **QUIET)
    panel.count.click(_guarded(panel, on_count), values, outputs, **QUIET)
    refreshed = [panel.seen, *values]
    panel.row.input(refresh, refreshed, outputs, trigger_mode="always_last", **QUIET)
    tab.select(refresh, refreshed, outputs, **QUIET)
    remedied = [*outputs, *inputs.settings.values()]
    panel.summary.click(_guarded(panel, on_remedy), values, remedied, **QUIET)
    _connect_row(panel, inputs, preview)


def _picked_row(cell: object) -> int:
    """Return the row of a cell of the preview: “3”, with several files “1,003 · b.csv, row 3”."""
    return int(str(cell).partition(" ")[0].replace(",", ""))


def _connect_row(panel: TokenPanel, inputs: QuestionInputs, preview: gr.Dataframe) -> None:
    """Connect what chooses the pair that is shown token by token."""

    def on_step(step: int, *values: object) -> Updates:
        question = inputs.question(values)
        return row_updates(panel, question, nearest_row(question.dataset, values[1], step))

    def on_longest(*values: object) -> Updates:
        question = inputs.question(values)
        return row_updates(panel, question, longest_row(question))

    def on_pick(event: gr.SelectData, *values: object) -> Updates:
        return row_updates(panel, inputs.question(values), _picked_row(event.row_value[0]))

    values, outputs = inputs.components, [panel.row, *panel.outputs]
    panel.previous.click(_guarded(panel, partial(on_step, -1)), values, outputs, **QUIET)
    panel.next.click(_guarded(panel, partial(on_step, 1)), values, outputs, **QUIET)
    panel.longest.click(_guarded(panel, on_longest), values, outputs, **QUIET)
    picked = preview.select(_guarded(panel, on_pick), values, outputs, **QUIET)
    picked.success(None, None, None, js=SHOW)
