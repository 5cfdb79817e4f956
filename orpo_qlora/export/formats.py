"""The model files that the page offers: where they go, size and time before. Floor 5; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.export import request as export_request
from orpo_qlora.export.bundle import WEIGHTS, name_of
from orpo_qlora.export.gguf.types import TYPES
from orpo_qlora.export.origin import loaded_folder
from orpo_qlora.export.request import Export, ExportRequest, Kind
from orpo_qlora.models.weights.sizes import parameter_count
from orpo_qlora.runs.store import Run

PARAMETERS_A_SECOND = 3e6
"""Merged, converted and read back on two cores; a GPU and more cores are faster."""
START_SECONDS = 45
"""Imports of two programs and the tokenizer's check."""


@dataclass(frozen=True)
class Format:
    """One model file."""

    id: str
    label: str
    use: str
    """The programs that it is for."""
    kind: Kind
    type: str
    ending: str

    def request(self, run: Run) -> ExportRequest:
        """Return the request for the home's `exports/`."""
        target = storage.home() / "exports" / f"{name_of(run)}{self.ending}"
        return ExportRequest(run=run.id, kind=self.kind, target=str(target), type=self.type)

    def bytes(self, run: Run) -> int:
        """Return the size of the file; 0 if unknown."""
        if self.kind == "gguf-adapter":
            weights = run.paths.adapter / WEIGHTS
            return weights.stat().st_size // 2 if weights.is_file() else 0
        bits = 16.0 if self.kind == "merged" else TYPES[self.type].bits
        return int(_parameters(run) * bits / 8)

    def seconds(self, run: Run) -> float:
        """Return about how long it takes; 0 if unknown."""
        count = _parameters(run)
        if self.kind == "gguf-adapter":
            return START_SECONDS
        return START_SECONDS + count / PARAMETERS_A_SECOND if count else 0.0


FORMATS = (
    Format("gguf-f16", "GGUF f16", "llama.cpp, LM Studio", "gguf", "f16", "-f16.gguf"),
    Format("gguf-q8", "GGUF q8_0", "llama.cpp, LM Studio", "gguf", "q8_0", "-q8_0.gguf"),
    Format("ollama", "Ollama folder", "Ollama", "ollama", "q8_0", "-ollama"),
    Format("lora", "GGUF adapter", "llama.cpp, stock base", "gguf-adapter", "f16", "-lora.gguf"),
    Format("merged", "Merged model", "vLLM, SGLang", "merged", "f16", "-merged"),
)


def exports_of(run: Run) -> Mapping[str, Export]:
    """Return what is known about a run's model files, by format; starts nothing."""
    return {one.id: export_request.JOB.read(one.request(run)) for one in FORMATS}


def _parameters(run: Run) -> int:
    folder = loaded_folder(run.paths.adapter)
    return _counted(folder) if folder and Path(folder).is_dir() else 0


@lru_cache(maxsize=64)
def _counted(folder: str) -> int:
    return parameter_count(Path(folder))
