"""From a run to a GGUF file: merge, convert with llama.cpp, read back, keep. Floor 5."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import transformers
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from orpo_qlora import __version__, storage
from orpo_qlora.errors import InputError, OrpoQloraError, UnsupportedModel
from orpo_qlora.export.checks import Checks
from orpo_qlora.export.gguf import llama_cpp
from orpo_qlora.export.gguf.llama_cpp import LlamaCpp
from orpo_qlora.export.gguf.read_back import read_back
from orpo_qlora.export.gguf.types import TYPES, GgufType
from orpo_qlora.export.merge import Merged, merge_in_memory, write_model
from orpo_qlora.export.request import WORK, drafts_of
from orpo_qlora.models.weights import find
from orpo_qlora.models.weights.sizes import parameter_count
from orpo_qlora.runs.process.preflight import check_room
from orpo_qlora.runs.store import Run

_FIRST_KEY = 24
"""Bytes before the first key: magic, version, counts of tensors and keys."""
RESERVE_BYTES = 64 * 1024**2

Report = Callable[..., None]
"""Takes a phase, and `done` and `total` in MB where they are known."""


@dataclass(frozen=True)
class GgufOptions:
    """What kind of file, from which weights, with which converter."""

    kind: GgufType
    onto: str
    checkout: str = ""
    """A llama.cpp checkout; empty for the pinned one."""


def write_gguf(run: Run, target: Path, options: GgufOptions, report: Report) -> Checks:
    """Write a run's merged model as one GGUF file, read back before it appears.

    A manifest, `<file>.manifest.json`, records the checks.

    Raises:
        UnsupportedModel: the converter does not know the model or its tokenizer.
        ReadBackError: the file is not the run's model; it was not kept.
        ResourceError: no converter, or no room.
        InputError: the target cannot be written; and what `merge_in_memory` raises.
    """
    base = find.find_weights(run.config.model, run.config.revision)
    with work_folder(target) as work:
        count = parameter_count(base)
        check_room(work, room_needed(count, options.kind))
        tool = llama_cpp.find_llama_cpp(options.checkout, report)
        if options.kind.is_k_quant and tool.quantizer() is None:
            raise llama_cpp.quantizer_missing(options.kind.id)
        _check_convertible(tool, base, work, report)
        merged = merge_in_memory(run, options.kind.merged_as, options.onto, report, answering=True)
        model, draft = work / "model", work / "made" / target.name
        draft.parent.mkdir()
        report("writing the merged model")
        _write_for_converter(merged, model)
        own, device = merged.own, merged.device
        del merged
        _convert(tool, model, draft, Expected(options.kind, count), report)
        report("reading the GGUF back")
        checks = read_back(draft, own, options.kind, device)
        manifest = _manifest(run, draft, options, tool, checks)
        storage.sync_files(draft.parent)
        draft.replace(target)
    storage.write_whole(manifest_of(target), json.dumps(manifest, indent=1) + "\n")
    return checks


def manifest_of(target: Path) -> Path:
    """Return where the checks of a GGUF file are recorded."""
    return target.with_name(f"{target.name}.manifest.json")


def room_needed(parameters: int, kind: GgufType) -> int:
    """Return the bytes that an export takes at its peak: merged model, f16 file, file."""
    half_way = 16 if kind.is_k_quant else 0
    return int(parameters * (16 + half_way + kind.bits) / 8) + RESERVE_BYTES


@contextmanager
def work_folder(target: Path) -> Iterator[Path]:
    """Yield a hidden folder beside a target; it is removed, as are those of killed exports.

    Raises:
        InputError: nothing can be written there.
        DiskFull: nothing is left behind.
    """
    with storage.write_errors(target):
        if target.is_dir():
            raise InputError(f"{target} is a folder.", hint="Name a file that ends in .gguf.")
        for leftover in drafts_of(target):
            shutil.rmtree(leftover, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f"{WORK}{target.name}-", dir=target.parent))
    try:
        with storage.disk_errors(target):
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_convertible(tool: LlamaCpp, base: Path, work: Path, report: Report) -> None:
    """Let the converter read architecture and tokenizer before minutes go into a merge.

    A model that it could read is recorded beside the tools.
    """
    names = ("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    digest = hashlib.sha256(f"{tool.name}{tool.folder}".encode())
    for name in names:
        if (base / name).is_file():
            digest.update((base / name).read_bytes())
    known = llama_cpp.tools_folder() / "readable"
    known.mkdir(exist_ok=True)
    record = known / digest.hexdigest()[:32]
    if record.is_file():
        return
    report("checking that llama.cpp knows the model")
    vocabulary = work / "vocabulary.gguf"
    arguments = ["--vocab-only", "--outfile", str(vocabulary), str(base)]
    tool.run(llama_cpp.CONVERT, arguments, lambda: None)
    architecture = architecture_of(vocabulary)
    if not _is_readable(architecture):
        raise UnsupportedModel(
            f"transformers {transformers.__version__} cannot read GGUF files of the architecture "
            f"{architecture}, so the file could not be checked.",
            hint="Export the merged model: --merged DIR",
        )
    record.touch()


def _is_readable(architecture: str) -> bool:
    """Whether transformers reads GGUF files of an architecture; it spells some differently."""
    known = {name.replace("_", "").replace("-", "") for name in GGUF_SUPPORTED_ARCHITECTURES}
    return architecture.replace("_", "").replace("-", "") in known


def architecture_of(path: Path) -> str:
    """Return the architecture that a GGUF file names first, as llama.cpp's writer has it."""
    with path.open("rb") as file:
        file.seek(_FIRST_KEY)
        (length,) = struct.unpack("<Q", file.read(8))
        file.read(length)
        _, length = struct.unpack("<IQ", file.read(12))
        return file.read(length).decode()


