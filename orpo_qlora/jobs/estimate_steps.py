"""The program of an estimate: `python -m orpo_qlora.jobs.estimate_steps FOLDER`. Floor 4.

Loads the base as the worker does and trains a step or two on the longest pairs, to measure memory
and throughput; the trained weights are discarded. A run that starts meanwhile ends it.
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
from orpo_qlora.errors import OrpoQloraError, OutOfMemory
from orpo_qlora.jobs import bfloat16_offer, estimation, interactive, token_counts
from orpo_qlora.jobs.advice import Question, changes_for_disk, changes_for_memory
from orpo_qlora.jobs.estimation import Estimate, EstimatePaths, EstimateRequest
from orpo_qlora.jobs.job import JobProgram, run_job
from orpo_qlora.jobs.measured_steps import (
    Trial,
    TrialResult,
    expected_run,
    expected_shares,
    try_steps,
)
from orpo_qlora.models import loading
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.devices.memory import Room, read_shape
from orpo_qlora.models.templates import tokenizers
from orpo_qlora.models.templates.chat_templates import UNCHANGED
from orpo_qlora.models.templates.rendering import template_in_use
from orpo_qlora.models.weights import find
from orpo_qlora.orpo.loss import needs_of
from orpo_qlora.orpo.rows.packing import Layout, cost_in_tokens
from orpo_qlora.orpo.rows.tokens import Tokenized, TokenizedPair
from orpo_qlora.runs import checkpoints
from orpo_qlora.runs.process import preflight, training_setup
from orpo_qlora.runs.process.shared.process_count import process_count
from orpo_qlora.runs.process.start import with_start

SAMPLED_TOKENS = 8
LAYOUT: Layout = "shared"
"""The layout that a prediction assumes; the engine's self-check decides."""


