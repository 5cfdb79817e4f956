"""The training methods: what each one's loss needs and consists of. Ground floor; no torch.

The losses themselves are in `orpo.objectives`, one file a method, under the same names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from orpo_qlora.config import TrainConfig, setting_fields
from orpo_qlora.setting import methods_of


@dataclass(frozen=True)
class LossNeeds:
    """What a loss is a function of, besides the log-probs of the chosen responses."""

    nll_on: Literal["sequence", "answer"] | None = None
    """Tokens of its NLL; None for a loss without one."""
    rejected: bool = True
    reference: bool = False
    mismatched: bool = False
    """Also log-probs of other pairs' responses, without gradient."""


@dataclass(frozen=True)
class Part:
    """One component of a loss, as recorded and as displayed."""

    metric: str
    label: str
    weight: float = 1.0
    """Its factor in the loss."""


@dataclass(frozen=True)
class Method:
    """One training method."""

    title: str
    source: str
    formula: Callable[[TrainConfig], str]
    needs: Callable[[TrainConfig], LossNeeds]
    parts: Callable[[TrainConfig], tuple[Part, ...]]
    """The components that add up to the loss; of two, the NLL is first."""
    strength: Callable[[TrainConfig], str]
    """The setting that tells two runs of the method apart: “λ 0.1”; empty for none."""
    milder: str
    """The change of settings that trains preferences less."""
    stronger: str = ""
    """The opposite, for methods whose preference term stands beside an NLL."""
    beta: float = 0.1
    """What an empty `beta` stands for."""
    whose_nll: Callable[[str], str] = lambda nll_on: ""
    """Who else has an NLL on these tokens, in brackets."""
    takes_single: bool = False
    """Whether it trains on single labelled responses, too."""
    log_prob: Literal["mean", "sum"] = "mean"
    """How the log-prob of a response follows from those of its tokens."""
    highest_rate: float = 5e-5
    """Learning rates above are unusual with LoRA."""


NLL = Part("nll_loss", "NLL")
GAIN = "g the log-prob minus that of the reference, the policy before training"
PREFERENCE = Part("preference_loss", "preference")


def _orpo_formula(config: TrainConfig) -> str:
    if config.lambda_ == 0:
        return "NLL alone: λ = 0 is plain fine-tuning on the chosen responses"
    z = "log odds(chosen) − log odds(rejected)"
    if config.ratio == "probability":
        z = "log p(chosen) − log p(rejected), the probability ratio of section 7.1"
    return f"NLL + λ · mean(−log σ(z)), z = {z}"


def _orpo_parts(config: TrainConfig) -> tuple[Part, ...]:
    if config.ratio == "probability":
        return NLL, Part("preference_loss", "λ·PR", config.lambda_)
    return NLL, Part("or_loss", "λ·OR", config.lambda_)


def _beta(config: TrainConfig) -> str:
    return f"β {beta_of(config):g}"


def _k(config: TrainConfig) -> str:
    return "k the mean g of mismatched responses" if config.kto_loss == "kto" else "k = 0"


