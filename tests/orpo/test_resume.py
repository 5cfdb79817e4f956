"""A training cut at any step and resumed in a fresh model takes the very same steps."""

import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from policies import CONFIGS, random_pairs, randomize_adapter
from transformers import AutoModelForCausalLM, set_seed

from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import CheckpointError
from orpo_qlora.orpo import resume
from orpo_qlora.orpo.engine import build_engine
from orpo_qlora.orpo.rows.packing import Needs
from orpo_qlora.orpo.trainer import OrpoTrainer

STEPS = 5
"""One epoch has three: a cut falls inside the first, on its end and inside the second."""
UNEQUAL = {"seconds", "eval/seconds", "peak_memory_bytes", "eval/peak_memory_bytes"}


def make_policy(rank=3):
    """A policy with dropout, so that the random number generators matter."""
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_config(CONFIGS["llama-untied"]).float()
    base.requires_grad_(False)
    lora = LoraConfig(
        r=rank, lora_alpha=6, lora_dropout=0.3, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    policy = get_peft_model(base, lora)
    randomize_adapter(policy)
    return policy


class Supervisor:
    """Keeps records and every checkpoint; stops after a step if asked to."""

    def __init__(self, folder, stop_at=None):
        self.folder, self.records, self.stop_at = folder, [], stop_at

    def on_step(self, record):
        self.records.append(record)

    on_evaluation = on_step

    def on_phase(self, phase):
        pass

    def on_note(self, note):
        self.notes = note

    def should_stop(self):
        return bool(self.records) and self.records[-1]["step"] == self.stop_at

    def on_checkpoint(self, step, write):
        folder = self.folder / f"step-{step}"
        folder.mkdir(parents=True)
        write(folder)


def train(folder, *, resume_from=None, stop_at=None, **settings):
    set_seed(5)
    policy = make_policy()
    pairs = random_pairs(9)
    base = {"pairs_per_step": 4, "learning_rate": 1e-2, "max_steps": STEPS, "checkpoint_every": 1}
    config = TrainConfig(**(base | settings))
    engine = build_engine(policy, Needs(prompt=True, rejected=True), pairs)
    supervisor = Supervisor(folder, stop_at)
    trainer = OrpoTrainer(engine, config, pairs, random_pairs(3, seed=8), supervisor)
    trainer.resume_from = resume_from
    trainer.train()
    return comparable(supervisor.records), weights(policy), trainer


def comparable(records):
    return [{n: v for n, v in record.items() if n not in UNEQUAL} for record in records]


def step_of(record):
    return record["step"]


def weights(policy):
    return {n: p.detach().clone() for n, p in policy.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scheduler": "linear", "warmup_ratio": 0.5},
        {"scheduler": "inverse_sqrt"},
        {"optimizer": "adamw_8bit"},
    ],
    ids=str,
)
def test_cut_at_every_step_and_resumed_it_ends_bit_for_bit_the_same(tmp_path, settings):
    whole_records, whole, _ = train(tmp_path / "whole", **settings)
    for step in range(1, STEPS):
        records, resumed, _ = train(
            tmp_path / f"from-{step}", resume_from=tmp_path / "whole" / f"step-{step}", **settings
        )
        # Without a record of the base, each measures it: the same numbers from any weights.
        expected = [record for record in whole_records if not 0 < record["step"] <= step]
        assert sorted(records, key=step_of) == sorted(expected, key=step_of)
        assert all(torch.equal(resumed[name], whole[name]) for name in whole), step


def test_stopped_and_resumed_twice_it_ends_the_same(tmp_path):
    _, whole, _ = train(tmp_path / "whole")
    train(tmp_path / "a", stop_at=2)
    train(tmp_path / "b", stop_at=4, resume_from=tmp_path / "a" / "step-2")
    _, resumed, _ = train(tmp_path / "c", resume_from=tmp_path / "b" / "step-4")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_the_moments_and_the_seed_of_dropout_matter(tmp_path):
    """What the exactness above rests on: without one of them the end is another."""
    _, whole, _ = train(tmp_path / "whole")
    changed = tmp_path / "changed"
    shutil.copytree(tmp_path / "whole" / "step-3", changed)
    shutil.copy(tmp_path / "whole" / "step-2" / resume.OPTIMIZER, changed / resume.OPTIMIZER)
    _, resumed, _ = train(tmp_path / "from-changed", resume_from=changed)
    assert not all(torch.equal(resumed[key], whole[key]) for key in whole)

    def first_loss(seed):
        return train(tmp_path / f"seed-{seed}", stop_at=1, pairs_per_step=9, seed=seed)[0][0][
            "loss"
        ]

    assert first_loss(1) != first_loss(2)  # all pairs are in the step: only dropout differs


def test_the_split_into_forwards_is_resumed_too(tmp_path):
    """Less memory than at the beginning must not round differently."""
    _, whole, _ = train(tmp_path / "whole", max_tokens_per_forward=16)
    start = tmp_path / "whole" / "step-3"
    _, resumed, trainer = train(tmp_path / "more", resume_from=start, max_tokens_per_forward=4096)
    assert trainer.budget.tokens == 16
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_other_weights_are_refused(tmp_path):
    train(tmp_path / "whole", stop_at=1)
    with pytest.raises(CheckpointError, match="other weights"):
        resume.restore_weights(tmp_path / "whole" / "step-1", make_policy(rank=4))


def test_a_state_that_is_no_state_is_refused(tmp_path):
    _, _, trainer = train(tmp_path / "whole", stop_at=1)
    folder = tmp_path / "whole" / "step-1"
    (folder / resume.PROGRESS).write_text("{}")
    with pytest.raises(CheckpointError, match="does not hold the state"):
        resume.restore(folder, trainer.model, trainer.optimizer, trainer.lr_scheduler)
