"""Faults for real programs, injected from outside: on PYTHONPATH, armed by an environment variable.

`FAULT` is a JSON object: at the `n`-th file operation `op` on a path that holds `path`, in the
program `module`, do `act`. `FAKE_WORKER` replaces the worker by a fast one without a model; with
the value "quick" only that of runs whose name begins so. `FREE_BYTES` names a file that holds the
memory which is free for the chat process.
"""

import errno
import json
import os
import resource
import runpy
import signal
import sys
from pathlib import Path

OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
SIGNALS = {"kill": signal.SIGKILL, "segv": signal.SIGSEGV, "freeze": signal.SIGSTOP}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Fault:
    """Counts file operations and strikes at the one asked for."""

    def __init__(self, *, act, n=1, op="any", path="", module=""):
        self.act, self.left, self.op, self.path, self.module = act, n, op, path, module

    def arm(self):
        sys.addaudithook(self._hear)
        for name in ("write", "fsync", "ftruncate"):
            setattr(os, name, self._watched(name, getattr(os, name)))

    def _hear(self, event, arguments):
        if event not in OPERATIONS:
            return
        if event == "open":
            _, mode, flags = arguments
            if not (flags & WRITING if isinstance(flags, int) else set(mode or "") & set("wax+")):
                return
        self._count(event.removeprefix("os."), " ".join(map(str, arguments)))

    def _watched(self, name, original):
        def call(descriptor, *arguments):
            path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            if self._is_due(name, path):
                if self.act == "half" and name == "write":
                    original(descriptor, arguments[0][: len(arguments[0]) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                self._strike()
            return original(descriptor, *arguments)

        return call

    def _count(self, name, text):
        if self._is_due(name, text):
            self._strike()

    def _is_due(self, name, path):
        if self.op not in ("any", name) or self.path not in path:
            return False
        self.left -= 1
        return self.left == 0

    def _strike(self):
        if self.act == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.act == "small-files":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        elif self.act == "memory":
            sys.modules["torch"].empty(1 << 60)
        else:
            os.kill(os.getpid(), SIGNALS[self.act])


fault = json.loads(os.environ.get("FAULT", "null"))
if fault and fault.get("module", "") in sys.orig_argv:
    Fault(**fault).arm()


def is_faked(arguments):
    asked = os.environ.get("FAKE_WORKER", "")
    if asked != "quick":
        return bool(asked)
    return "\nname: quick" in (Path(arguments[0]) / "config.yaml").read_text(encoding="utf-8")


free_bytes = os.environ.get("FREE_BYTES")
if free_bytes and "orpo_qlora.chat.server" in sys.orig_argv:
    import psutil

    memory = psutil.virtual_memory
    psutil.virtual_memory = lambda: memory()._replace(available=int(Path(free_bytes).read_text()))
if "orpo_qlora.runs.process.worker" in sys.orig_argv:
    arguments = sys.orig_argv[sys.orig_argv.index("-m") + 2 :]
else:
    arguments = []
if arguments and is_faked(arguments):
    sys.argv = ["fake_worker", *arguments]
    runpy.run_module("fake_worker", run_name="__main__")
