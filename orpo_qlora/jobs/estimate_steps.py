"""The program of a plan: `python -m orpo_qlora.jobs.estimate_steps PLAN_FOLDER`. Floor 3.

Loads the base as the worker does and trains a step or two on the longest pairs, to measure memory
and pace; what was learnt is thrown away with the process. A run that begins meanwhile goes first.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
import transformers
from peft import PeftModel

from orpo_qlora import storage
from orpo_qlora.data.pairs import PreferencePair, Split, split_pairs
from orpo_qlora.errors import OutOfMemory
from orpo_qlora.jobs import estimation, interactive, token_counts
from orpo_qlora.jobs.advice import Question, changes_for_disk, changes_for_memory
from orpo_qlora.jobs.estimation import Estimate, EstimatePaths, EstimateRequest
from orpo_qlora.jobs.job import Job, run_job
from orpo_qlora.jobs.measured_steps import Trial, TrialResult, expected_run, try_steps
from orpo_qlora.models import hardware, loading
from orpo_qlora.models.memory import Room, read_shape
from orpo_qlora.orpo.packing import Layout, cost_in_tokens
from orpo_qlora.orpo.tokens import TokenizedPair
from orpo_qlora.runs import checkpoints
from orpo_qlora.runs.process import preflight, training_setup

SAMPLED_TOKENS = 8
LAYOUT: Layout = "shared"
"""The layout that a prediction assumes: the engine's check has the last word."""


class Plan(Job):
    """One question from its folder to its answer."""

    def __init__(self, paths: EstimatePaths) -> None:
        super().__init__(paths)
        self.paths = paths
        self.request = EstimateRequest.model_validate_json(paths.request.read_bytes())
        self.config = self.request.config

    def run(self) -> None:
        """Answer the question."""
        self.give_way_to_runs(estimation.given_way)
        turn = storage.FileLock(estimation.plans_folder() / "turn.lock")
        if storage.is_locked(turn.path):
            self.report("waiting for another estimate")
        with turn:
            answer = self._answer()
        storage.write_whole(self.paths.forecast, answer.model_dump_json(indent=1))
        self.finish()

    def _answer(self) -> Estimate:
        hardware.use_all_cores()
        transformers.set_seed(self.config.seed)
        free_bytes = hardware.free_memory_bytes() + own_bytes()
        self.report("reading the pairs")
        dataset = token_counts.read_dataset(self.request.data)
        split = split_pairs(dataset.pairs, self.config.held_out, self.config.seed)
        self.report("finding the base model")
        folder = loading.find_weights(self.config.model, self.config.revision)
        tokenizer = loading.load_tokenizer(folder)
        self.report("tokenising the pairs")
        train = training_setup.tokenize(self.config, tokenizer, split.train).pairs
        held_out = training_setup.tokenize(self.config, tokenizer, split.held_out).pairs
        question = self._question(folder, free_bytes, [*train, *held_out])
        begun = Estimate(
            made_at=time.time(),
            device=hardware.choose_arithmetic(self.config.compute_dtype).device,
            pairs=len(train),
            held_out_pairs=len(held_out),
            longest_tokens=self._costs([*train, *held_out])[0],
            memory_bytes=question.needed_bytes() if question else 0,
            predicted_memory_bytes=question.needed_bytes() if question else 0,
            free_memory_bytes=free_bytes,
        )
        longest_pair = max(pair.longest for pair in (*train, *held_out))
        if question is not None and not _is_worth_trying(question):
            return _refused(begun, question, longest_pair)
        try:
            with hardware.memory_errors(_used_up):
                answer = self._measure(begun, train, held_out, split)
        except OutOfMemory:
            if question is None:
                raise
            return _refused(begun, question, longest_pair)
        changes = []
        if question is not None and not answer.fits_memory:
            changes += changes_for_memory(question, longest_pair=longest_pair)
        if not answer.fits_disk:
            needed, free = answer.needed_disk_bytes, answer.free_disk_bytes
            changes += changes_for_disk(needed, free, self.config)
        return answer.model_copy(update={"changes": tuple(changes)})

    def _question(
        self, folder: Path, free_bytes: int, pairs: Sequence[TokenizedPair]
    ) -> Question | None:
        """Return the training as the memory model sees it, None where it does not know the base."""
        arithmetic = hardware.choose_arithmetic(self.config.compute_dtype)
        try:
            shape = read_shape(folder)
        except KeyError:
            return None
        room = Room(free_bytes, arithmetic.device)
        costs = self._costs(pairs)
        return Question(
            *(shape, self.config, arithmetic.dtype.itemsize, room),
            longest=costs[0],
            fullest=sum(costs[: self.config.pairs_per_step]),
            process_bytes=own_bytes(),
        )

    def _costs(self, pairs: Sequence[TokenizedPair]) -> list[int]:
        """Return the tokens of each pair, the longest first."""
        needs = training_setup.needs_of(self.config)
        return sorted((cost_in_tokens(pair, LAYOUT, needs) for pair in pairs), reverse=True)

    def _measure(
        self,
        begun: Estimate,
        train: Sequence[TokenizedPair],
        held_out: Sequence[TokenizedPair],
        split: Split,
    ) -> Estimate:
        """Return the forecast of a training from a step of it."""
        self.report("loading the base model")
        base = training_setup.load_base(self.config)
        if base.arithmetic.device == "cpu":
            interactive.work_behind_answers("an estimate")
        policy = loading.attach_new_adapter(base, self.config)
        self.report("checking the layout")
        engine = training_setup.engine_for(self.config, policy, train)
        start_up_seconds = time.time() - psutil.Process().create_time()
        self.report("answering the sample prompts")
        pairs = split.held_out or split.train
        sampling_seconds = self._sample(base, policy, pairs)
        self.report("training a step on the longest pairs")
        trial = Trial()
        result = try_steps(engine, self.config, train, held_out, trial)
        expected = expected_run(self.config, engine, train, held_out)
        seconds = result.seconds_of(expected).model_copy(
            update={"start_up": start_up_seconds, "sampling": expected.samples * sampling_seconds}
        )
        disk_bytes, needed_disk_bytes = self._disk(policy, split)
        return begun.model_copy(
            update={
                "longest_tokens": engine.longest_row([*train, *held_out]),
                "steps": expected.steps,
                "evaluations": expected.evaluations,
                "samples": expected.samples,
                "tokens_per_forward": result.tokens_per_forward,
                "seconds": seconds,
                "memory_bytes": _memory(result, begun),
                "measured_memory_bytes": result.peak_bytes,
                "disk_bytes": disk_bytes,
                "needed_disk_bytes": needed_disk_bytes,
                "free_disk_bytes": shutil.disk_usage(storage.home()).free,
                "notes": tuple(trial.notes),
            }
        )

    def _sample(
        self, base: loading.Base, policy: PeftModel, pairs: Sequence[PreferencePair]
    ) -> float:
        """Return the seconds that answering all sample prompts takes."""
        prompts = training_setup.sample_prompts(self.config, pairs)
        moments = [time.perf_counter()]
        for tokens in (1, 1 + SAMPLED_TOKENS):
            training_setup.answer_samples(policy, base.tokenizer, prompts, tokens)
            moments.append(time.perf_counter())
        first, second = moments[1] - moments[0], moments[2] - moments[1]
        per_token = max(0.0, second - first) / SAMPLED_TOKENS or second / (1 + SAMPLED_TOKENS)
        return second + per_token * (training_setup.SAMPLE_TOKENS - SAMPLED_TOKENS)

    def _disk(self, policy: PeftModel, split: Split) -> tuple[int, int]:
        """Return the bytes that the run takes at most, and those it wants to see free."""
        trained, pairs = (
            training_setup.trained_bytes(policy),
            Path(self.request.data.path).stat().st_size,
        )
        least = max(preflight.NEEDED_BYTES, preflight.checkpoints_bytes(trained, checkpoints.KEPT))
        return preflight.states_bytes(trained, checkpoints.KEPT) + pairs, least + pairs


