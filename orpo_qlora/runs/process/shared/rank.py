"""One of several processes of a run. Floor 3.

`python -m orpo_qlora.runs.process.shared.rank RUN [LOCK]` is started by `torchrun` beside this
file, or on several machines by torchrun itself, srun or another launcher that sets RANK,
WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; the run folder must be on a
disk that all machines share.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping, Sequence


def choose_gpu(environment: MutableMapping[str, str]) -> None:
    """Leave this process the GPU of its local rank, as its only one.

    A list with one entry is kept: the launcher has given each process its own.
    """
    place = int(environment.get("LOCAL_RANK", "0"))
    is_hip = "HIP_VISIBLE_DEVICES" in environment and "CUDA_VISIBLE_DEVICES" not in environment
    name = "HIP_VISIBLE_DEVICES" if is_hip else "CUDA_VISIBLE_DEVICES"
    listed = environment.get(name)
    if listed is None:
        environment[name] = str(place)
        return
    gpus = listed.split(",")
    if len(gpus) > 1:
        environment[name] = gpus[place] if place < len(gpus) else ""


def main(arguments: Sequence[str]) -> int:
    """Take part in a run; return the exit code.

    The second argument is the descriptor of the run's lock, which all processes of this machine
    inherit; without it, rank 0 takes the lock itself.
    """
    choose_gpu(os.environ)
    # Libraries detect GPUs as they are imported.
    from orpo_qlora.runs.process.shared import worker

    return worker.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
