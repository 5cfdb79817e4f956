"""The models in the chat process: one base and up to four adapters of runs. Floor 5.

Knows memory and models, not sockets.
"""

from __future__ import annotations

import gc
import json
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from orpo_qlora import storage
from orpo_qlora.chat.bases import ADAPTERS_HELD, BaseKey, common_base
from orpo_qlora.data.wording import in_bytes
from orpo_qlora.errors import (
    Busy,
    InputError,
    ModelError,
    ModelNotFound,
    OutOfMemory,
    UnsupportedModel,
)
from orpo_qlora.models import loading
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.devices.memory import NF4_BYTES
from orpo_qlora.models.generation.prefixes import Prefixes
from orpo_qlora.models.templates.rendering import template_text
from orpo_qlora.models.weights import find
from orpo_qlora.runs.store import Run
from orpo_qlora.storage import FileStamp

log = logging.getLogger(__name__)

GIB = 2**30
WEIGHTS = "adapter_model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")

OnProgress = Callable[[str], None]


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter in memory under a name of PEFT."""

    name: str
    stamp: FileStamp
    """Of its file; a resumed run replaces it."""
    sha256: str
    """Of the file its weights came from."""
    chat_template: str
    """Text of the template it was trained with."""


class LoadedPolicies:
    """At most one base, with up to `ADAPTERS_HELD` adapters that share it."""

    def __init__(self) -> None:
        self.key: BaseKey | None = None
        self.prefixes = Prefixes()
        """Keys and values of earlier messages, so that only new tokens are processed."""
        self._base: loading.Base | None = None
        self._policy: PeftModel | None = None
        self._adapters: dict[str, LoadedAdapter] = {}
        self._loads = 0

    @property
    def runs(self) -> tuple[str, ...]:
        """Ids of the runs whose adapters are in memory, least recently used first."""
        return tuple(self._adapters)

    @property
    def device(self) -> str:
        """Device of the base, empty without one."""
        return self._base.arithmetic.device if self._base else ""

    @property
    def policy(self) -> PeftModel:
        """The base with its adapters, once `prepare` has returned."""
        if self._policy is None:
            raise RuntimeError("no policy is loaded")
        return self._policy

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The base's tokenizer, once `prepare` has returned."""
        if self._base is None:
            raise RuntimeError("no base is loaded")
        return self._base.tokenizer

    def prepare(
        self, runs: Sequence[Run], active: Run | None, on_progress: OnProgress
    ) -> dict[str, LoadedAdapter]:
        """Load the runs' common base and their adapters where needed; return the adapters by run.

        Args:
            runs: the runs to chat with, `ADAPTERS_HELD` at most.
            active: the run that trains on this machine, if any.
            on_progress: called with a note before each slow step.

        Raises:
            InputError: the runs have no base in common.
            ModelError: the base or an adapter cannot be used.
            ResourceError: not enough memory; what was loaded before is kept.
        """
        key = common_base(runs)
        stamps = {run.id: _examine_adapter(run) for run in runs}
        self._make_room_for_experts(runs)
        if self.key != key:
            self._load_base(key, active, on_progress)
        return {run.id: self._hold(run, stamps[run.id], on_progress) for run in runs}

    def _make_room_for_experts(self, runs: Sequence[Run]) -> None:
        """Unload everything if PEFT cannot hold an adapter in memory beside those of the runs.

        Adapters on expert weights can share a base only if all adapt the same ones.

        Raises:
            InputError: the runs' own adapters adapt different expert weights.
        """
        wanted = {experts: run for run in runs if (experts := _adapted_experts(run))}
        if len(wanted) > 1:
            first, second = list(wanted.values())[:2]
            raise InputError(
                f"Runs “{first.title}” and “{second.title}” adapt different expert weights, so "
                "they cannot answer side by side.",
                hint="Choose one of them.",
            )
        held = self._policy.peft_config.values() if self._policy and wanted else ()
        known = [frozenset(adapter.target_parameters or ()) for adapter in held]
        if any(experts and experts not in wanted for experts in known):
            self.unload()

    def _hold(self, run: Run, stamp: FileStamp, on_progress: OnProgress) -> LoadedAdapter:
        held = self._adapters.pop(run.id, None)
        if held is None or held.stamp != stamp:
            on_progress("loading the adapter…")
            fresh = self._attach(run, stamp)
            if held is not None:
                self.policy.delete_adapter(held.name)
            held = fresh
        self._adapters[run.id] = held
        if len(self._adapters) > ADAPTERS_HELD:
            oldest = next(iter(self._adapters))
            self.policy.delete_adapter(self._adapters.pop(oldest).name)
        return held

    def _load_base(self, key: BaseKey, active: Run | None, on_progress: OnProgress) -> None:
        self.unload()
        on_progress("looking for the base model…")
        folder = find.find_weights(key.model, key.revision)
        arithmetic = hardware.choose_arithmetic(key.compute_dtype)
        _refuse_when_short(_weight_bytes(folder, key, arithmetic), arithmetic.device, active)
        on_progress("loading the base model…")
        self._base = loading.load_base(
            key.model,
            key.revision,
            quantization="nf4" if key.quantization == "nf4" else "none",
            compute_dtype=key.compute_dtype,
            dequantized=arithmetic.device == "cpu",
        )
        self.key = key

    def _attach(self, run: Run, stamp: FileStamp) -> LoadedAdapter:
        """Load the run's adapter under a new name; an older version stays usable meanwhile."""
        if self._base is None:
            raise RuntimeError("an adapter needs its base first")
        self._loads += 1
        name = f"{run.id}-{self._loads}"
        weights = run.paths.adapter / WEIGHTS
        sha256 = storage.sha256_of(weights)
        model = self._policy or self._base.model
        try:
            title = f"The adapter of run “{run.title}”"
            self._policy = loading.attach_saved_adapter(model, run.paths.adapter, name, title)
        except ModelError:
            # The adapter may be loaded in part; the next message loads everything from disk.
            self.unload()
            raise
        if FileStamp.of(weights) != stamp:
            raise Busy(
                f"The adapter of run “{run.title}” was replaced while it was read.",
                hint="Send the message again.",
            )
        template = template_text(self.tokenizer, run.trained_config.chat_template)
        return LoadedAdapter(name, stamp, sha256, template)

    def unload(self) -> None:
        """Unload the base and all adapters."""
        self.key = self._base = self._policy = None
        self._adapters.clear()
        self.prefixes.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _examine_adapter(run: Run) -> FileStamp:
    """Return the stamp of a run's adapter file; checks the folder, loads nothing.

    Raises:
        ModelNotFound: the run has no adapter, or none yet.
        UnsupportedModel: the folder holds anything but a safetensors LoRA adapter.
    """
    folder = run.paths.adapter
    try:
        stamp = FileStamp.of(folder / WEIGHTS)
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        if run.is_active:
            raise ModelNotFound(
                f"Run “{run.title}” is {run.state.status} and has no adapter yet.",
                hint="Wait until it ends, or stop it: a stopped run keeps its adapter.",
            ) from exc
        raise ModelNotFound(
            f"Run “{run.title}” has no adapter in {folder}.",
            hint="Choose a run that finished, or was stopped after its first steps.",
        ) from exc
    pickles = [path.name for pattern in PICKLES for path in folder.glob(pattern)]
    if pickles:
        raise UnsupportedModel(
            f"{folder} holds {', '.join(pickles)}, a kind of file that can run code.",
            hint="Only adapter_model.safetensors is ever loaded: move the other files away.",
        )
    if settings.get("peft_type") != "LORA":
        raise UnsupportedModel(
            f"{folder} holds no LoRA adapter but {settings.get('peft_type')!r}.",
            hint="Choose another run.",
        )
    return stamp


