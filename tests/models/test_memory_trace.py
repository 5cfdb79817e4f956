"""The memory model against the storages that one step of the engine holds at its peak.

The step runs on `meta` tensors: real modules, real autograd, real kernels' shapes, no arithmetic.
"""

import dataclasses
from contextlib import nullcontext
from functools import cache
from itertools import pairwise

import pytest
import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Linear4bit, Params4bit
from live_storages import LiveStorages
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from orpo_qlora.config import build_config
from orpo_qlora.models.devices.memory import Room, choose_memory, footprint, shape_of
from orpo_qlora.models.loading import recompute_activations
from orpo_qlora.orpo import engine
from orpo_qlora.orpo.engine import Engine
from orpo_qlora.orpo.kernels import attention, gated_mlp, rms_norm
from orpo_qlora.orpo.kernels.gated_mlp import fuse_gated_mlps
from orpo_qlora.orpo.kernels.lora_linear import fuse_lora_linears
from orpo_qlora.orpo.kernels.rms_norm import fuse_rms_norms
from orpo_qlora.orpo.logps import frozen_head
from orpo_qlora.orpo.rows.packing import Needs
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.presets import read_preset

BLOCK, NESTED_BLOCK = 64, 256
LLAMA_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    max_position_embeddings=131072,
    tie_word_embeddings=False,
)
QWEN_HALF_B = Qwen2Config(
    vocab_size=151936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    max_position_embeddings=32768,
    tie_word_embeddings=True,
)
BOTH = Needs(prompt=True, rejected=True)
CONFIGS = {"llama-8b": LLAMA_8B, "qwen-0.5b": QWEN_HALF_B}


