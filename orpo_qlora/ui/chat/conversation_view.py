"""Components of a conversation: columns, messages, question, votes, settings. Floor 6."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from orpo_qlora.chat.bases import ADAPTERS_HELD
from orpo_qlora.chat.client import ChatSettings
from orpo_qlora.chat.conversations import Vote
from orpo_qlora.ui.chat.votes_panel import VotesPanel

DEFAULTS = ChatSettings()
MESSAGE_CHARACTERS = 20_000
BASE_CHOICE = "base"
"""Value of the base model in the picker; run ids have another form."""
COLUMNS_MOST = ADAPTERS_HELD
SCRIPT = Path(__file__).with_name("chat.js")
VOTES: dict[Vote, str] = {
    "a": "A is better",
    "b": "B is better",
    "tie": "Tie",
    "bad": "Both are bad",
}


@dataclass(frozen=True)
class ColumnPicker:
    """Choice of the models."""

    runs: gr.Dropdown
    blind: gr.Checkbox


@dataclass(frozen=True)
class VoteButtons:
    """The vote on a blind question."""

    row: gr.Row
    buttons: dict[Vote, gr.Button]


@dataclass(frozen=True)
class Editing:
    """Changing an earlier message."""

    exchange_id: gr.Textbox
    row: gr.Row
    cancel: gr.Button


@dataclass(frozen=True)
class Question:
    """The message box and its buttons."""

    message: gr.Textbox
    send: gr.Button
    stop: gr.Button
    again: gr.Button
    clear: gr.Button


@dataclass(frozen=True)
class AnswerSettings:
    """How the models answer."""

    system: gr.Textbox
    temperature: gr.Slider
    top_p: gr.Slider
    max_tokens: gr.Slider
    seed: gr.Number

    @property
    def inputs(self) -> list[Any]:
        """The components in the order of `settings_from`."""
        return [self.system, self.temperature, self.top_p, self.max_tokens, self.seed]


@dataclass(frozen=True)
class ConversationView:
    """Components that a question, a vote or an edit reads or changes."""

    card: gr.HTML
    conversation_id: gr.Textbox
    picker: ColumnPicker
    past: gr.HTML
    newest: gr.HTML
    votes: VoteButtons
    status: gr.HTML
    """Throughput and notes of the answers."""
    editing: Editing
    question: Question
    settings: AnswerSettings
    panel: VotesPanel

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes while a message is answered."""
        question, editing = self.question, self.editing
        return [
            *(self.card, self.conversation_id, self.past, self.newest, self.status),
            *(self.votes.row, *self.votes.buttons.values(), editing.exchange_id, editing.row),
            *(question.message, question.send, question.stop, question.again),
        ]


def build_picker() -> ColumnPicker:
    """Return the choice of models, empty."""
    with gr.Row(elem_id="chat-choice"):
        runs = gr.Dropdown(
            [],
            label="Answered by",
            info=f"The base model and up to {COLUMNS_MOST} runs trained on it.",
            multiselect=True,
            max_choices=COLUMNS_MOST,
            elem_id="chat-run",
            interactive=True,
            scale=3,
            min_width=280,
        )
        blind = gr.Checkbox(
            False,
            label="Blind",
            info="Two answers in random order, names hidden until you vote.",
            elem_id="chat-blind",
            scale=1,
            min_width=220,
        )
    return ColumnPicker(runs, blind)


def hidden_text(elem_id: str, label: str) -> gr.Textbox:
    """Return a text box that is not shown."""
    return gr.Textbox(visible="hidden", elem_id=elem_id, label=label)


def build_votes() -> VoteButtons:
    """Return the row of votes, hidden."""
    with gr.Row(visible=False, elem_classes="actions", elem_id="chat-votes") as row:
        gr.HTML('<p class="label">Which answer is better?</p>', elem_id="chat-votes-label")
        buttons = {
            vote: _button(label, f"chat-vote-{vote}", interactive=False)
            for vote, label in VOTES.items()
        }
    return VoteButtons(row, buttons)


def build_editing(exchange_id: gr.Textbox) -> Editing:
    """Return the row that is shown while a message is edited, hidden."""
    with gr.Row(visible=False, elem_classes="actions", elem_id="chat-edit-row") as row:
        gr.HTML('<p class="reason">Sending replaces this message and every later one.</p>')
        cancel = _button("Cancel edit", "chat-cancel-edit")
    return Editing(exchange_id, row, cancel)


def build_question() -> Question:
    """Return the message box and its buttons."""
    message = gr.Textbox(
        label="Message",
        placeholder="Enter sends, Shift+Enter starts a new line, Escape stops.",
        lines=1,  # with more, gradio wants Shift+Enter to send
        max_lines=8,
        max_length=MESSAGE_CHARACTERS,
        elem_id="chat-message",
    )
    with gr.Row(elem_classes="actions"):
        send = _button("Send", "chat-send", variant="primary")
        stop = _button("Stop", "chat-stop", variant="stop", interactive=False)
        again = _button("Regenerate", "chat-again", interactive=False)
        clear = _button("New conversation", "chat-clear")
    return Question(message, send, stop, again, clear)


def _button(
    text: str, elem_id: str, *, variant: str = "secondary", interactive: bool = True
) -> gr.Button:
    width = 60 + 9 * len(text)  # gradio lets a longer text stick out
    return gr.Button(
        text, variant=variant, interactive=interactive, elem_id=elem_id, scale=0, min_width=width
    )


def build_settings() -> AnswerSettings:
    """Return the settings with their defaults, folded."""
    with gr.Accordion("Answer settings", open=False, elem_id="chat-settings-fold"):
        system = gr.Textbox(
            DEFAULTS.system,
            label="System prompt",
            info="System message for all models. Empty uses the template's default.",
            lines=2,
            elem_id="chat-system",
        )
        with gr.Row(elem_classes="settings-grid"):
            temperature = gr.Slider(
                0,
                2,
                DEFAULTS.temperature,
                step=0.05,
                label="Temperature",
                info="0 always takes the most likely token.",
                elem_id="chat-temperature",
            )
            top_p = gr.Slider(
                0.05,
                1,
                DEFAULTS.top_p,
                step=0.05,
                label="Top-p",
                info="Sample from the most likely tokens up to this probability.",
                elem_id="chat-top-p",
            )
            max_tokens = gr.Slider(
                16,
                1024,
                DEFAULTS.max_tokens,
                step=16,
                label="Longest answer",
                info="Tokens per answer.",
                elem_id="chat-max-tokens",
            )
            seed = gr.Number(
                DEFAULTS.seed,
                precision=0,
                label="Seed",
                info="The same seed gives the same answers. Regenerate uses the next seed.",
                elem_id="chat-seed",
            )
    return AnswerSettings(system, temperature, top_p, max_tokens, seed)


def settings_from(values: Sequence[Any]) -> ChatSettings:
    """Return the answer settings from the values of `AnswerSettings.inputs`.

    Raises:
        ConfigError: a value is out of its bounds.
    """
    system, temperature, top_p, max_tokens, seed = values
    return ChatSettings(
        system=(system or "").strip(),
        temperature=DEFAULTS.temperature if temperature is None else float(temperature),
        top_p=DEFAULTS.top_p if top_p is None else float(top_p),
        max_tokens=int(max_tokens or DEFAULTS.max_tokens),
        seed=int(seed or 0),
    )
