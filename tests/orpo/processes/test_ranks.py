"""A training shared by several processes gives the numbers of one process."""

import os
import signal
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from gloo import run_ranks
from notebook import Notebook, adapter
from policies import make_policy, random_pairs

from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import ConfigError, NonFiniteLoss
from orpo_qlora.models.loading import attach_new_adapter, load_base
from orpo_qlora.models.sharding import is_lost_connection
from orpo_qlora.orpo.engine import Engine, build_engine
from orpo_qlora.orpo.loss import loss_for, mismatch, needs_of
from orpo_qlora.orpo.processes.process_group import (
    NO_GPU,
    PeerLost,
    refuse_mixed,
)
from orpo_qlora.orpo.processes.ranks import ALONE, assign
from orpo_qlora.orpo.reference import Measuring, Reference, as_reference
from orpo_qlora.orpo.step import accumulate_step, measure_pairs
from orpo_qlora.orpo.trainer import OrpoTrainer
from orpo_qlora.orpo.verify.parity import fill_adapter

CLOCKS = ("seconds", "peak_memory_bytes")


def uneven(count=9):
    """Pairs of very different lengths."""
    return [*random_pairs(count - 2, seed=3), *random_pairs(80, longest=40, seed=4)[-2:]]


def gradients(policy):
    return {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}


def without_clocks(record):
    return {name: value for name, value in record.items() if not name.endswith(CLOCKS)}


