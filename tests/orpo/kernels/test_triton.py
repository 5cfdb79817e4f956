"""Triton's kernels against torch's, in Triton's interpreter where there is no GPU.

The interpreter runs the kernels as Python on a CPU; tests/conftest.py turns it on. What it accepts
the compiler may refuse, so one test compiles them for a GPU, which needs none.
"""

import json
import subprocess
import sys

import pytest
import torch
from policies import make_policy, random_pairs
from torch.nn import functional as F

from orpo_qlora.orpo import engine
from orpo_qlora.orpo.engine import build_engine
from orpo_qlora.orpo.kernels import row_kernels
from orpo_qlora.orpo.kernels.gated_mlp import fuse_gated_mlps
from orpo_qlora.orpo.kernels.lora_linear import fuse_lora_linears
from orpo_qlora.orpo.kernels.rms_norm import NormKernel, fuse_rms_norms
from orpo_qlora.orpo.kernels.row_kernels import KernelError, RowKernels
from orpo_qlora.orpo.rows.packing import Needs
from orpo_qlora.orpo.verify.parity import relative_l2, take_gradients

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton has wheels for Linux alone")

HAS_GPU = torch.cuda.is_available()
DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(HAS_GPU, reason="kernels run on the GPU")),
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device")],
    ),
]
SHAPES = {
    torch.float32: [(2, 3, 128), (3, 576), (0, 64)],
    torch.bfloat16: [(2, 896), (1, 4096), (1, 14336)],
    torch.float16: [(1, 5120)],
}
PHI = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda g: F.gelu(g, approximate="tanh"),
}
BOTH = Needs(prompt=True, rejected=True)
PAIRS = random_pairs(4, seed=7)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", SHAPES, ids=str)
def test_kernels_give_the_numbers_of_torch_at_the_widths_of_models(device, dtype):
    kernels = row_kernels.load("triton", torch.device(device), dtype)
    for shape in SHAPES[dtype]:
        for one in row_kernels.differences(kernels, shape, torch.device(device), dtype):
            assert one.distance <= row_kernels.TOLERANCE[dtype], (shape, one)


def strided(shape, seed):
    """Return float32 rows that are not contiguous."""
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape[:-1], 2 * shape[-1], generator=source)[..., ::2]


@pytest.mark.parametrize("device", DEVICES)
def test_a_norm_has_the_gradient_of_its_formula_also_on_strided_rows(device):
    kernel = row_kernels.load("triton", torch.device(device), torch.float32).norm
    x, gain = strided((4, 5, 50), 1).to(device), strided((50,), 2).to(device)
    grad = strided((5, 50), 3).to(device).expand(4, 5, 50)
    y, inverse = kernel.forward(x, gain, 1e-5)
    wide = x.double().requires_grad_(True)
    wanted = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gain
    wanted.backward(grad.double())
    assert y.shape == x.shape
    assert inverse.shape == (4, 5, 1)
    assert relative_l2(y.double(), wanted.detach()) < 1e-6
    assert relative_l2(kernel.backward(grad, x, inverse, gain).double(), wide.grad) < 1e-6


# Where e^−g is infinite, σ(g) is 0 as it should be; the interpreter's numpy warns.
@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", PHI)
def test_an_activation_has_the_gradients_of_its_formula_and_leaves_its_inputs(device, name):
    activation = row_kernels.load("triton", torch.device(device), torch.float32).activations[name]
    # Far out too, where e^−g overflows.
    gate = torch.cat(
        [strided((7, 150), 1), torch.tensor([-200.0, -30, 0, 30, 200]).expand(7, 5)], 1
    )
    up, grad = strided((7, 155), 2), strided((7, 155), 3)
    gate, up, grad = gate.to(device), up.to(device), grad.to(device)
    wide_gate, wide_up = (x.double().requires_grad_(True) for x in (gate, up))
    wanted = PHI[name](wide_gate) * wide_up
    wanted.backward(grad.double())
    kept = gate.clone(), up.clone()
    assert relative_l2(activation.product(gate, up).double(), wanted.detach()) < 1e-6
    product, up_grad, gate_grad = activation.gradients(grad, gate, up)
    assert relative_l2(product.double(), wanted.detach()) < 1e-6
    assert relative_l2(up_grad.double(), wide_up.grad) < 1e-6
    assert relative_l2(gate_grad.double(), wide_gate.grad) < 1e-6
    assert torch.equal(gate, kept[0])
    assert torch.equal(up, kept[1])


