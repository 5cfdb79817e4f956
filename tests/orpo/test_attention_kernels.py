"""Attention kernels of a GPU: same numbers as masks on a CPU, chosen by the start-up check.

torch's variable-length kernel has no CPU code; a plain loop with its interface takes its place, so
that everything around it is tested. The tests marked `gpu` run the kernel itself.
"""

import dataclasses

import pytest
import torch
from policies import make_policy, random_pairs
from torch.nn import functional as F

from orpo_qlora.models import grouped_keys
from orpo_qlora.orpo.engine import build_engine
from orpo_qlora.orpo.kernels import attention, varlen
from orpo_qlora.orpo.rows.packing import Needs, Segment, lay_out
from orpo_qlora.orpo.verify.parity import relative_l2, take_gradients

BOTH = Needs(prompt=True, rejected=True)
PAIRS = random_pairs(5, seed=3)


def plain_varlen(query, key, value, cu_queries, cu_keys, longest_queries, longest_keys, **options):
    """What `torch.nn.attention.varlen.varlen_attn` computes, sequence by sequence."""
    left, right = options["window_size"]
    assert right == 0
    parts = []
    spans = zip(cu_queries.tolist(), cu_queries[1:].tolist(), strict=False)
    for (start, end), first, last in zip(
        spans, cu_keys.tolist(), cu_keys[1:].tolist(), strict=False
    ):
        assert end - start <= longest_queries
        assert last - first <= longest_keys
        places = torch.arange(last - first)
        behind = places[-(end - start) :, None] - places
        seen = (behind >= 0) & ((behind <= left) | (left < 0))
        q, k, v = (
            x[None].transpose(1, 2) for x in (query[start:end], key[first:last], value[first:last])
        )
        part = F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, scale=options["scale"], enable_gqa=options["enable_gqa"]
        )
        parts.append(part[0].transpose(0, 1))
    return torch.cat(parts)


def step_of(built):
    """Return sums and gradients of one forward."""
    sums, _ = built.measure(PAIRS)
    sums.sums.sum().backward()
    return sums.sums.detach(), take_gradients(built.policy)


@pytest.mark.parametrize("kernel", ["varlen", "lower_right"])
@pytest.mark.parametrize("name", ["llama-tied", "mistral-window", "gemma2", "qwen3"])
@pytest.mark.parametrize("layout", ["shared", "packed"])
def test_every_kernel_gives_the_numbers_of_masks(monkeypatch, kernel, name, layout, whole_float64):
    monkeypatch.setattr(varlen, "kernel", plain_varlen)
    built = dataclasses.replace(build_engine(make_policy(name), BOTH, PAIRS), layout=layout)
    assert built.kernel == "masks"
    wanted, slopes = step_of(built)
    found, measured = step_of(dataclasses.replace(built, kernel=kernel))
    assert torch.allclose(found, wanted, rtol=1e-10)
    assert all(relative_l2(measured[n], slopes[n]) < 1e-9 for n in slopes)


def broken(*args, **options):
    raise RuntimeError("no kernel image is available for execution on the device")


def sees_too_much(*args, **options):
    return plain_varlen(*args, **options | {"window_size": (2, 0)})


class _WrongSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return 3 * grad


def wrong_backward(*args, **options):
    return _WrongSlope.apply(plain_varlen(*args, **options))


@pytest.mark.parametrize("kernel", [broken, sees_too_much, wrong_backward, None])
def test_a_kernel_that_fails_the_check_is_not_used(monkeypatch, kernel, whole_float64):
    monkeypatch.setattr(attention, "kernels", lambda device, dtype: tuple(attention.KERNELS))
    monkeypatch.setattr(varlen, "kernel", kernel)
    built = build_engine(make_policy("llama-tied"), BOTH, PAIRS)
    assert (built.layout, built.kernel, built.falls_back) == ("shared", "lower_right", False)
    assert "one flash call over all segments failed the start-up check" in built.describe


def test_a_kernel_that_agrees_is_used(monkeypatch, whole_float64):
    monkeypatch.setattr(attention, "kernels", lambda device, dtype: tuple(attention.KERNELS))
    monkeypatch.setattr(varlen, "kernel", plain_varlen)
    built = build_engine(make_policy("llama-tied"), BOTH, PAIRS)
    assert built.kernel == "varlen"
    assert built.describe.endswith("attention: one flash call over all segments.")


def test_a_cpu_has_no_choice():
    assert attention.kernels(torch.device("cpu"), torch.bfloat16) == ("masks",)


