"""What there is of the machine for us."""

import errno
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from orpo_qlora.errors import OutOfMemory, UnsupportedModel
from orpo_qlora.models.devices import hardware

GIB = 2**30


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Put this process into a control group, of a host with 64 GiB to spare."""
    monkeypatch.setattr(hardware, "CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB))

    def say(limit, used, cached=0):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nactive_file 7\n")

    return say


def test_a_container_has_what_its_limit_leaves_not_what_the_host_has(container):
    assert hardware.free_host_bytes() == 64 * GIB, "no limit is known"
    container("max", 3 * GIB)
    assert hardware.free_host_bytes() == 64 * GIB
    container(4 * GIB, 3 * GIB)
    assert hardware.free_host_bytes() == GIB
    container(4 * GIB, 5 * GIB)
    assert hardware.free_host_bytes() == 0


def test_a_model_that_was_just_read_from_disk_does_not_fill_a_container(container):
    container(16 * GIB, 15 * GIB, cached=14 * GIB)
    assert hardware.free_host_bytes() == 15 * GIB


@pytest.mark.parametrize("asked", ["", "2"])
def test_all_cores_are_used_again_after_one(asked):
    program = """
import torch
from orpo_qlora.errors import OutOfMemory
from orpo_qlora.models.devices import hardware

first = hardware.use_all_cores()
torch.set_num_threads(1)
print(first, hardware.use_all_cores(), torch.get_num_threads())
"""
    environment = {"OMP_NUM_THREADS": asked} if asked else {}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    first, again, used = done.stdout.split()
    assert first == again == used


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), True),
        (torch.AcceleratorError("CUDA error: out of memory", 2), True),
        *(
            (RuntimeError(text), True)
            for text in (
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
                "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
                "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
                "CUDA driver error: out of memory",
                "HIP out of memory. Tried to allocate 2.00 GiB.",
                "Error out of memory at line 84 in file /src/csrc/ops.cu",
                "cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY",
                "Triton Error [CUDA]: out of memory",
                "hipErrorOutOfMemory",
            )
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling"), False),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_only_memory_errors_count(error, is_memory):
    assert hardware.is_out_of_memory(error) is is_memory


def named():
    return OutOfMemory("a step does not fit", hint="a way out")


def test_what_the_allocator_of_this_machine_says_is_named():
    with pytest.raises(OutOfMemory, match="does not fit"), hardware.memory_errors(named):
        torch.empty(1 << 60)
    with pytest.raises(RuntimeError, match="shapes"), hardware.memory_errors(named):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_training_in_float16_is_refused_with_its_way_out():
    with pytest.raises(UnsupportedModel, match="float16") as caught:
        hardware.refuse_untrainable("float16")
    assert "compute_dtype=auto" in caught.value.hint
    for name in ("auto", "float32", "bfloat16"):
        hardware.refuse_untrainable(name)


def test_cores_are_counted_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity")
    monkeypatch.delattr(psutil.Process, "cpu_affinity")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert hardware.use_all_cores() >= 1


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_segments_grow_unless_the_environment_configures_the_allocator(monkeypatch, name):
    for variable in hardware.ALLOCATOR_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv(name, "max_split_size_mb:128")
    hardware._let_segments_grow()
    assert hardware.os.environ[name] == "max_split_size_mb:128"
    assert "expandable_segments:True" not in hardware.os.environ.values()
    monkeypatch.delenv(name)
    hardware._let_segments_grow()
    assert hardware.os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_a_gpus_peaks_are_reset_and_reserved_memory_is_beside_them(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 9 * GIB)
    hardware.forget_peak_memory()
    assert calls == ["reset"]
    assert hardware.peak_reserved_bytes() == 9 * GIB
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    hardware.forget_peak_memory()
    assert calls == ["reset"]
    assert hardware.peak_reserved_bytes() == 0
