"""Request and answer of an export that takes minutes: GGUF, Ollama, merged. Floor 5; no torch.

The program is `export/make.py`. The file or folder goes where the user wants it; the job's folder
under the home's `export-jobs/` has the request, the progress and what was checked.
"""

from __future__ import annotations

import glob
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from orpo_qlora import storage
from orpo_qlora.errors import InputError, OrpoQloraError
from orpo_qlora.export.bundle import check_exportable
from orpo_qlora.export.gguf import llama_cpp
from orpo_qlora.export.gguf.types import type_of
from orpo_qlora.jobs.job import BackgroundJob, JobPaths, JobState, hash_of, lost_card
from orpo_qlora.runs import store

RESULT = "result.json"
WORK = ".orpo-qlora-"
"""Beginning of the name of the folder beside a GGUF file that holds what is not finished."""

Kind = Literal["gguf", "gguf-adapter", "ollama", "merged"]
FOLDERS = ("ollama", "merged")
"""Kinds that make a folder."""


class ExportRequest(BaseModel):
    """What to make of which run, and where."""

    model_config = ConfigDict(frozen=True)

    run: str
    kind: Kind
    target: str
    """Full path of the file or folder."""
    type: str = "f16"
    """Number type of a GGUF file."""
    dtype: str = "bfloat16"
    """Number type of a merged model."""
    onto: Literal["trained", "original"] = "trained"
    """The weights to merge into."""
    llama_cpp: str = ""
    """A llama.cpp checkout; empty for the pinned one."""


class ExportResult(BaseModel):
    """What was made."""

    model_config = ConfigDict(frozen=True)

    target: str
    size_bytes: int
    checks: tuple[str, ...]
    """Sentences on what was compared after writing."""
    largest_difference_nats: float | None = None
    commands: tuple[str, ...] = ()
    """Shell commands that open it in other programs."""


@dataclass(frozen=True)
class Export:
    """What is known about an export."""

    state: JobState
    result: ExportResult | None


class ExportJob(BackgroundJob[ExportRequest, Export]):
    """Merges, converts and reads back; needs the machine to itself."""

    program = "orpo_qlora.export.make"
    folder_name = "export-jobs"
    kept = 20
    lost = lost_card(
        "The export",
        "Close other programs and export again, which also removes what was begun.",
    )
    alone = "an export"
    alone_hint = "Export once it has ended."

    def key(self, request: ExportRequest) -> str:
        """Return a name for this run, kind, target and options."""
        return hash_of(request)

    def answer(self, request: ExportRequest, state: JobState) -> Export:
        """Return the result, None while it is made or once its file is gone."""
        return Export(state, None if state.is_busy else self._result(request))

    def is_complete(self, request: ExportRequest, answer: Export) -> bool:
        """Whether the file or folder was made and checked."""
        return answer.result is not None

    def discard(self, request: ExportRequest) -> None:
        """Forget the checks of an earlier export to the same place."""
        (self.paths(request).folder / RESULT).unlink(missing_ok=True)

    def ask(self, request: ExportRequest, *, again: bool = False) -> Export:
        """Return what is known, and start the export if necessary.

        Raises:
            InputError: it cannot be made; and what `BackgroundJob.ask` raises.
        """
        if again or not self.is_complete(request, self.read(request)):
            check_request(request)
        return super().ask(request, again=again)

    def _result(self, request: ExportRequest) -> ExportResult | None:
        file = self.paths(request).folder / RESULT
        try:
            result = ExportResult.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            return None
        return result if Path(result.target).exists() else None


def check_request(request: ExportRequest) -> None:
    """Refuse what cannot be exported, before any work.

    Raises:
        InputError: the run has no final adapter, or the place or the type cannot be used.
    """
    check_exportable(store.read_run(store.paths_of(request.run)))
    target = Path(request.target)
    if target.resolve().is_relative_to(store.runs_folder().resolve()):
        raise InputError(f"{target} is in the folder of the runs.", hint="Name a place outside it.")
    if request.kind not in FOLDERS and not target.parent.is_dir():
        raise InputError(f"The folder {target.parent} does not exist.", hint="Create it first.")
    if request.kind in FOLDERS and target.exists():
        raise InputError(f"{target} exists already.", hint="Name a new folder.")
    if request.kind not in FOLDERS and target.is_dir():
        raise InputError(f"{target} is a folder.", hint="Name a file that ends in .gguf.")
    if request.kind == "merged":
        return
    kind = type_of(request.type)
    checkout = request.llama_cpp
    if checkout and not (Path(checkout) / llama_cpp.CONVERT).is_file():
        raise llama_cpp.not_a_checkout(Path(checkout))
    if kind.is_k_quant and llama_cpp.find_quantizer(checkout) is None:
        raise llama_cpp.quantizer_missing(kind.id)


def drafts_of(target: Path) -> list[Path]:
    """Return the hidden folders beside a target that hold what is not finished."""
    beside = target.parent.glob(f"{glob.escape(WORK + target.name)}-*")
    return [path for path in (storage.draft_of(target), *beside) if path.is_dir()]


def result_file(paths: JobPaths) -> Path:
    """Return where a job's program writes its result."""
    return paths.folder / RESULT


JOB = ExportJob()


def wait_for(request: ExportRequest, on_progress: Callable[[JobState], None]) -> ExportResult:
    """Return the result of a new export; Ctrl-C ends it.

    Raises:
        OrpoQloraError: as `ask` and `BackgroundJob.wait` do.
    """
    try:
        result = JOB.wait(request, on_progress, again=True).result
    except KeyboardInterrupt:
        JOB.end_started(JOB.key(request))
        for draft in drafts_of(Path(request.target)):
            shutil.rmtree(draft, ignore_errors=True)
        raise
    if result is None:
        raise OrpoQloraError("The exported file has disappeared.", where=request.target)
    return result
