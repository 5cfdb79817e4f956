"""Real reward models: TRL's training on tiny models, and models given by folder."""

import random
from dataclasses import replace

import pytest
import torch
from tiny import make_tiny_model, strip_template
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.messages import Message
from orpo_qlora.data.pairs import PreferencePair, Split
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import InputError, UnsupportedModel
from orpo_qlora.evaluation.reward import training
from orpo_qlora.evaluation.reward.model import load_reward_model, load_scalar_base
from orpo_qlora.evaluation.suite import request as suite_request
from orpo_qlora.evaluation.suite.answer_part import ordered_answers
from orpo_qlora.evaluation.suite.results import answers_of, read_reward
from orpo_qlora.evaluation.suite.reward_part import check_reward_model
from orpo_qlora.runs import store

WORDS = ("gravity", "things", "ball", "floor", "people", "word", "meet", "together")


def polite_pairs(count):
    """Pairs whose chosen response ends with other words than the rejected one."""
    source = random.Random(0)
    pairs = []
    for row in range(1, count + 1):
        tail = " ".join(source.choices(WORDS, k=4))
        pairs.append(
            PreferencePair(f"question {row}", f"{tail} hello", f"{tail} leave me alone", row)
        )
    return pairs


def run_with(model, pairs, held_out):
    report = DataSummary(source="made.csv", sha256="cd" * 32, rows_read=len(pairs), pairs=1)
    paths = store.create_run(
        TrainConfig(model=str(model)), Split(tuple(pairs), tuple(held_out)), report
    )
    return store.read_run(paths)


def checked(run):
    model = training.trained_reward_model(run, lambda done, total: None)
    return model, check_reward_model(
        model, run, is_trained_here=True, embed=None, on_step=lambda: None
    )


def swapped(pairs):
    """Swap chosen and rejected by lot: nothing is left to learn."""
    source = random.Random(3)
    return [
        PreferencePair(one.prompt, one.rejected, one.chosen, one.row)
        if source.random() < 0.5
        else one
        for one in pairs
    ]


@pytest.mark.filterwarnings("ignore")
def test_a_reward_model_learns_clear_pairs_and_is_kept(tiny_model):
    pairs = polite_pairs(160)
    run = run_with(tiny_model, pairs[:128], pairs[128:])
    model, found = checked(run)
    assert found.agreement.value > 0.9
    assert not found.is_refused
    assert found.topic is not None
    # The same texts in the other order give the other verdict; the same text twice none.
    turns = (Message("user", "question 1"), Message("assistant", "hello ball"))
    assert model.reward(turns) == model.reward(turns)
    kept = sorted((run.paths.folder.parents[1] / training.FOLDER).iterdir())
    again = training.trained_reward_model(run, lambda done, total: pytest.fail("trained again"))
    assert sorted((run.paths.folder.parents[1] / training.FOLDER).iterdir()) == kept
    assert again.reward(turns) == pytest.approx(model.reward(turns), abs=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_reward_model_of_shuffled_labels_is_refused(tiny_model):
    pairs = polite_pairs(64)
    found = checked(run_with(tiny_model, swapped(pairs[:32]), swapped(pairs[32:])))[1]
    assert found.agreement.low <= 0.5
    assert found.is_refused


def test_too_few_pairs_are_refused(tiny_model):
    run = run_with(tiny_model, polite_pairs(3), polite_pairs(2))
    with pytest.raises(InputError, match="too few for a reward model"):
        training.trained_reward_model(run, lambda done, total: None)


def test_single_responses_are_no_pairs(tiny_model):
    singles = [replace(pair, rejected="", single="chosen") for pair in polite_pairs(16)]
    run = run_with(tiny_model, singles, singles)
    with pytest.raises(InputError, match="has 0 training pairs"):
        training.trained_reward_model(run, lambda done, total: None)
    assert (
        check_reward_model(None, run, is_trained_here=True, embed=None, on_step=lambda: None)
        is None
    )


def test_the_scalar_base_holds_the_4_bit_weights_unpacked(tiny_model):
    base = load_scalar_base(TrainConfig(model=str(tiny_model)))
    whole = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    packed, plain = (
        model.model.layers[0].self_attn.q_proj.weight.detach() for model in (base.model, whole)
    )
    assert packed.dtype == torch.float32
    assert 0 < float((packed - plain).abs().max()) < 0.2
    assert base.model.score.weight.shape == (1, 64)


def classifier(tmp_path, labels=1):
    folder = make_tiny_model(tmp_path / "reward")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=labels)
    model.save_pretrained(folder)
    return folder


def test_a_given_reward_model_reads_its_own_template(tmp_path):
    folder = classifier(tmp_path)
    loaded = load_reward_model(str(folder))
    turns = (Message("user", "hello"), Message("assistant", "hi, nice to meet you"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template([turn.record() for turn in turns], return_dict=True)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        plain = model(input_ids=torch.tensor([ids["input_ids"]])).logits[0, 0]
    assert loaded.reward(turns) == pytest.approx(float(plain), abs=1e-5)


def test_what_is_no_reward_model_is_refused(tmp_path):
    with pytest.raises(UnsupportedModel, match="no trained weights score"):
        load_reward_model(str(make_tiny_model(tmp_path / "causal")))
    with pytest.raises(UnsupportedModel, match="3 numbers"):
        load_reward_model(str(classifier(tmp_path / "three", labels=3)))
    with pytest.raises(UnsupportedModel, match="no chat template"):
        load_reward_model(str(strip_template(classifier(tmp_path / "bare"))))
    pickled = classifier(tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match="never loaded"):
        load_reward_model(str(pickled))


def test_win_rates_have_rewards_examples_and_controls_beside_them(copied_run, tmp_path):
    from orpo_qlora.evaluation.answers.kept import AnswerSampling
    from orpo_qlora.evaluation.answers.prompts import held_out_prompts

    folder = classifier(tmp_path)
    request = suite_request.SuiteRequest(
        adapters=suite_request.adapters_of([copied_run]),
        prompts=held_out_prompts(copied_run),
        sampling=AnswerSampling(max_tokens=8),
        parts=("reward",),
        embedder=str(folder),
        reward_model=str(folder),
    )
    found = suite_request.wait_for(request, lambda _: None)
    tuned = found.systems[1]
    details = read_reward(suite_request.JOB.paths(request))
    by = {(one.measure, one.system, one.opponent): one for one in found.figures}
    wins = by["reward_wins", tuned.name, "base"]
    ours, theirs = details.rewards[tuned.name], details.rewards["base"]
    won = [1 if a > b else 0 if a < b else 0.5 for a, b in zip(ours, theirs, strict=True)]
    assert wins.interval.value == pytest.approx(sum(won) / len(won))
    assert {"reward", "length_wins", "relevance"} <= {one.measure for one in found.figures}
    assert details.check is not None
    assert not details.check.is_trained_here
    assert any("Control, length" in one for one in found.parts[0].sentences)
    clear = [*details.wins, *details.losses]
    assert len(clear) == sum(a != b for a, b in zip(ours, theirs, strict=True))
    # Each reward is that of the answer itself.
    model = load_reward_model(str(folder))
    number, answer = ordered_answers(found.prompts, answers_of(tuned), 1)[0]
    turns = (*found.prompts.prompts[number].opening, Message("assistant", answer.texts[0]))
    assert ours[0] == pytest.approx(model.reward(turns), abs=1e-4)
