"""Converts pickled weights: `python -m orpo_qlora.models.weights.pickled MODEL`. Floor 1.

Runs only on request and in a process of its own. torch reads the pickles with
`weights_only=True`, which builds tensors and refuses everything else; a pickle that asks for code
is refused by name. The copy appears whole; killed, the next run continues after the last file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from orpo_qlora import storage
from orpo_qlora.data.wording import in_bytes
from orpo_qlora.errors import DiskFull, InputError, OrpoQloraError, UnsupportedModel
from orpo_qlora.models.trust import PICKLED_INDEX, pickled_shards
from orpo_qlora.models.weights import find
from orpo_qlora.models.weights.converted import (
    RECORD,
    converted_copy,
    converted_folder,
    source_files,
)

SOURCE = ".source.json"
INDEX = "model.safetensors.index.json"
SPARE_BYTES = 64 * 2**20
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")

OnProgress = Callable[[int, int, str], None]
"""Called with the files done, all files and the name of the next one."""


def convert_weights(
    model: str, revision: str = "", on_progress: OnProgress = lambda done, of, name: None
) -> Path:
    """Write a safetensors copy of a model with pickled weights, unless it is there; return it.

    Args:
        model: hub id or folder.
        revision: branch, tag or commit on the hub.
        on_progress: called before each weight file and at the end.

    Raises:
        InputError: the model has safetensors weights already.
        ModelError: there is no such model, its pickles ask for code, or are no weights.
        DiskFull: finished files are kept, and the next call continues.
    """
    source = find.find_pickled(model, revision)
    target = converted_folder(source)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with storage.FileLock(target.parent / f".{target.name}.lock"):
        copy = converted_copy(source)
        if copy is not None:
            return copy
        draft = _open_draft(source, target)
        with storage.disk_errors(draft):
            _convert_into(source, draft, on_progress)
            shutil.rmtree(target, ignore_errors=True)
            draft.rename(target)
        storage.sync_folder(target.parent)
    return target


def _open_draft(source: Path, target: Path) -> Path:
    """Return the folder being filled, with what an earlier conversion of the same files wrote."""
    draft = target.with_name(f".{target.name}.draft")
    files = json.dumps(source_files(source))
    known = draft / SOURCE
    if not known.is_file() or known.read_text(encoding="utf-8") != files:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        storage.write_whole(known, files)
    return draft


def _convert_into(source: Path, draft: Path, on_progress: OnProgress) -> None:
    shards = pickled_shards(source)
    if not shards:
        raise InputError(
            f"{source} has no pickled weights (pytorch_model.bin).",
            hint="Only that format can be converted.",
        )
    names = _names(len(shards))
    left = [shard for shard, name in zip(shards, names, strict=True) if not (draft / name).exists()]
    _check_room(draft, sum(shard.stat().st_size for shard in left))
    is_tied = _reads_tied(source)
    for done, (shard, name) in enumerate(zip(shards, names, strict=True)):
        on_progress(done, len(shards), shard.name)
        if not (draft / name).exists():
            _write_shard(shard, draft / name, is_tied=is_tied)
    on_progress(len(shards), len(shards), "checking")
    _write_index(draft, names)
    for pattern in find.TOKENIZER_FILES:
        for path in source.glob(pattern):
            if path.name not in (PICKLED_INDEX, RECORD):
                shutil.copyfile(path, draft / path.name)
    record = {
        "source": source.name,
        "files": source_files(source),
        "source_sha256": {shard.name: storage.sha256_of(shard) for shard in shards},
        "sha256": {name: storage.sha256_of(draft / name) for name in names},
    }
    storage.write_whole(draft / RECORD, json.dumps(record, indent=1))
    (draft / SOURCE).unlink()
    storage.sync_files(draft)


def _names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{at:05}-of-{count:05}.safetensors" for at in range(1, count + 1)]


def _check_room(draft: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(draft).free
    if free < needed_bytes + SPARE_BYTES:
        raise DiskFull(
            f"The disk of {draft.parent} has {in_bytes(free)} free, and the converted weights "
            f"need {in_bytes(needed_bytes + SPARE_BYTES)}.",
            hint=f"Free some space, or set {storage.HOME_VARIABLE} to a larger disk.",
            where=str(draft.parent),
        )


def _reads_tied(source: Path) -> bool:
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    return config.get("tie_word_embeddings") is True


def _write_shard(shard: Path, target: Path, *, is_tied: bool) -> None:
    weights = _without_aliases(read_pickled(shard), is_tied=is_tied)
    part = target.with_name(f".{target.name}.part")
    save_file(weights, part, metadata={"format": "pt"})
    _check_written(part, weights)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(target)


def read_pickled(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a pickled weight file, which runs no code.

    Raises:
        UnsupportedModel: the pickle asks for code, is damaged or holds something but tensors.
    """
    try:
        content = _loaded(path)
    except UnpicklingError as exc:
        found = _GLOBAL.search(str(exc))
        asked = f" ({found[1]})" if found else ""
        raise UnsupportedModel(
            f"{path.name} asks to run code{asked}, which is never done.",
            hint="Do not use this file with other programs either; choose another model.",
            where=str(path),
        ) from exc
    except (RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError) as exc:
        raise UnsupportedModel(
            f"{path.name} is damaged, or no weight file of PyTorch.",
            hint="Download the model again, or choose another.",
            where=str(path),
        ) from exc
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others or not content:
        raise UnsupportedModel(
            f"{path.name} holds {'no weights' if not content else f'{others[0]!r}, no tensor'}.",
            hint="Choose another model.",
            where=str(path),
        )
    return dict(content)


