"""The program of one run: `python -m orpo_qlora.runs.process.worker RUN_FOLDER`. Floor 3.

Reads the run folder that `store.create_run` made and fills it. Readers follow it through its files.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import FrameType

import transformers
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import OrpoQloraError, OutOfMemory
from orpo_qlora.models import loading
from orpo_qlora.models.devices import hardware
from orpo_qlora.models.experts import describe_experts
from orpo_qlora.models.generation.sampling import BASE
from orpo_qlora.models.sharding import same_logits
from orpo_qlora.models.templates.rendering import template_in_use
from orpo_qlora.orpo import resume
from orpo_qlora.orpo.processes.ranks import ALONE, Ranks
from orpo_qlora.orpo.rows.batches import total_steps
from orpo_qlora.orpo.rows.tokens import Tokenized
from orpo_qlora.orpo.step import Record
from orpo_qlora.orpo.trainer import OrpoTrainer
from orpo_qlora.program import run_program
from orpo_qlora.runs import checkpoints, store
from orpo_qlora.runs.checkpoints import Checkpoint, Found
from orpo_qlora.runs.curves import metrics
from orpo_qlora.runs.identity import Identity, identity_of
from orpo_qlora.runs.lineage import read_lineage
from orpo_qlora.runs.process import preflight, training_setup
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.process.shared import alike
from orpo_qlora.runs.process.start import copy_start, refuse_another_base
from orpo_qlora.runs.process.tracking import track
from orpo_qlora.runs.state import ErrorCard, RunState, Status
from orpo_qlora.runs.store import RunPaths

log = logging.getLogger(__name__)

RESERVE_BYTES = 65_536
SHARDED = "Each process holds its part of the base's layers, and gathers them for every forward."
NOT_SHARDED = "The base is not sharded, as the run has one process."


class Worker:
    """One run from its folder to its adapter."""

    def __init__(self, paths: RunPaths, ranks: Ranks = ALONE) -> None:
        self.paths, self.ranks = paths, ranks
        self.config: TrainConfig = store.read_run(paths).config
        self.state: RunState = store.stored_state(paths)
        self._recent_seconds: deque[float] = deque(maxlen=20)
        self._identity: Identity
        self._metrics: storage.JsonLines
        self._samples: storage.JsonLines
        self._base: loading.Base | None = None
        self._policy: PeftModel | None = None
        self._wants_stop = False
        self._has_base_answers = False
        self._sample_tools: dict[str, str] = {}
        self._refused_rows: set[int] = set()
        self._phases: list[tuple[str, float]] = []

    def run(self) -> None:
        """Do the whole run: load, tokenize, train, save, sample.

        Of several processes that share it, rank 0 alone writes into the folder.
        """
        self._change(self.state.moved_to("starting"), started_at=time.time(), error=None)
        if self.ranks.is_first:
            with storage.disk_errors(self.paths.reserve):
                self.paths.reserve.write_bytes(bytes(RESERVE_BYTES))
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        hardware.use_all_cores()
        transformers.set_seed(self.config.seed)

        if self.ranks.any(self.should_stop()):
            self._finish("stopped")
            return
        self._phase("loading the base model")
        base = self._base = training_setup.load_base_to_train(self.config, self.ranks)
        self.on_note(f"Arithmetic: {base.arithmetic.reason}.")
        self.on_note(template_in_use(base.folder, base.tokenizer, self.config.chat_template).note())
        self._identity = identity_of(self.config, self.paths.train.parent, base.folder)
        alike.refuse_other_files(self.ranks, self._identity.model)
        found = self.ranks.first_then_others(self._checkpoint)
        self.ranks.from_first(lambda: copy_start(self.paths, self.config))
        refuse_another_base(self.paths, self._identity.model)
        policy = self._policy = self.ranks.together(
            lambda: training_setup.attach_adapter(base, self.config, self.paths.start)
        )
        self.ranks.from_first(lambda: self._check_room(policy, found))
        experts = describe_experts(policy, self.config.lora_targets)
        if experts:
            self.on_note(experts)

        self._phase("tokenizing the pairs")
        train, held_out = self.ranks.first_then_others(lambda: self._tokenize(base))
        alike.refuse_other_pairs(self.ranks, [*train.pairs, *held_out.pairs])

        self._phase("checking the layout")
        engine = self.ranks.together(
            lambda: training_setup.engine_for(self.config, policy, train.pairs)
        )
        self.on_note(engine.describe)

        steps = total_steps(self.config, len(train.pairs))
        self._change(self.state.moved_to("running"), total_steps=steps)
        trainer = OrpoTrainer(
            engine, self.config, train.pairs, held_out.pairs, self, ranks=self.ranks
        )
        self.on_note(trainer.memory.sentence())
        if self.ranks.size > 1:
            self.on_note(f"Each step is shared by {self.ranks.size} processes.")
        if self.config.shard_base:
            self.on_note(SHARDED if self.ranks.shards_base else NOT_SHARDED)
        if self.ranks.shards_base and self.state.memory_failures:
            trainer.budget.lower(self.state.memory_failures)
            self.on_note(f"Memory ran out before: {trainer.budget.tokens:,} tokens a forward.")
        trainer.starts_trained = bool(self.config.start_from)
        if self.ranks.is_first:
            self._keep_records(trainer, base)
        if not self._train_from(trainer, found.newest):
            self._finish("stopped")
            return

        self._phase("saving the adapter")
        self.ranks.from_first(lambda: save_adapter(policy, base.tokenizer, self.paths.adapter))
        if self.ranks.any(self.should_stop()):
            self._finish("stopped")
            return
        trainer.evaluate_base()
        self._sample_base()
        self._sample("end")
        self._finish("finished")

    def _keep_records(self, trainer: OrpoTrainer, base: loading.Base) -> None:
        """Give a trainer the file of the reference's log-probs and the tracker, if there is one."""
        ancestor = read_lineage(self.paths.start)
        trainer.reference_file = training_setup.reference_file(
            self.config,
            base,
            self._identity,
            [*trainer.pairs, *trainer.held_out],
            self.paths.reference,
            ancestor.adapter_sha256 if ancestor else "",
        )
        tracked = track(trainer, store.read_run(self.paths))
        if tracked:
            self.on_note(tracked)

    def fail(self, error: OrpoQloraError) -> None:
        """Record why the run failed."""
        log.info("the run failed: %s", error)
        self.paths.reserve.unlink(missing_ok=True)
        self._change(self.state.moved_to("failed"), error=ErrorCard.of(error), ended_at=time.time())

    def _checkpoint(self) -> Found:
        """Return the checkpoint to resume from, if there is one.

        Raises:
            CheckpointError: all are damaged, or the newest good one belongs to another
                training.
        """
        checkpoints.sweep(self.paths.checkpoints)
        found = checkpoints.find_checkpoint(self.paths.checkpoints)
        for reason in found.damaged:
            self.on_note(f"Checkpoint skipped: {reason}")
        checkpoints.refuse_foreign(found, self._identity)
        return found

    def _check_room(self, policy: PeftModel, found: Found) -> None:
        """Check that the run's checkpoints fit on the disk.

        Raises:
            DiskFull: before the first step.
        """
        to_come = 0 if found.newest else checkpoints.KEPT  # a resumed run has its checkpoints
        room = preflight.checkpoints_bytes(training_setup.trained_bytes(policy), to_come)
        preflight.check_room(self.paths.folder, room)

    def _train_from(self, trainer: OrpoTrainer, start: Checkpoint | None) -> bool:
        """Train to the end, from the untrained policy or from a checkpoint.

        Returns False when the run was stopped before anything was learned.
        """
        kept = _Kept(**self.ranks.from_first(lambda: asdict(self._rewind(start))))
        self._has_base_answers = kept.has_base_answers
        trainer.has_base_evaluation |= kept.start_records > 0
        # A run that starts from an adapter has two records of step 0: the base's, the adapter's.
        trainer.evaluates_start = bool(self.config.start_from) and kept.start_records < 2
        if self.ranks.is_first:
            self._metrics = storage.JsonLines(self.paths.metrics)
            self._samples = storage.JsonLines(self.paths.samples)
        if start is not None:
            self.on_note(f"Resumed after step {start.step}.")
        self._change(self.state, step=start.step if start else 0)
        if not trainer.measure_reference(can_stop=True):
            return False
        if start is not None and start.step >= trainer.steps:
            self.ranks.together(lambda: resume.restore_weights(start.folder, trainer.model))
            return True
        if self.ranks.any(self.should_stop()):
            return False
        trainer.resume_from = start.folder if start else None
        self._phase("training")
        trainer.train()
        return True

    def _rewind(self, start: Checkpoint | None) -> _Kept:
        """Drop what was recorded after a checkpoint, or everything without one.

        The base model's evaluation and answers (step 0) stay, whenever they were recorded: the
        checkpoint's identity guarantees the same base and pairs.
        """
        last_step = start.step if start else -1
        kept = metrics.rewind(
            self.paths.metrics, lambda record: metrics.is_of_step(record, last_step)
        )
        of_start = sum(metrics.is_of_step(record, 0) for record in kept)
        answered = [
            record["prompt"]
            for record in store.samples_of(self.paths)
            if record.get("when") == "start"
        ]
        has_base_answers = answered == self._sample_prompts
        outdated = {"end"} if has_base_answers else {"end", "start"}
        metrics.rewind(
            self.paths.samples,
            lambda record: (
                metrics.is_of_step(record, last_step) and record.get("when") not in outdated
            ),
        )
        return _Kept(of_start, has_base_answers)

    def on_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Save what a later worker needs to continue after this step."""
        if not self.ranks.is_first:
            return
        self._phase("saving a checkpoint")
        # A checkpoint relies on the lines before it: a power loss must not remove them.
        self._metrics.sync()
        self._samples.sync()
        checkpoints.save_checkpoint(self.paths.checkpoints, step, self._identity, write)
        self._phase("training")

    def on_step(self, record: Record) -> None:
        """Write one step's metrics and the progress (see `orpo.trainer.RunCallback`)."""
        if self.ranks.is_first:
            self._metrics.append(metrics.as_json(record))
        if not self._recent_seconds:
            self._note_start_up()
        self._recent_seconds.append(record["seconds"])
        log.info(
            "step %d/%d  loss %.4f  accuracy %.2f  %.1f s",
            record["step"],
            self.state.total_steps,
            record["loss"],
            record.get(metrics.ACCURACY, float("nan")),
            record["seconds"],
        )
        self._change(
            self.state,
            phase="training",
            step=int(record["step"]),
            seconds_per_step=statistics.median(self._recent_seconds),
        )

    def on_evaluation(self, record: Record) -> None:
        """Write one evaluation on held-out pairs, and new sample answers."""
        if self.ranks.is_first:
            self._metrics.append(metrics.as_json(record))
        log.info("held-out pairs: loss %.4f", record["eval/loss"])
        self._sample_base()
        # Step 0 is the base; the last step's answers come with the end of the run.
        if 0 < record["step"] < self.state.total_steps:
            self._sample("evaluation")
        self._phase("training")

    def should_stop(self) -> bool:
        """Whether the user, or the system, has requested a stop."""
        return self._wants_stop or self.paths.stop.exists()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.ranks.is_intact:
            return  # the launcher ends what the death of another process has left
        self._wants_stop = True
        # A launcher of several machines also signals because a process of another machine has died:
        # then there is no stop to show, and the run ends as interrupted.
        is_one_machine = self.ranks.local_size == self.ranks.size
        if self.ranks.is_first and is_one_machine:
            run_queue.ask_to_stop(self.paths)  # so that readers see “stopping”

    def _tokenize(self, base: loading.Base) -> tuple[Tokenized, Tokenized]:
        train = training_setup.tokenize(
            self.config, base.tokenizer, store.training_pairs(self.paths)
        )
        held_out = training_setup.tokenize(
            self.config, base.tokenizer, store.held_out_pairs(self.paths), may_be_empty=True
        )
        self._refused_rows = {*train.refused_rows, *held_out.refused_rows}
        for name, side in (("Training", train), ("Held out", held_out)):
            sentence = side.sentence(self.config.max_length)
            if sentence:
                self.on_note(f"{name}: {sentence}")
        for sentence in (train.changes + held_out.changes).sentences():
            self.on_note(sentence)
        return train, held_out

    @cached_property
    def _sample_prompts(self) -> list[str]:
        sides = (store.held_out_pairs(self.paths), store.training_pairs(self.paths))
        kept = [[pair for pair in side if pair.row not in self._refused_rows] for side in sides]
        pairs = kept[0] or kept[1]
        self._sample_tools = training_setup.sample_tools(pairs)
        return training_setup.sample_prompts(self.config, pairs)

    def _sample_base(self) -> None:
        """Let the base model answer the sample prompts, once a run."""
        if not self._has_base_answers:
            self._sample("start")
            self._has_base_answers = True

    def _sample(self, when: str) -> None:
        base, policy = self._base, self._policy
        if base is None or policy is None:
            return
        is_base, prompts = when == "start", self._sample_prompts
        self._phase("answering the sample prompts" + (" as the base model" if is_base else ""))
        adapter = BASE if is_base else loading.ADAPTER
        shards = self.ranks.shards_base
        mine = prompts if shards else prompts[self.ranks.rank :: self.ranks.size]
        agreement = same_logits(policy.get_base_model()) if shards else nullcontext()

        def answer_share() -> dict[str, str]:
            if not mine:
                return {}
            answers = training_setup.answer_samples(
                policy, base.tokenizer, mine, adapter=adapter, tools=self._sample_tools
            )
            return dict(zip(mine, answers, strict=True))

        with resume.preserved_random_state(), agreement:
            shares = self.ranks.gather(answer_share)
        if not self.ranks.is_first:
            return
        answers = [shares[at % len(shares)][prompt] for at, prompt in enumerate(prompts)]
        step = 0 if is_base else self.state.step
        for prompt, answer in zip(prompts, answers, strict=True):
            self._samples.append({"step": step, "when": when, "prompt": prompt, "answer": answer})

    def _note_start_up(self) -> None:
        """Note the time to the end of the first step, by phase."""
        moments = [*self._phases, ("", time.monotonic())]
        spent: dict[str, float] = {}
        for (phase, start), (_, end) in pairwise(moments):
            name = phase.partition(":")[0]  # without its progress
            spent[name] = spent.get(name, 0.0) + end - start
        parts = [f"{name} {took:.0f} s" for name, took in spent.items() if took >= 0.5]
        text = f"First step after {moments[-1][1] - moments[0][1]:.0f} s"
        self.on_note(f"{text}: {', '.join(parts)}." if parts else f"{text}.")

    def on_phase(self, phase: str) -> None:
        """Show what is being measured (see `orpo.trainer.RunCallback`)."""
        self._phase(phase)

    def _phase(self, phase: str) -> None:
        log.info("%s", phase)
        if not self._recent_seconds:
            self._phases.append((phase, time.monotonic()))
        self._change(self.state, phase=phase)

    def on_note(self, note: str) -> None:
        """Note something about the run for the user (see `orpo.trainer.RunCallback`)."""
        log.info("%s", note)
        if note not in self.state.notes:  # a resumed run notes the same again
            self._change(self.state, notes=(*self.state.notes, note))

    def _finish(self, status: Status) -> None:
        if self.ranks.is_first:
            self.paths.reserve.unlink(missing_ok=True)
        self._change(self.state.moved_to(status), phase="", ended_at=time.time())

    def _change(self, state: RunState, **values: object) -> None:
        values["progressed_at"] = time.monotonic()
        self.state = state.model_copy(update=values)
        if self.ranks.is_first:
            store.write_state(self.paths, self.state)