def agree(record, wanted, tolerance=1e-10):
    assert record.keys() == wanted.keys()
    for name, value in without_clocks(wanted).items():
        assert record[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name


def test_pairs_go_to_the_rank_with_the_least_longest_first():
    assert assign([5, 9, 1, 4, 4], 2) == [1, 0, 1, 1, 0]
    assert assign([3, 3], 4) == [0, 1]
    assert assign([], 3) == []


def test_a_single_process_shares_nothing():
    items = [3, 1, 2]
    assert ALONE.share(items, int) is items
    assert ALONE.gather(lambda: "x") == ["x"]
    assert ALONE.from_first(lambda: 4) == 4
    assert not ALONE.any(False)


def step_of(method, pairs, ranks, dropout=0.0):
    """Return metrics and gradients of one step, and the metrics without gradients."""
    policy = make_policy("llama-untied", torch.float64, lora_dropout=dropout)
    config = TrainConfig(method=method, pairs_per_step=len(pairs))
    engine = build_engine(policy, needs_of(config), pairs)
    loss = loss_for(config)
    if loss.needs.mismatched:
        loss = replace(loss, mismatched=mismatch(pairs, 200))
    if loss.needs.reference:
        every = [*pairs, *loss.mismatched.values()]
        measuring = Measuring(engine, every, ranks=ranks)
        policy.eval()
        with as_reference(policy):
            assert measuring.run(60)
        loss = replace(loss, reference=Reference(measuring.known))
    trainer = OrpoTrainer(engine, config, pairs, (), Notebook(), ranks)
    ranks.prepare([p for p in policy.parameters() if p.requires_grad])
    policy.train()
    record = accumulate_step(trainer.engine, pairs, loss, 60, torch.Tensor.backward, ranks)
    ranks.sum_gradients()
    return record, gradients(policy), measure_pairs(trainer.engine, pairs, loss, 60, ranks)


@pytest.mark.parametrize(
    ("method", "size", "count"),
    [
        ("orpo", 2, 9),
        ("orpo", 3, 9),
        ("orpo", 4, 9),
        ("orpo", 4, 3),  # one rank without a pair
        ("kto", 2, 5),
        ("dpo", 3, 5),
    ],
)
def test_a_step_of_several_processes_is_the_step_of_one(
    tmp_path, whole_float64, method, size, count
):
    pairs = uneven(count)
    wanted, wanted_gradients, wanted_evaluation = step_of(method, pairs, ALONE)
    results = run_ranks(size, tmp_path / "ranks", lambda ranks: step_of(method, pairs, ranks))
    for record, found, evaluation in results:
        agree(record, wanted)
        agree(evaluation, wanted_evaluation)
        assert found.keys() == wanted_gradients.keys()
        for name, gradient in wanted_gradients.items():
            assert (found[name] - gradient).norm() <= 1e-10 * gradient.norm(), name
    # The same bits everywhere: the processes take the same step.
    first = results[0][1]
    assert all(torch.equal(found[n], first[n]) for _, found, _ in results for n in first)


def test_single_responses_are_compared_across_processes(tmp_path, whole_float64):
    pairs = [replace(pair, **{"chosen" if pair.row % 2 else "rejected": ()}) for pair in uneven(8)]
    wanted, _, _ = step_of("kto", pairs, ALONE)
    for record, _, _ in run_ranks(3, tmp_path / "r", lambda ranks: step_of("kto", pairs, ranks)):
        agree(record, wanted)


def test_dropout_is_the_same_however_the_pairs_are_shared_out(tmp_path, whole_float64):
    pairs = uneven(7)
    wanted, wanted_gradients, _ = step_of("orpo", pairs, ALONE, dropout=0.4)
    plain, _, _ = step_of("orpo", pairs, ALONE)
    assert wanted["loss"] != plain["loss"]
    results = run_ranks(3, tmp_path / "r", lambda ranks: step_of("orpo", pairs, ranks, dropout=0.4))
    for record, found, _ in results:
        agree(record, wanted)
        for name, gradient in wanted_gradients.items():
            assert (found[name] - gradient).norm() <= 1e-10 * gradient.norm(), name


class Kept(Notebook):
    """Also writes its checkpoints, on rank 0 alone."""

    def __init__(self, ranks, folder=None, stop_after=None):
        super().__init__(stop_after)
        self.folder = folder if ranks.is_first else None

    def on_checkpoint(self, step, write):
        super().on_checkpoint(step, write)
        if self.folder is not None:
            (self.folder / f"step-{step}").mkdir(parents=True)
            write(self.folder / f"step-{step}")


def trained(ranks, *, folder=None, resume_from=None, stop_after=None, **settings):
    """Return the callback and the adapter after a training in float32, with dropout."""
    policy = make_policy("llama-untied", torch.float32, lora_dropout=0.2)
    pairs = uneven(10)
    base = {"pairs_per_step": 4, "learning_rate": 1e-3, "max_steps": 6, "eval_every": 50}
    config = TrainConfig(**(base | settings))
    engine = build_engine(policy, needs_of(config), pairs)
    kept = Kept(ranks, folder, stop_after)
    trainer = OrpoTrainer(engine, config, pairs, uneven(5), kept, ranks)
    trainer.resume_from = resume_from
    trainer.train()
    return kept, adapter(policy)


def off(left, right):
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def test_ten_steps_end_at_the_same_weights(tmp_path):
    wanted, wanted_adapter = trained(ALONE, max_steps=10)
    results = run_ranks(3, tmp_path / "r", lambda ranks: trained(ranks, max_steps=10))
    for kept, found in results:
        assert off(found, wanted_adapter) < 1e-4
        assert off(found, results[0][1]) == 0.0
        for record, expected in zip(kept.everything, wanted.everything, strict=True):
            agree(record, expected, 1e-4)


def test_a_checkpoint_is_resumed_by_another_number_of_processes(tmp_path):
    _, wanted = trained(ALONE)
    start = tmp_path / "of-two"
    run_ranks(2, tmp_path / "two", lambda ranks: trained(ranks, folder=start, checkpoint_every=3))
    step = start / "step-3"
    kept, alone = trained(ALONE, resume_from=step)
    assert [record["step"] for record in kept.steps] == [4, 5, 6]
    assert any("of 2 processes" in note and "with 1 process:" in note for note in kept.notes)
    results = run_ranks(3, tmp_path / "three", lambda ranks: trained(ranks, resume_from=step))
    for found in (alone, *(each for _, each in results)):
        assert off(found, wanted) < 1e-4


def test_memory_that_runs_out_on_one_rank_is_tried_again_by_all(tmp_path, monkeypatch):
    tokens = {"max_tokens_per_forward": 128, "max_steps": 2}
    _, wanted = trained(ALONE, **tokens)

    def work(ranks):
        calls = iter(range(1000))
        measure = Engine.measure

        def failing(self, pairs):
            if ranks.rank == 1 and next(calls) == 2:  # after the two checks at the start
                raise torch.OutOfMemoryError("CUDA out of memory (injected)")
            return measure(self, pairs)

        monkeypatch.setattr(Engine, "measure", failing)
        return trained(ranks, **tokens)

    for kept, found in run_ranks(2, tmp_path / "r", work):
        assert ["64 tokens a forward" in note for note in kept.notes] == [True]
        assert off(found, wanted) < 1e-4


def test_what_fails_on_one_rank_is_raised_on_all(tmp_path):
    def work(ranks):
        def local():
            if ranks.rank == 1:
                raise NonFiniteLoss("The loss is not a number.", where="row 7", hint="Check row 7.")
            return ranks.rank

        assert ranks.gather(lambda: ranks.rank) == [0, 1, 2]
        return ranks.gather(local)

    first, second, third = run_ranks(3, tmp_path / "r", work)
    assert type(first) is type(second) is type(third) is NonFiniteLoss
    assert second.where == "row 7"
    assert (first.where, third.where) == ("row 7, process 1 of 3",) * 2
    assert first.hint == "Check row 7."


def test_a_stop_seen_by_one_rank_stops_all_after_the_same_step(tmp_path):
    def work(ranks):
        return trained(ranks, stop_after=2 if ranks.rank == 1 else None)

    for kept, _ in run_ranks(2, tmp_path / "r", work):
        assert [record["step"] for record in kept.steps] == [1, 2]
        assert kept.checkpoints == [2]


def test_a_killed_rank_is_noticed_by_the_others(tmp_path):
    def work(ranks):
        def local():
            if ranks.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        ranks.gather(local)

    lost, killed, also_lost = run_ranks(3, tmp_path / "r", work)
    assert killed == -signal.SIGKILL
    assert type(lost) is type(also_lost) is PeerLost


@pytest.mark.parametrize(
    ("gpus", "reason"),
    [
        (("GPU-a", NO_GPU, "GPU-b"), "some have no GPU: 1"),
        ((NO_GPU, NO_GPU, "GPU-b"), "some have no GPU: 0, 1"),
        (("GPU-a", "GPU-b", "GPU-a"), "Processes 0, 2 of 3 have the same GPU, GPU-a"),
    ],
)
def test_processes_without_a_gpu_each_are_refused_on_all(gpus, reason):
    store = torch.distributed.HashStore()
    for rank, gpu in enumerate(gpus):
        store.set(f"gpu-{rank}", gpu)
    for rank, gpu in enumerate(gpus):
        with pytest.raises(ConfigError, match=reason):
            refuse_mixed(store, rank, 3, gpu)


@pytest.mark.parametrize("gpus", [("GPU-a", "GPU-b"), (NO_GPU, NO_GPU)])
def test_processes_that_are_alike_are_accepted(gpus):
    store = torch.distributed.HashStore()
    store.set("gpu-1", gpus[1])
    refuse_mixed(store, 0, 2, gpus[0])


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (RuntimeError("[/x/gloo/gloo/transport/tcp/pair.cc:5] Read error: reset"), True),
        (RuntimeError("[enforce fail at gloo/transport/tcp/device.cc:9] no interface"), False),
        (RuntimeError("Invalid scalar type"), False),
        (dist.DistNetworkError("Socket Timeout"), True),
        (dist.DistStoreError("wait timeout after 2 s"), True),
        (dist.DistBackendError("ncclRemoteError: A call failed possibly due to a network"), True),
        (dist.DistBackendError("ncclInvalidUsage: Duplicate GPU detected"), False),
        (dist.DistBackendError("ncclUnhandledCudaError: Call to CUDA function failed"), False),
        (dist.DistBackendError("ncclSystemError: CUDA driver error: out of memory"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
    ],
)
def test_only_a_lost_connection_reads_as_one(error, is_lost):
    assert is_lost_connection(error) == is_lost


def quantised_step(model, ranks):
    """Return metrics and gradients of one step on a base in NF4, in float32."""
    config = TrainConfig(model=str(model), pairs_per_step=7)
    torch.manual_seed(0)
    policy = attach_new_adapter(load_base(config.model), config)
    fill_adapter(policy)
    pairs = uneven(7)
    engine = build_engine(policy, needs_of(config), pairs)
    ranks.prepare([p for p in policy.parameters() if p.requires_grad])
    loss, backward = loss_for(config), torch.Tensor.backward
    record = accumulate_step(engine, pairs, loss, 60, backward, ranks)
    ranks.sum_gradients()
    return record, gradients(policy)


def test_a_step_on_a_quantised_base_agrees_too(tmp_path, tiny_model):
    wanted, wanted_gradients = quantised_step(tiny_model, ALONE)
    results = run_ranks(2, tmp_path / "r", lambda ranks: quantised_step(tiny_model, ranks))
    for record, found in results:
        agree(record, wanted, 1e-5)
        for name, gradient in wanted_gradients.items():
            assert (found[name] - gradient).norm() <= 1e-3 * gradient.norm(), name
