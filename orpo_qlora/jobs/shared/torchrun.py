"""Starts the processes of a background job through torchrun. Floor 4.

`python -m orpo_qlora.jobs.shared.torchrun PROGRAM FOLDER PROCESSES`, started in place of the
program. It ends as the first process that failed did, with its exit code or by its signal.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from orpo_qlora.runs.process.shared.torchrun import run_processes

RANK = "orpo_qlora.jobs.shared.rank"


def main(arguments: Sequence[str]) -> int:
    """Run the processes of a job's folder to their end; return the exit code."""
    program, folder, count = arguments
    return run_processes(int(count), [RANK, program, folder])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