@pytest.mark.parametrize("device", DEVICES)
def test_sixteen_bits_lose_no_more_than_torch(device):
    # Not bfloat16: the interpreter cuts its last bits off, which a GPU rounds.
    dtype, shape = torch.float16, (8, 320)
    kernels = row_kernels.load("triton", torch.device(device), dtype)
    source = torch.Generator().manual_seed(1)
    x, up, grad = (torch.randn(*shape, generator=source).to(device, dtype) for _ in range(3))
    rows = row_kernels._Rows(x, up, grad, torch.ones(shape[-1], device=device))
    exact = row_kernels._Rows(x.double(), up.double(), grad.double(), rows.gain.double())
    truth = row_kernels._outputs(row_kernels.TORCH, exact)
    theirs = row_kernels._outputs(row_kernels.TORCH, rows)
    for key, found in row_kernels._outputs(kernels, rows).items():
        lost = relative_l2(found.double(), truth[key])
        assert lost <= 1.02 * relative_l2(theirs[key].double(), truth[key]), key


def a_device_with_a_choice(monkeypatch):
    monkeypatch.setattr(row_kernels, "names", lambda device, dtype: tuple(row_kernels.NAMES))


def step_of(built):
    """Return sums and gradients of one forward."""
    sums, _ = built.measure(PAIRS)
    sums.sums.mean().backward()
    return sums.sums.detach(), take_gradients(built.policy)


def test_a_gpu_takes_tritons_kernels_and_keeps_its_numbers(monkeypatch):
    wanted, slopes = step_of(build_engine(make_policy("gemma2", torch.float32), BOTH, PAIRS))
    a_device_with_a_choice(monkeypatch)
    built = build_engine(make_policy("gemma2", torch.float32), BOTH, PAIRS)
    assert (built.rows, built.layout, built.rows_problem) == ("triton", "shared", "")
    assert "norms and activations: Triton's kernels" in built.describe
    found, measured = step_of(built)
    assert relative_l2(found, wanted) < 1e-5
    assert all(relative_l2(measured[n], slopes[n]) < 1e-4 for n in slopes)


def test_modules_fused_on_tritons_kernels_give_the_models_gradients():
    """Gemma's norms above multiply by 1 + the gain; Llama's by the gain."""
    ids = torch.tensor([PAIRS[0].prompt + PAIRS[0].chosen])
    policy = make_policy("llama-tied", torch.float32)
    policy(input_ids=ids).logits.square().mean().backward()
    wanted = take_gradients(policy)
    kernels = row_kernels._triton()
    assert fuse_gated_mlps(policy, fuse_lora_linears(policy), kernels.activations) == 2
    assert fuse_rms_norms(policy, kernels.norm) == 5
    policy(input_ids=ids).logits.square().mean().backward()
    found = take_gradients(policy)
    assert all(relative_l2(found[n], wanted[n]) < 1e-4 for n in wanted)


def broken(*arguments):
    raise OSError("gcc: not found")


def with_norm(forward=None, backward=None):
    """Return torch's kernels with another norm, as Triton's."""
    norm = row_kernels.TORCH.norm
    return RowKernels(
        "triton",
        NormKernel(forward or norm.forward, backward or norm.backward),
        row_kernels.TORCH.activations,
    )


def wrong_slope(*arguments):
    return 1.1 * row_kernels.TORCH.norm.backward(*arguments)


def wrong_on_the_models_rows(grad, x, inverse, gain):
    found = row_kernels.TORCH.norm.backward(grad, x, inverse, gain)
    return found if x.shape[-1] in (128, 1000) else 3 * found


@pytest.mark.parametrize(
    ("backward", "reason"),
    [
        (wrong_slope, "the RMS norm kernel differs by 1.0e-01 in ∂x"),
        (wrong_on_the_models_rows, "they failed the start-up check"),
    ],
)
def test_wrong_kernels_give_way_to_torchs(monkeypatch, backward, reason):
    a_device_with_a_choice(monkeypatch)
    monkeypatch.setattr(row_kernels, "_triton", lambda: with_norm(backward=backward))
    built = build_engine(make_policy("llama-tied", torch.float32), BOTH, PAIRS)
    assert (built.rows, built.layout, built.falls_back) == ("torch", "shared", False)
    assert f"torch's kernels, not Triton's kernels: {reason}" in built.describe