METHODS: dict[str, Method] = {
    "orpo": Method(
        title="ORPO",
        source="arXiv 2403.07691",
        formula=_orpo_formula,
        needs=lambda config: LossNeeds(nll_on=config.nll_on, rejected=config.lambda_ > 0),
        parts=_orpo_parts,
        strength=lambda config: f"λ {config.lambda_:g}",
        milder="a smaller λ",
        stronger="a larger λ",
        whose_nll=lambda nll_on: (
            " (as TRL and the authors' code train)"
            if nll_on == "sequence"
            else " (the paper's formula)"
        ),
        highest_rate=1e-3,
    ),
    "sft": Method(
        title="SFT",
        source="plain fine-tuning on the chosen responses",
        formula=lambda _: "NLL",
        needs=lambda config: LossNeeds(nll_on=config.nll_on, rejected=False),
        parts=lambda _: (NLL,),
        strength=lambda _: "",
        milder="fewer steps",
        highest_rate=1e-3,
    ),
    "dpo": Method(
        title="DPO",
        source="arXiv 2305.18290",
        formula=lambda _: f"mean(−log σ(β·(g_w − g_l))), {GAIN}",
        needs=lambda _: LossNeeds(reference=True),
        parts=lambda _: (PREFERENCE,),
        strength=_beta,
        milder="a larger β",
        log_prob="sum",
    ),
    "ipo": Method(
        title="IPO",
        source="arXiv 2310.12036",
        formula=lambda _: f"mean((g_w/n_w − g_l/n_l − 1/(2β))²), {GAIN}, n the tokens",
        needs=lambda _: LossNeeds(reference=True),
        parts=lambda _: (PREFERENCE,),
        strength=_beta,
        milder="a larger β",
        log_prob="sum",
    ),
    "kto": Method(
        title="KTO",
        source="arXiv 2402.01306",
        formula=lambda config: (
            f"mean of w·(1 − σ(β·(g_w − k))) and w'·(1 − σ(β·(k − g_l))), {_k(config)}, {GAIN}"
        ),
        needs=lambda config: LossNeeds(reference=True, mismatched=config.kto_loss == "kto"),
        parts=lambda _: (PREFERENCE,),
        strength=_beta,
        milder="a larger β",
        takes_single=True,
        log_prob="sum",
    ),
    "simpo": Method(
        title="SimPO",
        source="arXiv 2405.14734",
        formula=lambda _: "mean(−log σ(β·(a − b) − γ)), a and b the mean token log-probs",
        needs=lambda _: LossNeeds(),
        parts=lambda _: (PREFERENCE,),
        strength=lambda config: f"{_beta(config)}, γ {config.gamma:g}",
        milder="a smaller β",
        beta=2.0,
    ),
    "cpo": Method(
        title="CPO",
        source="arXiv 2401.08417",
        formula=lambda _: "mean(−log σ(β·(s_w − s_l))) + α · NLL, s the summed log-probs",
        needs=lambda _: LossNeeds(nll_on="answer"),
        parts=lambda config: (Part("nll_loss", "α·NLL", config.cpo_alpha), PREFERENCE),
        strength=_beta,
        milder="a smaller β",
        stronger="a smaller α",
        log_prob="sum",
    ),
}
"""By the names of the setting `method`."""


def method_of(config: TrainConfig) -> Method:
    """Return the method of a run."""
    return METHODS[config.method]


def beta_of(config: TrainConfig) -> float:
    """Return the setting `beta`, or the method's own where it is empty."""
    return method_of(config).beta if config.beta is None else config.beta


def settings_read(config: TrainConfig) -> list[str]:
    """Return the names of the settings that a run's method reads, in the order of the form."""
    return [
        name
        for name, info in setting_fields().items()
        if not methods_of(info) or config.method in methods_of(info)
    ]


def short_name(config: TrainConfig) -> str:
    """Return what distinguishes a run's objective: “λ 0.1” for ORPO, “DPO β 0.1”, “SFT”."""
    method = method_of(config)
    if config.method == "orpo":
        return method.strength(config)
    return f"{method.title} {method.strength(config)}".strip()


def rate_sentence(config: TrainConfig) -> str:
    """Return a sentence on a learning rate that is unusually high for the method; else empty."""
    method, rate = method_of(config), config.learning_rate
    if rate <= method.highest_rate:
        return ""
    return (
        f"The learning rate {rate:g} is high for {method.title}: with LoRA, up to "
        f"{method.highest_rate:g} is usual."
    )


def method_with_strength(config: TrainConfig) -> str:
    """Return the method and its weight in a sentence: “ORPO (λ = 0.1)”."""
    method = method_of(config)
    numbers = ", ".join(part.replace(" ", " = ") for part in method.strength(config).split(", "))
    return f"{method.title} ({numbers})" if numbers else method.title
