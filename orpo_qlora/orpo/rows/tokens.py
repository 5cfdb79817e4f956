"""Preference pairs to token ids: chat template, answer spans, length policy. Floor 2."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from orpo_qlora.data.messages import NO_TOOLS, Message
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.data.shapes.base import SIDES
from orpo_qlora.data.summary import ROWS_KEPT
from orpo_qlora.data.wording import plural
from orpo_qlora.errors import DataError, InputError
from orpo_qlora.models.templates import rendering
from orpo_qlora.models.templates.chat_templates import UNCHANGED, TemplateChanges
from orpo_qlora.models.templates.rendering import AnswerEnd
from orpo_qlora.orpo.rows.length_policy import Kept, OverLength, PairLengths, fit


@dataclass(frozen=True)
class TokenizedPair:
    """One pair as the model sees it.

    `prompt` is everything up to and including the generation prompt of the template; `chosen` and
    `rejected` end with the end-of-turn token unless they were cut. The prompt has the ids that a
    chat gives it, so both answers share it by construction. Of a single labelled response the other
    side has no tokens.
    """

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    row: int

    @property
    def lengths(self) -> PairLengths:
        """The token counts that decide about cutting and dropping."""
        answers = zip(self.chosen, self.rejected, strict=False)
        same_start = sum(1 for _ in takewhile(lambda ids: ids[0] == ids[1], answers))
        return PairLengths(len(self.prompt), len(self.chosen), len(self.rejected), same_start)

    @property
    def is_single(self) -> bool:
        """Whether it is a single response."""
        return not (self.chosen and self.rejected)

    @property
    def longest(self) -> int:
        """Tokens of the prompt with the longer answer."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class Tokenized:
    """The pairs that fit, and the rows of those that were dropped or cut."""

    pairs: tuple[TokenizedPair, ...]
    dropped_rows: tuple[int, ...] = ()
    cut_rows: tuple[int, ...] = ()
    changes: TemplateChanges = UNCHANGED
    """Of all pairs, those included that were dropped."""
    refused_rows: tuple[int, ...] = ()
    """Rows whose conversation the chat template refuses."""

    def sentence(self, max_length: int) -> str:
        """Return a sentence on what the length policy changed; empty if nothing."""
        if self.dropped_rows:
            return f"{len(self.dropped_rows)} pairs longer than {max_length} tokens were left out."
        if self.cut_rows:
            return f"{len(self.cut_rows)} pairs longer than {max_length} tokens were cut."
        return ""


def prompt_text(
    tokenizer: PreTrainedTokenizerBase, conversation: Sequence[Message], tools: str = ""
) -> str:
    """Return the templated conversation up to where the answer begins.

    Raises:
        DataError: the template rejects it, for example its system message.
    """
    return _render(tokenizer, conversation, tools, is_open=True)


def _render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: str, *, is_open: bool
) -> str:
    try:
        return rendering.render(tokenizer, messages, is_open=is_open, tools=tools)
    except InputError as exc:
        raise DataError(exc.message, hint=exc.hint) from exc


def _end_of_answer(tokenizer: PreTrainedTokenizerBase) -> AnswerEnd:
    try:
        return rendering.end_of_answer(tokenizer)
    except InputError as exc:
        raise DataError(exc.message, hint=exc.hint) from exc


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]


def _answer_text(
    tokenizer: PreTrainedTokenizerBase,
    opened: str,
    pair: PreferencePair,
    answer: Message,
    turn: AnswerEnd,
) -> str:
    tools = pair.tool_use.tools
    whole = _render(tokenizer, [*pair.conversation, answer], tools, is_open=False)
    if whole.startswith(opened):
        return whole[len(opened) :]
    if answer.tool_calls:
        # The call as the template writes it: what follows the turns before and its own header.
        before = _render(tokenizer, pair.conversation, tools, is_open=False)
        both = zip(whole, opened, strict=False)
        shared = sum(1 for _ in takewhile(lambda at: at[0] == at[1], both))
        if len(before) <= shared:
            return whole[shared:]
    # Some templates render a past answer differently from an open one (a reasoning block, for
    # example); then the text that generation would see is used.
    return answer.text + turn.tail


