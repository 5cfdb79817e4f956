"""Joins the Chat tab's components to their handlers. Floor 5."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import gradio as gr

from orpo_qlora.chat.conversations import CONVERSATION_ID
from orpo_qlora.ui.chat import tab as chat_tab
from orpo_qlora.ui.chat import turns as chat_turns
from orpo_qlora.ui.chat import votes_panel
from orpo_qlora.ui.chat.tab import ChatTab
from orpo_qlora.ui.chat.turns import Asker, asker_inputs
from orpo_qlora.ui.data import tab as data_tab
from orpo_qlora.ui.data.tab import DataTab
from orpo_qlora.ui.parts import downloads, theme
from orpo_qlora.ui.parts.events import QUIET, UNCHECKED, parameters_of
from orpo_qlora.ui.parts.guard import Updates, guarded, guarded_stream

FOLLOWED_AT_ONCE = 8
"""Pages that may watch an answer at the same time; the chat process answers one after the other."""
ANSWERING: dict[str, Any] = {
    "show_progress": "hidden",
    "concurrency_limit": FOLLOWED_AT_ONCE,
    "concurrency_id": "chat",
    **UNCHECKED,
}
FOCUS = "() => window.orpoChat?.focus()"


def wire_chat_tab(tab: ChatTab, address: gr.Textbox, loaded: Any) -> None:  # noqa: ANN401
    """Join the tab to its handlers.

    Args:
        tab: the tab's components.
        address: the parameters the page was opened with.
        loaded: the event after which the tab shows the runs there are.
    """
    answers = [*_wire_asking(tab), _wire_restoring(tab, address, loaded)]
    _wire_choices(tab, answers)
    _wire_votes(tab)


def _wire_asking(tab: ChatTab) -> list[Any]:
    """Return the events that show answers while they grow."""

    def on_send(message: str, editing: str, *values: object) -> Iterator[Updates]:
        return chat_turns.send_updates(tab, Asker.of(values), message, editing)

    def on_again(*values: object) -> Iterator[Updates]:
        return chat_turns.again_updates(tab, Asker.of(values))

    inputs = asker_inputs(tab)
    asked = [tab.message, tab.editing, *inputs]
    once = {"trigger_mode": "once", **ANSWERING}
    send = guarded_stream(tab.card, on_send)
    sending = gr.on([tab.message.submit, tab.send.click], send, asked, tab.outputs, **once)
    again = tab.again.click(guarded_stream(tab.card, on_again), inputs, tab.outputs, **once)
    # At once, not when the answers are there: what is typed next belongs into the box.
    for button in (tab.send, tab.again, tab.stop):
        button.click(None, None, None, js=FOCUS, **QUIET)
    return [sending, again]


def _wire_restoring(tab: ChatTab, address: gr.Textbox, loaded: Any) -> Any:  # noqa: ANN401
    def on_restore(parameters: str) -> Iterator[Updates]:
        return chat_turns.restore_updates(tab, conversation_of(parameters))

    parts = [*tab.outputs, tab.picker, tab.blind]
    reading = {"js": theme.READ_ADDRESS, **ANSWERING}
    return loaded.then(guarded_stream(tab.card, on_restore), address, parts, **reading)


def conversation_of(parameters: str) -> str:
    """Return the conversation that a page's address names, or nothing."""
    named = str(parameters_of(parameters).get("chat", ""))
    return named if CONVERSATION_ID.match(named) else ""


def _wire_choices(tab: ChatTab, answers: list[Any]) -> None:
    def on_open(picked: list[str] | None) -> Updates:
        return chat_tab.select_updates(tab, picked)

    def on_stop(conversation_id: str) -> Updates:
        return chat_turns.stop_updates(tab, conversation_id)

    def on_clear(conversation_id: str) -> Updates:
        return chat_turns.clear_updates(tab, conversation_id)

    def on_choice(conversation_id: str, event: gr.EventData) -> Updates | None:
        choice = str(event._data.get("choice", ""))
        return chat_turns.choice_updates(tab, conversation_id, choice)

    def on_keep() -> Updates:
        return {**chat_turns.edit_updates(tab, None), tab.message: ""}

    named = tab.conversation_id
    tab.tab.select(guarded(tab.card, on_open), tab.picker, [tab.card, *tab.selection], **QUIET)
    tab.stop.click(guarded(tab.card, on_stop), named, tab.outputs, **QUIET)
    clear = guarded(tab.card, on_clear)
    events = [tab.clear.click(clear, named, tab.outputs, cancels=answers, **QUIET)]
    for part in (tab.past, tab.newest):
        events.append(part.click(guarded(tab.card, on_choice), named, tab.outputs, **QUIET))
    events.append(tab.cancel_edit.click(guarded(tab.card, on_keep), None, tab.outputs, **QUIET))
    for event in events:
        event.then(None, None, None, js=FOCUS, **QUIET)


def _wire_votes(tab: ChatTab) -> None:
    panel = tab.panel
    outputs = [*tab.outputs, *panel.outputs]
    for vote, button in tab.votes.items():
        handler = guarded(tab.card, partial(chat_turns.vote_updates, tab, vote))
        event = button.click(handler, tab.conversation_id, outputs, trigger_mode="once", **QUIET)
        event.then(None, None, None, js=FOCUS, **QUIET)

    def on_download(kind: str) -> Updates:
        return {panel.file: str(votes_panel.export_file(kind))}

    for kind, button in panel.downloads.items():
        handler = guarded(tab.card, partial(on_download, kind))
        parts = [tab.card, panel.file]
        event = button.click(handler, None, parts, trigger_mode="once", **UNCHECKED)
        event.success(None, panel.file, None, js=downloads.SAVE, **QUIET)


def wire_votes_to_data(tab: ChatTab, data: DataTab, tabs: gr.Tabs) -> Any:  # noqa: ANN401
    """Let the votes be brought into the Data tab; return the event after which they are there."""

    def on_use() -> Updates:
        dataset_id = votes_panel.keep_as_data()
        shown = data_tab.dataset_updates(data, dataset_id)
        return {**shown, data.upload: None, tabs: gr.Tabs(selected="data")}

    parts = [tab.card, *data.outputs, data.upload, tabs]
    use = tab.panel.use
    return use.click(guarded(tab.card, on_use), None, parts, trigger_mode="once", **UNCHECKED)