def _write_for_converter(merged: Merged, folder: Path) -> None:
    """Write the merged model with the token that ends a turn as its end token.

    A GGUF file names one; a base model's own would be the end of a document.
    """
    merged.tokenizer.eos_token = merged.own.end_text
    merged.model.config.get_text_config().eos_token_id = merged.own.end
    write_model(merged, folder)


@dataclass(frozen=True)
class Expected:
    """The file that a conversion gives, for its progress."""

    kind: GgufType
    parameters: int

    def megabytes(self, kind: GgufType) -> int:
        """Return the size of the file in a type, in MB."""
        return max(1, int(self.parameters * kind.bits / 8e6))


def _convert(tool: LlamaCpp, model: Path, draft: Path, expected: Expected, report: Report) -> None:
    """Convert a folder of safetensors, which is removed, into one GGUF file."""
    kind = expected.kind
    written = TYPES["f16"] if kind.is_k_quant else kind
    first = model.with_name("f16.gguf") if kind.is_k_quant else draft

    def on_wait(path: Path, phase: str, size: GgufType) -> None:
        done = path.stat().st_size // 1_000_000 if path.is_file() else 0
        total = expected.megabytes(size)
        report(phase, done=min(done, total), total=total)

    arguments = ["--outtype", written.id, "--outfile", str(first), str(model)]
    phase = "converting with llama.cpp (MB)"
    tool.run(llama_cpp.CONVERT, arguments, lambda: on_wait(first, phase, written))
    shutil.rmtree(model)
    if kind.is_k_quant:
        phase = f"quantising to {kind.id} (MB)"
        tool.quantize(first, draft, kind.id, lambda: on_wait(draft, phase, kind))
        first.unlink()
    if not draft.is_file():
        raise OrpoQloraError("llama.cpp's converter wrote no file.", hint=llama_cpp.NAME_A_CHECKOUT)
    report("converted", done=0, total=0)


def _manifest(
    run: Run, file: Path, options: GgufOptions, tool: LlamaCpp, checks: Checks
) -> dict[str, object]:
    return {
        **{"run": run.id, "orpo_qlora": __version__, "type": options.kind.id},
        **{"merged_onto": options.onto, "converter": tool.name, "bytes": file.stat().st_size},
        **{"sha256": storage.sha256_of(file), "checks": checks.model_dump()},
    }
