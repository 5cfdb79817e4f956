"""One of several processes of a background job. Floor 4.

`python -m orpo_qlora.jobs.shared.rank PROGRAM FOLDER` is started by `torchrun` beside this file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from orpo_qlora.jobs.job import JobPaths
from orpo_qlora.runs.process.shared.rank import choose_gpu


def main(arguments: Sequence[str]) -> int:
    """Take part in a job; return the exit code.

    The first argument is the module of its program, whose `make` returns the job and its work.
    """
    choose_gpu(os.environ)
    # Libraries detect GPUs as they are imported.
    from orpo_qlora.jobs.shared import worker

    program, folder = arguments
    return worker.main(import_module(program).make, JobPaths(Path(folder)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
