"""Merging an adapter into its base. Floor 5.

By default into what was trained on: the 4-bit weights unpacked, so that the merged model gives the
adapter's numbers. Into the original weights on request: these are more exact than their 4-bit
copy, but the adapter has never seen them. How far the result is from the run's own model is
measured on held-out pairs in either case, on what was written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from orpo_qlora import storage
from orpo_qlora.export.bundle import check_exportable, new_folder
from orpo_qlora.export.compare import (
    RunNumbers,
    largest_difference,
    mean_logps,
    numbers_of,
    share_preferred,
)
from orpo_qlora.export.origin import origin_of
from orpo_qlora.export.reports.card import MergeFacts, merged_card
from orpo_qlora.models import loading
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.generation.generate import end_ids
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.runs.store import Run

MANIFEST = "manifest.json"
TRAINED, ORIGINAL = "trained", "original"
"""The weights to merge into: those that were trained on, or the base's own."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Merged:
    """A merged model in memory, with the numbers of the models it was made from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: str
    base_folder: Path
    run_numbers: RunNumbers
    """Of base and adapter as trained."""
    own: RunNumbers
    """Of the model before rounding; the same unless merged into the original weights."""


@dataclass(frozen=True)
class MergeDifference:
    """How far a merged model is from the run's own, in nats a token."""

    largest: float
    mean: float
    preferred: float | None
    """Share of the pairs of which the merged model prefers the chosen response; None without any
    pairs, after a training on single responses."""
    preferred_by_run: float | None
    pairs: int

    def sentence(self) -> str:
        """Return the difference and what it does to the preferences."""
        text = (
            f"Mean log-prob of an answer on {self.pairs} pairs: at most {self.largest:.2g} nats a "
            f"token from base and adapter, {self.mean:.2g} on average"
        )
        if self.preferred is None or self.preferred_by_run is None:
            return f"{text}."
        return (
            f"{text}; chosen preferred in {self.preferred:.0%}, by base and adapter in "
            f"{self.preferred_by_run:.0%}."
        )


def merge_run(
    run: Run, folder: Path, dtype: str, onto: str = TRAINED, report: Report = lambda text: None
) -> MergeDifference:
    """Write base and adapter as one model; the folder appears whole.

    Args:
        run: finished or stopped.
        folder: to be made; must not exist.
        dtype: number type of the merged weights.
        onto: `TRAINED` or `ORIGINAL`.
        report: called with each phase.

    Returns:
        The difference of what was written from base and adapter.

    Raises:
        InputError: the run has no final adapter, or the folder exists or cannot be made.
        ModelError: base or adapter cannot be loaded.
        DiskFull: nothing is left behind.
    """
    check_exportable(run)
    with new_folder(folder) as draft:
        merged = merge_in_memory(run, dtype, onto, report)
        report("writing the merged model")
        write_model(merged, draft)
        report("reading the merged model back")
        difference = _read_back(draft, merged)
        _describe(run, draft, MergeFacts(dtype, onto, difference.sentence()), difference)
    return difference


def merge_in_memory(
    run: Run,
    dtype: str,
    onto: str = TRAINED,
    report: Report = lambda text: None,
    *,
    answering: bool = False,
) -> Merged:
    """Load base and adapter, measure them, merge and round to a number type.

    With `answering`, their answers to three prompts are measured too.

    Raises:
        ModelError: base or adapter cannot be loaded.
    """
    hardware.use_all_cores()
    report("loading base and adapter")
    base, policy = _load(run, run.config.quantization)
    report("measuring base and adapter")
    run_numbers = own = numbers_of(run, policy, base.tokenizer, answering=answering)
    if onto == ORIGINAL and run.config.quantization != "none":
        del base, policy
        report("loading the original weights")
        base, policy = _load(run, "none")
        report("measuring the adapter on the original weights")
        own = numbers_of(run, policy, base.tokenizer, answering=answering)
    report("merging")
    ends = sorted(end_ids(policy, base.tokenizer))
    model = policy.merge_and_unload().to(hardware.DTYPES[dtype])
    model.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    device = str(base.arithmetic.device)
    return Merged(model, base.tokenizer, device, base.folder, run_numbers, own)


def _load(run: Run, quantization: str) -> tuple[loading.Base, PeftModel]:
    base = loading.load_base(
        run.config.model,
        run.config.revision,
        quantization="nf4" if quantization == "nf4" else "none",
        compute_dtype="float32",
        dequantized=True,
        chat_template=run.trained_config.chat_template,
    )
    policy = loading.attach_saved_adapter(base.model, run.paths.adapter, loading.ADAPTER).eval()
    return base, policy


def write_model(merged: Merged, folder: Path) -> None:
    """Write a merged model with its tokenizer as safetensors."""
    merged.model.save_pretrained(folder)
    merged.tokenizer.save_pretrained(folder)


def _read_back(folder: Path, merged: Merged) -> MergeDifference:
    """Return how far the model in a folder is from what base and adapter gave."""
    own = merged.run_numbers
    logps = _logps_of(folder, merged.device, own.pairs)
    return MergeDifference(
        largest=largest_difference(logps, own.logps),
        mean=float((logps - own.logps).abs().mean()),
        preferred=share_preferred(logps, own.pairs),
        preferred_by_run=share_preferred(own.logps, own.pairs),
        pairs=len(own.pairs),
    )


def _logps_of(folder: Path, device: str, pairs: Sequence[TokenizedPair]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype="auto",
        device_map={"": device},
        use_safetensors=True,
        trust_remote_code=False,
    )
    return mean_logps(model.eval(), pairs)


def _describe(run: Run, folder: Path, facts: MergeFacts, difference: MergeDifference) -> None:
    card = merged_card(run, origin_of(run), facts)
    (folder / "README.md").write_text(card, encoding="utf-8")
    hashes = {path.name: storage.sha256_of(path) for path in sorted(folder.iterdir())}
    about = {
        **{"run": run.id, "dtype": facts.dtype, "merged_onto": facts.onto},
        **{"largest_difference_nats": difference.largest, "mean_difference_nats": difference.mean},
        **{"chosen_preferred": difference.preferred},
        **{"chosen_preferred_by_run": difference.preferred_by_run},
        **{"compared_pairs": difference.pairs, "sha256": hashes},
    }
    (folder / MANIFEST).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
