"""Device, number type, threads and memory of this machine, as torch uses them. Floor 1."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from orpo_qlora.errors import OutOfMemory, UnsupportedModel
from orpo_qlora.models.devices.machine import usable_cores

CONTROL_GROUP = Path("/sys/fs/cgroup")
THREADS_AT_START = torch.get_num_threads()
ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _let_segments_grow() -> None:
    """Let torch's CUDA allocator enlarge its segments, unless the environment configures it.

    Forwards of different lengths otherwise leave gaps that no later tensor fits. Read once, when
    CUDA starts, which nothing does before this module is imported.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in ALLOCATOR_VARIABLES):
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


_let_segments_grow()


@dataclass(frozen=True)
class Arithmetic:
    """Device and number type in which the model computes, with the reason for the choice."""

    device: str
    dtype: torch.dtype
    reason: str


def choose_arithmetic(requested: str = "auto") -> Arithmetic:
    """Return the device and number type for this machine.

    Args:
        requested: `auto`, or the name of a number type that is then used as it is.

    Raises:
        UnsupportedModel: the GPU cannot compute in the requested type.
    """
    if not torch.cuda.is_available():
        return _on_cpu(requested)
    name = torch.cuda.get_device_name()
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if requested == "bfloat16" and not has_bfloat16:
        raise UnsupportedModel(
            f"{name} has no bfloat16 arithmetic.", hint="Set the compute type to auto."
        )
    if requested != "auto":
        return Arithmetic("cuda", DTYPES[requested], f"{requested} on {name}, as set")
    if has_bfloat16:
        return Arithmetic("cuda", torch.bfloat16, f"bfloat16 on {name}, which has it in hardware")
    # Older cards train slower but safely in float32; see `refuse_untrainable`.
    return Arithmetic("cuda", torch.float32, f"float32 on {name}, which has no bfloat16")


def refuse_untrainable(requested: str) -> None:
    """Refuse a number type in which a training loses its gradients.

    The gradients of log-probs that reach the lower layers fall under float16's smallest values and
    become 0 without a sign of it; nothing here scales the loss.

    Raises:
        UnsupportedModel: it is float16.
    """
    if requested == "float16":
        raise UnsupportedModel(
            "Training in float16 would lose small gradients, as the loss is not scaled.",
            hint="Set “Compute dtype” to auto (--set compute_dtype=auto): bfloat16 where the GPU "
            "has it, else float32. Chat and evaluation can use float16.",
        )


def _on_cpu(requested: str) -> Arithmetic:
    if requested not in ("auto", "float32"):
        return Arithmetic("cpu", DTYPES[requested], f"{requested} on the CPU, as set")
    # bfloat16 takes a fifth off a step where the CPU multiplies it itself (AVX-512-BF16, AMX) and
    # costs up to 90 times more where it does not; either way it leaves log-probs two digits.
    return Arithmetic("cpu", torch.float32, "float32 on the CPU, the exact choice there")


def use_all_cores() -> int:
    """Give torch one thread per physical core and return the count.

    Two threads on one core fight for its vector unit. `OMP_NUM_THREADS` has the last word.
    """
    threads = THREADS_AT_START
    if "OMP_NUM_THREADS" not in os.environ:
        cores = psutil.cpu_count(logical=False) or 1
        threads = min(cores, usable_cores())
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    return threads


def free_memory_bytes() -> int:
    """Return the free memory of the GPU, else of the host or its container."""
    if torch.cuda.is_available():
        unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + unused
    return free_host_bytes()


def free_host_bytes() -> int:
    """Return the free memory of the host, or of the container this process is in."""
    return min(psutil.virtual_memory().available, _free_in_container())


OUT_OF_MEMORY_TEXTS = re.compile(
    # The CPU's allocator of torch, and the host's.
    r"can't allocate memory|cannot allocate memory"
    # torch's CUDA and HIP allocators, the runtimes, the driver (also under expandable segments),
    # bitsandbytes, Triton and NCCL.
    r"|out of memory|ERROR_OUT_OF_MEMORY|(?:cuda|hip)Error(?:MemoryAllocation|OutOfMemory)"
    # cuBLAS, cuBLASLt, hipBLAS and cuDNN 8 and 9, for their workspaces.
    r"|(?:CUBLAS|HIPBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_\w*ALLOC(?:ATION)?_FAILED",
    re.IGNORECASE,
)
"""What libraries write when memory runs out, where they have no exception of their own for it."""


def is_out_of_memory(exc: BaseException) -> bool:
    """Whether an exception means that memory ran out, on a GPU or on the host."""
    if isinstance(exc, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(exc, OSError):
        return exc.errno == errno.ENOMEM
    return isinstance(exc, RuntimeError) and bool(OUT_OF_MEMORY_TEXTS.search(str(exc)))


@contextmanager
def memory_errors(named: Callable[[], OutOfMemory]) -> Iterator[None]:
    """Raise what `named` returns when memory runs out in the block, however it is reported."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as exc:
        if not is_out_of_memory(exc):
            raise
        raise named() from exc


def _free_in_container() -> int:
    """Return the free memory of this process's control group; `sys.maxsize` without a limit."""
    group = CONTROL_GROUP
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        details = (group / "memory.stat").read_text(encoding="ascii")
    except (OSError, ValueError):
        return sys.maxsize
    # The kernel drops inactive file pages when memory is needed.
    cached = re.search(r"^inactive_file (\d+)$", details, re.MULTILINE)
    used -= int(cached[1]) if cached else 0
    return max(0, int(limit) - used) if limit.isdigit() else sys.maxsize


def forget_peak_memory() -> None:
    """Let the peaks of the GPU count from now on; a host's cannot be reset everywhere."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_reserved_bytes() -> int:
    """Return the most GPU memory that the allocator held, gaps included; 0 without a GPU."""
    return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0


def peak_memory_bytes() -> int:
    """Return the peak memory: allocated on the GPU since it was reset, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    # `ru_maxrss` would start at the peak of the parent process.
    kilobytes = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    if kilobytes:
        return int(kilobytes[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
