"""The inputs of an evaluation of answers, and the request they make. Floor 6; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orpo_qlora.data.messages import Message
from orpo_qlora.data.wording import plural
from orpo_qlora.errors import InputError
from orpo_qlora.evaluation import embeddings
from orpo_qlora.evaluation.answers.kept import AnswerSampling
from orpo_qlora.evaluation.answers.prompts import (
    Prompt,
    PromptSet,
    held_out_prompts,
    read_prompts,
)
from orpo_qlora.evaluation.answers.uploaded import store_prompts, stored_prompts
from orpo_qlora.evaluation.judge.settings import JudgeSettings, refuse_other_address
from orpo_qlora.evaluation.suite import judge_part
from orpo_qlora.evaluation.suite import request as suite_request
from orpo_qlora.evaluation.suite.duration import expected_seconds
from orpo_qlora.evaluation.suite.request import SuiteRequest
from orpo_qlora.evaluation.suite.results import PARTS
from orpo_qlora.jobs.estimation import about
from orpo_qlora.runs import store
from orpo_qlora.runs.store import Run
from orpo_qlora.ui.parts.controls import named_on_page

LABELS = {
    "answers": "Length and repetition",
    "diversity": "Diversity",
    "guard": "Regression guard",
    "reward": "Reward model",
    "judge": "Language model as judge",
}
OWN_PROMPTS = "own prompts"
MOST_OTHERS = 50


@dataclass(frozen=True)
class Inputs:
    """Values of the panel's inputs, as a browser sends them."""

    run: str
    others: Sequence[str]
    parts: Sequence[str]
    prompts: str
    """One prompt a line; empty for those of the file or the held-out ones."""
    max_prompts: Any
    samples: Any
    max_tokens: Any
    reward_model: str
    judge_url: str
    judge_model: str
    prompts_key: str = ""
    """Of an uploaded prompt set; empty without one."""

    @classmethod
    def of(cls, run: str, values: Sequence[Any]) -> Inputs:
        """Return the values in the order of the fields; a text that was never typed is None."""
        return cls(run, *("" if value is None else value for value in values))


def request_of(inputs: Inputs) -> SuiteRequest:
    """Return the request of the panel.

    Raises:
        InputError: a value is missing or out of its bounds, or a run cannot be evaluated.
    """
    run = store.read_run(store.paths_of(inputs.run))
    others = [store.read_run(store.paths_of(one)) for one in inputs.others or ()]
    chosen = tuple(part for part in PARTS if part in (inputs.parts or ()))
    if not chosen:
        raise InputError("Nothing is selected to measure.", hint="Select at least one measure.")
    return SuiteRequest(
        adapters=suite_request.adapters_of([run, *others]),
        prompts=_prompts(run, inputs).first(_whole(inputs.max_prompts, "Most prompts")),
        sampling=_sampling(inputs),
        parts=chosen,
        reward_model=inputs.reward_model.strip(),
        judge=_judge(inputs),
    )


def _sampling(inputs: Inputs) -> AnswerSampling:
    samples = _whole(inputs.samples, "Answers a prompt")
    tokens = _whole(inputs.max_tokens, "Longest answer")
    try:
        return AnswerSampling(samples=samples, max_tokens=tokens)
    except ValueError as exc:
        raise InputError(
            "“Answers a prompt” is 1 to 64, “Longest answer” 1 to 16,384 tokens.",
            hint="Correct them and start again.",
        ) from exc


def _whole(value: object, label: str) -> int:
    if isinstance(value, int | float) and value == value and 0 <= value < 1e9:
        return int(value)
    raise InputError(f"“{label}” is not a whole number.", hint="Type a number from 0 up.")


def _judge(inputs: Inputs) -> JudgeSettings | None:
    if not inputs.judge_url.strip():
        return None
    settings = JudgeSettings(base_url=inputs.judge_url.strip(), model=inputs.judge_model.strip())
    refuse_other_address(settings)
    return settings


def _prompts(run: Run, inputs: Inputs) -> PromptSet:
    typed = [line.strip() for line in inputs.prompts.splitlines() if line.strip()]
    lines = list(dict.fromkeys(typed))
    if inputs.prompts_key:
        return _uploaded(inputs.prompts_key, has_own=bool(lines))
    if not lines:
        return held_out_prompts(run)
    prompts = [
        Prompt(id=str(number), opening=(Message("user", line),))
        for number, line in enumerate(lines, start=1)
    ]
    return PromptSet(name=OWN_PROMPTS, prompts=tuple(prompts))


def _uploaded(key: str, *, has_own: bool) -> PromptSet:
    if has_own:
        raise InputError(
            "Prompts are typed, and a file of prompts is chosen.",
            hint="Empty “Own prompts”, or remove the file.",
        )
    found = stored_prompts(key)
    if found is None:
        raise InputError("The file of prompts is no longer here.", hint="Choose it again.")
    return found


def upload(path: Path) -> str:
    """Keep the prompts of an uploaded file and return their key.

    Raises:
        DataError: the file has no prompts.
    """
    return store_prompts(read_prompts(path, path.name))


def offer(inputs: Inputs) -> str:
    """Return what would be evaluated of a run here and now and how long it takes, in words."""
    run = store.read_run(store.paths_of(inputs.run))
    if not run.has_adapter or run.is_active:
        return "Answers can be evaluated once the run has ended with an adapter."
    has_prompts = inputs.prompts.strip() or inputs.prompts_key
    if not has_prompts and not store.held_out_pairs(run.paths):
        return "No held-out prompts: type prompts of your own or choose a file of them."
    try:
        request = request_of(inputs)
    except InputError as error:
        return f"{error.message} {named_on_page(error.hint)}".strip()
    return " ".join(_sentences(request, run))


def _sentences(request: SuiteRequest, run: Run) -> list[str]:
    prompts = request.prompts
    found = [f"{plural(len(prompts.prompts), 'prompt')} to answer ({prompts.name})."]
    seconds = expected_seconds(request, run)
    if seconds:
        found.append(f"Estimate: {about(seconds)}, less if the answers are short.")
    if request.judge is not None and "judge" in request.parts:
        models, tokens = len(request.adapters), request.sampling.max_tokens
        most = judge_part.highest_estimate(request.judge, prompts, models, tokens)
        found.append(f"The judge takes its own time: at most {most.sentence}")
    if "diversity" in request.parts and not embeddings.is_installed(embeddings.WORDLLAMA):
        found.append("Diversity needs: pip install 'orpo-qlora[eval]'.")
    found.append("Answers are kept if you leave.")
    return found


def other_runs(run: Run) -> list[tuple[str, str]]:
    """Return name and id of the other runs that can be evaluated, newest first."""
    found = [
        (f"{one.title} ({one.id})", one.id)
        for one in store.list_runs()
        if one.id != run.id and one.has_adapter and not one.is_active
    ]
    return found[:MOST_OTHERS]