def own_bytes() -> int:
    """Return what this program holds of the memory that trains; a GPU holds nothing of it yet."""
    return 0 if torch.cuda.is_available() else int(psutil.Process().memory_info().rss)


def _is_worth_trying(question: Question) -> bool:
    """Whether a step can be tried: a GPU refuses, a host ends whoever takes too much."""
    if question.room.device == "cuda":
        return question.weights <= question.room.free_bytes
    return question.fits()


def _used_up() -> OutOfMemory:
    return OutOfMemory(
        "Memory ran out while a step was tried.",
        hint="Close other programs, or choose a smaller model.",
    )


def _refused(begun: Estimate, question: Question, longest_pair: int) -> Estimate:
    # Never less than what there is: the step that was tried may have refuted the prediction.
    needed = max(question.needed_bytes(), question.room.free_bytes + 1)
    changes = changes_for_memory(question, longest_pair=longest_pair)
    return begun.model_copy(update={"memory_bytes": needed, "changes": tuple(changes)})


def _memory(result: TrialResult, begun: Estimate) -> int:
    """Return the expected peak: a forward of the run may hold more tokens than the tried ones."""
    return result.peak_bytes + result.bytes_a_token * result.missing_tokens


def main(arguments: Sequence[str]) -> int:
    """Run the plan of one folder; return its exit code."""
    paths = EstimatePaths(Path(arguments[0]))

    def make() -> tuple[Plan, Callable[[], None]]:
        plan = Plan(paths)
        return plan, plan.run

    return run_job(paths, make)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
