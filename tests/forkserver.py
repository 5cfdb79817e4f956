"""The programs of this package, started as forks of a process that has imported their libraries.

A cold start of a worker imports torch and transformers for about seven seconds, that of a page
Gradio for three. In tests `subprocess.Popen` sends such a start to a server, which clones itself
with CLONE_PARENT: the new process is a child of the caller, as after an exec. Its process id,
signals, exit code, session, memory, command line, environment, working folder and descriptors are
its own and real; libraries and modules of orpo_qlora are there already. `sitecustomize` of a
PYTHONPATH given by a test is imported in the new process.

Started cold all the same: other programs, and those with another environment than the server's,
because libraries read it as they are imported. Programs of the Hub import its libraries in the new
process instead, so theirs may differ in what those read. A test that needs a cold start sets
`COLD`; what the program starts is then cold too.

The processes of pytest-xdist that run the tests are such forks as well: libraries are imported once
for all of them.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType

from execnet.gateway_io import popen_bootstrapline as TEST_PROCESS  # `python -c` of pytest-xdist

ROOT = Path(__file__).parents[1]
PAGE = str(ROOT / "app.py")
SUPERVISOR = "orpo_qlora.runs.process.supervisor"
COMMAND_LINE = "orpo_qlora.cli.main"
TORCHRUN = "orpo_qlora.runs.process.shared.torchrun"
TORCHRUN_OF_JOBS = "orpo_qlora.jobs.shared.torchrun"
FETCH = "orpo_qlora.jobs.hub.fetch"
FETCHES = str(ROOT / "tests" / "hub_fetches.py")
TEMPLATE_CHECK = "orpo_qlora.models.templates.check"
CHAT_API = "orpo_qlora.chat.openai_api"
STARTERS = {PAGE, SUPERVISOR, COMMAND_LINE, TORCHRUN, TORCHRUN_OF_JOBS, CHAT_API, TEST_PROCESS}
"""Programs that start others."""
PROGRAMS = (
    SUPERVISOR,
    COMMAND_LINE,
    "orpo_qlora.runs.process.worker",
    TORCHRUN,
    "orpo_qlora.runs.process.shared.rank",
    TORCHRUN_OF_JOBS,
    "orpo_qlora.jobs.shared.rank",
    "orpo_qlora.jobs.tokenize",
    "orpo_qlora.jobs.estimate_steps",
    "orpo_qlora.evaluation.measure",
    "orpo_qlora.evaluation.suite.program",
    "orpo_qlora.export.make",
    "orpo_qlora.chat.server",
    CHAT_API,
    "orpo_qlora.models.weights.pickled",
    TEMPLATE_CHECK,
    FETCH,
)
VERIFY = "orpo_qlora.orpo.verify.program"
"""Forked too, but TRL is imported in the new process: nothing else needs it."""
OTHERS = {VERIFY, PAGE, FETCHES, TEST_PROCESS}
CONVERTERS = ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py")
SCRIPTS = (*CONVERTERS, "code_of_the_card.py", "serve_model.py", "half_conversion.py")
"""Names of files that run as programs, besides the page and the fetches."""
HUB = ("HF_", "USE_TORCH", "USE_TF", "USE_JAX")
OTHERS_READ_LATE = {COMMAND_LINE: HUB, FETCH: HUB, FETCHES: HUB, TEMPLATE_CHECK: ("USE_TORCH",)}
"""Beginnings of variables that some programs may have changed: of none of their libraries, or of
HUB_LIBRARIES, which the new process then imports again. None of them uses a model."""
HUB_LIBRARIES = {"huggingface_hub", "datasets", "orpo_qlora"}
"""The last one because it holds parts of the others."""
LIBRARIES = (
    "transformers.models.llama.modeling_llama",
    "peft.tuners.lora.bnb",
    "orpo_qlora.ui.studio",
    # Of a page that is served.
    *("orpo_qlora.ui.runs.watch", "gradio.http_server", "pandas.io.formats.style"),
    *("uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto", "uvicorn.loops.auto"),
    *("uvicorn.lifespan.on", "anyio._backends._asyncio", "pydantic.v1", "encodings.idna"),
)
TORCHRUN_POPEN = "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler"
"""Torch's module with a `Popen` of its own."""
READ_LATE = (
    *("ORPO_QLORA_", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "PYTEST_"),
    *("TORCHINDUCTOR_CACHE_DIR", "CRC32C_SW_MODE"),
    *("PYTHONPATH", "FAULT", "FAKE_WORKER", "FREE_BYTES", "OUTGOING"),
    # Of a page.
    *("GRADIO_TEMP_DIR", "no_proxy", "NO_PROXY"),
    # Of torchrun.
    *("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_"),
    *("TORCHELASTIC_", "TORCH_ELASTIC_", "TORCH_NCCL_"),
    "GLOO_",
)
"""Beginnings of variables that no library reads while it is imported.

Torch sets TORCHINDUCTOR_CACHE_DIR, and google_crc32c CRC32C_SW_MODE, to their defaults. Our own
modules read none; those of PYTHONPATH are imported in the new process.
"""
OF_PROGRAMS = {
    *("PYTHONUNBUFFERED", "TOKENIZERS_PARALLELISM", "GOMP_SPINCOUNT", "THP_MEM_ALLOC_ENABLE"),
}
"""Variables that `orpo_qlora.program` sets for what it starts, but not a page or a command."""
NO_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""A clone has one thread, so the server must have no other: pyarrow's allocator would start one."""
IMPORTED_WITH: dict[str, str] = {}
"""The environment in which a server imported the libraries."""
COMMAND_BYTES = 4096
MESSAGE_BYTES = 150_000
CLONE, CLONE_PARENT = {"x86_64": 56, "aarch64": 220}.get(os.uname().machine), 0x8000
SET_MM, SET_MM_ARG_END = 35, 9


