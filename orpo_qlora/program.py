"""What every background program shares: native crashes and recorded errors. Ground floor."""

from __future__ import annotations

import errno
import faulthandler
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orpo_qlora.errors import DiskFull, OrpoQloraError

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SHORTEST_TOKEN = 8
_PRIVATE_UMASK = 0o077
GIVING_WAY = 19
"""Niceness of a program that takes only what others leave."""


def without_secrets(text: str) -> str:
    """Return the text with hub tokens blotted out, those of the environment in any form."""
    for name in _TOKEN_VARIABLES:
        token = os.environ.get(name, "").strip()
        if len(token) >= _SHORTEST_TOKEN:
            text = text.replace(token, "hf_…")
    return _TOKEN.sub("hf_…", text)


class _WithoutSecrets(logging.Formatter):
    """Blots out tokens of the whole entry: a traceback quotes what was sent."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


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
    """Let other programs have the processor first, for the rest of this one's life.

    Linux counts niceness thread by thread; where it weighs whole sessions first (autogroup), each
    of our programs is one.

    Args:
        niceness: 0 to 19; a process that is nicer already stays as it is.
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
