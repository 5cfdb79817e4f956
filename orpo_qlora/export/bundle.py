"""Export of a run's adapter as one zip, verified after writing. Floor 5; no torch.

The same run gives the same bytes: files are sorted, their times fixed, and nothing says when it was
exported. Only safetensors and texts go in, so no loader can be led to run anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from safetensors import SafetensorError, safe_open

from orpo_qlora import __version__, storage
from orpo_qlora.errors import InputError, OrpoQloraError
from orpo_qlora.export.origin import ADAPTER_CONFIG, Origin, origin_of, portable_config
from orpo_qlora.export.reports.card import model_card
from orpo_qlora.models.trust import refuse_unsafe_adapter
from orpo_qlora.runs import store
from orpo_qlora.runs.lineage import LINEAGE
from orpo_qlora.runs.process.start import ancestor_of
from orpo_qlora.runs.store import Run

WEIGHTS = "adapter_model.safetensors"
CARD, CONFIG, LICENCE, MANIFEST = "README.md", "config.yaml", "BASE_LICENSE.txt", "manifest.json"
TOKENIZER = (
    *("chat_template.jinja", "tokenizer_config.json", "tokenizer.json", "tokenizer.model"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
)
SCHEMA = 1
NAME_CHARACTERS = 60
PIECE_BYTES = 1 << 20
_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest date that a zip can hold."""
_MODE = 0o100644 << 16

Content = bytes | Path
"""What a file of the zip holds: bytes, or a file whose bytes go in piece by piece."""


@dataclass(frozen=True)
class Bundle:
    """A zip that was written and read back."""

    path: Path
    sha256: str
    size_bytes: int
    files: tuple[str, ...]


def check_exportable(run: Run) -> None:
    """Refuse a run whose adapter is missing, or belongs to another moment than its curves.

    Raises:
        InputError: the adapter cannot be exported.
    """
    if run.is_active:
        raise InputError(
            f"Run “{run.title}” is {run.state.status}, so its adapter is not final.",
            hint="Wait until it ends, or stop it: a stopped run keeps what it learned.",
        )
    if not run.has_final_adapter:
        raise InputError(
            f"Run “{run.title}” is {run.state.status} and has no final adapter.",
            hint="Choose a run that finished, or resume this one.",
        )


def name_of(run: Run) -> str:
    """Return the base name of a run's exported files: its label, reduced to safe characters."""
    label = re.sub(r"[^\w-]+", "-", run.title).strip("-")[:NAME_CHARACTERS]
    return f"{label}-{run.id}" if label else run.id


def export_adapter(run: Run, target: Path | None = None) -> Bundle:
    """Write a run's adapter with everything that belongs to it as a zip, and read it back.

    Args:
        run: finished or stopped.
        target: the zip; without one it goes to the home's `exports/`. A folder must be there.

    Raises:
        InputError: the run has no final adapter, or the zip cannot be written there.
        ModelError: the adapter is no plain LoRA, or damaged.
        DiskFull: a file that was there before is kept.
    """
    check_exportable(run)
    path = target or storage.home() / "exports" / f"{name_of(run)}.zip"
    files = adapter_files(run, origin_of(run))
    with storage.write_errors(path), storage.replacing(path) as draft:
        _write(draft, name_of(run), files)
        _check(draft, name_of(run))
    return Bundle(path, storage.sha256_of(path), path.stat().st_size, tuple(sorted(files)))


def adapter_files(run: Run, origin: Origin) -> dict[str, Content]:
    """Return the files of an exported adapter, by name.

    Raises:
        ModelError: the adapter is no plain LoRA.
        OrpoQloraError: it is damaged.
    """
    refuse_unsafe_adapter(run.paths.adapter)
    _refuse_damaged(run)
    files: dict[str, Content] = {
        WEIGHTS: run.paths.adapter / WEIGHTS,
        ADAPTER_CONFIG: _portable_adapter_config(run, origin),
        CONFIG: _portable_settings(run, origin),
        **{path.name: path for path in _tokenizer_files(run.paths.adapter)},
        LICENCE: f"{origin.licence_sentence}\n".encode(),
        LINEAGE: _lineage(run),
    }
    hashes = {name: _sha256(content) for name, content in files.items()}
    files[CARD] = model_card(run, origin, name_of(run), hashes).encode()
    facts = {
        name: {"bytes": size_of(content), "sha256": _sha256(content)}
        for name, content in sorted(files.items())
    }
    about = {"schema": SCHEMA, "run": run.id, "orpo_qlora": __version__, "files": facts}
    files[MANIFEST] = (json.dumps(about, indent=1) + "\n").encode()
    return files


