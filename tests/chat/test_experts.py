"""Adapters on experts in the chat process."""

import pytest
from tiny import make_tiny_experts
from tuned import make_finished_run

from orpo_qlora.chat.models import LoadedPolicies
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import InputError
from orpo_qlora.models import loading
from orpo_qlora.models.generation.generate import answer_all
from orpo_qlora.models.generation.sampling import BASE, Conversation, Sampling


@pytest.fixture
def runs(own_home, tmp_path):
    """Two runs on all experts' weights, and one on half of them."""
    own_home.mkdir(mode=0o700)
    (own_home / "runs").mkdir()
    model = make_tiny_experts(tmp_path / "mixtral", "mixtral")
    made = [make_finished_run(model, has_adapter=False, name=name) for name in ("a", "b", "half")]
    for run, targets in zip(made, ("all-linear", "all-linear", "q_proj,down_proj"), strict=True):
        base = loading.load_base(str(model), quantization="none")
        policy = loading.attach_new_adapter(base, TrainConfig(lora_r=4, lora_targets=targets))
        policy.save_pretrained(run.paths.adapter)
    return made


def test_two_runs_and_the_base_answer_one_after_the_other(runs):
    loaded = LoadedPolicies()
    held = loaded.prepare(runs[:2], None, lambda _: None)
    asked = [
        Conversation((Message("user", "hello"),), name)
        for name in (held[runs[0].id].name, BASE, held[runs[1].id].name)
    ]
    sampling = Sampling(temperature=0, max_tokens=4)
    answers = answer_all(loaded.policy, loaded.tokenizer, asked, sampling)
    assert len(answers) == 3
    assert answers[1]


def test_adapters_on_different_expert_weights_take_turns_in_memory(runs):
    loaded = LoadedPolicies()
    loaded.prepare(runs[:1], None, lambda _: None)
    with pytest.raises(InputError, match="different expert weights") as caught:
        loaded.prepare([runs[0], runs[2]], None, lambda _: None)
    assert caught.value.hint == "Choose one of them."
    loaded.prepare([runs[2]], None, lambda _: None)
    assert loaded.runs == (runs[2].id,)
