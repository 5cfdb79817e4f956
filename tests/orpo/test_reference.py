"""The reference is measured once, survives a kill and belongs to one base and one set of pairs."""

import json

import pytest
import torch
from notebook import Notebook, adapter
from peft import LoraConfig, get_peft_model
from policies import CONFIGS, make_policy, random_pairs
from transformers import AutoModelForCausalLM

from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import CheckpointError, NonFiniteLoss
from orpo_qlora.orpo import engine as engines
from orpo_qlora.orpo.engine import Engine, build_engine
from orpo_qlora.orpo.loss import needs_of
from orpo_qlora.orpo.reference import KEPT_FILES, ReferenceFile, digest_of
from orpo_qlora.orpo.trainer import OrpoTrainer

IDENTITY = {"base": "tiny", "pairs": "these"}


def file_in(folder, identity=IDENTITY):
    return ReferenceFile(folder / "cache", folder / "reference.jsonl", identity)


def make_trainer(file=None, *, pairs=None, notebook=None, **settings):
    policy = make_policy("llama-untied", torch.float32)
    pairs = pairs or random_pairs(9)
    wanted = {"method": "dpo", "pairs_per_step": 4, "learning_rate": 1e-3, "max_steps": 3}
    config = TrainConfig(**(wanted | settings))
    built = build_engine(policy, needs_of(config), pairs)
    held_out = random_pairs(3, seed=8)
    trainer = OrpoTrainer(built, config, pairs, held_out, notebook or Notebook())
    trainer.reference_file = file
    return trainer


@pytest.fixture
def forwards(monkeypatch):
    """Count the pairs that are measured."""
    counted = []
    measure = Engine.measure

    def counting(self, pairs):
        counted.append(len(pairs))
        return measure(self, pairs)

    monkeypatch.setattr(Engine, "measure", counting)
    return counted


def test_it_is_the_policy_without_its_adapter():
    trainer = make_trainer()
    trainer.measure_reference()
    pairs = [*trainer.pairs, *trainer.held_out]
    with torch.no_grad(), trainer.engine.policy.disable_adapter():
        expected = torch.stack([engines.plain_sums(trainer.engine.policy, p) for p in pairs])
    measured = trainer.loss.reference.sums(pairs, expected)
    torch.testing.assert_close(measured[:, 1:], expected[:, 1:], rtol=1e-5, atol=1e-5)


