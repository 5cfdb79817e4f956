"""One ORPO step by TRL's own trainer, and how far the engine's step is from it. Floor 2.

Both get the same policy and the same token ids: TRL's tokenisation is left out, because it appends
a second end token after the template's newline. `orpo.verify`, the parity tests and the
benchmark's TRL peer use this module.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from orpo_qlora.orpo.engine import Engine, build_engine, restore_modules
from orpo_qlora.orpo.loss import Loss
from orpo_qlora.orpo.packing import Needs
from orpo_qlora.orpo.step import Record, accumulate_step
from orpo_qlora.orpo.tokens import TokenizedPair

IGNORED = -100
"""Label of a token whose log-prob TRL leaves out of the answer's."""
GRADIENT = "gradient"
COMPARED = ("loss", "nll_loss", "or_loss", "logps/chosen", "logps/rejected")
LEAST_NATS = 0.01
"""Smaller values are compared as if they were this large: log-softmax rounds absolutely."""
ADAPTER_STD = 0.01


@dataclass(frozen=True)
class Tolerance:
    """Largest differences that count as rounding."""

    value: float
    """Of loss and log-probs, relative."""
    gradient: float
    """Of each LoRA gradient, relative L2."""


TOLERANCES = {torch.float64: Tolerance(1e-9, 1e-7), torch.float32: Tolerance(1e-5, 1e-3)}
"""By the number type of the base; see docs/engine.md."""


@dataclass(frozen=True)
class Step:
    """What one optimizer step computes before the optimizer's update."""

    metrics: Record
    """By this project's names, see docs/run-folder.md."""
    gradients: Mapping[str, Tensor]
    """Of the trained parameters, by name, each in its parameter's shape."""


@dataclass(frozen=True)
class Difference:
    """One number by TRL and by the engine; for gradients, their L2 norms."""

    name: str
    trl: float
    engine: float
    difference: float
    """Relative."""
    tolerance: float

    @property
    def is_within(self) -> bool:
        """Whether the difference counts as rounding; NaN never does."""
        return self.difference <= self.tolerance


