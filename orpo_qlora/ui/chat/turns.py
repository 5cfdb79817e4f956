"""What happens to a conversation on the page: asked, stopped, asked again, edited. Floor 5."""

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
"""Not seeded by anything: whoever votes must not be able to know the sides."""


@dataclass(frozen=True)
class Asker:
    """What the page holds when a button is pressed."""

    conversation_id: str
    picked: Sequence[str]
    is_blind: bool
    settings: tuple[Any, ...]

    @classmethod
    def of(cls, values: Sequence[Any]) -> Asker:
        """Return it from the inputs' values, in the order of `asker_inputs`."""
        conversation_id, picked, is_blind, *settings = values
        return cls(conversation_id or "", picked or (), bool(is_blind), tuple(settings))


def asker_inputs(view: ConversationView) -> list[Any]:
    """Return the inputs of `Asker.of`."""
    return [view.conversation_id, view.picker.runs, view.picker.blind, *view.settings.inputs]


def send_updates(
    view: ConversationView, asker: Asker, message: str, editing: str = ""
) -> Iterator[Updates]:
    """Ask every chosen column the message, and show the answers while they grow.

    Args:
        view: the components.
        asker: what else the page holds.
        message: what to ask; nothing happens if it is blank.
        editing: the message that this one takes the place of, with all that followed.

    Raises:
        InputError: the columns cannot answer together, or a vote is due first.
    """
    text = message.strip()
    if not text:
        yield {}  # a stream that says nothing empties every output
        return
    conversation = conversations.load(asker.conversation_id or conversations.new_id())
    last = conversation.last
    if last is not None and last.is_votable and not editing:
        raise InputError(
            "This question waits for your vote.",
            hint="Vote first: the conversation goes on from the answer you prefer.",
        )
    exchange = _question(asker, text, settings_from(asker.settings))
    yield from _asked_updates(view, conversation.before(editing), exchange)


def again_updates(view: ConversationView, asker: Asker) -> Iterator[Updates]:
    """Ask the newest message again with the next seed; its answers give way."""
    conversation = conversations.load(asker.conversation_id)
    last = conversation.last
    if last is None:
        yield {}
        return
    settings = replace(settings_from(asker.settings), seed=last.settings.seed + 1)
    exchange = _question(asker, last.message, settings)
    yield from _asked_updates(view, conversation.before(last.id), exchange)


def _question(asker: Asker, message: str, settings: client.ChatSettings) -> Exchange:
    settings.sampling  # noqa: B018 - says what is out of bounds before anything is kept
    base, columns = _columns(asker.picked)
    if asker.is_blind:
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
        is_blind=asker.is_blind,
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
    """Show the answers while they grow, and what can be done once they are there.

    Raises:
        OrpoQloraError: the question could not be answered; the page shows what there is.
    """
    before = conversations.load(under_way.conversation_id).before(under_way.exchange.id)
    for answers in under_way.follow():
        number = len(before.exchanges) + 1
        newest = messages_view.exchange_html(under_way.exchange, number, is_live=True)
        yield {view.newest: newest, view.status: cards.pace(_pace(answers))}
    pace = _last_pace(under_way)
    conversation = before.with_exchange(under_way.exchange)
    yield {
        **conversation_updates(view, conversation),
        view.status: cards.pace(pace) if pace else "",
    }
    if under_way.error is not None:
        raise under_way.error


def _pace(answers: Answers) -> str:
    rate = present.tokens_per_second(answers.tokens_per_second) if any(answers.texts) else ""
    return " · ".join(text for text in (rate, answers.note) if text) or messages_view.WAITING


def _last_pace(under_way: Answering) -> str:
    exchange, answers = under_way.exchange, under_way.latest
    names = [messages_view.name_of(exchange, place) for place in range(len(exchange.answers))]
    cut = client.cut_note(names, answers.cut, exchange.settings)
    rate = present.tokens_per_second(answers.tokens_per_second) if any(answers.texts) else ""
    return " · ".join(text for text in (rate, cut or exchange.note) if text)


def conversation_updates(
    view: ConversationView, conversation: Conversation, under_way: Answering | None = None
) -> Updates:
    """Return everything the page shows of a conversation, and the buttons that fit it."""
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
    """Return the page without a conversation."""
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
    """Return what could be asked: what the newest run was asked while it trained."""
    for run in chat_runs():
        asked = (str(sample.get("prompt", "")) for sample in store.samples_of(run.paths))
        short = [text for text in dict.fromkeys(asked) if 0 < len(text) <= PROMPT_CHARACTERS]
        return short[:PROMPTS_TRIED]
    return []


def _button_updates(
    view: ConversationView, *, is_live: bool, is_open: bool, is_empty: bool = False
) -> Updates:
    # Not gr.Button: this also runs while the page is built, where a component is put on the page.
    return {
        view.question.send: gr.update(interactive=not is_live and not is_open),
        view.question.stop: gr.update(interactive=is_live),
        view.question.again: gr.update(interactive=not is_live and not is_empty),
        **{button: gr.update(interactive=is_open) for button in view.votes.buttons.values()},
    }


def stop_updates(view: ConversationView, conversation_id: str) -> Updates:
    """End the answers of this conversation; the words so far stay."""
    under_way = answering.under_way(conversation_id)
    if under_way is None:
        return {view.question.stop: gr.update(interactive=False)}
    under_way.stop()
    return {view.question.stop: gr.update(interactive=False), view.status: cards.pace("stopping…")}


def clear_updates(view: ConversationView, conversation_id: str) -> Updates:
    """Begin a new conversation; the old one stays on disk, its answers under way end."""
    stop_updates(view, conversation_id)
    return empty_updates(view)


def vote_updates(view: ConversationView, vote: Vote, conversation_id: str) -> Updates:
    """Keep a vote, tell the names and count it.

    Raises:
        InputError: nothing can be voted on.
        DiskFull: the vote is not kept.
    """
    conversation = votes.cast(conversation_id, vote)
    return {
        **conversation_updates(view, conversation),
        **panel_updates(view.panel, is_open=True),
        view.status: cards.pace(vote_sentence(conversation)),
    }


def edit_updates(view: ConversationView, exchange: Exchange | None) -> Updates:
    """Return what lets a message be changed, or what ends that."""
    if exchange is None:
        return {view.editing.exchange_id: "", view.editing.row: gr.update(visible=False)}
    return {
        view.editing.exchange_id: exchange.id,
        view.editing.row: gr.update(visible=True),
        view.question.message: exchange.message,
        # Also when a vote is due: what is edited away needs none.
        view.question.send: gr.update(interactive=True),
    }


def choice_updates(view: ConversationView, conversation_id: str, choice: str) -> Updates | None:
    """Do what a button inside the conversation says: “edit:<message’s id>” or “try:<text>”."""
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
    """Show a conversation again after a reload, and follow it if it is being answered."""
    under_way = answering.under_way(conversation_id)
    conversation = conversations.load(conversation_id or conversations.new_id())
    last = conversation.last
    if last is None:
        yield empty_updates(view)
        return
    picked = [answer.run or BASE_CHOICE for answer in last.answers]
    yield {
        **conversation_updates(view, conversation, under_way),
        # In a fixed order: the sides of a blind question are a secret.
        view.picker.runs: gr.update(
            value=sorted(picked, key=lambda pick: (pick != BASE_CHOICE, pick))
        ),
        view.picker.blind: last.is_blind,
    }
    if under_way is not None:
        yield from follow_updates(view, under_way)
