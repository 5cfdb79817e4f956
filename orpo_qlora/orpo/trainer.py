"""OrpoTrainer: a loss and the engine inside transformers.Trainer's loop. Floor 2.

An optimizer step is one batch of `pairs_per_step` pairs. The token budget decides how it is cut
into micro-steps, which changes neither its loss nor its gradient.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import NonFiniteLoss
from orpo_qlora.orpo import resume
from orpo_qlora.orpo.drift import mean_kl
from orpo_qlora.orpo.dropout import draw_by_pair
from orpo_qlora.orpo.engine import Engine
from orpo_qlora.orpo.loss import loss_for, mismatch
from orpo_qlora.orpo.optimizer_memory import repeat_when_memory_runs_out
from orpo_qlora.orpo.processes.ranks import ALONE, Ranks
from orpo_qlora.orpo.reference import Measuring, Reference, ReferenceFile, as_reference, digest_of
from orpo_qlora.orpo.resume import preserved_random_state
from orpo_qlora.orpo.rows.batches import steps_an_epoch, total_steps, training_batches
from orpo_qlora.orpo.rows.budget import Budget, settle_memory
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.orpo.schedule import evaluation_every
from orpo_qlora.orpo.step import Record, accumulate_step, measure_pairs, of_reference

OPTIMIZERS = {
    "adamw": "adamw_torch_fused",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
SCHEDULERS = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant_with_warmup",
    "inverse_sqrt": "inverse_sqrt",
}


class RunCallback(Protocol):
    """Receives everything a training reports."""

    def on_step(self, record: Record) -> None:
        """Called after each optimizer step with its metrics."""

    def on_phase(self, phase: str) -> None:
        """Called before each evaluation with what is measured, for progress displays."""

    def on_evaluation(self, record: Record) -> None:
        """Called after each evaluation on held-out pairs, names prefixed `eval/`.

        The base model's record has step 0 and comes with the first scheduled evaluation, before
        the record of that step.
        """

    def on_note(self, note: str) -> None:
        """Called with a sentence for the user when the training continues differently."""

    def should_stop(self) -> bool:
        """Called after each step; True ends the training there."""

    def on_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        """Called when a checkpoint is due; `write` puts the state after `step` into a folder."""


class OrpoTrainer(Trainer):
    """Trains a policy's adapter with ORPO; reports every step to a RunCallback.

    Evaluates every `eval_every` steps and after the last, where it also measures the drift from the
    base. The base model, which is the policy with
    its adapter disabled, is evaluated together with the first of these and recorded as step 0, so
    that nothing delays the first step. Offers a checkpoint every `checkpoint_every` steps and after
    the last, also when stopped; `resume_from` names the folder of one to start from.

    Raises:
        NonFiniteLoss: from `train`, naming the rows of the step; the adapter is then as it was
            before that step.
    """

    def __init__(
        self,
        engine: Engine,
        config: TrainConfig,
        train: Sequence[TokenizedPair],
        held_out: Sequence[TokenizedPair],
        callback: RunCallback,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        draws = draw_by_pair(engine.policy, config.seed)
        self.engine = engine = replace(engine, draws=draws)
        self.settings = config
        self.run_callback = callback
        self.pairs, self.held_out = train, held_out
        self.loss = loss_for(config)
        if self.loss.needs.mismatched:
            sides = [mismatch(side, config.max_length) for side in (train, held_out)]
            self.loss = replace(self.loss, mismatched=sides[0] | sides[1])
        mismatched = list(self.loss.mismatched.values())
        self.reference_file: ReferenceFile | None = None
        """Set it before `train` to keep the reference's log-probs on disk."""
        self.starts_trained = False
        """Set it before `train` where the adapter was trained before: it is then the reference."""
        self.steps = total_steps(config, len(train))
        self.resume_from: Path | None = None
        self.has_base_evaluation = not held_out
        """Set it before `train` where an earlier process has recorded step 0 already."""
        self.evaluates_start = False
        """Set it before `train` to measure an adapter that is not new before the first step."""
        self._savepoints = resume.Savepoints(config.checkpoint_every, self.steps)
        self.last_record: Record = {}
        self.memory = settle_memory(engine, config, [*train, *held_out, *mismatched], ranks)
        self.budget = Budget(engine.policy, self.memory, callback.on_note)
        super().__init__(
            model=engine.policy,
            args=_arguments(config, self.steps),
            train_dataset=list(train),
            data_collator=list,
            callbacks=[_Schedule(self)],
        )
        self.remove_callback(PrinterCallback)  # the callback reports

    @property
    def eval_every(self) -> int:
        """Optimizer steps between evaluations."""
        return evaluation_every(self.settings, self.steps)

    @property
    def epochs_done(self) -> float:
        """Passes over the pairs so far; the loop's own count restarts when a run is resumed."""
        per_epoch = steps_an_epoch(len(self.pairs), self.settings.pairs_per_step)
        return self.state.global_step / per_epoch

    def measure_reference(self, *, can_stop: bool = False) -> bool:
        """Measure what the loss needs of the reference, once, before the first step.

        `train` does so before it restores a checkpoint.

        Returns:
            False when it `can_stop` and the callback's `should_stop` ended it early.

        Raises:
            CheckpointError: the file holds the log-probs of another reference.
            NonFiniteLoss: names the row.
        """
        pairs = [*self.pairs, *self.held_out]
        if self.loss.needs.mismatched:
            pairs += [self.loss.mismatched[digest_of(pair)] for pair in pairs]
        if not self.loss.needs.reference or self.loss.reference.has(pairs):
            return True
        file = self.reference_file
        known = {
            pair: (chosen, rejected)
            for pair, (chosen, rejected) in self.ranks.from_first(
                lambda: file.read() if file else {}
            ).items()
        }
        measuring = Measuring(
            self.engine, pairs, known, file, self.run_callback.on_phase, ranks=self.ranks
        )
        if can_stop:
            measuring.should_stop = self.run_callback.should_stop
        policy: PeftModel = self.engine.policy
        was_training, started = policy.training, time.monotonic()
        missing = len({digest_of(pair) for pair in pairs} - known.keys())
        policy.eval()
        with preserved_random_state(), as_reference(policy, starts_trained=self.starts_trained):
            is_done = self.budget.spend(measuring.run)
        policy.train(was_training)
        if is_done:
            self.loss = replace(self.loss, reference=Reference(measuring.known))
            if file:
                file.finish(measuring.known)
                self.run_callback.on_note(
                    _reference_note(len(measuring.known), missing, time.monotonic() - started)
                )
        return is_done

    def start(self) -> None:
        """Restore the state in `resume_from`, or measure an adapter that was trained before."""
        self.ranks.prepare([p for p in self.model.parameters() if p.requires_grad])
        self.measure_reference()
        if self.resume_from is None:
            self.ranks.copy_first()
            if self.evaluates_start and self.held_out:
                self._evaluate_start()
            return
        folder = self.resume_from
        progress = self.ranks.together(
            lambda: resume.restore(folder, self.model, self.optimizer, self.lr_scheduler)
        )
        self.ranks.copy_first()
        if progress.processes != self.ranks.size:
            self.run_callback.on_note(
                f"The checkpoint is of {_processes(progress.processes)}, the run continues with "
                f"{_processes(self.ranks.size)}: the same steps, rounded differently."
            )
        self.state.global_step = progress.step
        self.budget.restore(progress.tokens_per_forward)
        self._savepoints.saved(progress.step)

    def offer_checkpoint(self, *, is_last: bool = False) -> None:
        """Let the callback save the state after the latest step, if that is due."""
        step = self.state.global_step
        if self._savepoints.is_due(step, is_last=is_last):
            self.run_callback.on_checkpoint(step, self._capture)
            self._savepoints.saved(step)

    def _capture(self, folder: Path) -> None:
        progress = resume.Progress(self.state.global_step, self.budget.tokens, self.ranks.size)
        resume.capture(folder, progress, self.model, self.optimizer, self.lr_scheduler)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimizer, whose step is repeated when memory runs out."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if is_new:
            repeat_when_memory_runs_out(optimizer, self.run_callback.on_note)
        return optimizer

    def get_train_dataloader(self) -> DataLoader[list[TokenizedPair]]:
        """Return batches of whole optimizer steps, from the next one on."""
        # Read when an epoch begins: the loop replaces `self.state` after this call.
        return training_batches(self.pairs, self.settings, lambda: self.state.global_step)

    def training_step(
        self,
        model: nn.Module,
        inputs: list[TokenizedPair],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Accumulate one optimizer step's gradient, micro-step by micro-step; return its loss.

        Raises:
            NonFiniteLoss: names the rows of the step.
            OutOfMemory: see `budget.Budget.spend`.
        """
        model.train()
        if self.engine.draws is not None:
            self.engine.draws.step = self.state.global_step
        self.last_record = self.budget.spend(
            lambda tokens: accumulate_step(
                self.engine, inputs, self.loss, tokens, self.accelerator.backward, self.ranks
            )
        )
        measured = time.perf_counter()
        self.ranks.sum_gradients()
        self.last_record["seconds"] += time.perf_counter() - measured
        loss = self.last_record["loss"]
        if not math.isfinite(loss):
            raise _non_finite("loss", inputs, self.state.global_step + 1)
        self._current_rows = inputs
        if self.loss.needs.reference and not self.state.global_step and self._is_reference():
            self.last_record = of_reference(self.last_record)
        return torch.tensor(loss, device=self.args.device)

    def _is_reference(self) -> bool:
        """Whether the policy is still the one whose log-probs are the reference."""
        fresh = (p for name, p in self.model.named_parameters() if "lora_B" in name)
        return self.starts_trained or not any(bool(p.any()) for p in fresh)

    def check_gradient(self) -> None:
        """Refuse an optimizer step whose gradient is not finite.

        Raises:
            NonFiniteLoss: nothing has been changed by the step.
        """
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if not torch.nn.utils.get_total_norm(gradients).isfinite():
            raise _non_finite("gradient", self._current_rows, self.state.global_step + 1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Complete the loop's own numbers with the step's metrics and report them."""
        if "learning_rate" in logs:
            record: Record = {
                "step": self.state.global_step,
                "epoch": self.epochs_done,
                **self.last_record,
                **{name: logs[name] for name in ("grad_norm", "learning_rate") if name in logs},
            }
            self.run_callback.on_step(record)
            logs = {**logs, **record}
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: object = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate the held-out pairs, report and return the metrics, names prefixed `eval/`."""
        if not self.held_out:
            return {}
        self.measure_reference()
        self.evaluate_base()
        self.run_callback.on_phase("evaluating the held-out pairs")
        return self._report_held_out(self.state, self.epochs_done)

    def evaluate_base(self) -> None:
        """Measure the held-out pairs under the base model and report them as step 0, once.

        The adapter is disabled during the evaluation. Neither adapter nor random state changes, so
        training is the same whenever this happens.
        """
        if self.has_base_evaluation:
            return
        self.measure_reference()
        self.run_callback.on_phase("evaluating the base model")
        start = copy.copy(self.state)
        start.global_step, start.epoch = 0, 0.0
        policy: PeftModel = self.engine.policy
        with preserved_random_state(), policy.disable_adapter():
            self._report_held_out(start, 0.0, is_reference=not self.starts_trained)
        self.has_base_evaluation = True

    def _evaluate_start(self) -> None:
        """Report the base model and then the adapter before the first step, both as step 0."""
        self.evaluate_base()
        self.run_callback.on_phase("evaluating the starting adapter")
        start = copy.copy(self.state)
        start.global_step, start.epoch = 0, 0.0
        with preserved_random_state():
            self._report_held_out(start, 0.0, is_reference=self.starts_trained)
        self.evaluates_start = False

    def _report_held_out(
        self, state: TrainerState, epochs: float, *, is_reference: bool = False
    ) -> Record:
        values = self.budget.spend(
            lambda tokens: measure_pairs(self.engine, self.held_out, self.loss, tokens, self.ranks)
        )
        if is_reference and self.loss.needs.reference:
            values = of_reference(values)
        if state.global_step == self.steps and any(pair.chosen for pair in self.held_out):
            values = {**values, "kl_base": self._drift()}
        record = {f"eval/{name}": value for name, value in values.items()}
        self.run_callback.on_evaluation({"step": state.global_step, "epoch": epochs, **record})
        # Clears the request, which the loop reads again at the end of an epoch.
        self.control: TrainerControl = self.callback_handler.on_evaluate(
            self.args, state, self.control, record
        )
        return record

    def _drift(self) -> float:
        """Return KL(policy ‖ base) a token on the chosen responses of the held-out pairs."""
        self.run_callback.on_phase("measuring the drift from the base")
        return self.budget.spend(
            lambda tokens: mean_kl(self.engine, self.held_out, tokens, ranks=self.ranks)
        )

    def floating_point_ops(self, inputs: Mapping[str, object]) -> int:
        """Return 0: transformers' estimate knows only batches of tensors."""
        return 0


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def _reference_note(pairs: int, measured: int, seconds: float) -> str:
    """Return what the reference cost, which no step contains."""
    if not measured:
        return f"Reference: log-probs of {pairs:,} pairs were kept on this disk."
    taken = f"{measured:,} of them measured in {seconds:.0f} s"
    return f"Reference: log-probs of {pairs:,} pairs, {taken}."


def _non_finite(what: str, pairs: Sequence[TokenizedPair], step: int) -> NonFiniteLoss:
    rows = ", ".join(str(pair.row) for pair in pairs)
    return NonFiniteLoss(
        f"The {what} of step {step} is not a finite number.",
        where=f"rows {rows}",
        hint=f"Check rows {rows} of the data, or lower the learning rate.",
    )


def _arguments(config: TrainConfig, steps: int) -> TrainingArguments:
    return TrainingArguments(
        # Required, never written to: the worker saves.
        output_dir=str(Path.cwd()),
        max_steps=steps,
        per_device_train_batch_size=config.pairs_per_step,
        learning_rate=config.learning_rate,
        lr_scheduler_type=SCHEDULERS[config.scheduler],
        # Rounded down: the first step of a warm-up has a learning rate of 0, and a run of one step
        # would learn nothing.
        warmup_steps=int(config.warmup_ratio * steps),
        max_grad_norm=config.max_grad_norm,
        optim=OPTIMIZERS[config.optimizer],
        weight_decay=0.0,
        seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        bf16=False,  # the base already computes in the type of the hardware
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        label_names=[],
    )


class _Schedule(TrainerCallback):
    """Decides when to evaluate, when a checkpoint may be due and when to stop."""

    def __init__(self, trainer: OrpoTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._trainer.start()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        # transformers logs and evaluates a step after `on_step_end`, so it is complete only here.
        self._trainer.offer_checkpoint()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._trainer.offer_checkpoint(is_last=True)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._trainer.check_gradient()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        if self._trainer.ranks.any(self._trainer.run_callback.should_stop()):
            control.should_training_stop = True
            return
        step = state.global_step
        control.should_evaluate = step % self._trainer.eval_every == 0 or step == state.max_steps