class Server:
    """The caller's side: a child of this process that clones itself on request."""

    def __init__(
        self,
        environment: dict[str, str],
        channel: socket.socket | None = None,
        *,
        is_in_session: bool = True,
    ) -> None:
        self.environment, self.channel = environment, channel
        self.is_in_session = is_in_session
        """Whether the server, and so its clones, are in the session of the caller."""
        self._process: subprocess.Popen | None = None
        self._busy = threading.Lock()

    def can_run(self, arguments: list[str], environment: dict[str, str]) -> bool:
        """Whether a cold start would differ in nothing but its imports."""
        name = name_of(arguments)
        late = OTHERS_READ_LATE.get(name, ())
        return (
            arguments[0] == sys.executable
            and (name in {*PROGRAMS, *OTHERS} or Path(name).name in SCRIPTS)
            and fixed(environment, late) == fixed(self.environment, late)
        )

    def run(self, request: dict, descriptors: list[int]) -> int:
        """Return the process id of a new child of this process."""
        with self._busy:
            if self.channel is None:
                self._start()
            socket.send_fds(self.channel, [json.dumps(request).encode()], descriptors)
            return int(self.channel.recv(100))

    def _start(self) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), "." * COMMAND_BYTES],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=NO_THREAD | self.environment,
            )

    def close(self) -> None:
        """End the server; programs that it started go on."""
        if self._process is not None:
            self.channel.close()
            self._process.wait()


def fixed(environment: dict[str, str], late: tuple[str, ...]) -> dict[str, str]:
    """Return the variables that a program and its server must have in common."""
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(READ_LATE + late) and name not in OF_PROGRAMS
    }


def name_of(arguments: list[str]) -> str:
    """Return the module, script or code that a Python command runs."""
    return next((part for part in arguments[1:] if part not in {"-m", "-s", "-B", "-u", "-c"}), "")


def popen_of(the_server: Server) -> type[subprocess.Popen]:
    """Return a `Popen` that starts programs through the server where it can."""

    class Popen(subprocess.Popen):
        server = the_server

        def _execute_child(
            self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *more
        ):
            streams, new_session = list(more[3:9]), more[14]
            env = dict(os.environ if env is None else env)
            can_fork = not (isinstance(args, (str, bytes)) or len(args) < 3 or preexec_fn)
            is_session_known = new_session or self.server.is_in_session
            forks = (
                can_fork
                and is_session_known
                and self.server.can_run([os.fspath(part) for part in args], env)
            )
            if not forks:
                super()._execute_child(
                    args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *more
                )
                return
            read, write, error = streams[0], streams[3], streams[5]
            sources = [
                default if own == -1 else own for default, own in enumerate((read, write, error))
            ]
            request = {
                "arguments": [os.fspath(part) for part in args],
                "folder": os.fspath(cwd or Path.cwd()),
                "environment": env,
                "new_session": new_session,
                "descriptors": [0, 1, 2, *pass_fds],
                "umask": umask(),
            }
            self.pid = self.server.run(request, [*sources, *pass_fds])
            self._child_created = True
            self._close_pipe_fds(*streams)

    return Popen


def umask() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)


def preload() -> None:
    """Import the programs, and what they import late."""
    for name in (*PROGRAMS, *LIBRARIES):
        import_module(name)
    # Made and kept at the first call, for 2,500 lines of regular expressions.
    import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("llama")
    # What the libraries undo at exit ends with the memory of a process.
    for finalizer in list(weakref.finalize._registry):
        finalizer.atexit = False
    gc.collect()
    gc.freeze()  # collections in the forks then leave these pages shared


def forget(packages: set[str]) -> None:
    """Let these packages be imported again."""
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]


def forget_hub_libraries() -> None:
    """Let the libraries of the Hub be imported again, with what they register."""
    if "datasets" in sys.modules:
        for dimensions in range(2, 6):
            name = f"datasets.features.features.Array{dimensions}DExtensionType"
            sys.modules["pyarrow"].unregister_extension_type(name)
    forget(HUB_LIBRARIES)


def hub_part(environment: dict[str, str]) -> dict[str, str]:
    """Return what the libraries of the Hub read."""
    token = "HF_TOKEN"  # read when it is needed
    return {n: v for n, v in environment.items() if n.startswith(HUB) and n != token}


