"""Answers of a policy to the prompts of a set that it has not answered yet. Floor 5; torch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from orpo_qlora.data.messages import Message
from orpo_qlora.errors import OutOfMemory
from orpo_qlora.evaluation.answers.kept import Answer, AnswerSampling, KeptAnswers
from orpo_qlora.evaluation.answers.prompts import Prompt
from orpo_qlora.models import hardware
from orpo_qlora.models.generation.generate import Policy, stream
from orpo_qlora.models.generation.sampling import Conversation, Sampling

ROWS_CPU, ROWS_GPU = 16, 64
"""Conversations in a batch, at first."""


@dataclass(frozen=True)
class Speaker:
    """A loaded model, with or without one of its adapters."""

    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    adapter: str
    """Name of the loaded adapter, or `sampling.BASE`."""


@dataclass
class _Turn:
    """One answer while it is generated."""

    text: str = ""
    tokens: int = 0
    ended: bool = False


def missing(
    prompts: Sequence[Prompt], sampling: AnswerSampling, kept: KeptAnswers
) -> list[tuple[int, Prompt]]:
    """Return sample and prompt of every answer that is not kept yet, short prompts first."""
    known = kept.read()
    ordered = sorted(prompts, key=lambda prompt: len(prompt.whole_text))
    return [
        (sample, prompt)
        for sample in range(sampling.samples)
        for prompt in ordered
        if (prompt.key, sample) not in known
    ]


def answer_missing(
    speaker: Speaker,
    prompts: Sequence[Prompt],
    sampling: AnswerSampling,
    kept: KeptAnswers,
    on_batch: Callable[[int], None],
) -> None:
    """Answer what is not answered yet; every batch is kept as soon as it is complete.

    A batch that does not fit into memory is halved and answered again.

    Args:
        speaker: who answers.
        prompts: of the set.
        sampling: how, and how often.
        kept: where answers are read from and appended to.
        on_batch: called with the number of new answers.

    Raises:
        InputError: a prompt does not fit the model's context, or the chat template refuses it.
        OutOfMemory: a single conversation does not fit.
    """
    waiting = missing(prompts, sampling, kept)
    rows = ROWS_GPU if torch.cuda.is_available() else ROWS_CPU
    while waiting:
        sample = waiting[0][0]
        batch = [prompt for number, prompt in waiting[:rows] if number == sample]
        try:
            answers = answer_batch(speaker, batch, sampling.of_sample(sample), sample)
        except (MemoryError, RuntimeError) as exc:
            if not hardware.is_out_of_memory(exc):
                raise
            answers = None
        if answers is None:
            # Outside the handler: the traceback holds the tensors of the failed batch.
            rows = _halved(len(batch))
            continue
        kept.add(answers)
        waiting = waiting[len(batch) :]
        on_batch(len(batch))


def _halved(rows: int) -> int:
    if rows < 2:
        raise OutOfMemory(
            "Memory does not hold the answer to a single prompt.",
            hint="Close other programs, or lower the longest answer.",
        )
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return rows // 2


def answer_batch(
    speaker: Speaker, prompts: Sequence[Prompt], sampling: Sampling, sample: int
) -> list[Answer]:
    """Return the answers to all turns of the prompts, in their order."""
    histories = [list(prompt.opening) for prompt in prompts]
    turns: list[list[_Turn]] = [[] for _ in prompts]
    for turn in range(1 + max(len(prompt.followups) for prompt in prompts)):
        places = [place for place, one in enumerate(prompts) if len(one.followups) >= turn]
        if turn:
            for place in places:
                answered = Message("assistant", turns[place][-1].text)
                next_one = Message("user", prompts[place].followups[turn - 1])
                histories[place] += [answered, next_one]
        conversations = [
            Conversation(tuple(histories[place]), speaker.adapter, tools=prompts[place].tools)
            for place in places
        ]
        for place, answer in zip(places, _answers(speaker, conversations, sampling), strict=True):
            turns[place].append(answer)
    return [_answer(*pair, sample) for pair in zip(prompts, turns, strict=True)]


def _answer(prompt: Prompt, turns: Sequence[_Turn], sample: int) -> Answer:
    return Answer(
        prompt=prompt.key,
        sample=sample,
        texts=tuple(turn.text for turn in turns),
        tokens=tuple(turn.tokens for turn in turns),
        ended=tuple(turn.ended for turn in turns),
    )


def _answers(
    speaker: Speaker, conversations: Sequence[Conversation], sampling: Sampling
) -> Iterator[_Turn]:
    """Return one answer to each conversation; all draw token k with the same random numbers."""
    turns = [_Turn() for _ in conversations]
    for deltas in stream(speaker.policy, speaker.tokenizer, conversations, sampling):
        for delta in deltas:
            turn = turns[delta.row]
            turn.text += delta.text
            turn.tokens += 1
            turn.ended = delta.is_done and not delta.is_cut
    return iter(turns)
