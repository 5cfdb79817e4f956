"""Answers kept by the hash of everything they depend on. Floor 5; no torch.

One file under the home's `answers/` per model and sampling, one line per answered prompt. A killed
program loses the batch it was at; a prompt that has its answer is never answered again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orpo_qlora import storage
from orpo_qlora.models.generation.sampling import Sampling

SCHEMA = 1
FOLDER = "answers"


class AnswerSampling(BaseModel):
    """How every model answers; sample k of a prompt is drawn with seed + k."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: Annotated[float, Field(ge=0, le=10)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: Annotated[int, Field(ge=1, le=16_384)] = 256
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    samples: Annotated[int, Field(ge=1, le=64)] = 1
    """Answers to each prompt."""

    def of_sample(self, sample: int) -> Sampling:
        """Return how sample number `sample`, from 0, is drawn."""
        return Sampling(self.temperature, self.top_p, self.max_tokens, self.seed + sample)


class Answer(BaseModel):
    """The answers of one model in one conversation, one per turn."""

    model_config = ConfigDict(frozen=True)

    prompt: str
    """`Prompt.key`."""
    sample: int
    texts: tuple[str, ...]
    tokens: tuple[int, ...]
    """Sampled tokens by turn, the end token included."""
    ended: tuple[bool, ...]
    """Whether the model ended its turn; otherwise the longest answer cut it."""


def policy_key(policy: Mapping[str, object], sampling: AnswerSampling) -> str:
    """Return the hash of a model and of how it is sampled; the number of samples is not in it.

    Args:
        policy: what identifies base, adapter, arithmetic and chat template.
        sampling: of all its answers.
    """
    about = {**sampling.model_dump(exclude={"samples"}), "policy": policy, "schema": SCHEMA}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


Answers = Mapping[tuple[str, int], Answer]
"""Answers of one model by prompt key and sample."""


class KeptAnswers:
    """The answers of one model with one sampling."""

    def __init__(self, key: str) -> None:
        folder = storage.home() / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        self.path: Path = folder / f"{key}.jsonl"

    def read(self) -> dict[tuple[str, int], Answer]:
        """Return every answer by prompt and sample; damaged lines are skipped."""
        found: dict[tuple[str, int], Answer] = {}
        for record in storage.read_json_lines(self.path)[0]:
            try:
                answer = Answer.model_validate(record)
            except ValidationError:
                continue
            found.setdefault((answer.prompt, answer.sample), answer)
        return found

    def add(self, answers: Iterable[Answer]) -> None:
        """Append the answers of a batch and make them survive a power cut.

        Raises:
            DiskFull: the answers before are kept.
        """
        lines = storage.JsonLines(self.path)
        try:
            for answer in answers:
                lines.append(answer.model_dump(mode="json"))
            lines.sync()
        finally:
            lines.close()
