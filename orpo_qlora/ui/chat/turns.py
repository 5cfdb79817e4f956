"""Handlers of the Chat tab: send, stop, regenerate, edit, vote, restore. Floor 6."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from orpo_qlora.chat import answering, client, conversations, votes
from orpo_qlora.chat.answering import Answering
from orpo_qlora.chat.bases import BaseKey, chat_runs, common_base
from orpo_qlora.chat.client import Answers
from orpo_qlora.chat.conversations import Answer, Conversation, Exchange, Vote
from orpo_qlora.errors import InputError
from orpo_qlora.runs import present, store
from orpo_qlora.ui.chat import messages as messages_view
from orpo_qlora.ui.chat.conversation_view import (
    BASE_CHOICE,
    COLUMNS_MOST,
    ConversationView,
    settings_from,
)
from orpo_qlora.ui.chat.votes_panel import panel_updates, vote_sentence
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.parts.guard import Updates

PROMPTS_TRIED = 3
PROMPT_CHARACTERS = 120
_shuffle = random.SystemRandom().shuffle
"""Not seeded: the sides of a blind question must not be predictable."""


@dataclass(frozen=True)
class ChatInputs:
    """Values of the page's inputs when a question is sent."""

    conversation_id: str
    picked: Sequence[str]
    is_blind: bool
    settings: tuple[Any, ...]

    @classmethod
    def of(cls, values: Sequence[Any]) -> ChatInputs:
        """Build from values in the order of `input_components`."""
        conversation_id, picked, is_blind, *settings = values
        return cls(conversation_id or "", picked or (), bool(is_blind), tuple(settings))


def input_components(view: ConversationView) -> list[Any]:
    """Return the inputs of `ChatInputs.of`."""
    return [view.conversation_id, view.picker.runs, view.picker.blind, *view.settings.inputs]


def send_updates(
    view: ConversationView, inputs: ChatInputs, message: str, editing: str = ""
) -> Iterator[Updates]:
    """Ask every chosen column the message, and show the answers while they grow.

    Args:
        view: the components.
        inputs: the other inputs of the page.
        message: the question; a blank one is ignored.
        editing: id of the message that this one replaces, with all later ones.

    Raises:
        InputError: the columns cannot answer together, or a vote is due first.
    """
    text = message.strip()
    if not text:
        yield {}  # a handler that yields nothing empties every output
        return
    conversation = conversations.load(inputs.conversation_id or conversations.new_id())
    last = conversation.last
    if last is not None and last.is_votable and not editing:
        raise InputError(
            "This question waits for your vote.",
            hint="Vote first: the conversation continues from the answer you prefer.",
        )
    exchange = _question(inputs, text, settings_from(inputs.settings))
    yield from _asked_updates(view, conversation.before(editing), exchange)


def again_updates(view: ConversationView, inputs: ChatInputs) -> Iterator[Updates]:
    """Ask the newest message again with the next seed; its answers are replaced."""
    conversation = conversations.load(inputs.conversation_id)
    last = conversation.last
    if last is None:
        yield {}
        return
    settings = replace(settings_from(inputs.settings), seed=last.settings.seed + 1)
    exchange = _question(inputs, last.message, settings)
    yield from _asked_updates(view, conversation.before(last.id), exchange)


def _question(inputs: ChatInputs, message: str, settings: client.ChatSettings) -> Exchange:
    settings.sampling  # noqa: B018 - raises for values out of bounds before anything is saved
    base, columns = _columns(inputs.picked)
    if inputs.is_blind:
        if len(columns) != 2:
            raise InputError(
                f"A blind question compares two answers; {len(columns)} columns are chosen.",
                hint="Choose two in “Answered by”, for instance the base model and one run.",
            )
        _shuffle(columns)
    return Exchange(
        id=conversations.new_id(),
        message=message,
        settings=settings,
        model=base.model,
        answers=tuple(columns),
        is_blind=inputs.is_blind,
    )


def _columns(picked: Sequence[str]) -> tuple[BaseKey, list[Answer]]:
    """Return the base of what is chosen, and a column for each."""
    if len(picked) > COLUMNS_MOST:
        raise InputError(f"{len(picked)} columns are chosen.", hint=f"{COLUMNS_MOST} at most.")
    runs = [store.read_run(store.paths_of(pick)) for pick in picked if pick != BASE_CHOICE]
    base = common_base(runs)
    titles = {run.id: run.title for run in runs}
    return base, [
        Answer() if pick == BASE_CHOICE else Answer(run=pick, title=titles[pick]) for pick in picked
    ]


def _asked_updates(
    view: ConversationView, before: Conversation, exchange: Exchange
) -> Iterator[Updates]:
    under_way = answering.begin(before, exchange)
    yield {
        **conversation_updates(view, before.with_exchange(exchange), under_way),
        **edit_updates(view, None),
        view.question.message: "",
    }
    yield from follow_updates(view, under_way)


def follow_updates(view: ConversationView, under_way: Answering) -> Iterator[Updates]:
    """Show the answers while they grow, and enable the buttons at the end.

    Raises:
        OrpoQloraError: the answers failed; the page shows the text so far.
    """
    before = conversations.load(under_way.conversation_id).before(under_way.exchange.id)
    for answers in under_way.follow():
        number = len(before.exchanges) + 1
        newest = messages_view.exchange_html(under_way.exchange, number, is_live=True)
        yield {view.newest: newest, view.status: cards.note(_note(answers))}
    note = _last_note(under_way)
    conversation = before.with_exchange(under_way.exchange)
    yield {
        **conversation_updates(view, conversation),
        view.status: cards.note(note) if note else "",
    }
    if under_way.error is not None:
        raise under_way.error