def _adapted_experts(run: Run) -> frozenset[str]:
    settings = json.loads((run.paths.adapter / "adapter_config.json").read_text(encoding="utf-8"))
    return frozenset(settings.get("target_parameters") or ())


def _weight_bytes(folder: Path, key: BaseKey, arithmetic: hardware.Arithmetic) -> int:
    """Return the memory the base needs, from the headers of its files."""
    is_packed = key.quantization == "nf4" and arithmetic.device != "cpu"
    total = 0.0
    for path in _weight_files(folder):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, about in header.items():
            if name == "__metadata__":
                continue
            # Experts are never quantised, though each has its own matrix in the file.
            kept = any(part in name for part in ("embed", "head", "experts."))
            is_linear = len(about["shape"]) == 2 and not kept
            each = NF4_BYTES if is_packed and is_linear else arithmetic.dtype.itemsize
            total += math.prod(about["shape"]) * each
    return int(total)


def _weight_files(folder: Path) -> Iterable[Path]:
    """Return the files to load: a folder may also hold the same weights split differently."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return folder.glob("*.safetensors")
    named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return [folder / name for name in sorted(set(named))]


def _refuse_when_short(weight_bytes: int, device: str, active: Run | None) -> None:
    """Refuse a base that would take memory from a run, or that cannot fit at all.

    Raises:
        Busy: a run is active and too little memory is free beside it.
        OutOfMemory: no run is active, and too little memory is free.
    """
    if device == "cpu":
        free, place = hardware.free_host_bytes(), "memory"
    else:
        free, place = torch.cuda.mem_get_info()[0], "GPU memory"
    # Beside a run some memory must stay free: its longest step may be still to come.
    needed = weight_bytes * 1.5 + GIB if active else weight_bytes
    if free >= needed:
        return
    figures = f"the chat needs {in_bytes(needed)} of {place}, {in_bytes(free)} are free"
    if active is not None:
        raise Busy(
            f"Run “{active.title}” is {active.state.status}, and {figures}.",
            hint="Chat when the run has ended, or stop it; a run never loses memory to the chat.",
            where=active.id,
        )
    raise OutOfMemory(
        f"The base model does not fit: {figures}.", hint="Close other programs and try again."
    )
