"""Fetches in a process of their own, against a loopback Hub; imports the libraries once.

Run as a program it carries out the fetch jobs of the folders that are its arguments.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from orpo_qlora.jobs.hub.job import JOB, HubRequest
from orpo_qlora.jobs.job import JobState


def prepare(request: HubRequest) -> Path:
    """Write a request as `ask` does, without starting the program; return the job's folder."""
    paths = JOB.paths(request)
    paths.folder.mkdir(mode=0o700, exist_ok=True)
    JOB.discard(request)
    paths.request.write_text(request.model_dump_json())
    paths.state.write_text(JobState().model_dump_json())
    return paths.folder


def hub_environment(address: str, caches: Path) -> dict[str, str]:
    """Return the environment in which the Hub is at an address."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**kept, "HF_ENDPOINT": address, "HF_HOME": str(caches)}


def carry_out(requests: list[HubRequest], environment: dict[str, str]) -> str:
    """Carry out fetches one after the other; return what they printed."""
    folders = [str(prepare(request)) for request in requests]
    done = subprocess.run(
        [sys.executable, __file__, *folders],
        env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout


def main(folders: list[str]) -> None:
    from orpo_qlora.jobs.hub import fetch

    os.environ.update(fetch.ENVIRONMENT)
    import huggingface_hub.utils._http as http

    class Impatient:
        """Retries at once."""

        def __getattr__(self, name):
            return getattr(sys.modules["time"], name)

        def sleep(self, seconds):
            pass

    http.time = Impatient()
    for folder in folders:
        fetch.main([folder])


if __name__ == "__main__":
    main(sys.argv[1:])
