"""The loss passport: what exactly a run optimised, so that two runs can be distinguished. Floor 5.

“Trained with ORPO” leaves open which tokens the NLL is on, over what it is averaged and what became
of long pairs; other programs answer differently and all call it ORPO. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig, setting_fields
from orpo_qlora.data.wording import plural
from orpo_qlora.export.origin import Origin
from orpo_qlora.methods import beta_of, method_of
from orpo_qlora.runs.lineage import read_lineage
from orpo_qlora.runs.store import Run
from orpo_qlora.setting import methods_of

_NLL_ON = {
    "sequence": "prompt and chosen response",
    "answer": "chosen response alone",
}
_NLL_REDUCTION = {
    "token": "mean over all tokens of an optimizer step",
    "pair": "mean over pairs of each pair's mean",
}
_OVER_LENGTH = {
    "drop": "left out",
    "cut_prompt": "their prompt cut from the left",
    "cut_answers": "their answers cut from the right",
}


@dataclass(frozen=True)
class Fact:
    """One line of the passport."""

    label: str
    value: str


def loss_passport(run: Run, origin: Origin) -> list[Fact]:
    """Return what a run optimised, with what, on which pairs."""
    config = run.config
    return [
        *_objective(config),
        *_reference(config),
        *_tokens(run),
        Fact("Layout of the pairs", _note(run, "Layout: ") or "not recorded"),
        Fact("Optimizer", _optimizer(run)),
        Fact("Adapter", _adapter(config)),
        *_experts(run),
        *_start(run),
        Fact("Base model", origin.sentence),
        Fact("Base weights", _base_weights(config)),
        Fact("Arithmetic", _note(run, "Arithmetic: ") or config.compute_dtype),
        *_data(run),
    ]


def _objective(config: TrainConfig) -> list[Fact]:
    method = method_of(config)
    facts = [
        Fact("Objective", f"{method.title} ({method.source}): {method.formula(config)}"),
        *(Fact(label, value) for label, value in _weights(config).items()),
    ]
    nll_on = method.needs(config).nll_on
    if nll_on:
        reduction = config.nll_reduction
        facts += [
            Fact("NLL on", f"{nll_on}: {_NLL_ON[nll_on]}{method.whose_nll(nll_on)}"),
            Fact("NLL mean over", f"{reduction}: {_NLL_REDUCTION[reduction]}"),
        ]
    end = "the end-of-turn token included"
    return [*facts, Fact("Log-prob of an answer", f"{method.log_prob} over its tokens, {end}")]


def _reference(config: TrainConfig) -> list[Fact]:
    if not method_of(config).needs(config).reference:
        return []
    whose = "the starting adapter" if config.start_from else "the base model without the adapter"
    return [Fact("Reference", f"{whose}; its log-probs were measured once, before the first step")]


def _weights(config: TrainConfig) -> dict[str, str]:
    """Return the numbers in the method's formula, by label."""
    numbers = {"beta": beta_of(config)}
    found = {}
    for name, info in setting_fields().items():
        if config.method in methods_of(info):
            value = numbers.get(name, getattr(config, "lambda_" if name == "lambda" else name))
            if isinstance(value, float):
                found[str(info.title)] = f"{value:g}"
    return found


def _tokens(run: Run) -> list[Fact]:
    config = run.config
    done = [_note(run, side) for side in ("Training: ", "Held out: ")]
    sides = [f"{side}: {what}" for side, what in zip(("training", "held out"), done, strict=True)]
    happened = " ".join(sentence for sentence, what in zip(sides, done, strict=True) if what)
    return [
        Fact("Chat template", _note(run, "Chat template: ") or "the model's own"),
        Fact("Tokens", "those of the prompt as in a chat, then those of each answer after it"),
        Fact(
            "Longest sequence",
            f"{config.max_length:,} tokens; longer pairs are {_OVER_LENGTH[config.over_length]}"
            f" ({config.over_length}). {happened or 'None was longer.'}",
        ),
    ]


def _optimizer(run: Run) -> str:
    config = run.config
    steps = f"{run.state.step:,} of {plural(run.state.total_steps, 'step')}"
    clip = f"gradient clip {config.max_grad_norm:g}" if config.max_grad_norm else "no gradient clip"
    return (
        f"{config.optimizer}, {steps} of {plural(config.pairs_per_step, 'pair')}, learning rate "
        f"{config.learning_rate:g}, {config.scheduler} after {config.warmup_ratio:.0%} warm-up, "
        f"{clip}, seed {config.seed}"
    )


def _adapter(config: TrainConfig) -> str:
    return (
        f"LoRA, rank {config.lora_r}, alpha {config.lora_alpha:g}, dropout "
        f"{config.lora_dropout:g}, on {config.lora_targets}"
    )


def _experts(run: Run) -> list[Fact]:
    note = _note(run, "Experts: ")
    return [Fact("Experts", note)] if note else []


def _start(run: Run) -> list[Fact]:
    ancestor = read_lineage(run.paths.start)
    return [Fact("Started from", ancestor.sentence())] if ancestor else []


def _base_weights(config: TrainConfig) -> str:
    if config.quantization == "nf4":
        return "4-bit NormalFloat with double quantisation (QLoRA), frozen"
    return "not quantised, frozen"


def _data(run: Run) -> list[Fact]:
    paths, report = run.paths, run.report
    facts = [Fact("Data file", f"{report.source}, SHA-256 {report.sha256}")]
    if report.files:
        facts = [Fact("Data files", f"{report.source}, SHA-256 of all {report.sha256}")]
        facts += [
            Fact(f"File {number}", f"{part.sentence()} SHA-256 {part.sha256}")
            for number, part in enumerate(report.files, start=1)
        ]
        facts.append(Fact("Sampling seed", str(report.sample_seed)))
    if report.hub:
        facts.insert(0, Fact("Data source", report.hub.sentence()))
    for label, path in (("Training pairs", paths.train), ("Held-out pairs", paths.held_out)):
        if path.is_file():
            with path.open("rb") as lines:
                count = sum(1 for _ in lines)
            facts.append(Fact(label, f"{count:,}, SHA-256 {storage.sha256_of(path)}"))
    return facts


def _note(run: Run, opening: str) -> str:
    """Return what the worker noted after an opening, the latest one; empty without any."""
    notes = [note.removeprefix(opening) for note in run.state.notes if note.startswith(opening)]
    return notes[-1] if notes else ""