def trl_arguments(lambda_: float, **options: Any) -> ORPOConfig:  # noqa: ANN401 - TRL's own options
    """Return TRL's settings for token ids that are used whole and activations that are kept.

    Args:
        lambda_: TRL's `beta`.
        options: more fields of `ORPOConfig`.
    """
    defaults = {
        "output_dir": tempfile.gettempdir(),  # required; nothing is saved
        "beta": lambda_,
        "max_length": 1_000_000,
        "bf16": False,
        "activation_checkpointing": False,
        "remove_unused_columns": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return ORPOConfig(**(defaults | options))


def trl_trainer(
    policy: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    arguments: ORPOConfig,
    kind: type[ORPOTrainer] = ORPOTrainer,
) -> ORPOTrainer:
    """Return TRL's trainer of a policy, without pairs of its own (see `trl_features`)."""
    unused = Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    return kind(model=policy, args=arguments, train_dataset=unused, processing_class=tokenizer)


def trl_features(pair: TokenizedPair) -> dict[str, list[int]]:
    """Return a pair as TRL's data collator takes it."""
    prompt = list(pair.prompt)
    features = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for side, answer in (("chosen", list(pair.chosen)), ("rejected", list(pair.rejected))):
        features[f"{side}_input_ids"] = prompt + answer
        features[f"{side}_attention_mask"] = [1] * len(prompt + answer)
        features[f"{side}_labels"] = [IGNORED] * len(prompt) + answer
    return features


def trl_step(
    policy: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[TokenizedPair],
    lambda_: float,
) -> Step:
    """Return one step of TRL's `ORPOTrainer`, its batch the step's pairs, without accumulation.

    Source: https://github.com/huggingface/trl/blob/v1.16.0/trl/experimental/orpo/orpo_trainer.py,
    `get_batch_loss_metrics`. Its `log_odds_ratio` is the mean of log σ(z) and its
    `log_odds_chosen` the mean of z; here `or_loss` and `log_odds_ratio` are what they are
    everywhere in this project, −log σ(z) and z.

    Args:
        policy: base with adapter; put into evaluation mode, so dropout is off. The modules that an
            engine has replaced are restored: TRL runs on PEFT's and transformers' own.
        tokenizer: gives TRL the padding token.
        pairs: B pairs; each prompt has at least two tokens.
        lambda_: weight of the odds-ratio loss.
    """
    restore_modules(policy)
    policy.eval()
    on_cpu = policy.device.type == "cpu"
    trainer = trl_trainer(policy, tokenizer, trl_arguments(lambda_, use_cpu=on_cpu))
    policy.zero_grad()
    batch = trainer.data_collator([trl_features(pair) for pair in pairs])
    loss, reported = trainer.get_batch_loss_metrics(policy, batch)
    loss.backward()
    names = ("nll_loss", "logps/chosen", "logps/rejected")
    rewards = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
    metrics = {
        "loss": loss.item(),
        **{name: reported[name] for name in (*names, *rewards)},
        "or_loss": -reported["log_odds_ratio"],
        "log_odds_ratio": reported["log_odds_chosen"],
    }
    return Step(metrics, take_gradients(policy))


def engine_step(
    engine: Engine, pairs: Sequence[TokenizedPair], loss: Loss, tokens_per_forward: int
) -> Step:
    """Return one step of the engine, accumulated as a training does, dropout off."""
    engine.policy.eval()
    engine.policy.zero_grad()
    metrics = accumulate_step(engine, pairs, loss, tokens_per_forward, Tensor.backward)
    return Step(metrics, take_gradients(engine.policy))


def compared_engine(policy: PeftModel, pairs: Sequence[TokenizedPair]) -> Engine:
    """Return an engine that measures all that TRL does; raises what `build_engine` does."""
    return build_engine(policy, Needs(prompt=True, rejected=True), pairs)


def compare_steps(trl: Step, engine: Step, tolerance: Tolerance) -> list[Difference]:
    """Return the differences of loss, its parts and log-probs, and of the worst LoRA gradient.

    Raises:
        KeyError: the two steps trained different parameters.
    """
    differences = [
        Difference(
            name,
            trl.metrics[name],
            engine.metrics[name],
            _relative(engine.metrics[name], trl.metrics[name]),
            tolerance.value,
        )
        for name in COMPARED
    ]
    if trl.gradients.keys() != engine.gradients.keys():
        raise KeyError(*sorted(trl.gradients.keys() ^ engine.gradients.keys()))
    by_name = {
        name: relative_l2(engine.gradients[name], wanted) for name, wanted in trl.gradients.items()
    }
    # Comparisons with NaN are false; as the first part of the key it is still found.
    worst = max(by_name, key=lambda name: (by_name[name] != by_name[name], by_name[name]))
    return [
        *differences,
        Difference(
            f"{GRADIENT} {_short(worst)}",
            float(trl.gradients[worst].norm()),
            float(engine.gradients[worst].norm()),
            by_name[worst],
            tolerance.gradient,
        ),
    ]


def _short(name: str) -> str:
    """Return a parameter's name without what PEFT puts around it."""
    return name.removeprefix("base_model.model.").removesuffix(".default.weight")


def _relative(value: float, wanted: float) -> float:
    return abs(value - wanted) / max(abs(wanted), LEAST_NATS)


def relative_l2(value: Tensor, wanted: Tensor) -> float:
    """Return ‖value − wanted‖ / ‖wanted‖."""
    return float((value - wanted).norm() / wanted.norm().clamp(min=1e-300))


def take_gradients(policy: PeftModel) -> dict[str, Tensor]:
    """Return copies of a policy's gradients by parameter name, and clear them."""
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in policy.named_parameters()
        if parameter.grad is not None
    }
    policy.zero_grad()
    return gradients


@torch.no_grad()
def fill_adapter(policy: PeftModel) -> None:
    """Give a fresh adapter's B matrices small random values, as after some training.

    PEFT starts them at 0, where the gradients of all A matrices are 0 too and would agree whatever
    computed them.
    """
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=ADAPTER_STD)
