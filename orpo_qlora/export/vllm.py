"""The adapter as a folder for vLLM and SGLang, with the command that serves it. Floor 5; no torch.

Both load PEFT's format. What they do not take is refused here, not when a server starts: names
other than those of LoRA matrices, ranks above the limit, settings that change the computation.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from orpo_qlora.errors import UnsupportedModel
from orpo_qlora.export.bundle import (
    WEIGHTS,
    adapter_files,
    check_exportable,
    name_of,
    new_folder,
    write_folder,
)
from orpo_qlora.export.origin import ADAPTER_CONFIG, Origin, origin_of
from orpo_qlora.models.templates.tokenizer_files import TEMPLATE_FILE
from orpo_qlora.runs.store import Run

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `--max-lora-rank`; its default is 16."""
_NAME = re.compile(r"base_model\.model\.[\w.]+\.lora_[AB]\.weight")
_NOT_TAKEN = ("use_dora", "modules_to_save", "lora_bias", "trainable_token_indices")
MERGE_INSTEAD = "Export --merged DIR and serve that: vllm serve DIR"


@dataclass(frozen=True)
class VllmFolder:
    """A folder for vLLM and SGLang."""

    folder: Path
    rank: int
    max_rank: int
    """The smallest limit of vLLM that takes this rank."""
    commands: tuple[str, ...]
    notes: tuple[str, ...]


def write_vllm(run: Run, folder: Path) -> VllmFolder:
    """Write a run's adapter into a new folder; it appears whole.

    Raises:
        InputError: the run has no final adapter, or the folder exists or cannot be made.
        UnsupportedModel: vLLM does not take this adapter.
    """
    check_exportable(run)
    settings = json.loads((run.paths.adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    rank = _rank(settings)
    _check_names(run.paths.adapter / WEIGHTS, settings)
    origin = origin_of(run)
    files = adapter_files(run, origin)
    with new_folder(folder) as draft:
        write_folder(draft, files)
    limit = next(limit for limit in RANKS if limit >= rank)
    template = TEMPLATE_FILE in files
    commands = serve_commands(run, origin, folder, limit, has_template=template)
    return VllmFolder(folder, rank, limit, commands, _notes(run, origin, rank, limit))


def serve_commands(
    run: Run, origin: Origin, folder: Path, limit: int, *, has_template: bool
) -> tuple[str, ...]:
    """Return the commands of vLLM and SGLang that serve base and adapter."""
    name = shlex.quote(name_of(run))
    place, base = shlex.quote(str(folder)), shlex.quote(origin.name)
    template = f" --chat-template {place}/{TEMPLATE_FILE}" if has_template else ""
    revision = f" --revision {origin.revision}" if origin.revision else ""
    return (
        f"vllm serve {base}{revision} --served-model-name base --enable-lora --max-lora-rank "
        f"{limit} --lora-modules {name}={place}{template}",
        f"python -m sglang.launch_server --model-path {base}{revision} --enable-lora "
        f"--max-lora-rank {limit} --lora-paths {name}={place}{template}",
    )


def _rank(settings: dict[str, object]) -> int:
    """Return the largest rank of an adapter.

    Raises:
        UnsupportedModel: above vLLM's limit, or a setting that vLLM does not take.
    """
    odd = [name for name in _NOT_TAKEN if settings.get(name)]
    if odd:
        raise UnsupportedModel(
            f"vLLM does not take an adapter with {', '.join(odd)}.", hint=MERGE_INSTEAD
        )
    pattern = settings.get("rank_pattern")
    ranks = [settings.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())]
    rank = max(value for value in ranks if isinstance(value, int))
    if rank > RANKS[-1]:
        raise UnsupportedModel(
            f"The adapter has rank {rank:,}; vLLM takes {RANKS[-1]} at most.", hint=MERGE_INSTEAD
        )
    return rank


def _check_names(weights: Path, settings: dict[str, object]) -> None:
    if settings.get("target_parameters"):
        raise UnsupportedModel(
            "vLLM does not take LoRA on fused expert weights.", hint=MERGE_INSTEAD
        )
    with safe_open(weights, framework="np") as file:
        odd = [name for name in file.keys() if not _NAME.fullmatch(name)]  # noqa: SIM118
    if odd:
        raise UnsupportedModel(
            f"vLLM does not take the adapter's tensor {odd[0]}.", hint=MERGE_INSTEAD
        )


def _notes(run: Run, origin: Origin, rank: int, limit: int) -> tuple[str, ...]:
    notes = [f"Rank {rank}: a server must be started with --max-lora-rank {limit} or more."]
    if origin.is_local:
        notes.append(f"{origin.name} is a local folder: put its path in the command.")
    if run.config.quantization == "nf4":
        notes.append(
            "The adapter was trained on 4-bit weights. `vllm serve … --quantization bitsandbytes` "
            "serves it on such; on the original weights answers differ a little: `orpo-qlora "
            "export RUN --merged DIR --onto original` measures by how much."
        )
    return tuple(notes)
