"""Answers of a policy, several conversations in one batch. Floor 1; worker, chat, evaluation.

Knows conversations, adapters and sampling, not runs, sockets or pages.

Not transformers' `generate` (5.23) with a streamer: around the same layers a token costs 1.03 times
the processor time and 1.16 times the wall time of this loop (medians of 5 alternating rounds, demo
model, base and tuned in one batch, one thread, busy machine), and ended rows are still computed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from orpo_qlora.data.messages import Message
from orpo_qlora.errors import InputError
from orpo_qlora.models.experts import can_mix_adapters
from orpo_qlora.models.generation.decode import adapters_by_row, fast_products
from orpo_qlora.models.generation.prefixes import (
    Opening,
    Prefixes,
    cache_of,
    can_be_kept,
    prefix_of,
)
from orpo_qlora.models.generation.sampling import Conversation, Sampling
from orpo_qlora.models.templates import rendering

Policy: TypeAlias = PreTrainedModel | PeftModel

PREFILL_TOKENS = 256
"""Prompt tokens per forward: bounds memory and the delay of a stop."""
NUCLEUS_FIRST = 256
"""Most likely tokens tried before the whole vocabulary is sorted for top-p."""
HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Delta:
    """Text that one step added to the answer of one conversation."""

    row: int
    text: str
    """Empty for part of a character and for an end token."""
    is_done: bool = False
    is_cut: bool = False
    """Done because the longest answer or the model's context was reached."""


class TextStream:
    """Decodes one answer's tokens as they arrive, whole characters only."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        # Decoding starts one piece early: some tokenizers drop the space of a first token.
        self._context = 0
        self._shown = 0

    def add(self, token: int) -> str:
        """Return the text that the token completes, empty while a character is incomplete."""
        self._ids.append(token)
        text = self._unseen()
        if not text or text.endswith(HALF_CHARACTER):
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return text

    def rest(self) -> str:
        """Return the text still withheld, after the last token."""
        text = self._unseen()
        self._context, self._shown = self._shown, len(self._ids)
        return text

    def _unseen(self) -> str:
        shown = self._decode(self._ids[self._context : self._shown])
        return self._decode(self._ids[self._context :])[len(shown) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


@dataclass
class _Row:
    """One conversation while it is being answered."""

    index: int
    conversation: Conversation
    text: TextStream
    ids: list[int]
    """The prompt and the sampled tokens."""
    tokens: int = 0


@dataclass
class _Batch:
    """The rows still being answered and their keys and values, kept in the same order."""

    rows: list[_Row]
    ids: Tensor
    """Next tokens to feed, (R, T): unread prompt tokens, left-padded, then one per row."""
    mask: Tensor | None
    """(R, all tokens so far), or None when no row is padded."""
    cache: DynamicCache
    fed: int
    """Tokens per row in the cache."""

    def keep(self, positions: list[int]) -> None:
        """Drop every other row."""
        chosen = torch.tensor(positions, dtype=torch.long, device=self.ids.device)
        self.rows = [self.rows[position] for position in positions]
        self.ids = self.ids[chosen]
        self.cache.batch_select_indices(chosen)
        if self.mask is not None:
            self.mask = self.mask[chosen]

    def store_prefixes(self, prefixes: Prefixes, positions: Iterable[int]) -> None:
        """Store those rows' keys and values for the next message of their conversations."""
        for position in positions:
            row = self.rows[position]
            read = torch.ones(self.fed, device=self.ids.device)
            if self.mask is not None:
                read = self.mask[position, : self.fed]
            ids = row.ids[: int(read.sum())]
            adapter = row.conversation.adapter
            prefixes.keep(prefix_of(adapter, ids, self.cache, position, read))


def stream(
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    sampling: Sampling,
    should_stop: Callable[[], bool] = lambda: False,
    prefixes: Prefixes | None = None,
) -> Generator[tuple[Delta, ...], None, None]:
    """Answer the conversations together; each step yields one delta per row still at work.

    Where adapters cannot share a batch (`experts.can_mix_adapters`), the rows of one adapter are
    answered after those of another.

    Token k of every row is drawn with the same random numbers: a row's answer does not depend on
    the other rows, and answers of base and tuned differ only by their logits. The mode (train or
    eval) of the model is restored at the end; gradients are not touched.

    Args:
        policy: a causal language model, with or without PEFT adapters.
        tokenizer: its tokenizer, with a chat template.
        conversations: one per row; the adapter of each is a loaded adapter's name or BASE.
        sampling: how tokens are drawn.
        should_stop: called before every forward; true ends the iteration early.
        prefixes: keys and values of earlier messages, which are reused and extended.

    Raises:
        InputError: a conversation does not fit the context, or the chat template refuses it.
    """
    prompts = [
        prompt_ids(tokenizer, one.turns, one.chat_template, one.tools) for one in conversations
    ]
    limit = min(sampling.max_tokens, _room(policy, prompts))
    ends = [end_ids(policy, tokenizer, one.chat_template) for one in conversations]
    with _evaluating(policy), fast_products(policy):
        for group in _groups(policy, conversations):
            members = [conversations[index] for index in group]
            read = [prompts[index] for index in group]
            known = _openings(prefixes, members, read)
            batch = _open_batch(policy, tokenizer, members, read, known)
            for row, index in zip(batch.rows, group, strict=True):
                row.index = index
            yield from _answer(policy, batch, _Rules(sampling, ends, limit, should_stop), prefixes)
            if batch.rows:
                return  # stopped


