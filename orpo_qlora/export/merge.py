"""The program that merges an adapter into its base: `python -m orpo_qlora.export.merge`. Floor 5.

What is merged is what was trained on: the 4-bit weights unpacked, not the original ones, so that
the merged model gives the adapter's numbers. How far it does is measured on what was written.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, PreTrainedModel

from orpo_qlora import storage
from orpo_qlora.errors import InputError, OrpoQloraError
from orpo_qlora.export.bundle import check_exportable, errors_named
from orpo_qlora.export.card import merged_card
from orpo_qlora.export.origin import origin_of
from orpo_qlora.models import hardware, loading
from orpo_qlora.models.generation.generate import end_ids
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.runs import store
from orpo_qlora.runs.process import training_setup
from orpo_qlora.runs.store import Run

COMPARED_PAIRS = 16
"""Pairs on which the merged model is compared with base and adapter."""
MANIFEST = "manifest.json"


def merge_run(run: Run, folder: Path, dtype: str) -> float:
    """Write base and adapter as one model; the folder appears whole.

    Args:
        run: finished or stopped.
        folder: to be made; must not be there yet.
        dtype: number type of the merged weights.

    Returns:
        The largest difference in mean log-prob of an answer, in nats, from base and adapter.

    Raises:
        InputError: the run has no final adapter, or the folder is there already or cannot be made.
        ModelError: base or adapter cannot be loaded.
        DiskFull: nothing is left behind.
    """
    check_exportable(run)
    draft = _make_draft(folder)
    try:
        with storage.disk_errors(draft):
            difference = _write_merged(run, draft, dtype)
            storage.sync_files(draft)
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    storage.sync_folder(folder.parent)
    return difference


def _make_draft(folder: Path) -> Path:
    """Make what becomes the folder, before minutes go into what it could not hold."""
    with errors_named(folder), storage.disk_errors(folder):
        if folder.exists():
            raise InputError(f"{folder} is there already.", hint="Name a folder that is not.")
        draft = folder.with_name(f".{folder.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    return draft


def _write_merged(run: Run, draft: Path, dtype: str) -> float:
    """Load, merge, write and compare; return the difference that `merge_run` returns."""
    hardware.use_all_cores()
    config = run.config
    base = loading.load_base(
        config.model,
        config.revision,
        quantization=config.quantization,
        compute_dtype="float32",
        dequantized=True,
        chat_template=run.trained_config.chat_template,
    )
    pairs = store.held_out_pairs(run.paths) or store.training_pairs(run.paths)
    compared = training_setup.tokenize(config, base.tokenizer, pairs[:COMPARED_PAIRS]).pairs
    policy = loading.attach_saved_adapter(base.model, run.paths.adapter, loading.ADAPTER).eval()
    expected = _mean_logps(policy.get_base_model(), compared)
    ends = sorted(end_ids(policy, base.tokenizer))
    merged = policy.merge_and_unload().to(hardware.DTYPES[dtype])
    merged.generation_config.eos_token_id = ends if len(ends) > 1 else ends[0]
    merged.save_pretrained(draft)
    base.tokenizer.save_pretrained(draft)
    difference = _difference(draft, base.arithmetic.device, compared, expected)
    _describe(run, draft, dtype, difference)
    return difference


def _difference(
    folder: Path, device: str, pairs: Sequence[TokenizedPair], expected: torch.Tensor
) -> float:
    """Return how far the model in a folder is from what base and adapter gave."""
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype="auto",
        device_map={"": device},
        use_safetensors=True,
        trust_remote_code=False,
    )
    return float((_mean_logps(model.eval(), pairs) - expected).abs().max())


@torch.no_grad()
def _mean_logps(model: PreTrainedModel, pairs: Sequence[TokenizedPair]) -> torch.Tensor:
    """Return the mean log-prob of every answer, by one plain pass each."""
    means = []
    for pair in pairs:
        for answer in filter(None, (pair.chosen, pair.rejected)):
            ids = torch.tensor([pair.prompt + answer], device=model.device)
            logps = torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), -1)
            chosen = logps.gather(1, ids[0, 1:, None])[len(pair.prompt) - 1 :]
            means.append(chosen.mean().cpu())
    return torch.stack(means)


def _describe(run: Run, folder: Path, dtype: str, difference: float) -> None:
    card = merged_card(run, origin_of(run), dtype, difference)
    (folder / "README.md").write_text(card, encoding="utf-8")
    facts = {path.name: storage.sha256_of(path) for path in sorted(folder.iterdir())}
    about = {"run": run.id, "dtype": dtype, "largest_difference_nats": difference, "sha256": facts}
    (folder / MANIFEST).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Merge the run of that id into a folder, in that number type; return the exit code."""
    run_id, folder, dtype = arguments
    console = Console(stderr=True, highlight=False)
    try:
        with console.status("merging base and adapter"):
            difference = merge_run(store.find_run(run_id), Path(folder), dtype)
    except OrpoQloraError as exc:
        console.print(f"[red]error:[/] {exc.message}\n{exc.hint}", soft_wrap=True)
        return 2 if isinstance(exc, InputError) else 1
    print(f"{folder}\nLargest difference from base and adapter: {difference:.2g} nats a token")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
