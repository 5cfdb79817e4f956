"""HTML of a conversation: each message once, its answers side by side. Floor 6.

Text of users, models and run names is escaped here. The markup of a blind question does not name
the models before the vote.
Not gr.Chatbot: even without markdown gradio 6.31 inserts sanitised HTML, so an `<img>` in an answer
is fetched, and one Chatbot cannot show several answers side by side under one message.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from orpo_qlora.chat.conversations import Answer, Conversation, Exchange

WAITING = "Waiting for the first tokens …"
NOTHING = "Empty answer."
HASH_CHARACTERS = 8
SIDES = ("A", "B")
LOST = "No answer was saved: the page was shut down meanwhile. Press “Regenerate”."
OUTCOMES = {
    "a": ("your choice", ""),
    "b": ("", "your choice"),
    "tie": ("tie", "tie"),
    "bad": ("bad", "bad"),
}
"""Labels of both sides after a vote."""


def past_html(exchanges: Sequence[Exchange]) -> str:
    """Return the earlier messages with their answers, oldest first."""
    return "".join(
        exchange_html(exchange, number) for number, exchange in enumerate(exchanges, start=1)
    )


def exchange_html(exchange: Exchange, number: int, *, is_live: bool = False) -> str:
    """Return one message with its answers.

    Args:
        exchange: the message.
        number: which message of the conversation it is, from 1.
        is_live: whether it is being answered.
    """
    replies = "".join(
        _reply(exchange, place, is_live=is_live) for place in range(len(exchange.answers))
    )
    edit = "" if is_live else _edit_button(exchange.id, number)
    return (
        f'<section class="chat-exchange" data-exchange="{exchange.id}" '
        f'aria-label="Message {number}" aria-busy="{str(is_live).lower()}">'
        f'<div class="chat-asked"><div class="chat-asked-text" dir="auto">'
        f"{html.escape(exchange.message)}</div>{edit}</div>"
        f'<div class="chat-replies chat-replies-{len(exchange.answers)}">{replies}</div>'
        f"{_note(exchange, is_live=is_live)}</section>"
    )


def _edit_button(exchange_id: str, number: int) -> str:
    return (
        f'<button type="button" class="quiet-button" data-choice="edit:{exchange_id}" '
        f'aria-label="Edit message {number}">Edit</button>'
    )


def _reply(exchange: Exchange, place: int, *, is_live: bool) -> str:
    answer = exchange.answers[place]
    column = SIDES[place].lower() if exchange.hides_names else answer.run or "base"
    copy = (
        '<button type="button" class="quiet-button" data-copy aria-live="polite">Copy</button>'
        if answer.text and not is_live
        else ""
    )
    placeholder = WAITING if is_live else NOTHING if answer.is_whole else ""
    return (
        f'<article class="chat-reply" data-column="{html.escape(column)}">'
        f"<h3>{html.escape(name_of(exchange, place))}{_outcome(exchange, place)}</h3>"
        f'<div class="chat-text" dir="auto">{html.escape(answer.text) or _quiet(placeholder)}</div>'
        f'<div class="chat-foot"><span class="chat-proof" title="{_whole_proof(exchange, answer)}">'
        f"{html.escape(_proof(exchange, answer))}</span>{copy}</div></article>"
    )


def _quiet(text: str) -> str:
    return f'<span class="quiet">{html.escape(text)}</span>' if text else ""


def name_of(exchange: Exchange, place: int) -> str:
    """Return a column's title; in a blind question a letter until the vote."""
    answer = exchange.answers[place]
    if exchange.hides_names:
        return f"Answer {SIDES[place]}"
    return f"{SIDES[place]}: {answer.title}" if exchange.is_blind else answer.title


def _outcome(exchange: Exchange, place: int) -> str:
    label = OUTCOMES[exchange.vote][place] if exchange.vote else ""
    return f' <span class="pill">{label}</span>' if label else ""


def _proof(exchange: Exchange, answer: Answer) -> str:
    parts = [] if exchange.hides_names else [_adapter(answer)]
    parts.append(f"seed {exchange.settings.seed}")
    if answer.is_cut:
        parts.append(f"cut at {exchange.settings.max_tokens} tokens")
    if exchange.hides_names:
        parts.append("name after your vote")
    return " · ".join(filter(None, parts))


def _adapter(answer: Answer) -> str:
    if not answer.run:
        return "adapter off"
    return f"adapter on · {answer.sha256[:HASH_CHARACTERS]}" if answer.sha256 else ""


def _whole_proof(exchange: Exchange, answer: Answer) -> str:
    if exchange.hides_names or not answer.sha256:
        return ""
    return f"SHA-256 of the adapter’s weights as loaded: {html.escape(answer.sha256)}"


def _note(exchange: Exchange, *, is_live: bool) -> str:
    is_whole = all(answer.is_whole for answer in exchange.answers)
    note = exchange.note or ("" if is_whole or is_live else LOST)
    return f"<p>{_quiet(note)}</p>" if note else ""


def opening_html(prompts: Sequence[str]) -> str:
    """Return the card of an empty conversation, with prompts to try."""
    tries = "".join(
        f'<button type="button" class="choice-button" data-choice="try:{html.escape(prompt)}">'
        f"{html.escape(prompt)}</button>"
        for prompt in prompts
    )
    return (
        '<div class="card-empty"><p class="card-title">Ask every model the same question</p>'
        "<p>Same message, same seed, same base model: answers differ only by the adapter.</p>"
        f'<div class="chat-tries">{tries}</div></div>'
    )


def conversation_html(conversation: Conversation, *, is_live: bool) -> tuple[str, str]:
    """Return the earlier messages, and the newest one."""
    *past, last = conversation.exchanges
    return past_html(past), exchange_html(last, len(past) + 1, is_live=is_live)