def _groups(policy: Policy, conversations: Sequence[Conversation]) -> list[list[int]]:
    """Return which rows are answered together: all, or those of each adapter."""
    if can_mix_adapters(policy):
        return [list(range(len(conversations)))]
    groups: dict[str, list[int]] = {}
    for index, conversation in enumerate(conversations):
        groups.setdefault(conversation.adapter, []).append(index)
    return list(groups.values())


@dataclass(frozen=True)
class _Rules:
    """How the answers of a batch are drawn and when they end."""

    sampling: Sampling
    ends: Sequence[frozenset[int]]
    """End tokens by conversation."""
    limit: int
    """Most tokens of an answer."""
    should_stop: Callable[[], bool]


def _answer(
    policy: Policy, batch: _Batch, rules: _Rules, prefixes: Prefixes | None
) -> Iterator[tuple[Delta, ...]]:
    """Answer the rows of a batch; rows are left in it only when stopped."""
    # One generator for all rows: step k of every row uses the k-th draw, whatever the batch.
    draws = torch.Generator(batch.ids.device).manual_seed(rules.sampling.seed)
    while batch.rows:
        adapters = [row.conversation.adapter for row in batch.rows]
        with adapters_by_row(policy, adapters) as model:
            # The adapters stay in place until a row ends.
            while len(batch.rows) == len(adapters):
                logits = _advance(model, batch, rules.should_stop)
                if logits is None:
                    if prefixes is not None:
                        _store(policy, batch, range(len(batch.rows)), prefixes)
                    return
                chosen = _draw(logits, draws, rules.sampling)
                deltas = _take(batch, chosen, rules.ends, rules.limit)
                done = [place for place, delta in enumerate(deltas) if delta.is_done]
                _drop(policy, batch, done, prefixes)
                yield deltas


def answer_all(
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    sampling: Sampling,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Return the answers, in the order of the conversations; see `stream`."""
    answers = [""] * len(conversations)
    for deltas in stream(policy, tokenizer, conversations, sampling, should_stop):
        for delta in deltas:
            answers[delta.row] += delta.text
    return answers


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Message],
    template: str | None = None,
    tools: str = "",
) -> list[int]:
    """Return the token ids of a conversation up to the start of the answer.

    Raises:
        InputError: the chat template refuses the conversation.
    """
    text = rendering.render(tokenizer, turns, is_open=True, template=template, tools=tools)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def end_ids(
    policy: Policy, tokenizer: PreTrainedTokenizerBase, template: str | None = None
) -> frozenset[int]:
    """Return the tokens that end an answer: the model's, the tokenizer's and the template's."""
    ends = {tokenizer.eos_token_id, rendering.end_of_answer(tokenizer, template).token}
    declared = policy.generation_config.eos_token_id
    ends.update(declared if isinstance(declared, list) else [declared])
    return frozenset(token for token in ends if token is not None)


def _room(policy: Policy, prompts: Sequence[Sequence[int]]) -> int:
    """Return the number of tokens that fit after the longest prompt."""
    context = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(prompt) for prompt in prompts)
    room = (context or longest + 2**31) - longest
    if room < 1:
        raise InputError(
            f"The conversation has {longest:,} tokens; the model reads {context:,} at most.",
            hint="Clear the conversation, or shorten the message.",
        )
    return room


def _openings(
    prefixes: Prefixes | None,
    conversations: Sequence[Conversation],
    prompts: Sequence[Sequence[int]],
) -> list[Opening]:
    """Return the cached beginning of each prompt."""
    if prefixes is None:
        return [Opening() for _ in prompts]
    return [
        prefixes.find(conversation.adapter, prompt)
        for conversation, prompt in zip(conversations, prompts, strict=True)
    ]


def _open_batch(
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    prompts: Sequence[Sequence[int]],
    openings: Sequence[Opening],
) -> _Batch:
    device = policy.get_input_embeddings().weight.device
    rests = [
        list(prompt[opening.length :]) for prompt, opening in zip(prompts, openings, strict=True)
    ]
    known, unread = max(opening.length for opening in openings), max(map(len, rests))
    filler = tokenizer.pad_token_id or 0
    ids = [[filler] * (unread - len(rest)) + rest for rest in rests]
    # Without a mask attention needs no copies of shared keys; with equal lengths none is needed.
    read = [
        _padded(known, opening.length) + _padded(unread, len(rest))
        for opening, rest in zip(openings, rests, strict=True)
    ]
    mask = torch.tensor(read, device=device) if any(0 in row for row in read) else None
    rows = [
        _Row(index, conversation, TextStream(tokenizer), list(prompts[index]))
        for index, conversation in enumerate(conversations)
    ]
    return _Batch(rows, torch.tensor(ids, device=device), mask, cache_of(openings), known)


