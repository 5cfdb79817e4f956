"""A base whose layers are split over several processes gives the numbers of a whole one."""

import gc
from dataclasses import replace

import pytest
import torch
from gloo import run_ranks
from notebook import Notebook, adapter
from policies import make_policy, random_pairs
from torch import float64

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import ConfigError, OutOfMemory, UnsupportedModel
from orpo_qlora.models.generation.generate import answer_all
from orpo_qlora.models.generation.sampling import Conversation, Sampling
from orpo_qlora.models.loading import attach_new_adapter, recompute_activations
from orpo_qlora.models.sharding import gathered_bytes, is_sharded, same_logits, shard
from orpo_qlora.orpo import engine as engine_module
from orpo_qlora.orpo.drift import mean_kl
from orpo_qlora.orpo.engine import Engine, build_engine
from orpo_qlora.orpo.loss import loss_for, mismatch, needs_of
from orpo_qlora.orpo.processes.process_group import PeerLost
from orpo_qlora.orpo.processes.ranks import ALONE
from orpo_qlora.orpo.reference import Measuring, Reference, as_reference
from orpo_qlora.orpo.step import accumulate_step, measure_pairs
from orpo_qlora.orpo.trainer import OrpoTrainer
from orpo_qlora.orpo.verify.parity import fill_adapter
from orpo_qlora.runs.process.shared.process_count import process_count
from orpo_qlora.runs.process.training_setup import load_base_to_train

TOKENS = 40


def uneven(count):
    """Pairs of very different lengths."""
    return [*random_pairs(count - 1, seed=3), random_pairs(80, longest=40, seed=4)[-1]]


