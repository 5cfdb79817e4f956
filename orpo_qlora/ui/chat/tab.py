"""The Chat tab: one message, answered side by side by the base model and by runs' adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from orpo_qlora.chat.bases import ADAPTERS_HELD, BaseKey
from orpo_qlora.chat.client import ChatSettings
from orpo_qlora.chat.conversations import Vote
from orpo_qlora.runs import present, store
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.chat.votes_panel import VotesPanel, build_votes_panel, panel_updates
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.guard import Updates

DEFAULTS = ChatSettings()
MESSAGE_CHARACTERS = 20_000
BASE_CHOICE = "base"
"""What the picker calls the base model; a run's id looks different."""
COLUMNS_MOST = ADAPTERS_HELD
SCRIPT = Path(__file__).with_name("chat.js")
VOTES: dict[Vote, str] = {
    "a": "A is better",
    "b": "B is better",
    "tie": "Tie",
    "bad": "Both are bad",
}


@dataclass(frozen=True)
class ChatTab:
    """The components of the tab."""

    tab: gr.Tab
    picker: gr.Dropdown
    blind: gr.Checkbox
    card: gr.HTML
    empty: gr.HTML
    view: gr.Column
    conversation_id: gr.Textbox
    past: gr.HTML
    newest: gr.HTML
    vote_row: gr.Row
    votes: dict[Vote, gr.Button]
    pace: gr.HTML
    editing: gr.Textbox
    edit_row: gr.Row
    cancel_edit: gr.Button
    message: gr.Textbox
    send: gr.Button
    stop: gr.Button
    again: gr.Button
    clear: gr.Button
    settings: tuple[Any, ...]
    panel: VotesPanel

    @property
    def selection(self) -> list[Any]:
        """Every component that changes with the runs there are."""
        return [self.picker, self.empty, self.view, *self.panel.outputs]

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes while a message is answered."""
        return [
            *(self.card, self.conversation_id, self.past, self.newest, self.pace, self.message),
            *(self.vote_row, *self.votes.values(), self.editing, self.edit_row),
            *(self.send, self.stop, self.again),
        ]


def build_chat_tab() -> ChatTab:
    """Return the tab's components, empty."""
    with gr.Tab("Chat", id="chat", elem_id="tab-chat", render_children=True) as tab:
        picker, blind = _build_choice()
        # Not inside the view below: gradio shows what is hidden in a column that appears.
        conversation_id = _hidden_text("chat-id", "Conversation")
        editing = _hidden_text("chat-editing", "Edited message")
        file = gr.File(visible="hidden", label="Votes", interactive=False)
        card = gr.HTML(elem_id="chat-error")
        empty = gr.HTML(
            cards.empty_card(
                "Nothing to chat with yet",
                "When a run has finished, or you stopped it, its adapter can be compared with the "
                "base model here.",
            ),
            elem_id="chat-empty",
        )
        with gr.Column(visible=False, elem_id="chat-view") as view:
            past, newest = _build_conversation()
            vote_row, votes = _build_votes()
            pace = gr.HTML(elem_id="chat-pace")
            edit = _build_editing()
            ask = _build_question()
            settings = _build_settings()
            panel = build_votes_panel(file)
    return ChatTab(
        *(tab, picker, blind, card, empty, view, conversation_id, past, newest),
        *(vote_row, votes, pace, editing, *edit, *ask, settings, panel),
    )


def _build_choice() -> tuple[gr.Dropdown, gr.Checkbox]:
    with gr.Row(elem_id="chat-choice"):
        picker = gr.Dropdown(
            [],
            label="Answered by",
            info=f"The base model and the adapters of runs that share it, {COLUMNS_MOST} at most.",
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
            info="Two answers, sides shuffled, names hidden until you vote.",
            elem_id="chat-blind",
            scale=1,
            min_width=220,
        )
    return picker, blind


def _hidden_text(elem_id: str, label: str) -> gr.Textbox:
    return gr.Textbox(visible="hidden", elem_id=elem_id, label=label)


