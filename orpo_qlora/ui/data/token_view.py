"""One pair as HTML, token by token, coloured by its role in the loss.

The tokens come from the tokenize job; what is cut follows the length policy that training uses.
Everything that comes from a file is escaped.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.wording import plural
from orpo_qlora.jobs.token_counts import PairTokens, Token
from orpo_qlora.methods import method_of
from orpo_qlora.orpo.rows.length_policy import Kept, fit

Role = Literal["read", "nll", "both", "odds", "cut"]

ROLES: dict[Role, str] = {
    "read": "Read, not trained on",
    "nll": "NLL only",
    "both": "NLL and preference",
    "odds": "Preference only",
    "cut": "Cut off",
}
"""Legend labels: what training does with a token."""
TOKENS_SHOWN = 4000
"""Tokens drawn per part; the middle of a longer part is skipped."""


@dataclass(frozen=True)
class _Part:
    """One part of a pair with the role of each of its tokens."""

    title: str
    tokens: Sequence[Token]
    roles: Sequence[Role]


def draw_tokens(pair: PairTokens, config: TrainConfig, place: str = "") -> str:
    """Return a pair's tokens as HTML, each coloured by its role under these settings.

    Args:
        pair: the tokens.
        config: the settings.
        place: file and row in words; “Row 3” if empty.
    """
    if pair.refusal:
        return _draw_refusal(pair, place)
    kept = fit(pair.lengths, config.max_length, config.over_length)
    parts = _parts(pair, kept, config)
    drawn = "".join(_draw_part(part) for part in parts)
    title = f"{place or f'Row {pair.row:,}'}: {_length_sentence(pair, kept, config)}"
    return (
        f'<section class="card token-view"><p class="card-title">{html.escape(title)}</p>'
        f"{_legend(parts)}{drawn}"
        '<p class="token-readout quiet" aria-live="polite">Hover over a token to see its id, or '
        "use Tab and the arrow keys.</p></section>"
    )


def _draw_refusal(pair: PairTokens, place: str) -> str:
    text = (
        f"{place or f'Row {pair.row:,}'}: this pair is dropped. The chat template refuses the "
        f"conversation: {pair.refusal}."
    )
    return f'<section class="card token-view"><p>{html.escape(text)}</p></section>'


def _length_sentence(pair: PairTokens, kept: Kept | None, config: TrainConfig) -> str:
    longest = pair.lengths.longest
    size = f"{plural(longest, 'token')} with the longer response"
    if kept is None:
        return f"{size}, max_length is {config.max_length:,}. This pair is dropped."
    if longest > config.max_length:
        return f"{size}, max_length is {config.max_length:,}. This pair is cut."
    return f"{size}. It fits."


def _parts(pair: PairTokens, kept: Kept | None, config: TrainConfig) -> tuple[_Part, ...]:
    lengths = kept or Kept(0, 0, 0)
    needs = method_of(config).needs(config)
    prompt: Role = "nll" if needs.nll_on == "sequence" else "read"
    rejected: Role = "odds" if needs.rejected else "read"
    chosen: Role = "both" if needs.nll_on and needs.rejected else "nll" if needs.nll_on else "odds"
    before = len(pair.prompt) - lengths.prompt
    cut: Role = "cut"
    prompt_roles = [cut] * before + [prompt] * lengths.prompt
    if lengths.prompt:
        prompt_roles[before] = "read"  # the first token has nothing to predict it from
    responses = (
        _response("Chosen", pair.chosen, lengths.chosen, chosen),
        _response("Rejected", pair.rejected, lengths.rejected, rejected),
    )
    # A single labelled response has no other side.
    return (_Part("Prompt", pair.prompt, prompt_roles), *(r for r in responses if r.tokens))


def _response(title: str, tokens: Sequence[Token], kept: int, role: Role) -> _Part:
    return _Part(title, tokens, [role] * kept + ["cut"] * (len(tokens) - kept))


def _legend(parts: Sequence[_Part]) -> str:
    counts = {role: sum(part.roles.count(role) for part in parts) for role in ROLES}
    entries = "".join(
        f'<li><span class="token token-{role}" aria-hidden="true">abc</span> '
        f"{ROLES[role]} <b>{count:,}</b></li>"
        for role, count in counts.items()
        if count
    )
    return f'<ul class="legend token-legend">{entries}</ul>'


def _draw_part(part: _Part) -> str:
    title = f"{part.title}, {plural(len(part.tokens), 'token')}"
    indexes: Sequence[int] = range(len(part.tokens))
    gap = ""
    if len(indexes) > TOKENS_SHOWN:
        half = TOKENS_SHOWN // 2
        gap = f'<span class="token-gap"> … {len(indexes) - 2 * half:,} tokens … </span>'
        first, last = indexes[:half], indexes[-half:]
    else:
        first, last = indexes, ()
    drawn = [_draw_token(part, index) for index in first]
    rest = [_draw_token(part, index) for index in last]
    return (
        f'<h4 class="token-title">{html.escape(title)}</h4>'
        f'<div class="tokens" role="group" dir="auto" aria-label="{html.escape(title)}">'
        f"{''.join(drawn)}{gap}{''.join(rest)}</div>"
    )


def _draw_token(part: _Part, index: int) -> str:
    token, role = part.tokens[index], part.roles[index]
    about = f"id {token.id} · {index + 1} of {len(part.tokens)} · {ROLES[role].lower()}"
    if token.is_special:
        about += " · special token"
    kind = f"token token-{role}{' token-special' if token.is_special else ''}"
    # One token per part is a tab stop; theme.js moves it with the arrow keys.
    tab_index = "0" if index == 0 else "-1"
    text = visible_text(token.text)
    # Trailing line breaks go after the token's box, not into it.
    inside = text.rstrip("\n")
    return (
        f'<span class="{kind}" tabindex="{tab_index}" title="{html.escape(about)}">'
        f"{html.escape(inside)}</span>{text[len(inside) :]}"
    )


def visible_text(text: str) -> str:
    """Return a token's text with line breaks, tabs and invisible characters written out."""
    if not text:
        return "·"
    start = text.rstrip("\n")
    breaks = len(text) - len(start)
    return "".join(_visible(character) for character in start) + "↵" * breaks + "\n" * breaks


def _visible(character: str) -> str:
    if character == "\n":
        return "↵\n"
    if character == "\t":
        return "⇥\t"
    # Control, format and private characters: zero-width marks, direction overrides.
    if unicodedata.category(character) in {"Cc", "Cf", "Co", "Zl", "Zp"}:
        return f"⟨U+{ord(character):04X}⟩"
    return character
