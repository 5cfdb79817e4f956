"""What this machine has: system, packages, torch's build and devices. Floor 2.

Nothing here names a user, a host or a path, so that a report can be published.
"""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib import metadata

import torch
from torch.nn.attention import SDPBackend

from orpo_qlora.models.devices.hardware import Arithmetic

PACKAGES = (
    *("orpo-qlora", "torch", "transformers", "peft", "bitsandbytes", "accelerate", "trl"),
    *("datasets", "safetensors", "tokenizers", "triton", "numpy", "gradio"),
)
VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    *("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "OMP_NUM_THREADS", "BNB_CUDA_VERSION"),
    *("CUDA_LAUNCH_BLOCKING", "TORCH_CUDNN_V8_API_DISABLED", "NVIDIA_TF32_OVERRIDE"),
)
"""Environment variables that change what is computed where."""


@dataclass(frozen=True)
class Device:
    """A GPU as torch sees it."""

    index: int
    name: str
    memory_bytes: int
    free_bytes: int
    capability: str
    """Compute capability, `major.minor`."""
    has_bfloat16: bool


def system() -> dict[str, str]:
    """Return operating system, processor architecture and Python."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def packages() -> dict[str, str]:
    """Return the installed versions; packages that are not installed are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, str]:
    """Return the variables that change what is computed where, of those that are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def torch_build() -> str:
    """Return what the installed torch was built for: `CUDA 13.0`, `ROCm 6.4` or `CPU`."""
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"


def devices() -> list[dict[str, object]]:
    """Return the GPUs in torch's order, as JSON-serialisable `Device`s."""
    if not torch.cuda.is_available():
        return []
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, _ = torch.cuda.mem_get_info(index)
        capability = f"{properties.major}.{properties.minor}"
        device = Device(
            index, properties.name, properties.total_memory, free, capability, has_bfloat16
        )
        found.append(asdict(device))
    return found


def attention_kernels(arithmetic: Arithmetic) -> dict[str, str]:
    """Return the kernels that torch chooses for attention.

    `causal` is a prompt with its chosen response, `masked` a rejected response that attends to the
    shared prompt; see `orpo.attention`.
    """
    query = torch.zeros(1, 8, 64, 64, device=arithmetic.device, dtype=arithmetic.dtype)
    longer = torch.zeros(1, 8, 128, 64, device=arithmetic.device, dtype=arithmetic.dtype)
    mask = torch.ones(64, 128, dtype=torch.bool, device=arithmetic.device)
    choose = torch._fused_sdp_choice
    return {
        "causal": _name(choose(query, query, query, None, 0.0, True)),
        "masked": _name(choose(query, longer, longer, mask, 0.0, False)),
    }


def _name(backend: int) -> str:
    return SDPBackend(backend).name.lower().replace("_", " ")
