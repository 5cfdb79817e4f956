"""The adapter alone as a GGUF file, for a base that is a GGUF file already. Floor 5.

Second choice: an adapter trained on 4-bit weights has learnt to correct their rounding too, which
a stock base in another type does not have. A merged GGUF carries the weights that were trained on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import safe_open

from orpo_qlora import storage
from orpo_qlora.errors import UnsupportedModel
from orpo_qlora.export.bundle import WEIGHTS
from orpo_qlora.export.gguf import llama_cpp
from orpo_qlora.export.gguf.read_back import HINT, ReadBackError
from orpo_qlora.export.gguf.write import GgufOptions, Report, manifest_of, work_folder
from orpo_qlora.export.origin import ADAPTER_CONFIG
from orpo_qlora.models.trust import refuse_unsafe_adapter
from orpo_qlora.models.weights import find
from orpo_qlora.models.weights.sizes import parameter_count
from orpo_qlora.runs.process.preflight import check_room
from orpo_qlora.runs.store import Run

TOLERANCE = 2e-3
"""Largest accepted relative difference of a matrix: float16 rounds to 5e-4."""
ON_NF4 = (
    "The adapter was trained on 4-bit weights. A base in another type lacks their rounding, so "
    "its answers differ from the run's; a merged GGUF does not have this difference."
)
_ONE_SCALE = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save")
"""Settings of an adapter that a GGUF file, with one alpha for all, cannot express."""
_PREFIX = "base_model.model."


def write_lora(run: Run, target: Path, options: GgufOptions, report: Report) -> list[str]:
    """Write a run's adapter as a GGUF file, read back before it appears; return what was checked.

    Raises:
        UnsupportedModel: llama.cpp knows no such adapter or architecture.
        ReadBackError: the file does not hold the adapter; it was not kept.
        ResourceError: no converter, or no room.
    """
    adapter = run.paths.adapter
    refuse_unsafe_adapter(adapter)
    settings = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    odd = [name for name in _ONE_SCALE if settings.get(name)]
    if odd:
        raise UnsupportedModel(
            f"A GGUF adapter cannot express {', '.join(odd)}.", hint="Export --gguf FILE instead."
        )
    base = find.find_weights(run.config.model, run.config.revision)
    with work_folder(target) as work:
        check_room(work, 2 * parameter_count(adapter))
        tool = llama_cpp.find_llama_cpp(options.checkout, report)
        draft = work / "made" / target.name
        draft.parent.mkdir()
        report("converting the adapter with llama.cpp")
        files = ["--outtype", "f16", "--outfile", str(draft), "--base", str(base), str(adapter)]
        tool.run(llama_cpp.CONVERT_LORA, files, lambda: None)
        report("reading the GGUF adapter back")
        largest, matrices = compare_lora(draft, adapter, float(settings["lora_alpha"]))
        manifest = {
            **{"run": run.id, "type": "f16", "converter": tool.name, "matrices": matrices},
            **{"largest_relative_difference": largest, "sha256": storage.sha256_of(draft)},
        }
        storage.sync_files(draft.parent)
        draft.replace(target)
    storage.write_whole(manifest_of(target), json.dumps(manifest, indent=1) + "\n")
    checked = (
        f"All {matrices} matrices and alpha are the run's; float16 rounds them by at most "
        f"{largest:.2g} of a matrix's size."
    )
    return [checked, *([ON_NF4] if run.config.quantization == "nf4" else [])]


def compare_lora(path: Path, adapter: Path, alpha: float) -> tuple[float, int]:
    """Compare a GGUF adapter with a PEFT adapter.

    The converter reorders rows of some B matrices; these are compared by the lengths of their
    rows, in order of size.

    Returns:
        The largest relative difference of a matrix, and the number of matrices.

    Raises:
        ReadBackError: a matrix is missing or differs, or alpha does.
    """
    reader = gguf.GGUFReader(path)
    written = {str(t.name): t for t in reader.tensors}
    names = _names(reader, adapter)
    field = reader.fields.get(gguf.Keys.Adapter.LORA_ALPHA)
    stored = float(field.parts[field.data[0]][0]) if field is not None else float("nan")
    if stored != np.float32(alpha):
        raise ReadBackError(f"The file's alpha is {stored:g} instead of {alpha:g}.", hint=HINT)
    largest = 0.0
    with safe_open(adapter / WEIGHTS, framework="pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - not a dictionary
            tensor = written.pop(names.get(name, ""), None)
            if tensor is None:
                raise ReadBackError(f"The file lacks {name}.", hint=HINT)
            found = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            expected = weights.get_tensor(name).to(torch.float32).numpy()
            largest = max(largest, _difference(found, expected, is_b=names[name].endswith("_b")))
            if not largest <= TOLERANCE:
                raise ReadBackError(f"{name} differs in the file by {largest:.2g}.", hint=HINT)
    if written:
        raise ReadBackError(f"The file has {next(iter(written))}, the run has not.", hint=HINT)
    return largest, len(names)


def _difference(
    found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], *, is_b: bool
) -> float:
    if found.shape != expected.shape:
        return float("inf")
    if is_b:
        found, expected = (np.sort(np.linalg.norm(one, axis=1)) for one in (found, expected))
    size = float(np.linalg.norm(expected))
    difference = float(np.linalg.norm(found - expected))
    return difference / size if size else difference


def _names(reader: gguf.GGUFReader, adapter: Path) -> Mapping[str, str]:
    """Return the name in a GGUF file of every tensor of a PEFT adapter."""
    field = reader.fields[gguf.Keys.General.ARCHITECTURE]
    name = bytes(field.parts[field.data[0]]).decode()
    arch = next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    found = {}
    with safe_open(adapter / WEIGHTS, framework="pt") as weights:
        keys = list(weights.keys())
    blocks = 1 + max((int(p) for key in keys for p in key.split(".") if p.isdigit()), default=0)
    known_names = gguf.get_tensor_name_map(arch, blocks)
    for key in keys:
        module, _, side = key.removeprefix(_PREFIX).rpartition(".lora_")
        mapped = known_names.get_name(module)
        if mapped is not None:
            found[key] = f"{mapped}.weight.lora_{side[0].lower()}"
    return found
