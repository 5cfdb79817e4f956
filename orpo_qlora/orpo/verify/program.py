"""The program behind `orpo-qlora verify`: `python -m orpo_qlora.orpo.verify.program`. Floor 2.

Reads settings and preference pairs from a folder and writes a report there. It is a process of its
own because the command line never imports torch.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import disable_progress_bars
from rich.console import Console
from transformers.utils import logging as transformers_logging

from orpo_qlora import methods, storage
from orpo_qlora.config import TrainConfig, setting_fields
from orpo_qlora.data.pairs import PreferencePair, read_pairs
from orpo_qlora.errors import InputError, OrpoQloraError, OutOfMemory
from orpo_qlora.models.devices.hardware import memory_errors, use_all_cores
from orpo_qlora.models.loading import attach_new_adapter, load_base
from orpo_qlora.orpo.engine import Engine
from orpo_qlora.orpo.loss import loss_for
from orpo_qlora.orpo.rows.tokens import Tokenized, TokenizedPair, tokenize_pairs
from orpo_qlora.orpo.verify import parity, trl_steps
from orpo_qlora.setting import methods_of

CONFIG, PAIRS, REPORT = "config.json", "pairs.jsonl", "report.json"
PACKAGES = ("trl", "torch", "transformers", "peft", "bitsandbytes")
TOO_LARGE = OutOfMemory(
    "Memory does not hold this step in TRL, which computes all its pairs in one padded batch.",
    hint="Verify fewer or shorter pairs: --set pairs_per_step=2, or a smaller --set max_length.",
)


def verify(config: TrainConfig, pairs: Sequence[PreferencePair]) -> dict[str, object]:
    """Run one step of the pairs through TRL and through the engine and return the report.

    The base is loaded as for a training, but always computes in float32, for which the tolerances
    hold. The adapter is fresh with small random B matrices. Dropout is off.

    Args:
        config: model, adapter, method and lengths. `nll_on` and `nll_reduction` are those of TRL,
            `sequence` and `token`, whatever is set.
        pairs: of the step, in text.

    Returns:
        JSON-serialisable: `equal`, `differences` (name, trl, engine, difference, tolerance,
        within), `notes`, and what was compared.

    Raises:
        DataError: no pair fits `max_length`.
        ModelError: the model cannot be loaded or trained.
        OutOfMemory: memory does not hold TRL's batch.
    """
    use_all_cores()
    torch.manual_seed(config.seed)
    base = load_base(
        config.model,
        config.revision,
        quantization=config.quantization,
        compute_dtype="float32",
        chat_template=config.chat_template,
    )
    tokenized = tokenize_pairs(base.tokenizer, pairs, config.max_length, config.over_length)
    policy = attach_new_adapter(base, config)
    parity.fill_adapter(policy)
    with memory_errors(lambda: TOO_LARGE):
        by_trl = trl_steps.trl_step(policy, base.tokenizer, tokenized.pairs, config)
        engine = parity.compared_engine(policy, tokenized.pairs)
        tokens = _tokens_per_forward(config, engine, tokenized.pairs)
        loss = loss_for(trl_steps.as_trl(config))
        loss = parity.with_reference(loss, engine, tokenized.pairs)
        by_engine = parity.engine_step(engine, tokenized.pairs, loss, tokens)
    differences = parity.compare_steps(by_trl, by_engine, parity.TOLERANCES[base.model.dtype])
    return {
        "equal": all(one.is_within for one in differences),
        "model": config.model,
        "method": methods.method_with_strength(config),
        "pairs": len(tokenized.pairs),
        "layout": engine.layout,
        "forwards": len(engine.micro_steps(tokenized.pairs, tokens)),
        "gradients": len(by_trl.gradients),
        "differences": [asdict(one) | {"within": one.is_within} for one in differences],
        "notes": _notes(config, tokenized),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _tokens_per_forward(config: TrainConfig, engine: Engine, pairs: Sequence[TokenizedPair]) -> int:
    """Return the setting, or what cuts the step in two, so that the cut is compared too."""
    if config.max_tokens_per_forward:
        return config.max_tokens_per_forward
    return max(engine.longest_row(pairs), engine.tokens(pairs) // 2)


def _notes(config: TrainConfig, tokenized: Tokenized) -> list[str]:
    notes = [tokenized.sentence(config.max_length)] if tokenized.sentence(config.max_length) else []
    notes += tokenized.changes.sentences()
    as_trl, fields = trl_steps.as_trl(config), setting_fields()
    if any(
        getattr(config, name) != getattr(as_trl, name) and config.method in methods_of(fields[name])
        for name in ("nll_on", "nll_reduction")
    ):
        notes.append(
            "TRL has no other NLL than nll_on=sequence with nll_reduction=token; the steps are "
            "compared with these."
        )
    if config.compute_dtype not in ("auto", "float32"):
        notes.append(f"Compared in float32, not in {config.compute_dtype}.")
    if config.start_from:
        notes.append("Compared with a new adapter, not with the one to start from.")
    if config.lora_dropout:
        notes.append("Compared without dropout.")
    return notes


def _silence_libraries() -> None:
    """Keep progress bars and warnings of libraries out of the terminal."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    # PEFT 0.21 still reads the old name of a property that transformers 5.23 renamed.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)


def main(arguments: Sequence[str]) -> int:
    """Run the program on a folder; return the exit code: 0, or as `OrpoQloraError` says.

    The folder holds `config.json` and `pairs.jsonl` (see `data.pairs.write_pairs`); `report.json`
    is written there.
    """
    folder = Path(*arguments)
    _silence_libraries()
    console = Console(stderr=True, highlight=False)
    try:
        config = TrainConfig.model_validate_json((folder / CONFIG).read_text(encoding="utf-8"))
        with console.status("running one step in TRL and in the engine"):
            report = verify(config, read_pairs(folder / PAIRS))
    except OrpoQloraError as exc:
        console.print(f"error: {exc.message}\n{exc.hint}", soft_wrap=True, markup=False)
        return 2 if isinstance(exc, InputError) else 1
    storage.write_whole(folder / REPORT, json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