def tokenize_pairs(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[PreferencePair],
    max_length: int,
    over_length: OverLength,
) -> Tokenized:
    """Return pairs as token ids, each prompt with either answer at most `max_length` tokens.

    Raises:
        DataError: no pair fits, or the chat template refuses all.
    """
    whole = to_tokens(tokenizer, pairs)
    changes = changes_of(tokenizer, pairs, whole)
    refuse_none_left(changes, len(whole))
    refused = refused_rows(pairs, whole)
    return replace(
        fit_lengths(whole, max_length, over_length), changes=changes, refused_rows=refused
    )


def changes_of(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[PreferencePair],
    whole: Sequence[TokenizedPair],
) -> TemplateChanges:
    """Return in how many pairs the chat template changes the turns before the answer.

    Args:
        tokenizer: with a chat template.
        pairs: all pairs.
        whole: what `to_tokens` returned for them.
    """
    changes = rendering.changes_of(tokenizer, (pair.conversation for pair in pairs))
    rows = refused_rows(pairs, whole)
    if not rows:
        return changes
    refusal = next(
        reason for pair in pairs if pair.row in rows if (reason := _refusal(tokenizer, pair))
    )
    first = tuple(dict.fromkeys(rows))[:ROWS_KEPT]
    return changes + TemplateChanges(refused=len(rows), refused_rows=first, refusal=refusal)


def refused_rows(
    pairs: Sequence[PreferencePair], whole: Sequence[TokenizedPair]
) -> tuple[int, ...]:
    """Return the rows of the pairs that `to_tokens` left out, once for each pair."""
    if len(pairs) == len(whole):
        return ()
    missing = Counter(pair.row for pair in pairs)
    missing.subtract(pair.row for pair in whole)
    return tuple(missing.elements())


def _refusal(tokenizer: PreTrainedTokenizerBase, pair: PreferencePair) -> str:
    """Return why the chat template refuses a pair, empty if it does not."""
    try:
        _texts(tokenizer, pair, _end_of_answer(tokenizer))
    except DataError as exc:
        return exc.message.partition(f"{rendering.REFUSES} the conversation: ")[2].rstrip(".")
    return ""


def refuse_none_left(changes: TemplateChanges, left: int) -> None:
    """Refuse data of which the chat template takes no conversation.

    Raises:
        DataError: there are refused conversations and no other.
    """
    if changes.refused and not left:
        raise DataError(
            f"{rendering.REFUSES} all conversations: {changes.refusal}.",
            hint="Choose another chat template or base model, or change the data: begin with a "
            "user message, alternate user and assistant, and give every tool a name, a "
            "description and parameters.",
        )


def to_tokens(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[PreferencePair]
) -> list[TokenizedPair]:
    """Return pairs as token ids, without a length limit; those refused are left out.

    Raises:
        DataError: pairs have tools, and the template knows none.
    """
    if not pairs:
        return []
    _refuse_unknown_tools(tokenizer, pairs)
    turn = _end_of_answer(tokenizer)
    found: list[tuple[int, _Texts]] = []
    for pair in pairs:
        try:
            found.append((pair.row, _texts(tokenizer, pair, turn)))
        except DataError:
            continue  # `changes_of` counts it
    if not found:
        return []
    opened = [texts.opened for _, texts in found]
    prompts = _encode(tokenizer, opened)
    chosen, rejected = (
        [
            _closed(ids, turn) if answer else []
            for ids, answer in zip(
                _encode_after(tokenizer, opened, prompts, answers), answers, strict=True
            )
        ]
        for answers in (
            [texts.chosen for _, texts in found],
            [texts.rejected for _, texts in found],
        )
    )
    return [
        TokenizedPair(tuple(prompt), tuple(good), tuple(bad), row)
        for prompt, good, bad, (row, _) in zip(prompts, chosen, rejected, found, strict=True)
    ]


