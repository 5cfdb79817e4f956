"""The Chat tab: one message, answered side by side by base model and adapters. Floor 6."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from orpo_qlora.chat.bases import BaseKey, chat_runs
from orpo_qlora.chat.conversations import CONVERSATION_ID
from orpo_qlora.runs import present
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.chat import conversation_view, turns, votes_panel
from orpo_qlora.ui.chat.conversation_view import BASE_CHOICE, SCRIPT, ConversationView
from orpo_qlora.ui.chat.turns import ChatInputs, input_components
from orpo_qlora.ui.parts import cards, theme
from orpo_qlora.ui.parts.events import QUIET, UNCHECKED, UNMARKED, parameters_of
from orpo_qlora.ui.parts.guard import Updates, guarded, guarded_stream

FOLLOWED_AT_ONCE = 8
"""Pages that may follow answers at the same time; the chat process answers one at a time."""
ANSWERING: dict[str, Any] = {
    "concurrency_limit": FOLLOWED_AT_ONCE,
    "concurrency_id": "chat",
    **UNMARKED,
    **UNCHECKED,
}
FOCUS = "() => window.orpoChat?.focus()"


@dataclass(frozen=True)
class ChatTab:
    """The components of the tab."""

    tab: gr.Tab
    empty: gr.HTML
    column: gr.Column
    view: ConversationView

    @property
    def picker(self) -> gr.Dropdown:
        """Which models answer."""
        return self.view.picker.runs

    @property
    def conversation_id(self) -> gr.Textbox:
        """Id of the conversation shown, empty for none."""
        return self.view.conversation_id

    @property
    def selection(self) -> list[Any]:
        """Every component that changes with the list of runs."""
        return [self.picker, self.empty, self.column, *self.view.panel.outputs]


def build() -> ChatTab:
    """Return the tab's components, empty."""
    with gr.Tab("Chat", id="chat", elem_id="tab-chat", render_children=True) as tab:
        picker = conversation_view.build_picker()
        # Not inside the column below: gradio shows hidden components of a column that appears.
        conversation_id = conversation_view.hidden_text("chat-id", "Conversation")
        editing_id = conversation_view.hidden_text("chat-editing", "Edited message")
        file = gr.File(visible="hidden", label="Votes", interactive=False)
        card = gr.HTML(elem_id="chat-error")
        empty = gr.HTML(
            cards.empty_card(
                "No model to chat with yet",
                "When a run has finished or was stopped, compare its adapter with the base model "
                "here.",
            ),
            elem_id="chat-empty",
        )
        script = SCRIPT.read_text(encoding="utf-8")
        with gr.Column(visible=False, elem_id="chat-view") as column:
            with gr.Column(elem_id="chat-scroll"):
                past = gr.HTML(elem_id="chat-past", js_on_load=script)
                newest = gr.HTML(elem_id="chat-newest", js_on_load=script)
            view = ConversationView(
                card=card,
                conversation_id=conversation_id,
                picker=picker,
                past=past,
                newest=newest,
                votes=conversation_view.build_votes(),
                status=gr.HTML(elem_id="chat-note"),
                editing=conversation_view.build_editing(editing_id),
                question=conversation_view.build_question(),
                settings=conversation_view.build_settings(),
                panel=votes_panel.build_votes_panel(file),
            )
    return ChatTab(tab, empty, column, view)


def connect(tab: ChatTab, address: gr.Textbox, loaded: Any) -> None:  # noqa: ANN401
    """Connect the tab's events.

    Args:
        tab: the tab's components.
        address: the parameters the page was opened with.
        loaded: the event after which the tab shows the list of runs.
    """

    def on_open(picked: list[str] | None) -> Updates:
        return select_updates(tab, picked)

    view = tab.view
    answers = [*_connect_asking(view), _connect_restoring(view, address, loaded)]
    _connect_choices(view, answers)
    _connect_votes(view)
    votes_panel.connect_votes_panel(view.panel, view.card)
    tab.tab.select(guarded(view.card, on_open), tab.picker, [view.card, *tab.selection], **QUIET)