def _loaded(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    # Files of torch before 1.6 are no zip.
    return torch.load(path, mmap=is_zip, map_location="cpu", weights_only=True)


def _without_aliases(weights: Mapping[str, Tensor], *, is_tied: bool) -> dict[str, Tensor]:
    """Return the tensors without shared memory, which safetensors does not store.

    Of weights that are the same tensor under two names, a model that ties them needs the first.
    """
    kept: dict[str, Tensor] = {}
    first: dict[tuple[object, ...], str] = {}
    for name in sorted(weights, key=lambda name: ("lm_head" in name, name)):
        tensor = weights[name]
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        is_alias = tensor.numel() > 0 and place in first
        if is_alias and is_tied and "lm_head" in name:
            continue
        first.setdefault(place, name)
        is_whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        kept[name] = (
            tensor.contiguous() if is_whole and not is_alias else tensor.clone().contiguous()
        )
    return kept


def _check_written(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Read a written file back and compare every tensor.

    Raises:
        OrpoQloraError: the disk does not give back what was written.
    """
    try:
        with safe_open(path, framework="pt") as found:
            same = set(found.keys()) == set(weights) and all(
                _same_bits(found.get_tensor(name), tensor) for name, tensor in weights.items()
            )
    except SafetensorError:
        same = False
    if not same:
        raise OrpoQloraError(
            f"{path.name} does not read back as it was written.",
            where=str(path.parent),
            hint="The disk may be failing: set another home folder.",
        )


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(*(t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)))


def _write_index(draft: Path, names: Sequence[str]) -> None:
    if len(names) == 1:
        return
    weight_map: dict[str, str] = {}
    total = 0
    for name in names:
        with safe_open(draft / name, framework="pt") as found:
            for key in found.keys():  # noqa: SIM118 - not a mapping
                weight_map[key] = name
        total += (draft / name).stat().st_size
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    storage.write_whole(draft / INDEX, json.dumps(index, indent=1))


def main(arguments: Sequence[str]) -> int:
    """Convert a model, given by id or folder and revision; return the exit code."""
    model, revision = (*arguments, "")[:2]
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("reading", total=None)

            def on_progress(done: int, of: int, name: str) -> None:
                bar.update(task, completed=done, total=of, description=name)

            folder = convert_weights(model, revision, on_progress)
    except OrpoQloraError as exc:
        console.print(f"[red]error:[/] {exc.message}\n{exc.hint}", soft_wrap=True)
        return 2 if isinstance(exc, InputError) else 1
    console.print(f"{folder}\nTrain with it: --model {model}", soft_wrap=True, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
