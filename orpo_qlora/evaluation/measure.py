"""The program of an evaluation: `python -m orpo_qlora.evaluation.measure FOLDER`. Floor 5.

Loads base and adapter as the run had them and measures its held-out pairs twice with the run's own
engine: adapter on, adapter off. A run that starts meanwhile ends it. Several processes may share
the measurement (`jobs/shared/`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel

from orpo_qlora import storage
from orpo_qlora.data.pairs import PreferencePair
from orpo_qlora.errors import InputError
from orpo_qlora.evaluation import report_card
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.evaluation.report_card import ReportCard, ResponseScores, Scores
from orpo_qlora.evaluation.request import EvaluationRequest
from orpo_qlora.jobs import interactive
from orpo_qlora.jobs.job import JobPaths, JobProgram, run_job
from orpo_qlora.jobs.memory import memory_named
from orpo_qlora.models import loading
from orpo_qlora.models.devices import hardware
from orpo_qlora.orpo.drift import mean_kl
from orpo_qlora.orpo.engine import Engine, build_engine
from orpo_qlora.orpo.objectives.base import CHOSEN, REJECTED
from orpo_qlora.orpo.processes.ranks import ALONE, Ranks
from orpo_qlora.orpo.reference import digest_of
from orpo_qlora.orpo.rows.budget import Budget, settle_memory
from orpo_qlora.orpo.rows.packing import Needs
from orpo_qlora.orpo.rows.tokens import Tokenized, TokenizedPair
from orpo_qlora.runs import store
from orpo_qlora.runs.lineage import parent_title
from orpo_qlora.runs.process import training_setup
from orpo_qlora.runs.store import Run

MEMORY_HINT = "Close other programs, the chat for instance, and evaluate again."

NEEDS = Needs(prompt=False, rejected=True)
"""Log-probs of both answers; a preference does not depend on those of the prompt."""
REPORT_SECONDS = 0.5

Logps = dict[str, tuple[float, float]]
"""Mean token log-prob of chosen and rejected, by `digest_of`: a ranked row has several pairs."""


@dataclass(frozen=True)
class Measured:
    """What the processes of an evaluation have measured together."""

    pairs: Sequence[TokenizedPair]
    tuned: Logps
    base: Logps
    drift: float | None
    """None without chosen responses."""


class EvaluationProgram(JobProgram):
    """Measures one run's adapter and writes its report card."""

    def __init__(self, paths: JobPaths, ranks: Ranks = ALONE) -> None:
        super().__init__(paths, is_first=ranks.is_first)
        request = EvaluationRequest.model_validate_json(paths.request.read_bytes())
        self.ranks = ranks
        self.run_paths = store.paths_of(request.run)
        self.notes: list[str] = []

    def run(self) -> None:
        """Measure, and write the card into the run's folder."""
        self.give_way_to_runs(evaluation_request.JOB.refusal)
        with self.machine_turn():
            self.ranks.together(lambda: None)  # nothing is loaded before rank 0 has its turn
            run = self.ranks.together(self._evaluable)
            started = time.time()
            adapter = report_card.adapter_sha256(self.run_paths)
            measured = self._measured(run)
            self.end_sharing()
            if not self.is_first:
                return
            pairs = store.held_out_pairs(self.run_paths)
            card = ReportCard.model_validate(
                {
                    **_summary(pairs, measured.pairs, measured.base, measured.tuned),
                    **{"kl_base": measured.drift, "run": run.id, "made_at": started},
                    **{"adapter_sha256": adapter, "notes": self.notes},
                    "seconds": time.time() - started,
                }
            )
        if card.adapter_sha256 != report_card.adapter_sha256(self.run_paths):
            raise InputError(
                "The run's adapter changed while it was measured.",
                hint="Evaluate again.",
            )
        storage.write_whole(report_card.file_of(self.run_paths), card.model_dump_json(indent=1))
        self.finish()

    def _evaluable(self) -> Run:
        """Return the run.

        Raises:
            InputError: it cannot be evaluated.
        """
        run = store.read_run(self.run_paths)
        evaluation_request.check_evaluable(run)
        return run

    def _measured(self, run: Run) -> Measured:
        """Measure the held-out pairs of a run.

        Raises:
            ModelError: base or adapter cannot be loaded.
            OutOfMemory: not even single pairs fit.
        """
        hardware.use_all_cores()
        base = self.ranks.together(partial(self._load_base, run))
        policy = self.ranks.together(partial(self._load_adapter, run, base))
        self.report("tokenizing the held-out pairs")
        tokenized = self.ranks.first_then_others(partial(self._tokenize, run, base))
        pairs = tokenized.pairs
        self.report("checking the layout", total=2 * len(pairs))
        engine = self.ranks.together(
            lambda: build_engine(policy, NEEDS, pairs[: training_setup.LAYOUT_PAIRS])
        )
        self.notes.append(engine.describe)
        choice = settle_memory(engine, run.config, pairs, self.ranks)
        budget = Budget(policy, choice, self._note)
        policy.eval()
        tuned = self._logps(engine, pairs, budget, "measuring with the adapter")
        with policy.disable_adapter():
            bare = self._logps(engine, pairs, budget, "measuring the base alone")
        self.report("measuring the drift from the base")
        return Measured(pairs, tuned, bare, self._drift(engine, pairs, budget))

    def _load_base(self, run: Run) -> loading.Base:
        self.report("loading the base model")
        base = training_setup.load_base(run.trained_config)
        self.notes.append(f"Arithmetic: {base.arithmetic.reason}.")
        if self.ranks.size > 1:
            self.notes.append(f"The pairs were shared by {self.ranks.size} processes.")
        if base.arithmetic.device == "cpu":
            interactive.work_behind_answers("an evaluation", announces=self.is_first)
        parent = parent_title(run.paths.start)
        if parent:
            self.notes.append(
                f"The run continued {parent}. “Base” is the model without any adapter; the run's "
                "first evaluation, step 0, has the numbers of the adapter it continued."
            )
        return base

    def _load_adapter(self, run: Run, base: loading.Base) -> PeftModel:
        self.report("loading the adapter")
        return loading.attach_saved_adapter(
            base.model, run.paths.adapter, loading.ADAPTER, f"The adapter of run “{run.title}”"
        )

    def _tokenize(self, run: Run, base: loading.Base) -> Tokenized:
        pairs = store.held_out_pairs(self.run_paths)
        tokenized = training_setup.tokenize(run.config, base.tokenizer, pairs)
        left = tokenized.sentence(run.config.max_length)
        self.notes += [left] if left else []
        return tokenized

    def _drift(
        self, engine: Engine, pairs: Sequence[TokenizedPair], budget: Budget
    ) -> float | None:
        """Return the drift on the chosen responses, None without any."""
        if not any(pair.chosen for pair in pairs):
            return None
        return budget.spend(
            lambda tokens: mean_kl(engine, pairs, tokens, interactive.wait_for_answer, self.ranks)
        )

    def _note(self, note: str) -> None:
        self.notes.append(note)

    def _logps(
        self, engine: Engine, pairs: Sequence[TokenizedPair], budget: Budget, phase: str
    ) -> Logps:
        """Return both mean log-probs of every pair under the policy as it is now.

        The processes take turns at groups of about the same length.
        """
        before, size = self.state.done, self.ranks.size
        if size > 1:  # at least one group for each
            share = max(engine.longest_row(pairs), engine.tokens(pairs) // size)
            budget.tokens = min(budget.tokens, share)

        def measure(tokens_per_forward: int) -> Logps:
            found: Logps = {}
            self.report(phase, done=before)
            groups = engine.micro_steps(pairs, tokens_per_forward)
            for start in range(0, len(groups), size):
                interactive.wait_for_answer()
                mine = groups[start : start + size][self.ranks.rank : self.ranks.rank + 1]
                for fresh in self.ranks.gather(partial(_means, engine, mine)):
                    found |= {digest: (mean[0], mean[1]) for digest, mean in fresh.items()}
                if time.monotonic() - self.reported_at > REPORT_SECONDS:
                    self.report(phase, done=before + len(found))
            return found

        found = budget.spend(measure)
        self.report(phase, done=before + len(found))
        return found


@torch.no_grad()
def _means(engine: Engine, groups: Sequence[Sequence[TokenizedPair]]) -> Logps:
    """Return the mean log-probs of the pairs of this rank's group, if it has one in this turn."""
    found: Logps = {}
    for group in groups:
        measured, _ = engine.measure(group)
        means = (measured.sums / measured.counts).tolist()
        for pair, mean in zip(group, means, strict=True):
            found[digest_of(pair)] = (mean[CHOSEN], mean[REJECTED])
    return found


def _summary(
    pairs: Sequence[PreferencePair],
    tokenized: Sequence[TokenizedPair],
    bare: Logps,
    tuned: Logps,
) -> dict[str, object]:
    """Return what follows from the measured pairs or, if some are single, responses.

    Raises:
        InputError: all single responses have the same label.
    """
    if not any(pair.is_single for pair in tokenized):
        scores = _scores(pairs, tokenized, bare, tuned)
        return {**report_card.summarise(scores), "scores": scores}
    numbers = _prompt_numbers(pairs)
    found = [
        (pair, side, len(response))
        for pair in tokenized
        for side, response in enumerate((pair.chosen, pair.rejected))
        if response
    ]
    if len({side for _, side, _ in found}) < 2:
        raise InputError(
            "All held-out responses have the same label, so there is nothing to compare.",
            hint="Train with a larger held-out share.",
        )
    return report_card.summarise_responses(
        ResponseScores(
            rows=tuple(pair.row for pair, _, _ in found),
            prompts=tuple(numbers[pair.row] for pair, _, _ in found),
            is_chosen=tuple(side == 0 for _, side, _ in found),
            tokens=tuple(tokens for _, _, tokens in found),
            base=tuple(bare[digest_of(pair)][side] for pair, side, _ in found),
            tuned=tuple(tuned[digest_of(pair)][side] for pair, side, _ in found),
        )
    )


def _prompt_numbers(pairs: Sequence[PreferencePair]) -> dict[int, int]:
    """Return a number for the prompt of each row."""
    prompts = {pair.row: pair.conversation for pair in pairs}
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts.values()))}
    return {row: numbers[prompt] for row, prompt in prompts.items()}


