"""All settings of a run: name, bounds, unit, label and help, each defined once.

Presets, `--set key=value`, the page's form and the settings table in the docs all derive from
`TrainConfig`; a setting that is not a field here does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from orpo_qlora.errors import ConfigError
from orpo_qlora.setting import TEMPLATE_CHARACTERS, MethodName, Switch, known_template
from orpo_qlora.setting import none_if_auto as _none_if_auto
from orpo_qlora.setting import setting as _setting
from orpo_qlora.setting import switch_name as _switch_name
from orpo_qlora.setting import zero_if_auto as _zero_if_auto

SCHEMA_VERSION = 1


class TrainConfig(BaseModel):
    """One run's settings; unknown names are an error, so a misspelt setting is never ignored."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True
    )

    name: str = _setting(
        "",
        group="Model",
        label="Run name",
        help="Label in the runs list; the id is generated.",
        max_length=80,
        basic=True,
    )
    model: str = _setting(
        "smollm2-135m-instruct",
        group="Model",
        label="Base model",
        help="Name from the list, Hugging Face id (owner/name) or local folder.",
        min_length=1,
        max_length=300,
        basic=True,
    )
    revision: str = _setting(
        "",
        group="Model",
        label="Revision",
        help="Branch, tag or commit of a Hub model; empty is the latest.",
        max_length=80,
    )
    chat_template: Annotated[str, AfterValidator(known_template)] = _setting(
        "auto",
        group="Model",
        label="Chat template",
        help="auto: the model's own, or chatml for a base model without one. Others: chatml, "
        "zephyr, llama2, mistral, alpaca, or the path of a .jinja file.",
        max_length=TEMPLATE_CHARACTERS,
    )
    start_from: str = _setting(
        "",
        group="Model",
        label="Start from adapter",
        help="Run id or name, or folder of a LoRA adapter, to train further; base, rank, alpha and "
        "targets are the adapter's. Empty trains a new adapter.",
        max_length=300,
    )
    method: MethodName = _setting(
        "orpo",
        group="Objective",
        label="Method",
        help="orpo: NLL plus odds ratio; sft: NLL alone; dpo and ipo: log-ratios to the untrained "
        "policy; kto: the same, each response alone; simpo: mean log-probs and a margin; cpo: "
        "summed log-probs plus NLL.",
        basic=True,
    )
    lambda_: float = _setting(
        0.1,
        group="Objective",
        methods=("orpo",),
        label="λ",
        help="Weight of the odds-ratio loss: 0 is plain SFT on the chosen responses; higher values "
        "push chosen and rejected further apart (paper: 0.1 to 1).",
        alias="lambda",
        ge=0,
        le=2,
        allow_inf_nan=False,
        basic=True,
    )
    beta: Annotated[float | None, BeforeValidator(_none_if_auto)] = _setting(
        None,
        group="Objective",
        methods=("dpo", "ipo", "simpo", "cpo", "kto"),
        label="β",
        help="Scale of the rewards; with dpo, ipo and kto, larger stays closer to the untrained "
        "policy. Empty is the method's own: 2 for simpo (its paper), 0.1 for the others (TRL).",
        gt=0,
        le=1000,
        allow_inf_nan=False,
        basic=True,
    )
    gamma: float = _setting(
        1.0,
        group="Objective",
        methods=("simpo",),
        label="γ",
        help="Margin by which the chosen reward must exceed the rejected one; the SimPO paper uses "
        "0.3 to 1.6, about half of β.",
        ge=0,
        allow_inf_nan=False,
        basic=True,
    )
    cpo_alpha: float = _setting(
        1.0,
        group="Objective",
        methods=("cpo",),
        label="α",
        help="Weight of the NLL beside CPO's preference term; 1 in the paper and in TRL.",
        ge=0,
        allow_inf_nan=False,
        basic=True,
    )
    label_smoothing: float = _setting(
        0.0,
        group="Objective",
        methods=("dpo", "simpo", "cpo"),
        label="Label smoothing",
        help="Assumed share of pairs whose labels are swapped; 0 trusts all (TRL's default).",
        ge=0,
        lt=0.5,
        allow_inf_nan=False,
    )
    desirable_weight: float = _setting(
        1.0,
        group="Objective",
        methods=("kto",),
        label="Weight of chosen",
        help="Weight of chosen responses in KTO's loss; 1 suits pairs, which have as many of both. "
        "Chosen times this weight should be 1 to 1.33 times rejected times theirs (KTO paper).",
        gt=0,
        le=100,
        allow_inf_nan=False,
    )
    undesirable_weight: float = _setting(
        1.0,
        group="Objective",
        methods=("kto",),
        label="Weight of rejected",
        help="Weight of rejected responses in KTO's loss.",
        gt=0,
        le=100,
        allow_inf_nan=False,
    )
    kto_loss: Literal["kto", "apo_zero_unpaired"] = _setting(
        "kto",
        group="Objective",
        methods=("kto",),
        label="KTO loss",
        help="kto: relative to a KL term, estimated with responses to other prompts; "
        "apo_zero_unpaired: without that term, for responses that are better than the model's own.",
    )
    ratio: Literal["odds", "probability"] = _setting(
        "odds",
        group="Objective",
        methods=("orpo",),
        label="Ratio",
        help="odds: ORPO; probability: the ablation of the paper's section 7.1, which lowers "
        "rejected responses more abruptly.",
    )
    nll_on: Literal["sequence", "answer"] = _setting(
        "sequence",
        group="Objective",
        methods=("orpo", "sft"),
        label="NLL on",
        help="sequence: prompt and chosen response, as in TRL and the authors' code; answer: the "
        "chosen response only, the paper's formula.",
    )
    nll_reduction: Literal["token", "pair"] = _setting(
        "token",
        group="Objective",
        methods=("orpo", "sft", "cpo"),
        label="NLL mean over",
        help="token: all tokens of the step weigh the same; pair: all pairs weigh the same.",
    )
    track_rejected: bool = _setting(
        True,
        group="Objective",
        methods=("orpo", "sft"),
        label="Track rejected",
        help="Also measure rejected responses where the loss does not need them: with sft, and "
        "with orpo at λ = 0.",
    )
    learning_rate: float = _setting(
        2e-4,
        group="Optimisation",
        label="Learning rate",
        help="Peak learning rate. With LoRA, 1e-4 to 3e-4 suits orpo and sft; the other methods "
        "need 5e-6 to 5e-5.",
        gt=0,
        le=1,
        allow_inf_nan=False,
        basic=True,
    )
    epochs: float = _setting(
        1.0,
        group="Optimisation",
        label="Epochs",
        help="Passes over the training pairs; may be a fraction.",
        gt=0,
        le=1000,
        allow_inf_nan=False,
        basic=True,
    )
    max_steps: int = _setting(
        0,
        group="Optimisation",
        label="Stop after steps",
        help="Maximum number of optimizer steps; 0 is no limit but the epochs.",
        ge=0,
    )
    pairs_per_step: int = _setting(
        8,
        group="Optimisation",
        label="Pairs per step",
        help="Pairs per optimizer step; memory does not depend on it.",
        ge=1,
        le=4096,
        basic=True,
    )
    group_by_prompt: bool = _setting(
        False,
        group="Optimisation",
        label="Group by prompt",
        help="Puts pairs of one prompt into one step, which computes the prompt and each distinct "
        "response once. Changes which pairs a step has. Set pairs per step to a multiple of the "
        "pairs of a prompt.",
    )
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = _setting(
        "adamw",
        group="Optimisation",
        label="Optimizer",
        help="adamw is exact; the 8-bit variants save a little GPU memory.",
    )
    scheduler: Literal["linear", "cosine", "constant", "inverse_sqrt"] = _setting(
        "cosine",
        group="Optimisation",
        label="Learning-rate schedule",
        help="Shape of the learning rate after warm-up.",
    )
    warmup_ratio: float = _setting(
        0.05,
        group="Optimisation",
        label="Warm-up ratio",
        help="Share of all steps over which the learning rate rises from zero.",
        ge=0,
        le=1,
        allow_inf_nan=False,
    )
    max_grad_norm: float = _setting(
        1.0,
        group="Optimisation",
        label="Gradient clip",
        help="Maximum L2 norm of the gradient; 0 disables clipping.",
        ge=0,
        allow_inf_nan=False,
    )
    lora_r: int = _setting(
        16,
        group="Model",
        label="LoRA rank",
        help="Rank of the adapter matrices: higher learns more and takes more memory.",
        ge=1,
        le=512,
    )
    lora_alpha: float = _setting(
        32.0,
        group="Model",
        label="LoRA alpha",
        help="The adapter's output is multiplied by alpha / rank.",
        gt=0,
        allow_inf_nan=False,
    )
    lora_dropout: float = _setting(
        0.0,
        group="Model",
        label="LoRA dropout",
        help="Fraction of adapter inputs dropped in training; 0 keeps steps reproducible.",
        ge=0,
        lt=1,
        allow_inf_nan=False,
    )
    lora_targets: str = _setting(
        "all-linear",
        group="Model",
        label="LoRA targets",
        help="all-linear, or module names separated by commas (q_proj,v_proj). In a mixture of "
        "experts all-linear includes every expert, not the router.",
        min_length=1,
    )
    quantization: Literal["nf4", "none"] = _setting(
        "nf4",
        group="Memory",
        label="Base weights",
        help="nf4: 4-bit NormalFloat with double quantisation (QLoRA); none: unquantised.",
    )
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = _setting(
        "auto",
        group="Memory",
        label="Compute dtype",
        help="Data type of the computation; auto picks one that is fast and safe on this hardware. "
        "bfloat16 saves about a fifth per step on a CPU with AVX-512-BF16, and is less exact. "
        "float16 loses small gradients: training refuses it.",
    )
    max_tokens_per_forward: Annotated[int, BeforeValidator(_zero_if_auto)] = _setting(
        0,
        group="Memory",
        label="Tokens per forward",
        help="Token limit per forward pass; 0 is as many as fit. The result is the same.",
        ge=0,
    )
    activation_checkpointing: Switch = _setting(
        "auto",
        group="Memory",
        label="Recompute activations",
        help="Saves much memory for about a third more time; auto does so only if needed.",
    )
    dequant_cache: Annotated[Literal["auto", "off", "all"], BeforeValidator(_switch_name)] = (
        _setting(
            "auto",
            group="Memory",
            label="Cache dequantised weights",
            help="all keeps a dequantised copy of the 4-bit weights: same numbers, more memory, "
            "less time on a GPU; auto does so if memory is plentiful.",
        )
    )
    processes: Annotated[int, BeforeValidator(_zero_if_auto)] = _setting(
        0,
        group="Memory",
        label="GPUs",
        help="Processes that share each step; 0 (auto) is all visible GPUs, 1 on a CPU.",
        ge=0,
    )
    shard_base: bool = _setting(
        False,
        group="Memory",
        label="Shard the base",
        help="Splits the base's layers over the GPUs, for a base that does not fit on one. Every "
        "forward gathers them, so steps take longer; the result is the same. No effect with one.",
    )
    max_length: int = _setting(
        1024,
        group="Data",
        label="Longest sequence",
        help="Maximum tokens of prompt plus one response.",
        ge=16,
        le=1_000_000,
    )
    over_length: Literal["drop", "cut_prompt", "cut_answers"] = _setting(
        "drop",
        group="Data",
        label="Over-long pairs",
        help="drop the pair, cut the prompt from the left, or cut the responses from the right; "
        "the log counts them.",
    )
    held_out: float = _setting(
        0.1,
        group="Data",
        label="Held-out share",
        help="Fraction of the pairs not trained on, used for evaluation.",
        ge=0,
        le=0.5,
        allow_inf_nan=False,
    )
    seed: int = _setting(
        42,
        group="Data",
        label="Seed",
        help="Seed of the split, the order of pairs and the adapter's initial weights.",
        ge=0,
        le=2**31 - 1,
    )
    eval_every: int = _setting(
        0,
        group="Logging",
        label="Evaluate every",
        help="Optimizer steps between evaluations on held-out pairs; 0 is four per run.",
        ge=0,
    )
    checkpoint_every: int = _setting(
        0,
        group="Logging",
        label="Checkpoint every",
        help="Optimizer steps between checkpoints; 0 is four per run and at least one every ten "
        "minutes. Stopping a run always writes one.",
        ge=0,
    )
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = _setting(
        "none",
        group="Logging",
        label="Also report to",
        help="Installed tracker that also receives the metrics; they stay on this disk unless the "
        "tracker's own environment variables say otherwise.",
    )
    sample_prompts: tuple[str, ...] = _setting(
        (),
        group="Logging",
        label="Sample prompts",
        help="Prompts answered before, during and after training, one per line; empty is three "
        "held-out prompts.",
        max_length=8,
    )

    def to_yaml(self) -> str:
        """Return the settings as YAML with their public names (`lambda`, not `lambda_`)."""
        return yaml.safe_dump(
            self.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True
        )


