"""Mixtures of experts: where adapters go, and one adapter after the other."""

import pytest
import torch
from peft.tuners.lora.layer import ParamWrapper
from tiny import make_tiny_experts
from tuned import make_adapters_tell

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import UnsupportedModel
from orpo_qlora.models import experts, loading
from orpo_qlora.models.devices.memory import read_shape
from orpo_qlora.models.experts import can_mix_adapters, describe_experts, lora_targets
from orpo_qlora.models.generation import generate
from orpo_qlora.models.generation.sampling import BASE, Conversation, Sampling
from orpo_qlora.orpo.engine import build_engine
from orpo_qlora.orpo.rows.packing import Needs
from orpo_qlora.orpo.rows.tokens import TokenizedPair

GREEDY = Sampling(temperature=0, max_tokens=12)
KINDS = ("mixtral", "qwen3_moe", "qwen2_moe")
ATTENTION = ("k_proj", "o_proj", "q_proj", "v_proj")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("experts")
    return {kind: make_tiny_experts(root / kind, kind) for kind in KINDS}


def loaded(folder, **settings):
    base = loading.load_base(str(folder))
    policy = loading.attach_new_adapter(base, TrainConfig(lora_r=4, lora_alpha=8, **settings))
    torch.manual_seed(3)
    make_adapters_tell(policy)
    return base, policy


@pytest.mark.parametrize("kind", KINDS)
def test_all_linear_adapts_attention_and_every_expert_but_not_the_router(models, kind):
    _, policy = loaded(models[kind])
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    adapted = {name.split(".lora_")[0].split(".layers.")[1] for name in trained}
    of_layer = {f"self_attn.{name}" for name in ATTENTION}
    of_layer |= {"mlp.experts", "mlp.experts.base_layer"}
    if kind == "qwen2_moe":
        shared = ("gate_proj", "up_proj", "down_proj")
        of_layer |= {f"mlp.shared_expert.{name}" for name in shared}
    assert adapted == {f"{layer}.{name}" for layer in (0, 1) for name in of_layer}
    wrappers = [module for module in policy.modules() if isinstance(module, ParamWrapper)]
    assert {(w.parameter_name, w.num_experts, w.r["default"]) for w in wrappers} == {
        ("gate_up_proj", 4, 4),
        ("down_proj", 4, 4),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_shares_prompts_and_trains_every_adapter_weight(models, kind):
    _, policy = loaded(models[kind])
    pairs = [TokenizedPair((5, 6, 7), (8, 9), (10, 11, 12, 13), row) for row in (1, 2)]
    engine = build_engine(policy, Needs(prompt=True, rejected=True), pairs)
    assert engine.layout == "shared"
    sums, _ = engine.measure(pairs)
    sums.sums.sum().backward()
    trained = [p for p in policy.parameters() if p.requires_grad]
    # Not every expert sees these tokens, but every matrix holds some that do.
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


def test_rows_of_base_and_adapter_are_answered_as_if_alone(models):
    base, policy = loaded(models["mixtral"])
    assert not can_mix_adapters(policy)
    long, short = Message("user", "What is gravity? " * 5), Message("user", "hello")
    asked = [
        Conversation((long,), "default"),
        Conversation((short,), BASE),
        Conversation((short,), "default"),
    ]
    together = generate.answer_all(policy, base.tokenizer, asked, GREEDY)
    alone = [generate.answer_all(policy, base.tokenizer, [one], GREEDY)[0] for one in asked]
    assert together == alone
    assert together[1] != together[2]
    ids = torch.tensor([generate.prompt_ids(base.tokenizer, (short,))])
    options = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        tuned = policy.eval().generate(input_ids=ids, **options)
        with policy.disable_adapter():
            plain = policy.generate(input_ids=ids, **options)
    for answer, whole in ((together[2], tuned), (together[1], plain)):
        found = base.tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer == found


def test_answering_leaves_the_adapter_trainable_and_active(models):
    base, policy = loaded(models["mixtral"])
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    asked = [Conversation((Message("user", "hi"),), name) for name in (BASE, "default")]
    generate.answer_all(policy, base.tokenizer, asked, GREEDY)
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == trained
    assert policy.active_adapters == ["default"]
    ids = torch.arange(5, 15)[None]
    with torch.no_grad(), policy.disable_adapter():
        bare = policy(input_ids=ids).logits
    with torch.no_grad():
        assert not torch.equal(policy(input_ids=ids).logits, bare)


def test_adapters_on_attention_alone_share_a_batch(models):
    _, policy = loaded(models["mixtral"], lora_targets="q_proj,v_proj")
    assert can_mix_adapters(policy)
    note = describe_experts(policy, "q_proj,v_proj")
    assert note.startswith(
        "Experts: no adapters on the 4 experts in 2 layers. The experts' weights"
    )


def test_experts_can_be_named(models):
    base = loading.load_base(str(models["qwen3_moe"]))
    found = lora_targets(base.model, "q_proj, down_proj")
    assert found == experts.LoraTargets(("q_proj",), ("down_proj",))


def test_the_note_says_what_stays_unquantised(models):
    _, policy = loaded(models["mixtral"])
    # 2 layers x 4 experts x (192 x 64 + 64 x 96) weights of 4 bytes.
    assert describe_experts(policy, "all-linear") == (
        "Experts: adapters on down_proj and gate_up_proj of 4 experts in 2 layers; the router has "
        "none. The experts' weights are never quantised: 590 kB in float32."
    )
    assert read_shape(models["mixtral"]).expert_weights == 2 * 4 * (192 * 64 + 64 * 96)


def test_dropout_on_experts_is_refused_with_the_way_out(models):
    with pytest.raises(UnsupportedModel, match="LoRA dropout") as caught:
        loaded(models["mixtral"], lora_dropout=0.1)
    assert "q_proj" in caught.value.hint


def test_a_dense_model_has_no_experts(tiny_model):
    base, policy = loaded(tiny_model)
    assert lora_targets(base.model, "all-linear") == experts.LoraTargets("all-linear")
    assert describe_experts(policy, "all-linear") == ""
