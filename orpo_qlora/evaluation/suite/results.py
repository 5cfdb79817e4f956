"""Results of an evaluation of answers, as its folder keeps them. Floor 5; no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orpo_qlora import storage
from orpo_qlora.evaluation.answers.kept import Answers, AnswerSampling, KeptAnswers
from orpo_qlora.evaluation.answers.prompts import PromptSet
from orpo_qlora.evaluation.reward.verdicts import RewardDetails
from orpo_qlora.evaluation.suite.figures import Figure
from orpo_qlora.jobs.job import JobPaths

SCHEMA = 1
Part = Literal["answers", "diversity", "guard", "reward", "judge"]
PARTS: tuple[Part, ...] = ("answers", "diversity", "guard", "reward", "judge")


class System(BaseModel):
    """A model that answers: a base, or the adapter of a run on it."""

    model_config = ConfigDict(frozen=True)

    name: str
    run: str = ""
    """Id of the run; empty for a base."""
    model: str
    """The base model as the settings name it."""
    adapter_sha256: str = ""
    answers: str
    """Key of its kept answers."""
    opponent: str = ""
    """Name of the base that it is compared with; empty for a base."""


class PartResult(BaseModel):
    """What one part of the evaluation found."""

    model_config = ConfigDict(frozen=True)

    part: Part
    figures: tuple[Figure, ...]
    sentences: tuple[str, ...] = ()
    """The result and its limits in words."""
    seconds: float


class SuiteResults(BaseModel):
    """Everything that was found so far."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = SCHEMA
    made_at: float
    prompts: PromptSet
    sampling: AnswerSampling
    systems: tuple[System, ...]
    parts: tuple[PartResult, ...] = ()
    notes: tuple[str, ...] = ()

    def part(self, name: Part) -> PartResult | None:
        """Return a part, None while it is not measured."""
        return next((one for one in self.parts if one.part == name), None)

    def with_part(self, part: PartResult) -> SuiteResults:
        """Return the results with a part added or replaced, in the order of `PARTS`."""
        parts = [one for one in self.parts if one.part != part.part]
        ordered = sorted([*parts, part], key=lambda one: PARTS.index(one.part))
        return self.model_copy(update={"parts": tuple(ordered)})

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figures of all parts."""
        return tuple(figure for part in self.parts for figure in part.figures)


class Answering(BaseModel):
    """Models that were loaded to answer, and how they answer."""

    model_config = ConfigDict(frozen=True)

    sampling: AnswerSampling
    systems: tuple[System, ...]

    def key_of(self, run: str, adapter_sha256: str) -> str:
        """Return the key of the kept answers of a run's adapter; empty without them."""
        found = (one for one in self.systems if one.run == run)
        return next((one.answers for one in found if one.adapter_sha256 == adapter_sha256), "")

    def base_key_of(self, run: str) -> str:
        """Return the key of the kept answers of a run's base; empty without them."""
        bases = {one.opponent for one in self.systems if one.run == run}
        return next((one.answers for one in self.systems if one.name in bases), "")


@dataclass(frozen=True)
class SuitePaths(JobPaths):
    """Files in the folder of an evaluation of answers."""

    @property
    def results(self) -> Path:
        """The SuiteResults so far."""
        return self.folder / "results.json"

    @property
    def answering(self) -> Path:
        """The Answering, there before the first answer."""
        return self.folder / "answering.json"

    @property
    def reward(self) -> Path:
        """The RewardDetails of the reward part."""
        return self.folder / "reward.json"

    @property
    def rewards(self) -> Path:
        """Reward of each answer, one a line."""
        return self.folder / "rewards.jsonl"


def read_results(paths: SuitePaths) -> SuiteResults | None:
    """Return the results so far, None before the models have answered."""
    try:
        return SuiteResults.model_validate_json(paths.results.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def read_answering(paths: SuitePaths) -> Answering | None:
    """Return the models that were loaded to answer, None before they are."""
    try:
        return Answering.model_validate_json(paths.answering.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def read_reward(paths: SuitePaths) -> RewardDetails | None:
    """Return the details of the reward part, None before it is measured."""
    try:
        return RewardDetails.model_validate_json(paths.reward.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_results(paths: SuitePaths, results: SuiteResults) -> None:
    """Replace the results."""
    storage.write_whole(paths.results, results.model_dump_json(indent=1))


def answers_of(system: System) -> Answers:
    """Return the kept answers of a model, by prompt and sample."""
    return KeptAnswers(system.answers).read()


def to_json(results: SuiteResults) -> dict[str, object]:
    """Return the results as plain data, for `--json` and the download."""
    content: dict[str, object] = json.loads(results.model_dump_json())
    return content
