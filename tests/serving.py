"""The page as its own program, asked over HTTP."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
END_SECONDS = 120


def start_page(home, *arguments, **environment) -> subprocess.Popen:
    """Start `python app.py` with a home of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "ORPO_QLORA_HOME": str(home), **environment},
    )


@dataclass
class Served:
    """A page that is open."""

    address: str
    home: Path
    pid: int
    said: str
    """What it said before and with its address."""
    rest: str = ""
    """What it said afterwards; there once it is closed."""


@contextmanager
def serving(home: Path, *arguments, host: str = "127.0.0.1", **environment) -> Iterator[Served]:
    """Open a page on a free port for as long as the block lasts; it must end well."""
    process = start_page(home, "--port", "0", *arguments, **environment)
    said, rest = "", []
    # Read all along, so that the page can never block on a full pipe.
    reader = threading.Thread(target=lambda: rest.extend(process.stdout), daemon=True)
    try:
        for line in process.stdout:
            said += line
            found = re.search(r"http://[\w.]+:(\d+)", line)
            if found:
                break
        else:
            raise AssertionError("the page did not open:\n" + said)
        served = Served(f"http://{host}:{found[1]}", home, process.pid, said)
        reader.start()
        yield served
        process.send_signal(signal.SIGTERM)
        process.wait(END_SECONDS)
        reader.join(END_SECONDS)
        served.rest = "".join(rest)
        assert process.returncode == 0, served.rest
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if reader.ident is not None:
            reader.join()
        process.stdout.close()