def _note(answers: Answers) -> str:
    return " · ".join(filter(None, (_rate(answers), answers.note))) or messages_view.WAITING


def _rate(answers: Answers) -> str:
    # A first token alone has no rate yet.
    rate = answers.tokens_per_second
    return present.tokens_per_second(rate) if rate else ""


def _last_note(under_way: Answering) -> str:
    exchange, answers = under_way.exchange, under_way.latest
    names = [messages_view.name_of(exchange, place) for place in range(len(exchange.answers))]
    cut = client.cut_note(names, answers.cut, exchange.settings)
    return " · ".join(filter(None, (_rate(answers), cut or exchange.note)))


def conversation_updates(
    view: ConversationView, conversation: Conversation, under_way: Answering | None = None
) -> Updates:
    """Return the updates that show a conversation and enable its buttons."""
    last = conversation.last
    if last is None:
        return empty_updates(view)
    past, newest = messages_view.conversation_html(conversation, is_live=under_way is not None)
    is_open = last.is_votable and under_way is None
    return {
        view.conversation_id: conversation.id,
        view.past: past,
        view.newest: newest,
        **_button_updates(view, is_live=under_way is not None, is_open=is_open),
        view.votes.row: gr.update(visible=last.hides_names),
    }


def empty_updates(view: ConversationView) -> Updates:
    """Return the updates that show an empty conversation."""
    return {
        view.conversation_id: "",
        view.past: "",
        view.newest: messages_view.opening_html(_prompts()),
        view.status: "",
        **_button_updates(view, is_live=False, is_open=False, is_empty=True),
        **edit_updates(view, None),
        view.votes.row: gr.update(visible=False),
    }


def _prompts() -> list[str]:
    """Return sample prompts of the newest run that has short ones."""
    for run in chat_runs():
        prompts = (str(sample.get("prompt", "")) for sample in store.samples_of(run.paths))
        short = [text for text in dict.fromkeys(prompts) if 0 < len(text) <= PROMPT_CHARACTERS]
        return short[:PROMPTS_TRIED]
    return []


def _button_updates(
    view: ConversationView, *, is_live: bool, is_open: bool, is_empty: bool = False
) -> Updates:
    # Not gr.Button: this also runs while the page is built, which would add the component.
    return {
        view.question.send: gr.update(interactive=not is_live and not is_open),
        view.question.stop: gr.update(interactive=is_live),
        view.question.again: gr.update(interactive=not is_live and not is_empty),
        **{button: gr.update(interactive=is_open) for button in view.votes.buttons.values()},
    }


def stop_updates(view: ConversationView, conversation_id: str) -> Updates:
    """Stop the answers of this conversation; the text so far is kept."""
    under_way = answering.under_way(conversation_id)
    if under_way is None:
        return {view.question.stop: gr.update(interactive=False)}
    under_way.stop()
    return {view.question.stop: gr.update(interactive=False), view.status: cards.note("stopping…")}


def clear_updates(view: ConversationView, conversation_id: str) -> Updates:
    """Start a new conversation; the old one stays on disk, its answers stop."""
    stop_updates(view, conversation_id)
    return empty_updates(view)


def vote_updates(view: ConversationView, vote: Vote, conversation_id: str) -> Updates:
    """Save a vote, reveal the names and update the win rates.

    Raises:
        InputError: there is nothing to vote on.
        DiskFull: the vote is not saved.
    """
    conversation = votes.cast(conversation_id, vote)
    return {
        **conversation_updates(view, conversation),
        **panel_updates(view.panel, is_open=True),
        view.status: cards.note(vote_sentence(conversation)),
    }


def edit_updates(view: ConversationView, exchange: Exchange | None) -> Updates:
    """Return the updates that start editing a message; None ends it."""
    if exchange is None:
        return {view.editing.exchange_id: "", view.editing.row: gr.update(visible=False)}
    return {
        view.editing.exchange_id: exchange.id,
        view.editing.row: gr.update(visible=True),
        view.question.message: exchange.message,
        # Also while a vote is due: the edited question needs none.
        view.question.send: gr.update(interactive=True),
    }


def choice_updates(view: ConversationView, conversation_id: str, choice: str) -> Updates | None:
    """Handle a button inside the conversation: `edit:<id of a message>` or `try:<text>`."""
    kind, _, exchange_id = choice.partition(":")
    if kind == "try":
        return {view.question.message: exchange_id}
    if kind != "edit" or answering.under_way(conversation_id):
        return None
    for exchange in conversations.load(conversation_id).exchanges:
        if exchange.id == exchange_id:
            return edit_updates(view, exchange)
    return None


def restore_updates(view: ConversationView, conversation_id: str) -> Iterator[Updates]:
    """Show a conversation after a reload, and follow it while it is being answered."""
    under_way = answering.under_way(conversation_id)
    conversation = conversations.load(conversation_id or conversations.new_id())
    last = conversation.last
    if last is None:
        yield empty_updates(view)
        return
    picked = [answer.run or BASE_CHOICE for answer in last.answers]
    yield {
        **conversation_updates(view, conversation, under_way),
        # In a fixed order: the sides of a blind question must not show.
        view.picker.runs: gr.update(
            value=sorted(picked, key=lambda pick: (pick != BASE_CHOICE, pick))
        ),
        view.picker.blind: last.is_blind,
    }
    if under_way is not None:
        yield from follow_updates(view, under_way)