def pack(linear: nn.Linear) -> Linear4bit:
    """Return the layer as bitsandbytes packs it, with double quantisation, on `meta`."""
    count = linear.weight.numel()
    meta = {"device": "meta"}
    nested = QuantState(
        absmax=torch.empty(-(-count // BLOCK // NESTED_BLOCK), **meta),
        code=torch.empty(256, **meta),
        blocksize=NESTED_BLOCK,
        dtype=torch.float32,
    )
    state = QuantState(
        absmax=torch.empty(count // BLOCK, dtype=torch.uint8, **meta),
        shape=linear.weight.shape,
        code=torch.empty(16, **meta),
        blocksize=BLOCK,
        quant_type="nf4",
        dtype=torch.bfloat16,
        offset=torch.empty((), **meta),
        state2=nested,
    )
    packed = Linear4bit(
        linear.in_features,
        linear.out_features,
        linear.bias is not None,
        compute_dtype=torch.bfloat16,
        quant_type="nf4",
        device="meta",
    )
    packed.weight = Params4bit(
        torch.empty(count // 2, 1, dtype=torch.uint8, **meta),
        quant_state=state,
        quant_type="nf4",
        bnb_quantized=True,
    )
    packed.bias = linear.bias
    return packed


def storages_of(policy):
    """Return the tensors of the base: weights, scales, buffers."""
    states = [m.weight.quant_state for m in policy.modules() if isinstance(m, Linear4bit)]
    return [
        *(p for p in policy.parameters() if not p.requires_grad),
        *(each for s in states for each in (s.absmax, s.code, s.offset, s.state2.absmax)),
    ]


@cache
def make_policy(name, rank, layers, *, recomputes):
    config = CONFIGS[name]
    config = type(config)(**config.to_dict() | {"num_hidden_layers": layers, "layer_types": None})
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for module in list(base.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and name != "lm_head":
                setattr(module, name, pack(child))
    base.is_loaded_in_4bit = True
    base.requires_grad_(False)
    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(base, lora, low_cpu_mem_usage=True)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if recomputes:
        recompute_activations(base)
    return policy.train()


def pairs_of(tokens, longest):
    """Return pairs whose rows of about `longest` tokens fill a budget."""
    part = min(longest, tokens) // 3
    pair = TokenizedPair((1,) * part, (1,) * part, (1,) * part, 1)
    return [dataclasses.replace(pair, row=row) for row in range(max(1, tokens // (3 * part)))]


@pytest.fixture
def on_meta(monkeypatch):
    """Leave out what `meta` tensors cannot do: comparisons of values, and autocast.

    Every product of these models runs in a fused function, which switches autocast off.
    """
    monkeypatch.setattr(gated_mlp, "_agree", lambda *_: True)
    monkeypatch.setattr(rms_norm, "_agree", lambda *_: True)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(engine, "_autocast", lambda policy: nullcontext())
    attention.register()


@dataclasses.dataclass(frozen=True)
class Traced:
    """Bytes of a model of one or more layers: its weights, and the peak above them of each step."""

    weights: int
    peaks: list[int]
    tokens: list[int]

    def with_layers(self, longer, layers):
        """Return what more layers take, given the same with one layer more."""
        weights = self.weights + (layers - 1) * (longer.weights - self.weights)
        pairs = zip(self.peaks, longer.peaks, strict=True)
        peaks = [peak + (layers - 1) * (other - peak) for peak, other in pairs]
        return Traced(weights, peaks, self.tokens)


def trace(policy, steps):
    """Run a step for each list of pairs and return what it held."""
    layers = policy.get_base_model().config.num_hidden_layers
    counter = LiveStorages()
    counter.note(storages_of(policy))
    weights = counter.live
    linears = fuse_lora_linears(policy)
    assert not linears.left_to_peft
    assert fuse_gated_mlps(policy, linears) == layers
    assert fuse_rms_norms(policy) == 2 * layers + 1
    counter.note([product.weight._scales for product in linears.products.values()])
    policy.get_base_model().set_attn_implementation(attention.NAME)
    head = frozen_head(policy.get_base_model())
    built = Engine(policy, BOTH, "shared", head, linears, kernel="varlen")
    trained = [p for p in policy.parameters() if p.requires_grad]
    moments = [torch.empty_like(p) for p in trained for _ in range(2)]
    for parameter in trained:  # a later micro-step: gradients and moments are there
        parameter.grad = torch.empty_like(parameter)
    counter.note([trained, moments, [p.grad for p in trained]])
    traced = Traced(weights, [], [])
    for pairs in steps:
        counter.peak = counter.live
        with counter:
            sums, tokens = built.measure(pairs)
            sums.sums.sum().backward()
        traced.peaks.append(counter.peak - weights)
        traced.tokens.append(tokens)
        del sums
    return traced


@pytest.mark.parametrize("preset", ["gpu-08gb", "gpu-16gb", "gpu-24gb", "gpu-80gb"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_predicted_peak_is_what_a_step_holds(on_meta, name, preset):
    settings = build_config(read_preset(preset))
    shape, rank = shape_of(CONFIGS[name].to_dict()), settings.lora_r
    weights = footprint(shape, rank, 2, device="cuda").weights
    room = Room(max(0, int(preset[4:6]) * 10**9 - weights), "cuda")
    recomputes = choose_memory(shape, settings, 2, room, settings.max_length).recomputes
    steps = [pairs_of(tokens, settings.max_length) for tokens in (1024, 3072, 8192)]
    first, second = (
        trace(make_policy(name, rank, layers, recomputes=recomputes), steps) for layers in (1, 2)
    )
    traced = first.with_layers(second, shape.layers)
    plan = footprint(shape, rank, 2, recomputes=recomputes, device="cuda")
    assert plan.weights == pytest.approx(traced.weights, rel=0.01)
    predicted = [plan.above_weights(tokens) for tokens in traced.tokens]
    assert predicted == pytest.approx(traced.peaks, rel=0.15)


def test_the_peak_grows_by_the_same_bytes_with_every_layer(on_meta):
    steps = [pairs_of(1024, 1024)]
    peaks = [
        trace(make_policy("qwen-0.5b", 16, layers, recomputes=False), steps).peaks[0]
        for layers in (1, 2, 3, 4)
    ]
    growth = [second - first for first, second in pairwise(peaks)]
    assert growth == pytest.approx([growth[0]] * 3, rel=1e-3)
