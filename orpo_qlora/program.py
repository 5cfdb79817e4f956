"""What surrounds every background program: native crashes and the last word. Ground floor."""

from __future__ import annotations

import errno
import faulthandler
import logging
import re
import sys
import traceback
from collections.abc import Callable

from orpo_qlora.errors import DiskFull, OrpoQloraError

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")


def without_secrets(text: str) -> str:
    """Return the text with hub tokens blotted out."""
    return _TOKEN.sub("hf_…", text)


class _SecretFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_secrets(record.getMessage()), ()
        return True


def run_program(main: Callable[[], None], on_error: Callable[[OrpoQloraError], None]) -> int:
    """Run a background program to its exit code.

    `main` does the work; whatever it raises is logged with its traceback, turned into an
    OrpoQloraError and given to `on_error`, which must leave word on disk.
    """
    faulthandler.enable()
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_SecretFilter())
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=[handler]
    )
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


def _translate(exc: Exception) -> OrpoQloraError:
    if isinstance(exc, OSError) and exc.errno == errno.ENOSPC:
        return DiskFull("The disk is full.", hint="Free some space and start again.")
    return OrpoQloraError(
        f"Internal error: {type(exc).__name__}: {without_secrets(str(exc))[:300]}",
        hint="The details are in log.txt; please report them.",
    )