def _connect_asking(view: ConversationView) -> list[Any]:
    """Return the events that stream answers."""

    def on_send(message: str, editing: str, *values: object) -> Iterator[Updates]:
        return turns.send_updates(view, ChatInputs.of(values), message, editing)

    def on_again(*values: object) -> Iterator[Updates]:
        return turns.again_updates(view, ChatInputs.of(values))

    question, inputs = view.question, input_components(view)
    sent = [question.message, view.editing.exchange_id, *inputs]
    once = {"trigger_mode": "once", **ANSWERING}
    send = guarded_stream(view.card, on_send)
    triggers = [question.message.submit, question.send.click]
    sending = gr.on(triggers, send, sent, view.outputs, **once)
    again = question.again.click(guarded_stream(view.card, on_again), inputs, view.outputs, **once)
    # At once, not after the answers: the user may type the next message meanwhile.
    for button in (question.send, question.again, question.stop):
        button.click(None, None, None, js=FOCUS, **QUIET)
    return [sending, again]


def _connect_restoring(view: ConversationView, address: gr.Textbox, loaded: Any) -> Any:  # noqa: ANN401
    def on_restore(parameters: str) -> Iterator[Updates]:
        return turns.restore_updates(view, conversation_of(parameters))

    parts = [*view.outputs, view.picker.runs, view.picker.blind]
    reading = {"js": theme.READ_ADDRESS, **ANSWERING}
    return loaded.then(guarded_stream(view.card, on_restore), address, parts, **reading)


def conversation_of(parameters: str) -> str:
    """Return the id of the conversation in a page's address, empty for none."""
    named = str(parameters_of(parameters).get("chat", ""))
    return named if CONVERSATION_ID.match(named) else ""


def _connect_choices(view: ConversationView, answers: list[Any]) -> None:
    def on_stop(conversation_id: str) -> Updates:
        return turns.stop_updates(view, conversation_id)

    def on_clear(conversation_id: str) -> Updates:
        return turns.clear_updates(view, conversation_id)

    def on_choice(conversation_id: str, event: gr.EventData) -> Updates | None:
        choice = str(event._data.get("choice", ""))
        return turns.choice_updates(view, conversation_id, choice)

    def on_cancel() -> Updates:
        return {**turns.edit_updates(view, None), view.question.message: ""}

    named, question = view.conversation_id, view.question
    question.stop.click(guarded(view.card, on_stop), named, view.outputs, **QUIET)
    clear = guarded(view.card, on_clear)
    events = [question.clear.click(clear, named, view.outputs, cancels=answers, **QUIET)]
    for part in (view.past, view.newest):
        events.append(part.click(guarded(view.card, on_choice), named, view.outputs, **QUIET))
    cancel = guarded(view.card, on_cancel)
    events.append(view.editing.cancel.click(cancel, None, view.outputs, **QUIET))
    for event in events:
        event.then(None, None, None, js=FOCUS, **QUIET)


def _connect_votes(view: ConversationView) -> None:
    outputs = [*view.outputs, *view.panel.outputs]
    for vote, button in view.votes.buttons.items():
        handler = guarded(view.card, partial(turns.vote_updates, view, vote))
        event = button.click(handler, view.conversation_id, outputs, trigger_mode="once", **QUIET)
        event.then(None, None, None, js=FOCUS, **QUIET)


def select_updates(tab: ChatTab, wanted: str | Sequence[str] | None) -> Updates:
    """Return the updates that select a run beside the base model, or keep the selection.

    Args:
        tab: the tab's components.
        wanted: one run, or all values of the picker; the newest run replaces removed ones.
    """
    runs = chat_runs()
    ids = [run.id for run in runs]
    picks = [BASE_CHOICE, wanted] if isinstance(wanted, str) else wanted or [BASE_CHOICE]
    chosen = [pick for pick in picks if pick in {BASE_CHOICE, *ids}]
    if not any(pick in ids for pick in chosen):
        chosen = [BASE_CHOICE, *ids[:1]]
    names_bases = len({BaseKey.of(run) for run in runs}) > 1
    choices = [(_label(run, names_base=names_bases), run.id) for run in runs]
    # An unchanged selection is not sent back: the user may have changed it meanwhile.
    picked = {} if chosen == wanted else {"value": chosen}
    return {
        tab.picker: gr.update(choices=[("Base model", BASE_CHOICE), *choices], **picked),
        tab.empty: gr.HTML(visible=not runs),
        tab.column: gr.Column(visible=bool(runs)),
        **votes_panel.panel_updates(tab.view.panel),
    }


def _label(run: Run, *, names_base: bool) -> str:
    base = f" · on {present.model_title(run.config.model)}" if names_base else ""
    return f"{present.run_label(run)}{base}"
