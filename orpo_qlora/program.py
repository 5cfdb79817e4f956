"""Starting and running the programs of this package. Ground floor; every process."""

from __future__ import annotations

import errno
import faulthandler
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.errors import DiskFull, OrpoQloraError

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")
_HOME_FOLDER = re.compile(r"(/(?:home|Users)/)[^/\s:'\"]+")
_GPU_IDENTIFIER = re.compile(r"\b((?:MIG-)?(?:GPU-)?[0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "ORPO_QLORA_JUDGE_KEY")
_SHORTEST_TOKEN = 8
_PRIVATE_UMASK = 0o077
GIVING_WAY = 19
"""Niceness of a program that yields to all others."""
SHUTDOWN_SECONDS = 10
"""For a program in the foreground to end after Ctrl-C."""
PROGRAM_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Idle OpenMP threads spin, which takes cores from page and browser. No spinning costs a sixth
    # of the speed; this limit costs nothing measurable.
    "GOMP_SPINCOUNT": "20000",
    # Large CPU tensors in large pages, returned when freed: a seventh less memory.
    "THP_MEM_ALLOC_ENABLE": "1",
}


def without_secrets(text: str) -> str:
    """Return the text with hub tokens and the judge's key masked, the environment's in any form."""
    for name in _TOKEN_VARIABLES:
        token = os.environ.get(name, "").strip()
        if len(token) >= _SHORTEST_TOKEN:
            text = text.replace(token, "hf_…")
    return _TOKEN.sub("hf_…", text)


def without_paths(text: str) -> str:
    """Return the text without what names a user: home folders, this project's and temporary ones.

    Identifiers of GPUs are cut to their first characters.
    """
    folders = {
        str(storage.home()): "HOME",
        sys.prefix: "PYTHON",
        str(Path(__file__).parents[1]): "PROJECT",
        str(Path.home()): "~",
        tempfile.gettempdir(): "TEMP",
    }
    for folder, name in sorted(folders.items(), key=lambda entry: -len(entry[0])):
        if len(folder) > 1:
            text = text.replace(folder, name)
    text = _HOME_FOLDER.sub(r"\1…", text)
    return _GPU_IDENTIFIER.sub(r"\1…", text)


class _WithoutSecrets(logging.Formatter):
    """Masks tokens in the whole entry, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


def start_program(
    module: str,
    arguments: Sequence[str],
    log: Path,
    *,
    shares: int | None = None,
    works_in: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a background program of this package in a session of its own, output to a file.

    The program outlives this process and its terminal.

    Args:
        module: what to run.
        arguments: its arguments.
        log: receives everything it prints.
        shares: a file descriptor that the program inherits under the same number.
        works_in: working folder of a program that may outlive the current one; torch cannot be
            imported where the working folder is gone.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=True,
            pass_fds=() if shares is None else (shares,),
            cwd=works_in,
            env={
                **PROGRAM_ENVIRONMENT,
                **os.environ,
                storage.HOME_VARIABLE: str(storage.home()),  # it may be given relative
            },
        )
    # Waits for its exit, so that no zombie is left.
    threading.Thread(target=process.wait, daemon=True).start()
    return process


def run_foreground(module: str, arguments: Sequence[str] = ()) -> int:
    """Run a program of this package in this terminal until it ends; return its exit code.

    A SIGTERM to this process is passed on, so that the program does not outlive it.
    """
    with subprocess.Popen([sys.executable, "-m", module, *arguments]) as child:
        before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        try:
            return child.wait()
        except KeyboardInterrupt:  # Ctrl-C reached the program too
            with suppress(subprocess.TimeoutExpired):
                child.wait(SHUTDOWN_SECONDS)
            return 0
        finally:
            child.kill()  # does nothing to a program that has ended
            signal.signal(signal.SIGTERM, before)


def run_program(main: Callable[[], None], on_error: Callable[[OrpoQloraError], None]) -> int:
    """Run a background program to its exit code.

    `main` does the work; whatever it raises is logged with its traceback, turned into an
    OrpoQloraError and given to `on_error`, which must record it on disk.
    """
    faulthandler.enable()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_WithoutSecrets("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    os.umask(_PRIVATE_UMASK)
    try:
        main()
    except OrpoQloraError as exc:
        logging.getLogger(__name__).error("%s", exc)
        error = exc
    except Exception as exc:  # noqa: BLE001 - one of the four catch-alls; the traceback is logged
        logging.getLogger(__name__).error("%s", traceback.format_exc())
        error = _translate(exc)
    else:
        return 0
    on_error(error)
    return error.exit_code


def give_way(niceness: int = GIVING_WAY) -> None:
    """Lower the priority of this process for the rest of its life.

    Linux counts niceness thread by thread; where it weighs whole sessions first (autogroup), each
    of our programs is one.

    Args:
        niceness: 0 to 19; a process with a higher niceness keeps it.
    """
    niceness = max(niceness, os.getpriority(os.PRIO_PROCESS, 0))
    os.setpriority(os.PRIO_PROCESS, 0, niceness)
    with suppress(OSError):
        for thread in Path("/proc/self/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), niceness)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(f"{niceness}", encoding="ascii")


def _translate(exc: Exception) -> OrpoQloraError:
    if isinstance(exc, OSError) and exc.errno == errno.ENOSPC:
        return DiskFull("The disk is full.", hint="Free some space and start again.")
    return OrpoQloraError(
        f"Internal error: {type(exc).__name__}: {without_secrets(str(exc))[:300]}",
        hint="The details are in log.txt; please report them.",
    )
