"""The program of an evaluation of answers: `python -m orpo_qlora.evaluation.suite.program FOLDER`.

Floor 5. Answers what is not answered yet, then measures the requested parts; each part is on disk
as soon as it is complete. A run that starts meanwhile ends it; the next start continues. Several
processes may share the answers (`jobs/shared`); everything else is done by the first one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.evaluation import guard
from orpo_qlora.evaluation.answers.generate import MissingAnswers, Respondent
from orpo_qlora.evaluation.answers.kept import KeptAnswers
from orpo_qlora.evaluation.embedding_models import load_embedder
from orpo_qlora.evaluation.embeddings import provenance
from orpo_qlora.evaluation.suite import request as suite_request
from orpo_qlora.evaluation.suite.answer_part import answer_figures
from orpo_qlora.evaluation.suite.diversity_part import (
    DIRECTION,
    FEW_SAMPLES,
    answered_texts,
    diversity_figures,
)
from orpo_qlora.evaluation.suite.figures import Figure
from orpo_qlora.evaluation.suite.guard_part import guard_figures, guard_steps
from orpo_qlora.evaluation.suite.judge_part import measure_judge
from orpo_qlora.evaluation.suite.progress import Progress
from orpo_qlora.evaluation.suite.request import SuiteRequest
from orpo_qlora.evaluation.suite.results import (
    PARTS,
    Answering,
    Part,
    PartResult,
    SuitePaths,
    SuiteResults,
    System,
    answers_of,
    read_results,
    write_results,
)
from orpo_qlora.evaluation.suite.systems import Group, Loaded, groups_of, load_group, release_memory
from orpo_qlora.jobs import interactive
from orpo_qlora.jobs.job import JobPaths, JobProgram, run_job
from orpo_qlora.jobs.memory import memory_named
from orpo_qlora.models.devices import hardware
from orpo_qlora.orpo.processes.ranks import ALONE, Ranks

LOCAL_PARTS = tuple(part for part in PARTS if part != "judge")
"""Parts that need the machine."""
MEMORY_HINT = (
    "Close other programs, the chat for instance, and evaluate again: answers given so far are "
    "kept."
)


class SuiteProgram(JobProgram):
    """Answers the request of one folder."""

    def __init__(self, paths: SuitePaths, ranks: Ranks = ALONE) -> None:
        super().__init__(paths, is_first=ranks.is_first)
        self.paths, self.ranks = paths, ranks
        self.request = SuiteRequest.model_validate_json(paths.request.read_bytes())
        self.notes: list[str] = []
        self.guard_figures: list[Figure] = []
        self.progress = Progress(self.report)

    def run(self) -> None:
        """Answer the prompts, then measure every part that has no result yet."""
        self.give_way_to_runs(suite_request.JOB.refusal)
        with self.machine_turn():
            self.ranks.together(lambda: None)  # nothing is loaded before rank 0 has its turn
            hardware.use_all_cores()
            results = self._answered()
            self.end_sharing()
            if not self.is_first:
                return
            write_results(self.paths, results)
            results = self._measure(results, LOCAL_PARTS)
        # A judge elsewhere does not need the machine.
        self._measure(results, ("judge",))
        self.finish()

    def _answered(self) -> SuiteResults:
        """Answer every prompt with every system; return the results of earlier starts."""
        systems: list[System] = []
        for group in self.ranks.together(lambda: groups_of(self.request.adapters)):
            systems += self._answer_group(group, systems)
            release_memory()
        known = read_results(self.paths)
        return SuiteResults(
            made_at=time.time(),
            prompts=self.request.prompts,
            sampling=self.request.sampling,
            systems=tuple(systems),
            parts=known.parts if known else (),
            notes=tuple(dict.fromkeys(self.notes)),
        )

    def _answer_group(self, group: Group, earlier: Sequence[System]) -> Sequence[System]:
        self.report(f"loading {group.config.model}")
        sampling = self.request.sampling
        loaded = self.ranks.together(lambda: load_group(group, sampling))
        if self.is_first:
            known = Answering(sampling=sampling, systems=(*earlier, *loaded.systems))
            storage.write_whole(self.paths.answering, known.model_dump_json(indent=1))
        self.notes.append(f"Arithmetic: {loaded.base.arithmetic.reason}.")
        if loaded.base.arithmetic.device == "cpu":
            interactive.work_behind_answers("an evaluation", announces=self.is_first)
        MissingAnswers(
            [
                Respondent(one.name, loaded.speaker(one), KeptAnswers(one.answers))
                for one in loaded.systems
            ],
            self.request.prompts.prompts,
            sampling,
            on_start=lambda count: self.progress.start("answering", count),
            on_batch=self._on_answers,
            ranks=self.ranks,
        ).run()
        if self.is_first:
            self._guard(loaded)
        return loaded.systems

    def _on_answers(self, name: str, count: int) -> None:
        self.progress.phase = f"answering with {name}"
        self._on_batch(count)

    def _guard(self, loaded: Loaded) -> None:
        """Measure the regression guard while the models are loaded, if it has no result yet."""
        known = read_results(self.paths)
        if "guard" not in self.request.parts or (known and known.part("guard")):
            return
        text = self.request.text or guard.shipped_text()
        steps = guard_steps(loaded, self.request.prompts, text)
        self.progress.start("measuring perplexity and KL", steps)
        self.guard_figures += guard_figures(loaded, self.request.prompts, text, self._on_batch)

    def _on_batch(self, items: int = 1) -> None:
        self.progress.advance(items)
        interactive.wait_for_answer()

    def _measure(self, results: SuiteResults, parts: Sequence[Part]) -> SuiteResults:
        measure: dict[str, Callable[[SuiteResults], PartResult]] = {
            "answers": self._answers_part,
            "diversity": self._diversity_part,
            "guard": self._guard_part,
            "reward": self._reward_part,
            "judge": self._judge_part,
        }
        for part in self.request.parts:
            if part in parts and results.part(part) is None:
                results = results.with_part(measure[part](results))
                write_results(self.paths, results)
        return results

    def _answers_part(self, results: SuiteResults) -> PartResult:
        started = time.time()
        self.report("counting words")
        figures = [
            figure
            for system in results.systems
            for figure in answer_figures(
                system.name, results.prompts, answers_of(system), results.sampling.samples
            )
        ]
        return PartResult(part="answers", figures=tuple(figures), seconds=time.time() - started)

    def _diversity_part(self, results: SuiteResults) -> PartResult:
        started = time.time()
        self.report("embedding the answers")
        embed = load_embedder(self.request.embedder)
        samples = results.sampling.samples
        figures: list[Figure] = []
        for system in results.systems:
            texts = answered_texts(results.prompts, answers_of(system), samples)
            figures += diversity_figures(system.name, results.prompts, texts, embed)
        sentences = [DIRECTION, provenance(self.request.embedder)]
        return PartResult(
            part="diversity",
            figures=tuple(figures),
            sentences=tuple([FEW_SAMPLES, *sentences] if samples < 2 else sentences),
            seconds=time.time() - started,
        )

    def _guard_part(self, results: SuiteResults) -> PartResult:
        source = "the given text" if self.request.text else "the text shipped with the program"
        return PartResult(
            part="guard",
            figures=tuple(self.guard_figures),
            sentences=(f"Perplexity on {source}, read in windows of {guard.WINDOW} tokens.",),
            seconds=0.0,
        )

    def _reward_part(self, results: SuiteResults) -> PartResult:
        # Imported here: TRL takes seconds, and only this part needs it.
        from orpo_qlora.evaluation.suite.reward_part import measure_reward

        started = time.time()
        found = measure_reward(self.request, self.paths, results, self.progress)
        storage.write_whole(self.paths.reward, found.details.model_dump_json())
        release_memory()
        return PartResult(
            part="reward",
            figures=found.figures,
            sentences=found.sentences,
            seconds=time.time() - started,
        )

    def _judge_part(self, results: SuiteResults) -> PartResult:
        if self.request.judge is None:
            raise ValueError("a request for the judge part names one")
        started = time.time()
        found = measure_judge(self.request.judge, results, self.progress)
        return PartResult(
            part="judge",
            figures=found.figures,
            sentences=found.sentences,
            seconds=time.time() - started,
        )


def make(paths: JobPaths, ranks: Ranks = ALONE) -> tuple[SuiteProgram, Callable[[], None]]:
    """Return the evaluation of a folder and its work."""
    program = SuiteProgram(SuitePaths(paths.folder), ranks)
    return program, memory_named(program, program.run, MEMORY_HINT)


def main(arguments: Sequence[str]) -> int:
    """Run the evaluation of one folder; return its exit code."""
    paths = JobPaths(Path(arguments[0]))
    return run_job(paths, partial(make, paths))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
