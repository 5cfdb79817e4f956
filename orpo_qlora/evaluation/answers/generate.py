"""Answers of a policy to the prompts of a set that it has not answered yet. Floor 5; torch."""

from __future__ import annotations

import gc
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from orpo_qlora.data.messages import Message
from orpo_qlora.errors import OutOfMemory
from orpo_qlora.evaluation.answers.kept import Answer, AnswerSampling, KeptAnswers
from orpo_qlora.evaluation.answers.prompts import Prompt
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.generation.generate import Policy, stream
from orpo_qlora.models.generation.sampling import Conversation, Sampling
from orpo_qlora.orpo.processes.ranks import ALONE, Ranks

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


@dataclass(frozen=True)
class Respondent:
    """Who answers, and where the answers are kept."""

    name: str
    """In the evaluation."""
    speaker: Speaker
    kept: KeptAnswers


@dataclass(frozen=True)
class _Waiting:
    """An answer that is not kept yet."""

    respondent: Respondent
    sample: int
    prompt: Prompt


def missing(
    prompts: Sequence[Prompt], sampling: AnswerSampling, known: Container[tuple[str, int]]
) -> list[tuple[int, Prompt]]:
    """Return sample and prompt of every answer that is not known, short prompts first."""
    ordered = sorted(prompts, key=lambda prompt: len(prompt.whole_text))
    return [
        (sample, prompt)
        for sample in range(sampling.samples)
        for prompt in ordered
        if (prompt.key, sample) not in known
    ]


@dataclass(frozen=True)
class MissingAnswers:
    """Answers what is not answered yet; see `run`."""

    respondents: Sequence[Respondent]
    prompts: Sequence[Prompt]
    sampling: AnswerSampling
    on_start: Callable[[int], object]
    """Called with the number of answers to come."""
    on_batch: Callable[[str, int], object]
    """Called with the respondent's name and the number of new answers."""
    ranks: Ranks = ALONE

    def run(self) -> None:
        """Answer; every batch is kept as soon as it is complete.

        The cut into batches does not depend on the number of processes, which take turns at them,
        and every answer is drawn with the random numbers of its sample: the texts are those of a
        single process. A batch that does not fit into memory is halved and answered again, with
        those of the same turn.

        Raises:
            InputError: a prompt does not fit the model's context, or the chat template refuses it.
            OutOfMemory: a single conversation does not fit.
        """
        waiting = self._waiting()
        self.on_start(len(waiting))
        rows = ROWS_GPU if torch.cuda.is_available() else ROWS_CPU
        while waiting:
            turn = _batches(waiting, rows, self.ranks.size)
            answers = self._answered(turn)
            if answers is None:
                # Outside the handler: the traceback holds the tensors of the failed batch.
                rows = _halved(max(map(len, turn)))
                continue
            for batch, found in zip(turn, answers, strict=True):
                if self.ranks.is_first:
                    batch[0].respondent.kept.add(found)
                self.on_batch(batch[0].respondent.name, len(batch))
            waiting = waiting[sum(map(len, turn)) :]

    def _waiting(self) -> list[_Waiting]:
        """Return what rank 0 finds missing: it alone reads and writes what is kept."""
        found: list[_Waiting] = []
        files = {
            one.kept.path: one for one in reversed(self.respondents)
        }  # same adapter, same file
        for one in self.respondents:
            if files[one.kept.path] is not one:
                continue
            kept = self.ranks.from_first(partial(_keys, one.kept))
            known = {(prompt, sample) for prompt, sample in kept}
            found += [
                _Waiting(one, sample, prompt)
                for sample, prompt in missing(self.prompts, self.sampling, known)
            ]
        return found

    def _answered(self, turn: Sequence[Sequence[_Waiting]]) -> list[list[Answer]] | None:
        """Return the answers of a turn by batch; None where memory ran out on a rank."""
        mine = turn[self.ranks.rank : self.ranks.rank + 1]

        def answer_mine() -> list[dict[str, Any]]:
            return [one.model_dump(mode="json") for batch in mine for one in self._answers(batch)]

        try:
            gathered = self.ranks.gather(answer_mine)
        except (MemoryError, RuntimeError) as exc:
            if not hardware.is_out_of_memory(exc):
                raise
            return None
        return [[Answer.model_validate(one) for one in part] for part in gathered[: len(turn)]]

    def _answers(self, batch: Sequence[_Waiting]) -> list[Answer]:
        speaker, sample = batch[0].respondent.speaker, batch[0].sample
        prompts = [one.prompt for one in batch]
        return answer_batch(speaker, prompts, self.sampling.of_sample(sample), sample)


def _keys(kept: KeptAnswers) -> list[tuple[str, int]]:
    return list(kept.read())


def _batches(waiting: Sequence[_Waiting], rows: int, most: int) -> list[list[_Waiting]]:
    """Return the first batches, `most` at most; all of one have the same respondent and sample."""
    found: list[list[_Waiting]] = []
    start = 0
    while start < len(waiting) and len(found) < most:
        first, *rest = waiting[start : start + rows]
        source = (first.respondent.name, first.sample)
        batch = [first, *(one for one in rest if (one.respondent.name, one.sample) == source)]
        found.append(batch)
        start += len(batch)
    return found


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
