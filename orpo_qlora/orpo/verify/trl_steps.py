"""One step by TRL's own trainer of a method. Floor 2.

TRL gets the engine's policy and its token ids: TRL's tokenisation is left out, because it appends
a second end token after the template's newline. `orpo.verify`, the parity tests and the
benchmark's TRL peer use this module.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.shapes.base import SIDES
from orpo_qlora.errors import InputError
from orpo_qlora.methods import beta_of
from orpo_qlora.orpo.engine import restore_modules
from orpo_qlora.orpo.loss import mismatch
from orpo_qlora.orpo.reference import digest_of
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.orpo.step import Record
from orpo_qlora.orpo.verify.parity import Step, take_gradients

IGNORED = -100
"""Label of a token whose log-prob TRL leaves out."""
REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
MEAN_LOGPS = ("logps/chosen", "logps/rejected")
"""Means over the tokens in ORPO and SimPO, as here; sums in the other trainers."""
LONG = 1_000_000
_COMMON = {
    "output_dir": tempfile.gettempdir(),  # required; nothing is saved
    "bf16": False,
    "remove_unused_columns": False,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "activation_checkpointing": False,
}


@dataclass(frozen=True)
class TrlMethod:
    """How TRL computes one step of a method."""

    build: Callable[[PeftModel, PreTrainedTokenizerBase, TrainConfig], Any]
    """Returns the trainer."""
    loss: Callable[[Any, PeftModel, Sequence[TokenizedPair]], Tensor]
    """Returns the loss of a batch of pairs."""
    metrics: Callable[[Any], Record]
    """Returns what the trainer reports of it, by this project's names."""


def trl_step(
    policy: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[TokenizedPair],
    config: TrainConfig,
) -> Step:
    """Return one step of TRL's trainer of a method, its batch the step's pairs.

    Without accumulation and dropout. The reference, where there is one, is the policy with its
    adapter off. On a 4-bit base some of TRL's trainers cast the adapter to bfloat16, and their head
    computes log-probs in float32 at most; both are undone, because they would hide the differences
    that are looked for.

    Args:
        policy: base with adapter; put into evaluation mode, so dropout is off. The modules that an
            engine has replaced are restored: TRL runs on PEFT's and transformers' own.
        tokenizer: gives TRL the padding token.
        pairs: B pairs; each prompt has at least two tokens.
        config: method and weights; the NLL is TRL's, see `as_trl`.

    Raises:
        InputError: TRL has no such loss.
    """
    if config.method == "orpo" and config.ratio != "odds":
        raise InputError(
            "TRL has no trainer with the probability ratio.", hint="Verify with ratio=odds."
        )
    if config.method == "dpo" and config.label_smoothing:
        raise InputError(
            "TRL's DPO trainer has no label smoothing.", hint="Verify with label_smoothing=0."
        )
    method = TRL_METHODS[config.method]
    restore_modules(policy)
    policy.eval()
    with _unchanged(policy) as restore:
        trainer = method.build(policy, tokenizer, config)
        restore()
        if policy.get_base_model().dtype == torch.float64:
            base = policy.get_base_model()
            base.forward = partial(_wide_forward, base)
        policy.zero_grad()
        loss = method.loss(trainer, policy, pairs)
        loss.backward()
    return Step({**method.metrics(trainer), "loss": loss.item()}, take_gradients(policy))


def as_trl(config: TrainConfig) -> TrainConfig:
    """Return the settings with the NLL that TRL's trainer of the method has."""
    return config.model_copy(update={"nll_on": "sequence", "nll_reduction": "token"})


@contextmanager
def _unchanged(policy: PeftModel) -> Iterator[Callable[[], None]]:
    """Yield what undoes TRL's changes to the weights; at the end, undo that of the forward too."""
    kept = [(p, p.data) for p in policy.parameters() if p.requires_grad]

    def restore() -> None:
        for parameter, data in kept:
            parameter.data = data
        if "ref" in policy.peft_config:
            policy.delete_adapter("ref")  # a copy of the adapter as it is, not of a fresh one
        policy.eval()

    try:
        yield restore
    finally:
        vars(policy.get_base_model()).pop("forward", None)
        restore()