class EstimateProgram(JobProgram):
    """Answers the request of one folder."""

    def __init__(self, paths: EstimatePaths) -> None:
        super().__init__(paths)
        self.paths = paths
        self.request = EstimateRequest.model_validate_json(paths.request.read_bytes())
        self.config = self.request.config
        self._notes: list[str] = []
        self._float32: bfloat16_offer.InFloat32 | None = None

    def run(self) -> None:
        """Measure, and write the estimate."""
        self.give_way_to_runs(estimation.JOB.refusal)
        with self.machine_turn():
            answer = self._answer()
        answer = answer.model_copy(update={"notes": (*answer.notes, *self._notes)})
        storage.write_whole(self.paths.estimate, answer.model_dump_json(indent=1))
        self.finish()

    def _answer(self) -> Estimate:
        hardware.use_all_cores()
        self.config = with_start(self.config)
        transformers.set_seed(self.config.seed)
        free_bytes = hardware.free_memory_bytes() + own_bytes()
        self.report("reading the pairs")
        dataset = token_counts.read_dataset(self.request.data)
        split = split_pairs(dataset.pairs, self.config.held_out, self.config.seed)
        self.report("finding the base model")
        folder = find.find_weights(self.config.model, self.config.revision)
        train, held_out = (side.pairs for side in self._tokenized(folder, split))
        question = self._question(folder, free_bytes, [*train, *held_out])
        draft = Estimate(
            made_at=time.time(),
            device=hardware.choose_arithmetic(self.config.compute_dtype).device,
            processes=process_count(self.config),
            pairs=len(train),
            held_out_pairs=len(held_out),
            longest_tokens=self._costs([*train, *held_out])[0],
            memory_bytes=question.needed_bytes() if question else 0,
            predicted_memory_bytes=question.needed_bytes() if question else 0,
            free_memory_bytes=free_bytes,
        )
        longest_pair = max(pair.longest for pair in (*train, *held_out))
        if question is not None and not _is_worth_trying(question):
            return _refused(draft, question, longest_pair)
        try:
            with hardware.memory_errors(_used_up):
                answer = self._measure(draft, train, held_out, split)
        except OutOfMemory:
            if question is None:
                raise
            return _refused(draft, question, longest_pair)
        self._compare_bfloat16(train, held_out)
        changes = []
        if question is not None and not answer.fits_memory:
            changes += changes_for_memory(question, longest_pair=longest_pair)
        if not answer.fits_disk:
            needed, free = answer.needed_disk_bytes, answer.free_disk_bytes
            changes += changes_for_disk(needed, free, self.config)
        return answer.model_copy(update={"changes": tuple(changes)})

    def _tokenized(self, folder: Path, split: Split) -> list[Tokenized]:
        """Return both sides of the pairs; notes what is special about their chat template."""
        tokenizer = tokenizers.load_tokenizer(folder, self.config.chat_template)
        self.report("tokenizing the pairs")
        sides = [
            training_setup.tokenize(self.config, tokenizer, split.train),
            training_setup.tokenize(self.config, tokenizer, split.held_out, may_be_empty=True),
        ]
        used = template_in_use(folder, tokenizer, self.config.chat_template)
        changes = sum((side.changes for side in sides), UNCHANGED)
        self._notes += [*used.sentences(self.config.model), *changes.sentences()]
        return sides

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
        needs = needs_of(self.config)
        return sorted((cost_in_tokens(pair, LAYOUT, needs) for pair in pairs), reverse=True)

    def _measure(
        self,
        draft: Estimate,
        train: Sequence[TokenizedPair],
        held_out: Sequence[TokenizedPair],
        split: Split,
    ) -> Estimate:
        """Return the estimate of a training from a step of it."""
        self.report("loading the base model")
        base = training_setup.load_base_to_train(self.config)
        if base.arithmetic.device == "cpu":
            interactive.work_behind_answers("an estimate")
        # A starting adapter's weights take what new ones of its rank and targets take.
        policy = loading.attach_new_adapter(base, self.config)
        self.report("checking the layout")
        engine = training_setup.engine_for(self.config, policy, train)
        start_up_seconds = time.time() - psutil.Process().create_time()
        self.report("answering the sample prompts")
        pairs = split.held_out or split.train
        sampling_seconds = self._sample(base, policy, pairs)
        self.report("training a step on the longest pairs")
        trial = Trial()
        is_offered = bfloat16_offer.is_offered(self.config, base.arithmetic)
        logps = bfloat16_offer.response_logps(engine, train) if is_offered else None
        result = try_steps(engine, self.config, train, held_out, trial)
        if logps is not None:
            self._float32 = bfloat16_offer.InFloat32(logps, result.seconds_a_token)
        expected = expected_run(self.config, engine, train, held_out)
        if draft.processes > 1 and draft.device == "cuda":  # on a CPU they share the cores
            shares = expected_shares(self.config, engine, train, held_out, draft.processes)
            expected = expected.shared(shares)
        seconds = result.seconds_of(expected).model_copy(
            update={"start_up": start_up_seconds, "sampling": expected.samples * sampling_seconds}
        )
        disk_bytes, needed_disk_bytes = self._disk(policy, split)
        return draft.model_copy(
            update={
                "longest_tokens": engine.longest_row([*train, *held_out]),
                "steps": expected.steps,
                "evaluations": expected.evaluations,
                "samples": expected.samples,
                "tokens_per_forward": result.tokens_per_forward,
                "seconds": seconds,
                "memory_bytes": _memory(result, draft),
                "measured_memory_bytes": result.peak_bytes,
                "disk_bytes": disk_bytes,
                "needed_disk_bytes": needed_disk_bytes,
                "free_disk_bytes": shutil.disk_usage(storage.home()).free,
                "notes": tuple(trial.notes),
            }
        )

    def _compare_bfloat16(
        self, train: Sequence[TokenizedPair], held_out: Sequence[TokenizedPair]
    ) -> None:
        """Note what bfloat16 would gain and cost, where this CPU multiplies it itself."""
        if self._float32 is None:
            return
        self.report("measuring a step in bfloat16")
        try:
            with hardware.memory_errors(_used_up):
                offer = bfloat16_offer.compare(self.config, train, held_out, self._float32)
        except OrpoQloraError as exc:
            self._notes.append(f"bfloat16 could not be measured: {exc}")
        else:
            self._notes.append(offer.sentence())

    def _sample(
        self, base: loading.Base, policy: PeftModel, pairs: Sequence[PreferencePair]
    ) -> float:
        """Return the seconds that answering all sample prompts takes."""
        prompts = training_setup.sample_prompts(self.config, pairs)
        moments = [time.perf_counter()]
        for tokens in (1, 1 + SAMPLED_TOKENS):
            training_setup.answer_samples(policy, base.tokenizer, prompts, max_tokens=tokens)
            moments.append(time.perf_counter())
        first, second = moments[1] - moments[0], moments[2] - moments[1]
        per_token = max(0.0, second - first) / SAMPLED_TOKENS or second / (1 + SAMPLED_TOKENS)
        return second + per_token * (training_setup.SAMPLE_TOKENS - SAMPLED_TOKENS)

    def _disk(self, policy: PeftModel, split: Split) -> tuple[int, int]:
        """Return the bytes that the run takes at most, and those it needs free to start."""
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
    """Whether a step can be run: a GPU raises an error, a host kills the process."""
    if question.room.device == "cuda":
        return question.weights <= question.room.free_bytes
    return question.fits()


def _used_up() -> OutOfMemory:
    return OutOfMemory(
        "Memory ran out during the measured step.",
        hint="Close other programs, or choose a smaller model.",
    )


def _refused(draft: Estimate, question: Question, longest_pair: int) -> Estimate:
    # More than there is, whatever was predicted: the measured step ran out of memory.
    needed = max(question.needed_bytes(), question.room.free_bytes + 1)
    changes = changes_for_memory(question, longest_pair=longest_pair)
    return draft.model_copy(update={"memory_bytes": needed, "changes": tuple(changes)})


def _memory(result: TrialResult, draft: Estimate) -> int:
    """Return the expected peak: a forward of the run may hold more tokens than were measured."""
    return result.peak_bytes + result.bytes_a_token * result.missing_tokens


def main(arguments: Sequence[str]) -> int:
    """Run the job of one folder; return its exit code."""
    paths = EstimatePaths(Path(arguments[0]))

    def make() -> tuple[EstimateProgram, Callable[[], None]]:
        program = EstimateProgram(paths)
        return program, program.run

    return run_job(paths, make)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
