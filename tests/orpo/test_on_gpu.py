"""What only a GPU can show: its kernels' numbers, and the memory that torch really allocates.

`benchmarks/gpu.sh` runs these with the other tests marked `gpu`.
"""

import pytest
import torch

from benchmarks.gpu.shapes import CELLS, RANK, SHAPES, pairs_of, random_policy
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.devices.memory import footprint, shape_of
from orpo_qlora.models.generation import generate
from orpo_qlora.models.generation.sampling import Sampling
from orpo_qlora.orpo import logps
from orpo_qlora.orpo.engine import build_engine
from orpo_qlora.orpo.rows.packing import Needs

DEVICE = "cuda"
BOTH = Needs(prompt=True, rejected=True)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_the_predicted_peak_is_what_torch_allocates():
    arithmetic = hardware.choose_arithmetic()
    policy, _ = random_policy("qwen-0.5b", arithmetic)
    pairs = pairs_of("short", 1, SHAPES["qwen-0.5b"].vocab_size)
    weights = torch.cuda.memory_allocated()
    engine = build_engine(policy, BOTH, pairs)
    trained = [p for p in policy.parameters() if p.requires_grad]
    moments = [torch.zeros_like(p) for p in trained for _ in range(2)]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    hardware.forget_peak_memory()
    sums, tokens = engine.measure(pairs)
    sums.sums.sum().backward()
    found = hardware.peak_memory_bytes() - weights
    shape = shape_of(SHAPES["qwen-0.5b"].to_dict())
    plan = footprint(shape, RANK, arithmetic.dtype.itemsize, device="cuda")
    # The adapter's own weights were allocated before the count began.
    predicted = plan.above_weights(tokens) - 4 * shape.adapter_weights(RANK)
    assert len(pairs) == CELLS["short"].pairs_per_step
    assert len(moments) == 2 * len(trained)
    assert predicted == pytest.approx(found, rel=0.2)
    assert hardware.peak_reserved_bytes() >= hardware.peak_memory_bytes()


def test_a_bfloat16_head_has_float32_sums():
    torch.manual_seed(0)
    weight = torch.randn(5000, 512).bfloat16()
    hidden, targets = torch.randn(60, 512).bfloat16(), torch.randint(5000, (60,))
    wanted = torch.log_softmax(hidden.double() @ weight.double().t(), -1)
    wanted = wanted.gather(1, targets[:, None])[:, 0]
    there = [tensor.to(DEVICE) for tensor in (hidden, targets, weight)]
    found = logps.token_logps(there[0], there[1], logps.Head(there[2])).cpu()
    is_wide = logps.has_wide_product(there[0].device, torch.bfloat16)
    assert (found - wanted).abs().max() < (1e-3 if is_wide else 0.5)


def test_draws_of_a_batch_are_those_of_each_row():
    logits = torch.randn(6, 3000, generator=torch.Generator().manual_seed(1)).to(DEVICE)

    def draw(rows):
        draws = torch.Generator(DEVICE).manual_seed(5)
        return generate._draw(rows, draws, Sampling(0.9, 0.9))

    assert draw(logits) == [draw(row[None])[0] for row in logits]