@pytest.mark.parametrize(
    "failure",
    [
        OSError("gcc: not found"),
        subprocess.CalledProcessError(1, "ptxas"),
        RuntimeError("Failed to find C compiler"),
        "TritonError",
    ],
    ids=lambda failure: getattr(type(failure), "__name__", ""),
)
def test_kernels_that_cannot_be_compiled_say_why(monkeypatch, failure):
    from triton.errors import TritonError

    from orpo_qlora.orpo.kernels import triton_rms_norm

    def fail(*arguments):
        raise TritonError("at 3:4: not supported") if failure == "TritonError" else failure

    monkeypatch.setattr(triton_rms_norm, "KERNEL", NormKernel(fail, fail))
    kernels = row_kernels._triton.__wrapped__()
    with pytest.raises(KernelError, match="a Triton kernel does not run"):
        kernels.norm.forward(torch.ones(1, 4), torch.ones(4), 1e-5)


def test_out_of_memory_stays_out_of_memory(monkeypatch):
    from orpo_qlora.orpo.kernels import triton_rms_norm

    def fail(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(triton_rms_norm, "KERNEL", NormKernel(fail, fail))
    kernels = row_kernels._triton.__wrapped__()
    with pytest.raises(torch.OutOfMemoryError):
        kernels.norm.forward(torch.ones(1, 4), torch.ones(4), 1e-5)


def test_without_triton_torchs_kernels_run(monkeypatch):
    a_device_with_a_choice(monkeypatch)
    monkeypatch.setattr(row_kernels, "_triton", row_kernels._triton.__wrapped__)
    monkeypatch.setitem(sys.modules, "triton.errors", None)
    built = build_engine(make_policy("llama-tied", torch.float32), BOTH, PAIRS)
    assert built.rows_problem == "Triton is not installed"


def test_processes_that_share_a_base_choose_alike(monkeypatch):
    a_device_with_a_choice(monkeypatch)
    monkeypatch.setattr(engine, "has_shards", lambda policy: True)
    monkeypatch.setattr(row_kernels, "_triton", broken)
    built = build_engine(make_policy("llama-tied", torch.float32), BOTH, PAIRS)
    assert "torch's kernels, not Triton's kernels: the base is sharded" in built.describe


def test_only_a_gpu_has_a_choice(monkeypatch):
    monkeypatch.setattr(row_kernels, "_triton", broken)
    assert row_kernels.names(torch.device("cpu"), torch.bfloat16) == ("torch",)
    assert row_kernels.names(torch.device("cuda"), torch.float64) == ("torch",)
    assert row_kernels.names(torch.device("cuda"), torch.bfloat16) == ("triton", "torch")
    assert row_kernels.load("torch", torch.device("cpu"), torch.float32) is row_kernels.TORCH


def test_rows_that_a_program_cannot_hold_are_refused():
    kernels = row_kernels._triton()
    with pytest.raises(KernelError, match="too long"):
        kernels.norm.forward(torch.ones(1, 20000), torch.ones(20000), 1e-5)


COMPILE = """
import json, re
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from orpo_qlora.orpo.kernels import triton_gated_mlp as gated, triton_rms_norm as norm

def narrow(kernel, constants, warps=4):
    pointers = {"gain": "*fp32", "inverse": "*fp32"}
    numbers = {"count": "i64", "width": "i32", "epsilon": "fp32"}
    types = {n: (pointers | numbers).get(n, "*bf16") for n in kernel.arg_names}
    source = ASTSource(
        kernel,
        types | dict.fromkeys(constants, "constexpr"),
        constexprs={(kernel.arg_names.index(n),): value for n, value in constants.items()},
    )
    asm = compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": warps}).asm
    assert asm["cubin"]
    offsets = re.findall(r"tt.addptr .*, tensor<([\\dx]+)x(i\\d+)>", asm["ttir"])
    return [shape for shape, kind in offsets if kind != "i64"]

_, tile = norm._launch(1000, 4096)
warps = tile.pop("num_warps")
found = {f"norm {k.fn.__name__}": narrow(k, tile, warps) for k in (norm._forward, norm._backward)}
for name, kind in gated.KINDS.items():
    found[name] = narrow(gated._backward, {"KIND": kind, "TILE": gated.TILE})
found["product"] = narrow(gated._forward, {"KIND": 0, "TILE": gated.TILE})
print(json.dumps(found))
"""


def test_kernels_compile_for_a_gpu_with_offsets_of_64_bits(cold, monkeypatch, tmp_path):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    done = subprocess.run(
        (sys.executable, "-c", COMPILE), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 6
    # The gain has one row, so that its columns need no more than 32 bits.
    assert {name: set(shapes) - {"4096"} for name, shapes in found.items()} == {
        name: set() for name in found
    }