def _wide_forward(
    base: PreTrainedModel,
    *arguments: object,
    labels: Tensor | None = None,
    fused_lm_head: bool = False,
    **inputs: Any,  # noqa: ANN401 - a model's own
) -> Any:  # noqa: ANN401
    """Return what TRL's fused head does, log-probs of `labels` (B, T) in the model's own type."""
    output = type(base).forward(base, *arguments, **inputs)
    if not fused_lm_head or labels is None:
        return output
    targets = labels[:, 1:]
    mask = targets != IGNORED
    logps = torch.log_softmax(output.logits[:, :-1], -1)
    picked = logps.gather(-1, targets.clamp(min=0)[..., None])[..., 0].masked_fill(~mask, 0)
    unused = torch.zeros_like(picked)
    return SimpleNamespace(
        log_probs=picked,
        label_mask=mask,
        entropy=unused,
        mean_logits=unused,
        is_top1=mask,
        aux_loss=None,
        get=lambda name: None,
    )


def trl_arguments(lambda_: float, **options: Any) -> ORPOConfig:  # noqa: ANN401 - TRL's own options
    """Return TRL's settings of ORPO for token ids that are used whole, activations kept.

    Args:
        lambda_: TRL's `beta`.
        options: more fields of `ORPOConfig`.
    """
    return ORPOConfig(**(_COMMON | {"beta": lambda_, "max_length": LONG} | options))


def trl_trainer(
    policy: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    arguments: ORPOConfig,
    kind: type[ORPOTrainer] = ORPOTrainer,
) -> ORPOTrainer:
    """Return TRL's ORPO trainer of a policy, without pairs of its own (see `trl_features`)."""
    return kind(model=policy, args=arguments, train_dataset=_unused(), processing_class=tokenizer)


def _unused() -> Dataset:
    """Return the training set that a trainer must be given; batches are made of token ids."""
    return Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})


def trl_features(pair: TokenizedPair) -> dict[str, list[int]]:
    """Return a pair as the data collators of TRL's ORPO and CPO take it."""
    prompt = list(pair.prompt)
    features = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for side, answer in (("chosen", list(pair.chosen)), ("rejected", list(pair.rejected))):
        features[f"{side}_input_ids"] = prompt + answer
        features[f"{side}_attention_mask"] = [1] * len(prompt + answer)
        features[f"{side}_labels"] = [IGNORED] * len(prompt) + answer
    return features


def _on_cpu(policy: PeftModel) -> bool:
    return policy.device.type == "cpu"


def _batch_loss(trainer: Any, policy: PeftModel, pairs: Sequence[TokenizedPair]) -> Tensor:  # noqa: ANN401
    batch = trainer.data_collator([trl_features(pair) for pair in pairs])
    loss, trainer.reported = trainer.get_batch_loss_metrics(policy, batch)
    return loss


def _named(*names: str) -> Callable[[Any], Record]:
    return lambda trainer: {name: trainer.reported[name] for name in names}


def _build_orpo(
    policy: PeftModel, tokenizer: PreTrainedTokenizerBase, config: TrainConfig
) -> ORPOTrainer:
    arguments = trl_arguments(config.lambda_, use_cpu=_on_cpu(policy))
    return trl_trainer(policy, tokenizer, arguments)


def _orpo_metrics(trainer: ORPOTrainer) -> Record:
    """TRL's `log_odds_ratio` is the mean of log σ(z) and its `log_odds_chosen` that of z."""
    return _named("nll_loss", *MEAN_LOGPS, *REWARDS)(trainer) | {
        "or_loss": -trainer.reported["log_odds_ratio"],
        "log_odds_ratio": trainer.reported["log_odds_chosen"],
    }


def _build_cpo(
    policy: PeftModel, tokenizer: PreTrainedTokenizerBase, config: TrainConfig
) -> CPOTrainer:
    is_simpo = config.method == "simpo"
    arguments = CPOConfig(
        **_COMMON,
        use_cpu=_on_cpu(policy),
        loss_type="simpo" if is_simpo else "sigmoid",
        beta=beta_of(config),
        simpo_gamma=config.gamma,
        cpo_alpha=0.0 if is_simpo else config.cpo_alpha,
        label_smoothing=config.label_smoothing,
        max_length=LONG,
    )
    return CPOTrainer(
        model=policy, args=arguments, train_dataset=_unused(), processing_class=tokenizer
    )