def _scores(
    pairs: Sequence[PreferencePair],
    tokenized: Sequence[TokenizedPair],
    bare: Logps,
    tuned: Logps,
) -> Scores:
    """Return the measured pairs as columns, in file order."""
    numbers = _prompt_numbers(pairs)
    rows = [pair.row for pair in tokenized]
    digests = [digest_of(pair) for pair in tokenized]
    return Scores(
        rows=tuple(rows),
        prompts=tuple(numbers[row] for row in rows),
        chosen_tokens=tuple(len(pair.chosen) for pair in tokenized),
        rejected_tokens=tuple(len(pair.rejected) for pair in tokenized),
        base_chosen=tuple(bare[digest][0] for digest in digests),
        base_rejected=tuple(bare[digest][1] for digest in digests),
        tuned_chosen=tuple(tuned[digest][0] for digest in digests),
        tuned_rejected=tuple(tuned[digest][1] for digest in digests),
    )


def make(paths: JobPaths, ranks: Ranks = ALONE) -> tuple[EvaluationProgram, Callable[[], None]]:
    """Return the evaluation of a folder and its work."""
    evaluation = EvaluationProgram(paths, ranks)
    return evaluation, memory_named(evaluation, evaluation.run, MEMORY_HINT)


def main(arguments: Sequence[str]) -> int:
    """Run the evaluation of one folder; return its exit code."""
    paths = JobPaths(Path(arguments[0]))
    return run_job(paths, partial(make, paths))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