def setting_fields() -> dict[str, FieldInfo]:
    """Return every setting by its public name, in the order of the form."""
    return {info.alias or name: info for name, info in TrainConfig.model_fields.items()}


def choices_of(info: FieldInfo) -> tuple[str, ...]:
    """Return the allowed values of a choice setting, empty for any other."""
    return tuple(value for value in get_args(info.annotation) if isinstance(value, str))


def build_config(settings: Mapping[str, object], *, source: str = "the settings") -> TrainConfig:
    """Validate settings given by name.

    Raises:
        ConfigError: lists all wrong or unknown settings.
    """
    try:
        return TrainConfig.model_validate(dict(settings))
    except ValidationError as exc:
        problems = "; ".join(_describe(error) for error in exc.errors())
        raise ConfigError(
            f"{problems}.".replace("..", "."),
            where=source,
            hint=f"Correct {source} and try again.",
        ) from exc


def _describe(error: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails is a loose dict
    name = str(error["loc"][0]) if error["loc"] else "settings"
    if error["type"] == "extra_forbidden":
        close = get_close_matches(name, setting_fields(), n=1)
        return f"“{name}” is not a setting" + (f" (did you mean {close[0]}?)" if close else "")
    return f"{name} = {error['input']!r}: {error['msg'][:1].lower()}{error['msg'][1:]}"
