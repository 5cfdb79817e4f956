"""The start-up check of the adapter: random B matrices, gradients of a short pair. Floor 2.

PEFT starts B at 0, where an adapter changes nothing and the gradient of every A is 0, whatever
computes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from peft import PeftModel
from torch import Tensor

from orpo_qlora.models.devices.hardware import is_out_of_memory
from orpo_qlora.models.sharding import has_shards
from orpo_qlora.orpo.rows.tokens import TokenizedPair

log = logging.getLogger(__name__)

STD = 0.01
SHORT = 6
"""Tokens of each part of the pair: the plain path keeps all its activations."""
COMPARED = 4
"""Adapter matrices at each end of the model whose gradients are compared."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2, torch.bfloat16: 0.3, torch.float16: 0.1}
"""Largest relative L2 difference of all compared gradients that counts as rounding. A factor or a
term that is missing gives more; in bfloat16 the rounding of many layers adds up."""
Sums = Callable[[TokenizedPair], Tensor]
"""From a pair to its differentiable prompt, chosen and rejected sums."""


@contextmanager
def random_adapter(policy: PeftModel) -> Iterator[None]:
    """Give the B matrices that are 0 small random values for the block.

    Draws from a generator of its own, so that no random state changes.
    """
    source = torch.Generator().manual_seed(0)
    empty = [p for name, p in policy.named_parameters() if "lora_B" in name and not p.any()]
    try:
        for parameter in empty:
            values = torch.randn(parameter.shape, generator=source) * STD
            parameter.data.copy_(values)
        yield
    finally:
        for parameter in empty:
            parameter.data.zero_()


def gradients(policy: PeftModel, pair: TokenizedPair, sums: Sums) -> Tensor | None:
    """Return gradients of the first and last adapter matrices on the beginning of a pair.

    Returns:
        One vector; None where memory does not hold them or there is nothing to compare.
    """
    trained = [p for name, p in policy.named_parameters() if "lora_" in name and p.requires_grad]
    chosen = trained[:COMPARED] + trained[COMPARED:][-COMPARED:]
    if not chosen:
        return None
    short = replace(
        pair,
        prompt=pair.prompt[:SHORT],
        chosen=pair.chosen[:SHORT],
        rejected=pair.rejected[:SHORT],
    )
    try:
        with torch.enable_grad():
            parts = torch.autograd.grad(sums(short).sum(), chosen, allow_unused=True)
    except (MemoryError, RuntimeError) as exc:
        if not is_out_of_memory(exc) or has_shards(policy):  # other processes have gone on
            raise
        log.info("gradients are not checked, as memory ran out: %s", exc)
        return None
    return torch.cat([part.flatten() for part in parts if part is not None])


def gradients_agree(found: Tensor | None, wanted: Tensor | None, dtype: torch.dtype) -> bool:
    """Whether gradients differ by rounding only; those that could not be computed do not count."""
    if found is None or wanted is None:
        return True
    if found.shape != wanted.shape:
        return False
    off = float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))
    log.info("gradients differ by %.1e from PEFT's own path", off)
    return off <= TOLERANCE[dtype]
