"""A frozen base whose layers are split over several processes, by FSDP2. Floor 1.

Each process holds an equal part of the matrices of every decoder layer. FSDP gathers a layer before
its forward and again before its backward pass, and frees it afterwards. So every forward and every
backward pass is one of all processes: each must run as many as the others.

Embedding, output layer, norms, biases and the scales of 4-bit weights are whole in every process,
and so is an adapter that is attached afterwards. 4-bit weights are gathered as the bytes they are:
no storage type has to match the compute type.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import cast

import torch
import torch.distributed as dist
from bitsandbytes.nn import Linear4bit
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from orpo_qlora.errors import UnsupportedModel
from orpo_qlora.models.devices.hardware import is_out_of_memory

GATHERED_LAYERS = 3
"""Layers of which FSDP holds all weights at once: the one that computes, the next one, and the
buffer that it arrives in."""
NCCL_OWN_ERRORS = ("ncclUnhandledCudaError", "ncclInvalidArgument", "ncclInvalidUsage")
"""What NCCL writes when this process, and not the connection to another, is at fault."""


def shard(model: PreTrainedModel, device: str) -> None:
    """Keep this process's part of a frozen base's layers, and move the model to its device.

    No message is sent, so processes may load and shard a base one after another.

    Args:
        model: with all its weights, on the CPU; without an adapter.
        device: that computes.

    Raises:
        UnsupportedModel: it is a mixture of experts, or its layers are not known.
    """
    layers = _layers(model)
    packed = [_as_bytes(module) for layer in layers for module in _packed_linears(layer)]
    matrices = {p for layer in layers for p in layer.parameters() if p.ndim > 1}
    if not layers or any(matrix.ndim > 2 for matrix in matrices):
        raise UnsupportedModel(
            f"The layers of {type(model).__name__} cannot be sharded.",
            hint="Set shard_base to false, or choose a model without experts.",
        )
    whole_ones = {p for p in model.parameters() if p not in matrices}
    mesh = DeviceMesh.from_group(cast(dist.ProcessGroup, dist.group.WORLD), device)
    for module in (*layers, model.base_model):  # the last one coordinates the layers
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=whole_ones)
    for tensor in chain(whole_ones, model.buffers()):
        tensor.data = tensor.data.to(device)
    for linear in packed:
        linear.quant_state.to(device)
        # PEFT reads these from the weight of a layer.
        linear.weight.compress_statistics = linear.quant_state.nested
        linear.weight.quant_type = linear.quant_state.quant_type
    if device != "cpu":  # so that the trainer moves nothing; each process sees one GPU
        model.hf_device_map = {"": torch.device(device, 0)}


def is_sharded(weight: Tensor) -> bool:
    """Whether this process now holds only its part of a weight."""
    return isinstance(weight, DTensor)


def whole(weight: Tensor) -> Tensor:
    """Return all of a weight; where it is sharded, all processes must call this."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def has_shards(model: nn.Module) -> bool:
    """Whether the layers of a model are split over processes."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def agreed(model: nn.Module, flag: bool) -> bool:
    """Whether a flag is set in all processes of a sharded base; otherwise the flag itself."""
    if not has_shards(model):
        return flag
    count = torch.tensor(int(flag))
    dist.all_reduce(count, dist.ReduceOp.MIN)
    return bool(count)


def gathered_bytes(model: nn.Module) -> int:
    """Return what gathered layers take beside a sharded base's own part; 0 without one."""
    sizes = [
        sum(p.numel() * p.element_size() for p in module.parameters() if is_sharded(p))
        for module in model.modules()
        if isinstance(module, FSDPModule) and module is not getattr(model, "base_model", None)
    ]
    return GATHERED_LAYERS * max(sizes, default=0)


@contextmanager
def same_logits(model: PreTrainedModel) -> Iterator[None]:
    """Give every process the logits of rank 0, so that all generate the same tokens.

    Processes that ended an answer at different tokens would wait for each other for ever.
    """

    def send(_: nn.Module, __: object, logits: Tensor) -> Tensor:
        logits = logits.contiguous()
        dist.broadcast(logits, src=0)
        return logits

    handle = model.get_output_embeddings().register_forward_hook(send)
    try:
        yield
    finally:
        handle.remove()


def is_of_one_process(error: Exception) -> bool:
    """Whether an error may be that of one process, which leaves the others in a forward."""
    return is_out_of_memory(error) or is_lost_connection(error)


def is_lost_connection(error: Exception) -> bool:
    """Whether an error of torch.distributed means that another process has ended, or is silent.

    The store and NCCL have exceptions of their own. Gloo has none: its messages begin with the
    place in its source. NCCL reports what is wrong in this process by the same exception.
    """
    text = str(error)
    if isinstance(error, dist.DistBackendError):
        is_own = any(name in text for name in NCCL_OWN_ERRORS)
        return not is_own and not is_out_of_memory(error)
    if isinstance(error, dist.DistNetworkError | dist.DistStoreError):
        return True
    return type(error) is RuntimeError and "gloo/" in text and "enforce fail" not in text


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """Return the decoder layers: the modules that transformers does not split over devices."""
    names = model._no_split_modules or ()
    return [module for module in model.base_model.modules() if type(module).__name__ in names]


def _packed_linears(layer: nn.Module) -> list[Linear4bit]:
    return [module for module in layer.modules() if isinstance(module, Linear4bit)]


def _as_bytes(linear: Linear4bit) -> Linear4bit:
    """Hold a layer's packed weight as plain bytes, and what unpacks it in the layer itself.

    bitsandbytes looks there for what a weight has lost when FSDP gathers it.
    """
    weight = linear.weight
    linear.quant_state = weight.quant_state
    linear.weight = nn.Parameter(weight.data.as_subclass(Tensor), requires_grad=False)
    return linear
