"""The Chat tab: one message, answered by the base model and by a run's adapter side by side."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from orpo_qlora.chat import client
from orpo_qlora.chat.client import ChatSettings, ChatUpdate, Turn
from orpo_qlora.errors import InputError
from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run
from orpo_qlora.ui import cards, present
from orpo_qlora.ui.guard import Updates

DEFAULTS = ChatSettings()
MESSAGE_CHARACTERS = 20_000
COLUMN_HEIGHT = 440
WAITING = "Waiting for the first words …"

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ChatTab:
    """The components of the tab."""

    tab: gr.Tab
    picker: gr.Dropdown
    empty: gr.HTML
    view: gr.Column
    card: gr.HTML
    base: gr.Chatbot
    tuned: gr.Chatbot
    pace: gr.HTML
    message: gr.Textbox
    send: gr.Button
    stop: gr.Button
    clear: gr.Button
    settings: tuple[Any, ...]

    @property
    def selection(self) -> list[Any]:
        """Every component that changes with the runs there are."""
        return [self.picker, self.empty, self.view]

    @property
    def outputs(self) -> list[Any]:
        """Every component that changes while a message is answered."""
        return [self.card, self.base, self.tuned, self.pace, self.message, self.send, self.stop]


def build_chat_tab() -> ChatTab:
    """Return the tab's components, empty."""
    with gr.Tab("Chat", id="chat", elem_id="tab-chat", render_children=True) as tab:
        picker = gr.Dropdown(
            [],
            label="Tuned by run",
            info="Every run that left an adapter, newest first.",
            elem_id="chat-run",
            interactive=True,
        )
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
            with gr.Row(equal_height=True, elem_classes="columns"):
                base = _column("Base", "chat-base", "The untrained model answers here.")
                tuned = _column("Tuned", "chat-tuned", "The same model with your adapter.")
            pace = gr.HTML(elem_id="chat-pace")
            message = gr.Textbox(
                label="Message",
                placeholder="Ask both the same thing. Enter sends, Shift+Enter starts a new line.",
                lines=1,  # with more, gradio wants Shift+Enter to send
                max_lines=8,
                max_length=MESSAGE_CHARACTERS,
                elem_id="chat-message",
            )
            with gr.Row(elem_classes="actions"):
                send = _button("Send", "chat-send", variant="primary")
                stop = _button("Stop", "chat-stop", variant="stop", interactive=False)
                clear = _button("Clear both", "chat-clear")
            settings = _build_settings()
    return ChatTab(
        *(tab, picker, empty, view, card, base, tuned, pace, message, send, stop, clear, settings)
    )


def _button(
    text: str, elem_id: str, *, variant: str = "secondary", interactive: bool = True
) -> gr.Button:
    return gr.Button(
        text, variant=variant, interactive=interactive, elem_id=elem_id, scale=0, min_width=110
    )


def _column(label: str, elem_id: str, placeholder: str) -> gr.Chatbot:
    # What a model writes is text: see `messages_of`.
    return gr.Chatbot(
        label=label,
        elem_id=elem_id,
        height=COLUMN_HEIGHT,
        min_width=320,
        placeholder=placeholder,
        render_markdown=False,
        sanitize_html=True,
        allow_tags=False,
        feedback_options=None,
        allow_file_downloads=False,
        buttons=[],  # they would copy the escaped text
        layout="bubble",
    )


def _build_settings() -> tuple[Any, ...]:
    """Return the inputs in the order of `settings_from`."""
    with gr.Accordion("Answer settings", open=False, elem_id="chat-settings-fold"):
        system = gr.Textbox(
            DEFAULTS.system,
            label="System prompt",
            info="Said to both models before the conversation; empty leaves it to the template.",
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
                info="The same seed gives the same answers.",
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


def select_updates(tab: ChatTab, run_id: str | None) -> Updates:
    """Return what makes the picker show a run, or the newest one if that run cannot chat."""
    runs = chat_runs()
    ids = [run.id for run in runs]
    chosen = run_id if run_id in ids else next(iter(ids), None)
    return {
        tab.picker: gr.Dropdown([(present.run_label(run), run.id) for run in runs], value=chosen),
        tab.empty: gr.HTML(visible=not runs),
        tab.view: gr.Column(visible=bool(runs)),
    }


def fresh_updates(tab: ChatTab, run_id: str | None) -> Updates:
    """Return an empty conversation with a run."""
    label = f"Tuned · {store.find_run(run_id).title}" if run_id else "Tuned"
    return {tab.base: [], tab.tuned: gr.Chatbot([], label=label), tab.pace: "", **rest_updates(tab)}


def failure_updates(tab: ChatTab) -> Updates:
    """Return what changes when an answer could not be given."""
    return {tab.pace: "", **rest_updates(tab)}


def rest_updates(tab: ChatTab) -> Updates:
    """Return the buttons as they are while nothing is being answered."""
    # Not gr.Button: this also runs while the page is built, where a component is put on the page.
    return {tab.send: gr.update(interactive=True), tab.stop: gr.update(interactive=False)}


@dataclass(frozen=True)
class Histories:
    """What both columns hold before a message is answered."""

    base: Messages
    tuned: Messages

    def asked(self, message: str) -> tuple[list[Turn], list[Turn]]:
        """Return both conversations with the new message at the end."""
        return (
            [*answered(turns_of(self.base)), Turn("user", message)],
            [*answered(turns_of(self.tuned)), Turn("user", message)],
        )


def answer_updates(
    tab: ChatTab, message: str, run_id: str | None, histories: Histories, settings: Sequence[Any]
) -> Iterator[Updates]:
    """Send a message to both models and show both answers while they grow."""
    text = message.strip()
    if not text:
        return
    if not run_id:
        raise InputError("No run is chosen.", hint="Choose one in “Tuned by run”.")
    base, tuned = histories.asked(text)
    yield {
        tab.base: messages_of(base),
        tab.tuned: messages_of(tuned),
        tab.message: "",
        tab.pace: cards.pace(WAITING),
        tab.send: gr.Button(interactive=False),
        tab.stop: gr.Button(interactive=True),
    }
    for update in client.stream(store.find_run(run_id), base, tuned, settings_from(settings)):
        yield {
            tab.base: messages_of([*base, Turn("assistant", update.base)]),
            tab.tuned: messages_of([*tuned, Turn("assistant", update.tuned)]),
            tab.pace: cards.pace(_pace_of(update)),
        }
    yield rest_updates(tab)


def _pace_of(update: ChatUpdate) -> str:
    rate = present.tokens_per_second(update.tokens_per_second) if update.tokens_per_second else ""
    return " · ".join(text for text in (rate, update.note) if text) or WAITING


def turns_of(messages: Messages) -> list[Turn]:
    """Return a column's messages as turns."""
    return [
        Turn(message["role"], html.unescape(_text_of(message["content"]))) for message in messages
    ]


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def messages_of(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """Return turns as a column shows them, without answers that have not begun.

    Escaped, because gradio renders HTML in messages even with `render_markdown` off.
    """
    return [
        {"role": turn.role, "content": html.escape(turn.content, quote=False)}
        for turn in turns
        if turn.content
    ]


def answered(turns: Sequence[Turn]) -> list[Turn]:
    """Return a conversation without a last message that was never answered."""
    return list(turns[:-1]) if turns and turns[-1].role == "user" else list(turns)