def write_folder(folder: Path, files: Mapping[str, Content]) -> None:
    """Write the files of an exported adapter into a folder."""
    for name, content in files.items():
        if isinstance(content, Path):
            shutil.copyfile(content, folder / name)
        else:
            (folder / name).write_bytes(content)


def size_of(content: Content) -> int:
    """Return the bytes of a file's content."""
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _tokenizer_files(adapter: Path) -> list[Path]:
    """Return the tokenizer with its chat template; runs of older versions have none."""
    return [adapter / name for name in TOKENIZER if (adapter / name).is_file()]


def _lineage(run: Run) -> bytes:
    ancestor = ancestor_of(run, storage.sha256_of(run.paths.adapter / WEIGHTS))
    return (ancestor.model_dump_json(indent=1) + "\n").encode()


def _refuse_damaged(run: Run) -> None:
    """Check every number of the adapter.

    Raises:
        OrpoQloraError: the file is cut, empty, or holds something that is no finite number.
    """
    problem = ""
    try:
        with safe_open(run.paths.adapter / WEIGHTS, framework="np") as weights:
            names = list(weights.keys())
            odd = [name for name in names if not np.isfinite(weights.get_tensor(name)).all()]
        problem = f"{odd[0]} holds numbers that are not finite" if odd else ""
        problem = problem or ("" if names else "it holds no weights")
    except (SafetensorError, OSError) as exc:
        problem = str(exc)
    if problem:
        raise OrpoQloraError(
            f"The adapter of run “{run.title}” is damaged: {problem}.",
            where=str(run.paths.adapter / WEIGHTS),
            hint="Resume the run, or train it again.",
        )


def _portable_adapter_config(run: Run, origin: Origin) -> bytes:
    settings = json.loads((run.paths.adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = origin.name
    settings["revision"] = origin.revision or None
    for name in ("target_modules", "target_parameters"):
        targets = settings.get(name)
        if isinstance(targets, list):  # PEFT writes a set, in an order of its own
            settings[name] = sorted(targets)
    return (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()


def _portable_settings(run: Run, origin: Origin) -> bytes:
    about = yaml.safe_dump({"run": store.about_run(run.paths)}, sort_keys=False)
    return (about + portable_config(run.config, origin).to_yaml()).encode()


def _sha256(content: Content) -> str:
    if isinstance(content, Path):
        return storage.sha256_of(content)
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, folder: str, files: Mapping[str, Content]) -> None:
    with path.open("xb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in sorted(files.items()):
                _add(archive, f"{folder}/{name}", content)
        file.flush()
        os.fsync(file.fileno())


def _add(archive: zipfile.ZipFile, name: str, content: Content) -> None:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.create_system, entry.external_attr = 3, _MODE  # Unix, readable by all
    entry.file_size = size_of(content)
    if isinstance(content, bytes):
        archive.writestr(entry, content)
        return
    # Not compressed: trained weights hardly shrink, and every zlib packs in its own way.
    with content.open("rb") as source, archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target, PIECE_BYTES)


def _check(path: Path, folder: str) -> None:
    """Read a zip back and compare every file with its manifest.

    Raises:
        OrpoQloraError: the disk does not give back what was written.
    """
    with zipfile.ZipFile(path) as archive:
        listed = json.loads(archive.read(f"{folder}/{MANIFEST}"))["files"]
        for name, facts in listed.items():
            digest = hashlib.sha256()
            with archive.open(f"{folder}/{name}") as file:
                while piece := file.read(PIECE_BYTES):
                    digest.update(piece)
            if digest.hexdigest() != facts["sha256"]:
                raise OrpoQloraError(
                    f"{name} does not read back as it was written.",
                    where=str(path.parent),
                    hint="The disk may be failing: export to another one.",
                )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a draft that becomes the folder whole; after an error nothing is left.

    Raises:
        InputError: the folder exists, or cannot be made.
        DiskFull: the disk filled up.
    """
    with ExitStack() as stack:
        with storage.write_errors(folder):
            if folder.exists():
                raise InputError(f"{folder} exists already.", hint="Name a new folder.")
            draft = stack.enter_context(storage.new_folder(folder))
        yield draft