def gradients(policy):
    return {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


def agree(found, wanted, tolerance):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if not name.endswith(("seconds", "bytes")):
            assert found[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name


def gradients_agree(found, wanted, tolerance):
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= tolerance * gradient.norm(), name


def sharded_policy(ranks, **options):
    """Return a policy whose base is sharded, unless this process is alone."""
    if ranks is ALONE:
        return make_policy("llama-untied", float64, **options)
    ranks.shards_base = True
    return make_policy("llama-untied", float64, lambda base: shard(base, "cpu"), **options)


def steps_of(ranks, jobs):
    """Return metrics and gradients of a step, its evaluation and its drift, for each job."""
    return [step_of(ranks, *job) for job in jobs]


def step_of(ranks, method, count, dropout, recomputes):
    pairs = uneven(count)
    policy = sharded_policy(ranks, lora_dropout=dropout)
    if recomputes:
        recompute_activations(policy.get_base_model())
    config = TrainConfig(method=method, pairs_per_step=count)
    engine = ranks.together(lambda: build_engine(policy, needs_of(config), pairs))
    loss = loss_for(config)
    if loss.needs.mismatched:
        loss = replace(loss, mismatched=mismatch(pairs, 200))
    if loss.needs.reference:
        measuring = Measuring(engine, [*pairs, *loss.mismatched.values()], ranks=ranks)
        policy.eval()
        with as_reference(policy):
            assert measuring.run(TOKENS)
        loss = replace(loss, reference=Reference(measuring.known))
    trainer = OrpoTrainer(engine, config, pairs, (), Notebook(), ranks)
    ranks.prepare([p for p in policy.parameters() if p.requires_grad])
    policy.train()
    record = accumulate_step(trainer.engine, pairs, loss, TOKENS, torch.Tensor.backward, ranks)
    ranks.sum_gradients()
    found = gradients(policy)
    evaluation = measure_pairs(trainer.engine, pairs, loss, TOKENS, ranks)
    drift = mean_kl(trainer.engine, pairs, TOKENS, ranks=ranks)
    return record, found, evaluation, drift


@pytest.mark.parametrize(
    ("size", "jobs"),
    [
        (2, [("orpo", 9, 0.0, False), ("orpo", 5, 0.4, True)]),
        (3, [("orpo", 2, 0.0, False), ("kto", 5, 0.0, True)]),  # the first: a rank without a pair
    ],
)
def test_a_step_on_a_sharded_base_is_that_on_a_whole_one(tmp_path, whole_float64, size, jobs):
    wanted = steps_of(ALONE, jobs)
    results = run_ranks(size, tmp_path / "ranks", lambda ranks: steps_of(ranks, jobs))
    for of_rank in results:
        for (record, found, evaluation, drift), expected in zip(of_rank, wanted, strict=True):
            agree(record, expected[0], 1e-10)
            gradients_agree(found, expected[1], 1e-10)
            agree(evaluation, expected[2], 1e-10)
            assert drift == pytest.approx(expected[3], rel=1e-10)


def bytes_alive():
    """Return the bytes of all tensors of packed weights in this process."""
    gc.collect()
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in gc.get_objects()
        if type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.dtype == torch.uint8
    }
    return sum(storages.values())


def quantised(ranks, model, max_steps):
    """Train on a base in NF4, then answer; return records, adapter, answers and bytes alive."""
    config = TrainConfig(
        model=str(model), pairs_per_step=4, learning_rate=1e-3, max_steps=max_steps, shard_base=True
    )
    torch.manual_seed(0)
    base = load_base_to_train(config, ranks)
    policy = attach_new_adapter(base, config)
    fill_adapter(policy)
    pairs = uneven(7)
    engine = build_engine(policy, needs_of(config), pairs)
    kept = Notebook()
    trainer = OrpoTrainer(engine, config, pairs, pairs[:3], kept, ranks)
    trainer.train()
    asked = [Conversation((Message("user", text),), "default") for text in ("hi", "gravity?")]
    with same_logits(base.model) if ranks.shards_base else torch.no_grad():
        answers = answer_all(policy, base.tokenizer, asked, Sampling(max_tokens=8))
    matrices = [p for name, p in policy.named_parameters() if "base_layer.weight" in name]
    sharded = [is_sharded(matrix) for matrix in matrices]
    held = bytes_alive() if ranks.shards_base else sum(p.nbytes for p in matrices)
    return kept, adapter(policy), answers, sharded, held, gathered_bytes(base.model)


def test_a_training_on_a_sharded_quantised_base_ends_at_the_same_weights(tmp_path, tiny_model):
    wanted, wanted_adapter, answers, _, whole_bytes, none = quantised(ALONE, tiny_model, 8)
    assert none == 0
    results = run_ranks(2, tmp_path / "r", lambda ranks: quantised(ranks, tiny_model, 8))
    for kept, found, said, sharded, held, gathered in results:
        for record, expected in zip(kept.everything, wanted.everything, strict=True):
            agree(record, expected, 1e-5)
        assert max(float((found[n] - wanted_adapter[n]).abs().max()) for n in found) < 1e-4
        assert said == answers
        assert all(sharded)
        assert whole_bytes / 2 <= held < 0.6 * whole_bytes  # its half, and the packed scales
        assert gathered == 3 * whole_bytes / 2  # three of two equal layers


@pytest.mark.parametrize("gradients_before", [0, 1])  # in the start-up check, in the step
def test_memory_that_runs_out_on_one_rank_ends_all(
    tmp_path, monkeypatch, whole_float64, gradients_before
):
    def work(ranks):
        measure, calls = Engine.measure, iter(range(1000))

        def failing(self, pairs):
            may_fail = ranks.rank == 1 and torch.is_grad_enabled()
            if may_fail and next(calls) == gradients_before:
                raise torch.OutOfMemoryError("CUDA out of memory (injected)")
            return measure(self, pairs)

        monkeypatch.setattr(Engine, "measure", failing)
        return step_of(ranks, "orpo", 3, 0.0, False)

    waiting, failed = run_ranks(2, tmp_path / "r", work)
    assert type(waiting) is PeerLost
    assert type(failed) is OutOfMemory
    assert "max_tokens_per_forward" in failed.hint
    assert "process 1 of 2" in failed.message


def test_a_layout_that_fails_on_one_rank_is_taken_by_none(tmp_path, monkeypatch, whole_float64):
    def work(ranks):
        agrees = engine_module._agrees

        def failing(engine, *args):
            return agrees(engine, *args) and not (ranks.rank and engine.layout == "shared")

        monkeypatch.setattr(engine_module, "_agrees", failing)
        policy = sharded_policy(ranks)
        return build_engine(policy, needs_of(TrainConfig()), uneven(3)).layout

    assert run_ranks(2, tmp_path / "r", work) == ["packed", "packed"]


def test_a_sharded_base_is_not_kept_unpacked():
    config = TrainConfig(shard_base=True, dequant_cache="all", processes=1)
    with pytest.raises(ConfigError, match="dequant_cache"):
        process_count(config)


def test_a_mixture_of_experts_is_not_sharded(tmp_path):
    from tiny import make_tiny_experts

    model = make_tiny_experts(tmp_path / "m", "mixtral")
    config = TrainConfig(model=str(model), quantization="none", shard_base=True)
    results = run_ranks(2, tmp_path / "r", lambda ranks: load_base_to_train(config, ranks))
    assert [type(result) for result in results] == [UnsupportedModel] * 2