def _build_conversation() -> tuple[gr.HTML, gr.HTML]:
    script = SCRIPT.read_text(encoding="utf-8")
    with gr.Column(elem_id="chat-scroll"):
        past = gr.HTML(elem_id="chat-past", js_on_load=script)
        newest = gr.HTML(elem_id="chat-newest", js_on_load=script)
    return past, newest


def _build_votes() -> tuple[gr.Row, dict[Vote, gr.Button]]:
    with gr.Row(visible=False, elem_classes="actions", elem_id="chat-votes") as row:
        gr.HTML('<p class="label">Which answer is better?</p>', elem_id="chat-votes-label")
        votes = {
            vote: _button(label, f"chat-vote-{vote}", interactive=False)
            for vote, label in VOTES.items()
        }
    return row, votes


def _build_editing() -> tuple[gr.Row, gr.Button]:
    with gr.Row(visible=False, elem_classes="actions", elem_id="chat-edit-row") as row:
        gr.HTML('<p class="reason">Sending replaces that message and all that follows it.</p>')
        cancel = _button("Keep it as it was", "chat-cancel-edit")
    return row, cancel


def _build_question() -> tuple[Any, ...]:
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
    return message, send, stop, again, clear


def _button(
    text: str, elem_id: str, *, variant: str = "secondary", interactive: bool = True
) -> gr.Button:
    width = 60 + 9 * len(text)  # gradio lets a longer text stick out
    return gr.Button(
        text, variant=variant, interactive=interactive, elem_id=elem_id, scale=0, min_width=width
    )


def _build_settings() -> tuple[Any, ...]:
    """Return the inputs in the order of `settings_from`."""
    with gr.Accordion("Answer settings", open=False, elem_id="chat-settings-fold"):
        system = gr.Textbox(
            DEFAULTS.system,
            label="System prompt",
            info="Said to every model before the conversation; empty leaves it to the template.",
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
                info="0 takes the likeliest token every time.",
                elem_id="chat-temperature",
            )
            top_p = gr.Slider(
                0.05,
                1,
                DEFAULTS.top_p,
                step=0.05,
                label="Top-p",
                info="Share of the probability that is drawn from, likeliest first.",
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
                info="The same seed gives the same answers; Regenerate takes the next one.",
                elem_id="chat-seed",
            )
    return system, temperature, top_p, max_tokens, seed


def settings_from(values: Sequence[Any]) -> ChatSettings:
    """Return the answer settings the inputs hold.

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


def chat_runs() -> list[Run]:
    """Return the runs that can be chatted with, newest first."""
    return [run for run in store.list_runs() if run.has_adapter and not run.is_active]


def select_updates(tab: ChatTab, asked: str | Sequence[str] | None) -> Updates:
    """Return what makes the picker show a run beside the base model, or keep what it shows.

    Args:
        tab: the tab's components.
        asked: one run, or all that the picker has; the newest run stands in for what is gone.
    """
    runs = chat_runs()
    ids = [run.id for run in runs]
    wanted = [BASE_CHOICE, asked] if isinstance(asked, str) else asked or [BASE_CHOICE]
    chosen = [pick for pick in wanted if pick in {BASE_CHOICE, *ids}]
    if not any(pick in ids for pick in chosen):
        chosen = [BASE_CHOICE, *ids[:1]]
    names_bases = len({BaseKey.of(run) for run in runs}) > 1
    choices = [(_label(run, names_base=names_bases), run.id) for run in runs]
    # A choice that stands is not sent back: another may have been made by now.
    picked = {} if chosen == asked else {"value": chosen}
    return {
        tab.picker: gr.update(choices=[("Base model", BASE_CHOICE), *choices], **picked),
        tab.empty: gr.HTML(visible=not runs),
        tab.view: gr.Column(visible=bool(runs)),
        **panel_updates(tab.panel),
    }


def _label(run: Run, *, names_base: bool) -> str:
    base = f" · on {present.model_title(run.config.model)}" if names_base else ""
    return f"{present.run_label(run)}{base}"