def serve(channel: socket.socket) -> tuple[dict, list[int]]:
    """Clone on every request; return, in a clone alone, what it was asked for."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the callers
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE_BYTES, 16)
        if not message:
            os._exit(0)  # the caller has ended
        tasks = len(list(Path("/proc/self/task").iterdir()))
        if tasks != 1:
            raise RuntimeError(f"the server has {tasks} threads; only one would be cloned")
        pid = clone()
        if pid == 0:
            channel.close()
            signal.signal(signal.SIGINT, handler)
            return json.loads(message), descriptors
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(str(pid).encode())


def clone() -> int:
    """Fork a child of this process's parent; return its id, or 0 in the child."""
    python, libc = ctypes.pythonapi, ctypes.PyDLL(None, use_errno=True)
    python.PyOS_BeforeFork()
    pid = libc.syscall(CLONE, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone failed")
    return pid


def become(request: dict, descriptors: list[int]) -> None:
    """Run the requested program in this fresh clone."""
    server = None
    arguments, environment = request["arguments"], request["environment"]
    name = name_of(arguments)
    if name in STARTERS:
        # What it starts must be its own child, so it needs a server of its own.
        is_in_session = name == TEST_PROCESS
        channel = fork_server(is_in_session)
        server = Server(IMPORTED_WITH, channel, is_in_session=is_in_session)
    if request["new_session"]:
        os.setsid()
    place(descriptors, request["descriptors"], server)
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(environment)
    if server:
        subprocess.Popen = popen_of(server)
        sys.modules[TORCHRUN_POPEN].Popen = subprocess.Popen
    random.seed()
    sys.modules["numpy"].random.seed()
    name_process(arguments)
    sys.orig_argv = arguments
    is_read_only = "PYTHONDONTWRITEBYTECODE" in environment
    sys.dont_write_bytecode = is_read_only or "-B" in arguments[: arguments.index(name)]
    is_script = name.endswith(".py")
    sys.path[0] = str(Path(name).parent) if is_script else request["folder"]
    add_paths(environment.get("PYTHONPATH", ""))
    if name in {FETCH, FETCHES} or hub_part(environment) != hub_part(IMPORTED_WITH):
        forget_hub_libraries()
    if name.endswith(CONVERTERS):
        forget({"gguf"})  # they have one of their own
    sys.argv = arguments[arguments.index(name) :]
    if name == TEST_PROCESS:
        sys.modules["__main__"] = ModuleType("__main__")
        exec(name, vars(sys.modules["__main__"]))  # noqa: S102 - as `python -c` does
    elif is_script:
        runpy.run_path(name, run_name="__main__")
    else:
        sys.modules.pop(name, None)  # it is to run, not to be found
        runpy.run_module(name, run_name="__main__", alter_sys=True)


def add_paths(python_path: str) -> None:
    """Search these folders first and run a `sitecustomize` found there, as Python does."""
    added = [part for part in python_path.split(os.pathsep) if part and part not in sys.path]
    sys.path[1:1] = added
    if any(Path(part, "sitecustomize.py").is_file() for part in added):
        sys.modules.pop("sitecustomize", None)
        import_module("sitecustomize")


def fork_server(is_in_session: bool) -> socket.socket:
    """Fork a server for the children of this process; return the channel to it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        if not is_in_session:
            os.setsid()
        ours.close()
        close_others({theirs.fileno()})
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        become(*serve(theirs))
        sys.exit()
    theirs.close()
    return ours


def place(descriptors: list[int], targets: list[int], server: Server | None) -> None:
    """Give the received descriptors the numbers that they have at the caller; close all others."""
    kept = {*targets}
    if server:
        # Out of the way of the targets.
        far = fcntl.fcntl(server.channel.fileno(), fcntl.F_DUPFD_CLOEXEC, max(targets) + 100)
        server.channel.close()
        server.channel = socket.socket(fileno=far)
        kept.add(far)
    moved = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, max(targets) + 200) for one in descriptors]
    for source, target in zip(moved, targets, strict=True):
        os.dup2(source, target)
    close_others(kept)


def close_others(kept: set[int]) -> None:
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if number not in kept:
            with suppress(OSError):  # the one that listed them
                os.close(number)


def name_process(arguments: list[str]) -> None:
    """Show these arguments as the command line of this process."""
    text = b"\0".join(os.fsencode(part) for part in arguments) + b"\0"
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if len(text) > end - start:
        raise ValueError("the command line is longer than the server's")
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, len(text))
    # Refused without the right to; the line then ends in empty arguments.
    ctypes.CDLL(None).prctl(SET_MM, SET_MM_ARG_END, ctypes.c_ulong(start + len(text)), 0, 0)


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    IMPORTED_WITH.update({n: v for n, v in os.environ.items() if n not in NO_THREAD})
    preload()
    try:
        become(*serve(channel))
        end(0)
    except SystemExit as raised:
        end(raised.code)


def end(code: object) -> None:
    """End a clone as Python does, but leave its objects: to destroy them would copy 300 MB."""
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or its reader has gone
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    sys.modules["forkserver"] = sys.modules["__main__"]
    main()