def test_a_gpu_takes_flash_in_16_bits_only():
    gpu = torch.device("cuda")
    assert attention.kernels(gpu, torch.bfloat16)[0] == "varlen"
    assert attention.kernels(gpu, torch.float32) == ("lower_right", "masks")


def test_lengths_put_a_prefix_before_a_segments_own_keys():
    segments = (Segment(0, 5), Segment(5, 8, 0, 3))
    lengths = varlen.lengths_of(segments, torch.device("cpu"))
    assert lengths.gathered.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7]
    assert lengths.cu_queries.tolist() == [0, 5, 8]
    assert lengths.cu_keys.tolist() == [0, 5, 11]
    assert (lengths.longest_queries, lengths.longest_keys) == (5, 6)


def test_dropout_and_odd_heads_take_another_kernel():
    query = torch.zeros(1, 2, 3, 64)
    assert varlen.fits(query, 0.0)
    assert not varlen.fits(query, 0.1)
    assert not varlen.fits(torch.zeros(1, 2, 3, 20), 0.0)
    assert not varlen.fits(torch.zeros(1, 2, 3, 512), 0.0)


def test_masks_are_those_of_one_row_and_shared_by_its_layers():
    built = build_engine(make_policy("llama-tied"), BOTH, PAIRS)
    for pairs in (PAIRS[:3], PAIRS[3:]):
        built.measure(pairs)
        segments = lay_out(pairs, "shared", BOTH).segments
        masks = attention._masks_of(segments, torch.float64, torch.device("cpu"))
        shapes = {
            (s.end - s.start, s.end - s.start + s.prefix_end, None)
            for s in lay_out(pairs, "shared", BOTH).segments
            if s.prefix_end > s.prefix_start and s.prefix_start == 0
        }
        assert shapes <= masks.keys()
        assert len(masks) <= len(pairs)


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "has_mask", "is_shared"),
    [
        ("cpu", torch.float32, (0, 0), True, True),
        ("cuda", torch.bfloat16, (8, 0), False, True),
        ("cuda", torch.bfloat16, (9, 0), True, False),
        ("cuda", torch.float32, (9, 0), False, False),
        ("cuda", torch.float16, (7, 5), False, False),
    ],
    ids=["cpu", "flash", "mask", "float32", "turing"],
)
def test_keys_are_repeated_where_no_kernel_takes_them_shared(
    monkeypatch, device, dtype, capability, has_mask, is_shared
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = grouped_keys.takes_shared_keys(torch.device(device), dtype, has_mask=has_mask)
    assert found is is_shared


@pytest.mark.parametrize("name", ["llama-tied", "gpt-neox"])
@pytest.mark.parametrize("is_padded", [False, True], ids=["whole", "padded"])
def test_a_model_that_repeats_its_keys_gives_the_same_logits(monkeypatch, name, is_padded):
    model = make_policy(name).get_base_model().eval()
    model.set_attn_implementation("sdpa")
    ids = torch.tensor([PAIRS[0].prompt + PAIRS[0].chosen] * 2)
    mask = torch.ones_like(ids)
    if is_padded:
        mask[1, :2] = 0
    wanted = model(input_ids=ids, attention_mask=mask).logits
    asked = []
    monkeypatch.setattr(grouped_keys, "has_flash", lambda device, dtype: False)
    monkeypatch.setattr(
        grouped_keys, "takes_shared_keys", lambda *_, has_mask: asked.append(has_mask) or False
    )
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    assert grouped_keys.repeat_keys_where_needed(model)
    monkeypatch.setattr(type(model), "device", torch.device("cpu"))
    found = model(input_ids=ids, attention_mask=mask).logits
    assert asked
    assert torch.allclose(found, wanted, rtol=1e-10)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", ["varlen", "lower_right", "masks"])
@pytest.mark.parametrize("name", ["llama-tied", "mistral-window"])
def test_a_gpu_kernel_gives_the_numbers_of_a_cpu(kernel, name):
    dtype = torch.bfloat16 if kernel == "varlen" else torch.float32
    reference = build_engine(make_policy(name, torch.float32), BOTH, PAIRS)
    wanted, slopes = step_of(reference)
    policy = make_policy(name, dtype).to("cuda")
    built = dataclasses.replace(build_engine(policy, BOTH, PAIRS), layout="shared", kernel=kernel)
    found, measured = step_of(built)
    tolerance = 0.1 if kernel == "varlen" else 1e-3
    assert relative_l2(found.cpu().float(), wanted) < tolerance
    assert all(relative_l2(measured[n].cpu().float(), slopes[n]) < 3 * tolerance for n in slopes)
