"""Writes and restores the exact state of a training; safetensors and JSON only. Floor 2.

Written by hand because transformers' own checkpoints unpickle the optimizer and random states.
The next step depends on: the trained weights, the optimizer's moments, the learning-rate
schedule, the random number generators, the number of steps taken and the cut into forwards. The
order of the pairs follows from seed and step (see `orpo.batches`). Base weights are not part of it:
they do not change.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from orpo_qlora.errors import CheckpointError

WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.safetensors"
RANDOM = "random.safetensors"
PROGRESS = "progress.json"
CHECKPOINTS_PER_RUN = 4
CHECKPOINT_SECONDS = 600.0
"""Longest time between checkpoints while `checkpoint_every` is 0."""
_NUMPY_WORDS = "numpy"
_CPU = "torch-cpu"
_CUDA = "torch-cuda-"


class Savepoints:
    """Decides after which steps a checkpoint is due.

    Args of the constructor: the setting, 0 for the program's choice, and the steps of the run.
    """

    def __init__(self, every: int, steps: int) -> None:
        self._every = every or math.ceil(steps / CHECKPOINTS_PER_RUN)
        self._longest_seconds = math.inf if every else CHECKPOINT_SECONDS
        self.saved(0)

    def saved(self, step: int) -> None:
        """Record that the state after `step` was saved."""
        self._step, self._at = step, time.monotonic()

    def is_due(self, step: int, *, is_last: bool) -> bool:
        """Whether the state after `step` should be saved now."""
        is_late = time.monotonic() - self._at > self._longest_seconds
        return step > self._step and (is_last or is_late or step % self._every == 0)


@dataclass(frozen=True)
class Progress:
    """Steps taken, the token budget that cuts a step into forwards, and who computed them."""

    step: int
    tokens_per_forward: int
    processes: int = 1


def capture(
    folder: Path,
    progress: Progress,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
) -> None:
    """Write the state of a training into a folder."""
    save_file(_plain(_trained(model)), folder / WEIGHTS)
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, object] = {}
    for name, value in _leaves(state["state"]):
        if isinstance(value, Tensor):
            tensors[name] = value
        else:
            numbers[name] = value
    save_file(_plain(tensors), folder / OPTIMIZER)
    generators, drawn = _random_state()
    save_file(_plain(generators), folder / RANDOM)
    words = {
        **asdict(progress),
        "optimizer": {"groups": state["param_groups"], "numbers": numbers},
        "scheduler": scheduler.state_dict(),
        "random": drawn,
    }
    (folder / PROGRESS).write_text(json.dumps(words), encoding="utf-8")


def restore(
    folder: Path, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler
) -> Progress:
    """Restore the state in a folder and return its progress.

    Raises:
        CheckpointError: the folder does not hold the state of this training.
    """
    try:
        restore_weights(folder, model)
        words = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
        _restore_optimizer(optimizer, words["optimizer"], load_file(folder / OPTIMIZER))
        scheduler.load_state_dict(words["scheduler"])
        _restore_random_state(words["random"], load_file(folder / RANDOM))
        processes = int(words.get("processes", 1))  # before there could be several
        return Progress(int(words["step"]), int(words["tokens_per_forward"]), processes)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as exc:
        raise CheckpointError(
            f"{folder.name} does not hold the state of this training ({exc}).", where=str(folder)
        ) from exc


def restore_weights(folder: Path, model: nn.Module) -> None:
    """Restore the trained weights alone.

    Raises:
        CheckpointError: the folder holds other weights than this model trains.
    """
    try:
        saved = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as exc:
        raise CheckpointError(f"{folder.name}: {WEIGHTS} cannot be read ({exc}).") from exc
    trained = _trained(model)
    if {n: w.shape for n, w in saved.items()} != {n: w.shape for n, w in trained.items()}:
        raise CheckpointError(f"{folder.name} holds other weights than this model trains.")
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(saved[name])


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies that share no memory, which safetensors refuses to write."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _leaves(state: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values of a nested state by path; 8-bit optimizers nest a level deeper."""
    for key, value in state.items():
        name = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            yield from _leaves(value, name)
        else:
            yield name, value


def _restore_optimizer(
    optimizer: Optimizer, saved: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    state: dict[Any, Any] = {}
    for name, value in {**saved["numbers"], **tensors}.items():
        index, *path, key = name.split("/")
        place = state.setdefault(int(index), {})
        for part in path:
            place = place.setdefault(part, {})
        place[key] = value
    fresh = optimizer.state_dict()["param_groups"]
    groups = [
        {key: _like(group.get(key), value) for key, value in loaded.items()}
        for group, loaded in zip(fresh, saved["groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _like(fresh: object, saved: object) -> object:
    """Return a list as a tuple where the optimizer has one; JSON has no tuples."""
    return tuple(saved) if isinstance(fresh, tuple) and isinstance(saved, list) else saved


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Give every random number generator back the state it had before the block."""
    tensors, words = _random_state()
    try:
        yield
    finally:
        _restore_random_state(words, tensors)


def _random_state() -> tuple[dict[str, Tensor], dict[str, object]]:
    version, numbers, gauss = random.getstate()
    drawn = dict(np.random.get_state(legacy=False))
    words = drawn.pop("state")
    tensors = {
        _NUMPY_WORDS: torch.from_numpy(words["key"].astype(np.int64)),
        _CPU: torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states = torch.cuda.get_rng_state_all()
        tensors |= {f"{_CUDA}{device}": state for device, state in enumerate(states)}
    return tensors, {
        "python": [version, list(numbers), gauss],
        "numpy": {**drawn, "position": words["pos"]},
    }


def _restore_random_state(words: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    version, numbers, gauss = words["python"]
    random.setstate((version, tuple(numbers), gauss))
    drawn = dict(words["numpy"])
    key = tensors[_NUMPY_WORDS].numpy().astype(np.uint32)
    np.random.set_state({**drawn, "state": {"key": key, "pos": drawn.pop("position")}})
    torch.set_rng_state(tensors[_CPU])
    for name, generator in tensors.items():
        if name.startswith(_CUDA) and torch.cuda.is_available():
            torch.cuda.set_rng_state(generator, int(name.removeprefix(_CUDA)))