def test_an_adapter_that_was_trained_before_is_part_of_it():
    trainer = make_trainer()
    trainer.starts_trained = True
    trainer.measure_reference()
    pairs = [*trainer.pairs, *trainer.held_out]
    with torch.no_grad():
        expected = torch.stack([engines.plain_sums(trainer.engine.policy, p) for p in pairs])
    measured = trainer.loss.reference.sums(pairs, expected)
    torch.testing.assert_close(measured[:, 1:], expected[:, 1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("method", "start"), [("dpo", 0.693147), ("ipo", 25.0)])
def test_a_fresh_adapter_starts_with_rewards_of_0(method, start):
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_config(CONFIGS["llama-untied"])
    lora = LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM")
    policy, pairs = get_peft_model(base, lora), random_pairs(6)
    notebook, config = Notebook(), TrainConfig(method=method, max_steps=1)
    built = build_engine(policy, needs_of(config), pairs)
    OrpoTrainer(built, config, pairs, pairs, notebook).train()
    assert notebook.steps[0]["loss"] == pytest.approx(start, abs=1e-4)
    # Exactly: the rounding of differences of sums is not a reward, nor its sign an accuracy.
    assert notebook.evaluations[0]["eval/rewards/margins"] == 0
    assert notebook.steps[0]["rewards/margins"] == 0
    assert "eval/rewards/accuracies" not in notebook.evaluations[0]
    assert "rewards/accuracies" not in notebook.steps[0]
    assert notebook.evaluations[-1]["eval/rewards/margins"] != 0
    assert "eval/rewards/accuracies" in notebook.evaluations[-1]


def test_a_second_run_measures_nothing(tmp_path, forwards):
    make_trainer(file_in(tmp_path)).measure_reference()
    (tmp_path / "reference.jsonl").unlink()  # another run has no copy yet
    forwards.clear()
    trainer = make_trainer(file_in(tmp_path))
    forwards.clear()  # the engine's self-check
    assert trainer.measure_reference()
    assert forwards == []
    assert (tmp_path / "reference.jsonl").exists()


def test_the_runs_copy_is_enough(tmp_path, forwards):
    make_trainer(file_in(tmp_path)).measure_reference()
    for file in (tmp_path / "cache").iterdir():
        file.unlink()
    trainer = make_trainer(file_in(tmp_path))
    forwards.clear()
    assert trainer.measure_reference()
    assert forwards == []


@pytest.mark.parametrize("damage", ["torn", "garbage"])
def test_a_killed_measurement_is_continued_to_the_same_numbers(tmp_path, forwards, damage):
    settings = {"max_tokens_per_forward": 60}
    whole = make_trainer(file_in(tmp_path / "whole"), **settings)
    whole.measure_reference()
    notebook = Notebook(stop_after=3)  # after two forwards
    cut = make_trainer(file_in(tmp_path), notebook=notebook, **settings)
    assert not cut.measure_reference(can_stop=True)
    (path,) = (tmp_path / "cache").glob("*.jsonl")
    assert not (tmp_path / "reference.jsonl").exists()
    with path.open("a") as file:
        file.write('{"pair": "0' if damage == "torn" else '{"pair": "0", "chosen": "?"}\n')
    resumed = make_trainer(file_in(tmp_path), **settings)
    forwards.clear()
    assert resumed.measure_reference()
    assert 0 < sum(forwards) < len(whole.pairs) + len(whole.held_out)
    assert resumed.loss.reference.known == whole.loss.reference.known


def test_training_is_bit_for_bit_the_same_with_a_kept_reference(tmp_path):
    ends = []
    for _ in range(2):
        trainer = make_trainer(file_in(tmp_path))
        trainer.train()
        losses = [record["loss"] for record in trainer.run_callback.steps]
        ends.append((losses, adapter(trainer.engine.policy)))
    (losses, weights), (again, others) = ends
    assert losses == again
    assert all(torch.equal(value, others[name]) for name, value in weights.items())


def test_another_base_has_another_file(tmp_path):
    make_trainer(file_in(tmp_path)).measure_reference()
    (tmp_path / "reference.jsonl").unlink()
    other = file_in(tmp_path, IDENTITY | {"base": "another"})
    assert other.read() == {}
    assert other.path != file_in(tmp_path).path


def test_a_file_of_another_base_is_refused_with_the_way_out(tmp_path):
    make_trainer(file_in(tmp_path)).measure_reference()
    other = file_in(tmp_path, IDENTITY | {"base": "another"})
    with pytest.raises(CheckpointError, match=r"another base.*Delete .*reference\.jsonl"):
        other.read()


def test_a_full_disk_costs_only_the_file(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("in the way")
    trainer = make_trainer(file_in(tmp_path))
    assert trainer.measure_reference()
    assert len(trainer.loss.reference.known) == 12


def test_a_reference_that_is_not_a_number_names_its_row():
    trainer = make_trainer()
    with torch.no_grad():
        trainer.engine.policy.get_base_model().get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLoss, match="reference") as caught:
        trainer.measure_reference()
    assert caught.value.where.startswith("row ")


def test_old_files_are_removed(tmp_path):
    for number in range(KEPT_FILES + 3):
        file = file_in(tmp_path, {"base": str(number)})
        file.append({"pair": (-1.0, -2.0)})
        file._lines.close()
    assert len(list((tmp_path / "cache").glob("*.jsonl"))) == KEPT_FILES


def test_pairs_are_found_by_their_tokens():
    one, other = random_pairs(2)
    assert digest_of(one) != digest_of(other)
    line = json.dumps([one.prompt, one.chosen, one.rejected])
    assert digest_of(one) not in line
    assert digest_of(one) == digest_of(type(one)(one.prompt, one.chosen, one.rejected, 77))


@pytest.mark.parametrize(("method", "forwards_a_pair"), [("dpo", 2), ("kto", 4)])
def test_steps_count_mismatched_responses_and_a_note_says_what_the_reference_took(
    tmp_path, method, forwards_a_pair
):
    trainer = make_trainer(file_in(tmp_path), method=method)
    trainer.train()
    for record in trainer.run_callback.steps:
        assert record["forwards"] == record["pairs"] * forwards_a_pair
    (note,) = [note for note in trainer.run_callback.notes if note.startswith("Reference: ")]
    count = len(trainer.loss.reference.known)
    assert note.startswith(f"Reference: log-probs of {count} pairs, {count} of them measured in ")
