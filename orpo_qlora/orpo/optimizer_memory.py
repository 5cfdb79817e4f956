"""An optimizer step that is repeated when memory runs out while its state is created. Floor 2.

Optimizers create their moments in the first step. What the forward passes left cached is then
returned, and the parameters that were not updated yet are updated in a second try, so each is
updated exactly once. Later steps allocate nothing that lasts; an error there is not repeated.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from orpo_qlora.errors import OutOfMemory
from orpo_qlora.models.devices.hardware import is_out_of_memory

log = logging.getLogger(__name__)

NOTE = "Memory ran out in the optimizer: its step was repeated; the result stays the same."


def repeat_when_memory_runs_out(optimizer: Optimizer, note: Callable[[str], None]) -> None:
    """Let an optimizer repeat a step in which memory ran out.

    The step then raises OutOfMemory where the second try fails too.

    Args:
        optimizer: of torch or bitsandbytes.
        note: called with a sentence for the user.
    """
    step = optimizer.step

    def repeating(self: Optimizer, closure: None = None) -> object:
        known = set(self.state)
        try:
            return step(closure)
        except (MemoryError, RuntimeError) as exc:
            if not is_out_of_memory(exc):
                raise
            log.info("out of memory in the optimizer: %s", exc)
        # Outside the handler: the exception's traceback holds tensors of the failed try.
        done = _updated(self, known)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _step_the_rest(self, step, done)
        note(NOTE)
        return None

    # A bound method, as torch's schedulers require.
    optimizer.step = MethodType(repeating, optimizer)  # type: ignore[method-assign]


def _updated(optimizer: Optimizer, known: set[Tensor]) -> set[Tensor]:
    """Return the parameters that the failed try updated, and drop incomplete new state.

    Raises:
        OutOfMemory: every parameter had its state, so what was updated is not known.
    """
    trained = [p for p in _parameters(optimizer) if p.grad is not None]
    if all(parameter in known for parameter in trained):
        raise _used_up()
    done = set()
    for parameter in trained:
        state: dict[str, Any] = optimizer.state.get(parameter, {})
        if float(state.get("step", 0)) > 0:
            done.add(parameter)
        else:
            optimizer.state.pop(parameter, None)
    return done


def _step_the_rest(optimizer: Optimizer, step: Callable[..., object], done: set[Tensor]) -> None:
    kept = {parameter: parameter.grad for parameter in done}
    try:
        for parameter in done:
            parameter.grad = None  # optimizers skip what has no gradient
        step(None)
    except (MemoryError, RuntimeError) as exc:
        if not is_out_of_memory(exc):
            raise
        raise _used_up() from exc
    finally:
        for parameter, grad in kept.items():
            parameter.grad = grad


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _used_up() -> OutOfMemory:
    return OutOfMemory(
        "Memory does not hold the optimizer's state beside model and gradients.",
        hint="Set “Optimizer” to paged_adamw_8bit, lower “LoRA rank”, or choose a smaller model.",
    )