def save_adapter(policy: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the adapter as plain PEFT safetensors, with the tokenizer and its chat template.

    The folder appears whole.
    """
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    with storage.disk_errors(draft):
        policy.save_pretrained(draft, safe_serialization=True)
        tokenizer.save_pretrained(draft)
        for path in draft.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)
    storage.sync_folder(folder.parent)


@dataclass(frozen=True)
class _Kept:
    """What earlier processes of the run have recorded of its start."""

    start_records: int
    """Evaluations of step 0."""
    has_base_answers: bool


def main(arguments: Sequence[str]) -> int:
    """Run the worker of one run folder; return its exit code.

    The second argument is the descriptor of the run's lock, taken by the process that starts it.
    """
    paths = RunPaths(Path(arguments[0]))
    lock = storage.FileLock.adopt(paths.lock, int(arguments[1]))
    try:
        worker = Worker(paths)
        return run_program(lambda: run_worker(worker), worker.fail)
    finally:
        lock.release()


def run_worker(worker: Worker) -> None:
    """Do the whole run; memory that runs out is reported with the phase in which it did."""

    def named() -> OutOfMemory:
        return OutOfMemory(
            f"Memory ran out while {worker.state.phase or 'starting'}.",
            hint="Lower “Tokens per forward”, switch “Recompute activations” on, or choose a "
            "smaller model.",
            where=f"step {worker.state.step}",
        )

    with hardware.memory_errors(named):
        worker.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
