"""The part of the Data tab that counts tokens and shows any pair as the model will see it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from orpo_qlora.charts import token_histograms
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.pairs import PreferenceData, PreferencePair
from orpo_qlora.errors import InputError
from orpo_qlora.jobs import token_counts
from orpo_qlora.jobs.token_counts import Answer, TokenizeRequest, TokenLengths
from orpo_qlora.jobs.token_report import LengthReport, fate_of, report_lengths
from orpo_qlora.models import at_hand
from orpo_qlora.runs import present
from orpo_qlora.ui.data import token_view, uploads
from orpo_qlora.ui.data.findings_view import CHOOSING, choice_button
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.guard import Updates
from orpo_qlora.ui.train import form

PICTURES = ("whole", "prompt", "answers", "difference")
POLL_SECONDS = 1.0
REMEDIES = {
    "drop": "Leave them out",
    "cut_prompt": "Cut their prompts from the left",
    "cut_answers": "Cut their answers from the right",
}
"""What can be done with over-long pairs, by the value of `over_length`."""
SETTINGS = ("model", "revision", "max_length", "over_length", "nll_on", "lambda")
"""Settings of the Train tab that decide what a pair looks like to the model."""
SHOW = "() => { document.getElementById('token-actions')?.scrollIntoView({behavior: 'smooth'}); }"
"""Script that brings the shown pair into sight: the table where it was picked is far above."""


@dataclass(frozen=True)
class TokenPanel:
    """The components of the panel."""

    view: gr.Column
    card: gr.HTML
    status: gr.HTML
    count: gr.Button
    results: gr.Column
    account: gr.HTML
    pictures: tuple[gr.HTML, ...]
    row: gr.Number
    previous: gr.Button
    next: gr.Button
    longest: gr.Button
    tokens: gr.HTML
    seen: gr.Textbox
    timer: gr.Timer

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes while tokens are counted and looked at."""
        return [
            *(self.view, self.card, self.status, self.count, self.results, self.account),
            *(*self.pictures, self.tokens, self.seen, self.timer),
        ]