class _Texts(NamedTuple):
    """A pair in its chat template: up to where the response begins, and both responses.

    The text of a response that the pair does not have is empty.
    """

    opened: str
    chosen: str
    rejected: str


def _texts(tokenizer: PreTrainedTokenizerBase, pair: PreferencePair, turn: AnswerEnd) -> _Texts:
    opened = prompt_text(tokenizer, pair.conversation, pair.tool_use.tools)
    chosen, rejected = (
        _answer_text(tokenizer, opened, pair, answer, turn) if pair.has(side) else ""
        for side, answer in zip(SIDES, pair.responses, strict=True)
    )
    return _Texts(opened, chosen, rejected)


def _refuse_unknown_tools(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[PreferencePair]
) -> None:
    """Refuse pairs with tools where the chat template would leave them out.

    Raises:
        DataError: there are such pairs.
    """
    count = sum(pair.tool_use != NO_TOOLS for pair in pairs)
    if count and not rendering.knows_tools(tokenizer):
        raise DataError(
            f"The chat template of {tokenizer.name_or_path or 'the base model'} does not know "
            f"tools, and {plural(count, 'pair')} {'has' if count == 1 else 'have'} tools or calls.",
            hint="Choose a base model whose template knows tools, such as Qwen2.5-Instruct, give "
            "it one with chat_template, or drop these pairs with the fix “tool-use”.",
        )


def _encode_after(
    tokenizer: PreTrainedTokenizerBase,
    opened: list[str],
    prompts: list[list[int]],
    answers: list[str],
) -> list[list[int]]:
    """Return the ids of answers as they read after their prompts.

    A SentencePiece tokenizer would begin a text of its own with a space. Where the last token of
    the prompt would grow into the answer, the answer is tokenised alone.
    """
    whole = _encode(tokenizer, [a + b for a, b in zip(opened, answers, strict=True)])
    alone = [ids[: len(prompt)] != prompt for ids, prompt in zip(whole, prompts, strict=True)]
    apart = [text for text, is_alone in zip(answers, alone, strict=True) if is_alone]
    others = iter(_encode(tokenizer, apart) if apart else ())
    return [
        next(others) if is_alone else ids[len(prompt) :]
        for ids, prompt, is_alone in zip(whole, prompts, alone, strict=True)
    ]


def _closed(ids: list[int], turn: AnswerEnd) -> list[int]:
    if not turn.tail:
        return [*ids, *turn.end_ids]
    return ids[: len(ids) - turn.rest]


def fit_lengths(
    pairs: Sequence[TokenizedPair], max_length: int, over_length: OverLength
) -> Tokenized:
    """Apply the length policy.

    Raises:
        DataError: no pair fits.
    """
    if not pairs:
        return Tokenized(())
    kept, dropped, cut = [], [], []
    for pair in pairs:
        if pair.longest <= max_length:
            kept.append(pair)
            continue
        left = fit(pair.lengths, max_length, over_length)
        if left is None:
            dropped.append(pair.row)
        else:
            kept.append(_cut(pair, left))
            cut.append(pair.row)
    if not kept:
        raise DataError(
            f"All {len(pairs)} pairs are longer than {max_length} tokens.",
            hint="Raise “Longest sequence”, or cut over-long pairs instead of dropping them.",
        )
    return Tokenized(tuple(kept), tuple(dropped), tuple(cut))


def _cut(pair: TokenizedPair, kept: Kept) -> TokenizedPair:
    return replace(
        pair,
        prompt=pair.prompt[len(pair.prompt) - kept.prompt :],
        chosen=pair.chosen[: kept.chosen],
        rejected=pair.rejected[: kept.rejected],
    )
