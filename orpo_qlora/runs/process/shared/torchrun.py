"""Starts the processes of a run on this machine through torchrun. Floor 3.

`python -m orpo_qlora.runs.process.shared.torchrun RUN LOCK PROCESSES`, started by the supervisor
in place of the worker. It ends as the first process that failed did, with its exit code or by its
signal. Background jobs are started in the same way (`jobs/shared/torchrun.py`).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from orpo_qlora.runs.process.launch import RANK
from orpo_qlora.runs.process.shared.process_count import threads_of_each

log = logging.getLogger(__name__)

LOCK = 0
"""Descriptor of the run's lock in the processes: torchrun lets them inherit the standard streams
alone, so the lock is passed on as standard input. It is free once all of them have ended."""
SHUTDOWN_SECONDS = 600
"""Longest wait between SIGTERM and SIGKILL: each process ends its step and rank 0 writes a
checkpoint. torchrun's own limit, 30 s, is shorter than a step of a large model."""


def main(arguments: Sequence[str]) -> int:
    """Run the processes of a run folder to their end; return the exit code."""
    folder, descriptor, count = arguments
    if int(descriptor) != LOCK:
        os.dup2(int(descriptor), LOCK)
        os.close(int(descriptor))
    return run_processes(int(count), [RANK, folder, str(LOCK)])


def run_processes(count: int, command: Sequence[str]) -> int:
    """Run a module with its arguments in so many processes on this machine; return the exit code.

    A signal that ended one of them ends this process too.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_of_each(count)))
    loopback = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}
    if loopback:  # no other machine can connect, and no host name must resolve
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback.pop())
    with tempfile.TemporaryDirectory() as logs:
        options = ["--standalone", "--nproc-per-node", str(count), "--local-addr", "127.0.0.1"]
        options += ["--log-dir", logs, "--no-python", sys.executable]
        code = _run([*options, "-m", *command])
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _run(options: Sequence[str]) -> int:
    """Return the exit code of the first process that failed, negative for a signal."""
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SHUTDOWN_SECONDS))
    try:
        torchrun.run(torchrun.parse_args(options))  # type: ignore[no-untyped-call]
    except ChildFailedError as exc:
        rank, failure = exc.get_first_failure()
        logging.basicConfig()
        log.error("process %d ended first, with code %d", rank, failure.exitcode)
        return failure.exitcode
    except SignalException as exc:
        return -int(exc.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