def build_token_panel() -> TokenPanel:
    """Return the panel's components, hidden until there are pairs."""
    with gr.Column(visible=False, elem_id="token-panel") as view:
        gr.HTML(
            cards.heading(
                "What the model will see",
                "Every pair under the base model's chat template and tokenizer, with the settings "
                "of the Train tab.",
            )
        )
        card = gr.HTML(elem_id="token-error")
        status = gr.HTML(elem_id="token-status")
        count = gr.Button("Count tokens", elem_id="token-count", scale=0, min_width=200)
        with gr.Column(visible=False, elem_id="token-results") as results:
            account = gr.HTML(elem_id="token-account", js_on_load=CHOOSING)
            with gr.Row(elem_classes="plots"):
                pictures = tuple(
                    gr.HTML(elem_id=f"histogram-{name}", min_width=420) for name in PICTURES
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
    seen = gr.Textbox(visible="hidden", elem_id="token-seen", label="Tokens drawn so far")
    timer = gr.Timer(POLL_SECONDS, active=False)
    return TokenPanel(
        *(view, card, status, count, results, account, pictures, row),
        *(previous, following, longest, tokens, seen, timer),
    )


def _small_button(title: str, elem_id: str) -> gr.Button:
    return gr.Button(title, elem_id=elem_id, size="md", scale=0, min_width=140)


@dataclass(frozen=True)
class Question:
    """What the panel is to show: pairs of a file, under these settings, one of them in full."""

    dataset: PreferenceData
    config: TrainConfig
    request: TokenizeRequest

    @property
    def row(self) -> int:
        """The row shown token by token."""
        return self.request.rows[0]


def question_of(dataset_id: str, row: object, settings: Mapping[str, object]) -> Question:
    """Return the question that the page's components ask.

    Raises:
        DataError: the file is not kept any more.
        ConfigError: lists every wrong setting of the Train tab.
    """
    dataset = uploads.open_dataset(dataset_id)
    config = form.config_from_some(settings)
    request = uploads.tokenize_request(dataset_id, config, (nearest_row(dataset, row),))
    return Question(dataset, config, request)


def nearest_row(dataset: PreferenceData, row: object, step: int = 0) -> int:
    """Return the row of the first pair from `row` on, or of the pair `step` places from that."""
    pairs = dataset.pairs
    wanted = int(row) if isinstance(row, int | float) else 0
    place = min(bisect_left(pairs, wanted, key=_row_of), len(pairs) - 1) + step
    return pairs[max(0, min(place, len(pairs) - 1))].row


def _row_of(pair: PreferencePair) -> int:
    return pair.row


def look(panel: TokenPanel, question: Question, seen: str = "") -> Updates | None:
    """Return what the panel shows now; counts a local tokenizer's tokens by itself."""
    request = question.request
    is_known = token_counts.paths_of(request).folder.is_dir()
    if not is_known and not at_hand.has_tokenizer(request.model, request.revision):
        return _waiting_updates(panel, question)
    return _answer_updates(panel, question, token_counts.ask(request), seen)


def count(panel: TokenPanel, question: Question) -> Updates | None:
    """Count because the person asked for it, also what failed before."""
    return _answer_updates(panel, question, token_counts.ask(question.request, again=True), "")


def nothing(panel: TokenPanel) -> Updates:
    """Return the panel without a file: hidden."""
    return {panel.view: gr.Column(visible=False), panel.timer: gr.Timer(active=False)}


def _waiting_updates(panel: TokenPanel, question: Question) -> Updates:
    model = present.model_title(question.config.model)
    text = f"The tokenizer of {model} is not on this disk yet; its weights are not needed for this."
    return {
        **_shown(panel, is_answered=False),
        panel.status: cards.reason(text),
        panel.count: gr.Button(f"Fetch it and count tokens with {model}", visible=True),
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
        updates |= _picture_updates(panel, question, answer.lengths)
    if pair is not None:
        updates[panel.tokens] = token_view.draw_tokens(pair, question.config)
    return updates


def _status(answer: Answer) -> str:
    state = answer.state
    if state.error:
        return cards.error_card(state.error.message, hint=state.error.hint, where=state.error.where)
    words = f"{state.phase[:1].upper()}{state.phase[1:]} …"
    if state.total and state.phase == "counting tokens":
        words += f" {state.done:,} of {state.total:,} pairs"
    return cards.busy(words)


def _picture_updates(panel: TokenPanel, question: Question, counted: TokenLengths) -> Updates:
    report = report_of(question.config, counted)
    drawn = token_histograms.histograms_of(counted, report)
    title = f"Tokens with {present.model_title(report.model)}"
    return {
        panel.account: cards.account(title, [report.policy_sentence()], _remedies(report)),
        **{
            component: token_histograms.draw_histogram(picture)
            for component, picture in zip(panel.pictures, drawn, strict=True)
        },
    }


def _remedies(report: LengthReport) -> str:
    """Return buttons for over-long pairs; each sets a setting of the Train tab."""
    if not report.cut and not report.dropped:
        return ""
    ways = [way for way in REMEDIES if way != report.over_length]
    buttons = [choice_button(f"over_length:{way}", REMEDIES[way]) for way in ways]
    longest = report.whole.longest
    buttons.append(choice_button(f"max_length:{longest}", f"Raise max_length to {longest:,}"))
    return f'<p class="fix">{" ".join(buttons)}</p>'


def remedy_of(choice: str) -> dict[str, object]:
    """Return the setting that a button for over-long pairs changes.

    Raises:
        InputError: there is no such button.
    """
    name, _, value = choice.partition(":")
    if name == "over_length" and value in REMEDIES:
        return {name: value}
    if name == "max_length" and value.isdecimal():
        return {name: int(value)}
    raise InputError(f"There is nothing to choose as “{choice}”.")


def length_sentence(dataset_id: str, config: TrainConfig) -> str:
    """Return what the length policy will do, as far as tokens are counted already."""
    counted = token_counts.read_answer(uploads.tokenize_request(dataset_id, config, ())).lengths
    if counted is None:
        return ""
    return fate_of(counted, config.max_length, config.over_length).sentence(config.max_length)


def report_of(config: TrainConfig, counted: TokenLengths) -> LengthReport:
    """Return the account of counted tokens under these settings."""
    return report_lengths(counted, config.model, config.max_length, config.over_length)


def turn_updates(panel: TokenPanel, question: Question, row: int) -> Updates:
    """Return the panel turned to another row."""
    request = question.request.model_copy(update={"rows": (row,)})
    turned = replace(question, request=request)
    return {**(look(panel, turned) or {}), panel.row: row}


def longest_row(question: Question) -> int:
    """Return the row of the pair with the most tokens, the shown one while nothing is counted."""
    counted = token_counts.read_answer(question.request).lengths
    if counted is None:
        return question.row
    return max(zip(counted.longest(), counted.rows, strict=True))[1]
