"""The models of an evaluation: bases and adapters, loaded base by base. Floor 5; torch."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel

from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import InputError
from orpo_qlora.evaluation import report_card
from orpo_qlora.evaluation.answers.generate import Speaker
from orpo_qlora.evaluation.answers.kept import AnswerSampling, policy_key
from orpo_qlora.evaluation.suite.request import RunAdapter
from orpo_qlora.evaluation.suite.results import System
from orpo_qlora.models import loading
from orpo_qlora.models.generation.sampling import BASE
from orpo_qlora.runs import store
from orpo_qlora.runs.identity import identity_of
from orpo_qlora.runs.process import training_setup
from orpo_qlora.runs.store import Run

BASE_NAME = "base"
OF_A_BASE = ("model", "revision", "quantization", "compute_dtype", "chat_template")
"""Settings that make two runs share a loaded base."""


@dataclass(frozen=True)
class Member:
    """A run of a group, with its name in the evaluation."""

    run: Run
    adapter: RunAdapter


@dataclass(frozen=True)
class Group:
    """Runs on one base."""

    name: str
    """Name of the base in the evaluation."""
    config: TrainConfig
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Loaded:
    """A group whose base and adapters are in memory; the base comes first."""

    base: loading.Base
    policy: PeftModel
    systems: tuple[System, ...]

    def speaker(self, system: System) -> Speaker:
        """Return who answers for a system."""
        return Speaker(self.policy, self.base.tokenizer, system.run or BASE)


def groups_of(adapters: Sequence[RunAdapter]) -> list[Group]:
    """Return the runs by base.

    Raises:
        InputError: the adapter of a run changed since the evaluation was requested.
    """
    found: dict[str, list[Member]] = {}
    for adapter in adapters:
        run = store.read_run(store.paths_of(adapter.run))
        if report_card.adapter_sha256(run.paths) != adapter.sha256:
            raise InputError(
                f"The adapter of run “{run.title}” changed since the evaluation was requested.",
                hint="Evaluate again.",
            )
        settings = run.trained_config.model_dump(mode="json")
        key = json.dumps([settings[name] for name in OF_A_BASE])
        found.setdefault(key, []).append(Member(run, adapter))
    return [
        Group(
            name=BASE_NAME if len(found) == 1 else f"{BASE_NAME} of {members[0].adapter.name}",
            config=members[0].run.trained_config,
            members=tuple(members),
        )
        for members in found.values()
    ]


def load_group(group: Group, sampling: AnswerSampling) -> Loaded:
    """Load a base with the adapters of its runs; raises what `loading` does."""
    base = training_setup.load_base(group.config)
    policy: PeftModel | None = None
    for member in group.members:
        title = f"The adapter of run “{member.run.title}”"
        model = policy or base.model
        policy = loading.attach_saved_adapter(
            model, member.run.paths.adapter, member.adapter.run, title
        )
    if policy is None:
        raise ValueError("a group has a run")
    policy.eval()
    return Loaded(base, policy, tuple(_systems(group, base, sampling)))


def _systems(group: Group, base: loading.Base, sampling: AnswerSampling) -> Iterator[System]:
    data = group.members[0].run.paths.train.parent
    about: dict[str, object] = {
        "base": identity_of(group.config, data, base.folder).model,
        "quantization": group.config.quantization,
        "arithmetic": f"{base.arithmetic.dtype} {base.arithmetic.device}",
        "template": base.tokenizer.chat_template,
    }
    yield System(name=group.name, model=group.config.model, answers=policy_key(about, sampling))
    for member in group.members:
        adapter = member.adapter
        yield System(
            name=adapter.name,
            run=adapter.run,
            model=group.config.model,
            adapter_sha256=adapter.sha256,
            answers=policy_key({**about, "adapter": adapter.sha256}, sampling),
            opponent=group.name,
        )


def release_memory() -> None:
    """Return the memory of models that are no longer referred to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