def _padded(places: int, tokens: int) -> list[int]:
    return [0] * (places - tokens) + [1] * tokens


@contextmanager
def _evaluating(policy: Policy) -> Iterator[None]:
    """Switch dropout off, and restore every module's mode afterwards."""
    training = [module for module in policy.modules() if module.training]
    policy.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


# Not inference_mode: a model may recompute its rotary buffers in forward, and training could not
# use inference tensors.
@torch.no_grad()
def _advance(model: nn.Module, batch: _Batch, should_stop: Callable[[], bool]) -> Tensor | None:
    """Feed the next tokens and return the logits after them, (R, V); None when stopped."""
    logits = None
    for piece in batch.ids.split(PREFILL_TOKENS, dim=1):
        if should_stop():
            return None
        end = batch.fed + piece.shape[1]
        places = {}
        if batch.mask is not None:
            positions = (batch.mask[:, :end].cumsum(1) - 1).clamp(min=0)
            places = {
                "attention_mask": batch.mask[:, :end],
                "position_ids": positions[:, batch.fed :],
            }
        result = model(
            input_ids=piece,
            past_key_values=batch.cache,
            use_cache=True,
            logits_to_keep=1,
            **places,
        )
        batch.fed = end
        logits = result.logits[:, -1]
    return logits


def _take(
    batch: _Batch, chosen: list[int], ends: Sequence[frozenset[int]], limit: int
) -> tuple[Delta, ...]:
    """Append a token to each row, and return the new text; `ends` are by conversation."""
    deltas = tuple(
        _grow(row, token, ends[row.index], limit)
        for row, token in zip(batch.rows, chosen, strict=True)
    )
    batch.ids = torch.tensor(chosen, device=batch.ids.device).unsqueeze(1)
    if batch.mask is not None:
        batch.mask = torch.cat([batch.mask, torch.ones_like(batch.mask[:, :1])], dim=1)
    return deltas


def _drop(policy: Policy, batch: _Batch, done: Sequence[int], prefixes: Prefixes | None) -> None:
    """Drop ended rows; their keys and values may be stored."""
    if not done:
        return
    if prefixes is not None:
        _store(policy, batch, done, prefixes)
    batch.keep([place for place in range(len(batch.rows)) if place not in done])


def _store(policy: Policy, batch: _Batch, rows: Iterable[int], prefixes: Prefixes) -> None:
    if batch.fed and can_be_kept(policy.config, batch.cache):
        batch.store_prefixes(prefixes, rows)


def _grow(row: _Row, token: int, ends: frozenset[int], limit: int) -> Delta:
    row.tokens += 1
    row.ids.append(token)
    if token in ends:
        return Delta(row.index, row.text.rest(), is_done=True)
    text = row.text.add(token)
    if row.tokens >= limit:
        return Delta(row.index, text + row.text.rest(), is_done=True, is_cut=True)
    return Delta(row.index, text)


@torch.no_grad()
def _draw(logits: Tensor, draws: torch.Generator, sampling: Sampling) -> list[int]:
    """Return one token per row; `logits` is (R, V). A GPU is waited for once, whatever R."""
    if sampling.temperature == 0:
        return logits.argmax(dim=-1).tolist()
    # Exponential race: argmax(p / e) is a draw from p (torch.multinomial does the same). One number
    # per token of the vocabulary, shared by all rows.
    noise = torch.empty_like(logits[0], dtype=torch.float32).exponential_(generator=draws)
    probabilities = torch.softmax(logits.float() / sampling.temperature, dim=-1)
    if sampling.top_p == 1:
        return (probabilities / noise).argmax(dim=-1).tolist()
    count = min(NUCLEUS_FIRST, logits.shape[-1])
    drawn, is_whole = _draw_from_top(probabilities, noise, sampling.top_p, count)
    chosen, whole = torch.stack([drawn, is_whole.long()]).tolist()
    short = [row for row, is_enough in enumerate(whole) if not is_enough]
    if short and count < logits.shape[-1]:
        # Rare: flat distributions, whose nucleus is larger.
        drawn, _ = _draw_from_top(probabilities[short], noise, sampling.top_p, logits.shape[-1])
        for row, token in zip(short, drawn.tolist(), strict=True):
            chosen[row] = token
    return chosen


def _draw_from_top(
    probabilities: Tensor, noise: Tensor, top_p: float, count: int
) -> tuple[Tensor, Tensor]:
    """Return a token of each row's nucleus, and whether `count` tokens hold that nucleus; (R,).

    The nucleus is the smallest set of top tokens with mass `top_p`.
    """
    values, tokens = probabilities.topk(count)
    before = values.cumsum(1) - values
    race = (values / noise[tokens]).masked_fill(before >= top_p, -1.0)
    chosen = tokens.gather(1, race.argmax(dim=1, keepdim=True))
    return chosen.squeeze(1), before[:, -1] + values[:, -1] >= top_p
