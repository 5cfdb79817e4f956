"""The program of an export: `python -m orpo_qlora.export.make FOLDER`. Floor 5.

What is made appears whole, after it was read back and compared. A run that starts meanwhile ends
the export.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.export import request as export_request
from orpo_qlora.export.commands import commands_for
from orpo_qlora.export.gguf.lora import write_lora
from orpo_qlora.export.gguf.ollama import write_ollama
from orpo_qlora.export.gguf.types import type_of
from orpo_qlora.export.gguf.write import GgufOptions, write_gguf
from orpo_qlora.export.merge import merge_run
from orpo_qlora.export.request import ExportRequest, ExportResult
from orpo_qlora.jobs.job import JobPaths, JobProgram, run_job
from orpo_qlora.jobs.memory import memory_named
from orpo_qlora.runs import store

MEMORY_HINT = "Close other programs, the chat for instance, and export again."


class ExportProgram(JobProgram):
    """Makes one export and writes what was checked."""

    def __init__(self, paths: JobPaths) -> None:
        super().__init__(paths)
        self._result = export_request.result_file(paths)
        self.request = ExportRequest.model_validate_json(paths.request.read_bytes())

    def run(self) -> None:
        """Make it, and write the result."""
        self.give_way_to_runs(export_request.JOB.refusal)
        with self.machine_turn():
            result = self._made()
        storage.write_whole(self._result, result.model_dump_json(indent=1))
        self.finish()

    def _made(self) -> ExportResult:
        request, target = self.request, Path(self.request.target)
        run = store.read_run(store.paths_of(request.run))
        export_request.check_request(request)
        if request.kind == "merged":
            merged = merge_run(run, target, request.dtype, request.onto, self.report)
            return self._about((merged.sentence(),), merged.largest)
        options = GgufOptions(type_of(request.type), request.onto, request.llama_cpp)
        if request.kind == "gguf-adapter":
            return self._about(tuple(write_lora(run, target, options, self.report)), None)
        write = write_ollama if request.kind == "ollama" else write_gguf
        checks = write(run, target, options, self.report)
        return self._about(tuple(checks.sentences()), checks.largest_difference_nats)

    def _about(self, checks: tuple[str, ...], largest: float | None) -> ExportResult:
        target = Path(self.request.target)
        files = [path for path in target.rglob("*") if path.is_file()] or [target]
        return ExportResult(
            target=str(target),
            size_bytes=sum(path.stat().st_size for path in files),
            checks=checks,
            largest_difference_nats=largest,
            commands=commands_for(self.request.kind, target),
        )


def main(arguments: Sequence[str]) -> int:
    """Run the export of one job's folder; return its exit code."""
    paths = JobPaths(Path(arguments[0]))

    def make() -> tuple[ExportProgram, Callable[[], None]]:
        program = ExportProgram(paths)
        return program, memory_named(program, program.run, MEMORY_HINT)

    return run_job(paths, make)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