def _build_sft(
    policy: PeftModel, tokenizer: PreTrainedTokenizerBase, config: TrainConfig
) -> SFTTrainer:
    arguments = SFTConfig(**_COMMON, use_cpu=_on_cpu(policy), max_length=None)
    unused = Dataset.from_dict({"text": ["a"]})
    return SFTTrainer(
        model=policy, args=arguments, train_dataset=unused, processing_class=tokenizer
    )


def _sft_loss(trainer: SFTTrainer, policy: PeftModel, pairs: Sequence[TokenizedPair]) -> Tensor:
    batch = trainer.data_collator([{"input_ids": [*p.prompt, *p.chosen]} for p in pairs])
    loss = trainer.compute_loss(policy, batch)
    trainer.reported = {"nll_loss": loss.item()}
    return loss


def _build_dpo(
    policy: PeftModel, tokenizer: PreTrainedTokenizerBase, config: TrainConfig
) -> DPOTrainer:
    arguments = DPOConfig(
        **_COMMON,
        use_cpu=_on_cpu(policy),
        loss_type="ipo" if config.method == "ipo" else "sigmoid",
        beta=beta_of(config),
        max_length=None,
    )
    return DPOTrainer(
        model=policy, args=arguments, train_dataset=_unused(), processing_class=tokenizer
    )


def _dpo_loss(trainer: DPOTrainer, policy: PeftModel, pairs: Sequence[TokenizedPair]) -> Tensor:
    features = [
        {
            "prompt_ids": list(pair.prompt),
            "chosen_ids": list(pair.chosen),
            "rejected_ids": list(pair.rejected),
        }
        for pair in pairs
    ]
    loss = trainer.compute_loss(policy, trainer.data_collator(features))
    trainer.reported = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    return loss


def _build_kto(
    policy: PeftModel, tokenizer: PreTrainedTokenizerBase, config: TrainConfig
) -> KTOTrainer:
    arguments = KTOConfig(
        **_COMMON,
        use_cpu=_on_cpu(policy),
        loss_type=config.kto_loss,
        beta=beta_of(config),
        desirable_weight=config.desirable_weight,
        undesirable_weight=config.undesirable_weight,
        max_length=None,
    )
    unused = {"prompt": ["a", "b"], "completion": ["c", "d"], "label": [True, False]}
    return KTOTrainer(
        model=policy,
        args=arguments,
        train_dataset=Dataset.from_dict(unused),
        processing_class=tokenizer,
    )


def _kto_loss(trainer: KTOTrainer, policy: PeftModel, pairs: Sequence[TokenizedPair]) -> Tensor:
    """Rotate the chosen and the rejected responses of pairs each.

    TRL's own set-up rotates all responses in one list, as is done here with single ones.
    """
    partners = mismatch(pairs, sys.maxsize)
    features = [
        {
            "prompt_ids": list(pair.prompt),
            "completion_ids": list(getattr(pair, side)),
            "label": side == "chosen",
            **_partner(partners[digest_of(pair)], side, has_kl=trainer.calculate_KL),
        }
        for pair in pairs
        for side in SIDES
        if getattr(pair, side)
    ]
    loss = trainer.compute_loss(policy, trainer.data_collator(features))
    trainer.reported = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    return loss


def _partner(other: TokenizedPair, side: str, *, has_kl: bool) -> dict[str, list[int]]:
    """Return the response to another prompt; of a single response, that on its own side."""
    if not has_kl:
        return {}
    return {"KL_completion_ids": list(getattr(other, side) or other.chosen or other.rejected)}


def _kto_metrics(trainer: KTOTrainer) -> Record:
    return _named(*REWARDS[:3], *(["kl"] if trainer.calculate_KL else []))(trainer)


TRL_METHODS: Mapping[str, TrlMethod] = {
    "orpo": TrlMethod(_build_orpo, _batch_loss, _orpo_metrics),
    "sft": TrlMethod(_build_sft, _sft_loss, _named("nll_loss")),
    "dpo": TrlMethod(_build_dpo, _dpo_loss, _named(*REWARDS)),
    "ipo": TrlMethod(_build_dpo, _dpo_loss, _named(*REWARDS)),
    "kto": TrlMethod(_build_kto, _kto_loss, _kto_metrics),
    "simpo": TrlMethod(_build_cpo, _batch_loss, _named(*MEAN_LOGPS, *REWARDS)),
    "cpo": TrlMethod(_build_cpo, _batch_loss, _named("nll_loss", *REWARDS)),
}
"""By the names in `methods.METHODS`."""
