"""llama.cpp's own converter, kept apart from the packages of this program. Floor 5; no torch.

The converter is the one that llama.cpp's maintainers ship, not a copy of ours and not a repackaged
one: new architectures and tokenizers are their work, and every program that reads the file is
tested with theirs. It is no package of the index, so it comes from one of two places:

- the source distribution of `llama-cpp-python`, which vendors llama.cpp. Version and SHA-256 are
  pinned below; pip downloads it and checks the hash. Only the scripts, their Python module
  `gguf-py` and the licence are unpacked, nothing is compiled, and they go into `tools/` of the
  home. To read the metadata pip runs the package's build backend.
- a llama.cpp checkout that the user names, for a newer architecture or a machine without network.

The scripts run in a process of their own with this program's interpreter, torch and transformers.
They import their own `gguf-py` from beside them, and `sentencepiece` from `tools/`: nothing is
installed over this program's `gguf` or anything else in its environment.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from orpo_qlora import storage
from orpo_qlora.errors import (
    DiskFull,
    InputError,
    OrpoQloraError,
    ResourceError,
    UnsupportedModel,
)
from orpo_qlora.program import without_secrets

log = logging.getLogger(__name__)

SOURCE = "llama-cpp-python"
VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
SENTENCEPIECE = "sentencepiece==0.2.3"
"""Imported by the converter for every Llama, whatever its tokenizer."""
CONVERT, CONVERT_LORA = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"
QUANTIZE = "llama-quantize"
VENDORED = "vendor/llama.cpp"
UNPACKED = (CONVERT, CONVERT_LORA, "LICENSE", "conversion", "gguf-py/gguf")
"""What is taken out of the source distribution, relative to `VENDORED`."""
NAME_A_CHECKOUT = (
    "Go online for the first GGUF export, or name a checkout of llama.cpp: --llama-cpp DIR"
)
POLL_SECONDS = 0.5
SHOWN_CHARACTERS = 400
_REFUSALS = (
    (re.compile(r"Model (\S+) is not supported"), "the architecture {0}"),
    (re.compile(r"(BPE pre-tokenizer) was not recognized"), "this model's tokenizer ({0})"),
)

Report = Callable[[str], None]


@dataclass(frozen=True)
class LlamaCpp:
    """Where the scripts are, and what they import from `tools/`."""

    folder: Path
    packages: Path | None
    """Folder with sentencepiece; None where the environment has it."""
    name: str
    """For the manifest: which llama.cpp this is."""

    def run(self, script: str, arguments: Sequence[str], on_wait: Callable[[], None]) -> str:
        """Run a script of llama.cpp to its end and return what it printed.

        Args:
            script: `CONVERT` or `CONVERT_LORA`.
            arguments: its arguments.
            on_wait: called every half second.

        Raises:
            UnsupportedModel: it does not know the architecture or the tokenizer.
            OrpoQloraError: it failed otherwise.
        """
        command = [sys.executable, "-s", "-B", str(self.folder / script), *arguments]
        return _checked(command, on_wait, self._environment())

    def quantizer(self) -> str | None:
        """Return the path of `llama-quantize`: the checkout's build or an installed one."""
        return find_quantizer(str(self.folder))

    def quantize(self, source: Path, target: Path, kind: str, on_wait: Callable[[], None]) -> None:
        """Write a K-quant of an f16 file.

        Raises:
            InputError: `llama-quantize` is not installed.
            OrpoQloraError: it failed.
        """
        program = self.quantizer()
        if program is None:
            raise quantizer_missing(kind)
        command = [program, str(source), str(target), kind.upper()]
        _checked(command, on_wait, dict(os.environ))

    def _environment(self) -> dict[str, str]:
        ours = {"HF_HUB_OFFLINE": "1"}  # everything it needs is in the folder that it is given
        if self.packages is not None:
            ours["PYTHONPATH"] = str(self.packages)
        dropped = {"PYTHONPATH", "NO_LOCAL_GGUF"}
        return {name: value for name, value in os.environ.items() if name not in dropped} | ours


def find_quantizer(checkout: str = "") -> str | None:
    """Return the path of `llama-quantize`: built in a checkout, or installed; None without it."""
    built = Path(checkout) / "build" / "bin" / QUANTIZE
    return str(built) if checkout and built.is_file() else shutil.which(QUANTIZE)


def not_a_checkout(folder: Path) -> InputError:
    """Return the refusal of a folder without the converter."""
    return InputError(
        f"{folder} is no checkout of llama.cpp: it has no {CONVERT}.",
        hint="Name the folder that git clone made.",
    )


def quantizer_missing(kind: str) -> InputError:
    """Return the refusal of a K-quant without `llama-quantize`."""
    return InputError(
        f"{kind} is written by {QUANTIZE}, which is not installed.",
        hint="Install llama.cpp, name a built checkout (--llama-cpp DIR), or choose f16, bf16 or "
        "q8_0.",
    )


def find_llama_cpp(checkout: str, report: Report) -> LlamaCpp:
    """Return the named checkout, or llama.cpp's scripts in `tools/`, fetched if necessary.

    Raises:
        InputError: the checkout has no converter.
        ResourceError: the scripts are not here and cannot be fetched.
        DiskFull: nothing is left behind.
    """
    if checkout:
        folder = Path(checkout).expanduser().resolve()
        if not (folder / CONVERT).is_file():
            raise not_a_checkout(folder)
        return LlamaCpp(folder, _sentencepiece(report), f"llama.cpp in {folder.name}")
    folder = tools_folder() / f"llama.cpp-{VERSION}"
    _make(folder, lambda draft: _fetch_scripts(draft, report))
    return LlamaCpp(folder, _sentencepiece(report), f"llama.cpp of {SOURCE} {VERSION}")


def tools_folder() -> Path:
    """Return the folder of tools in the home, made if missing."""
    folder = storage.home() / "tools"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def is_fetched() -> bool:
    """Whether llama.cpp's scripts are in `tools/`."""
    return (storage.home() / "tools" / f"llama.cpp-{VERSION}").is_dir()


def _make(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder of tools whole, unless it is there; one process at a time."""
    if folder.is_dir():
        return
    with storage.FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.is_dir():
            with storage.new_folder(folder) as draft:
                fill(draft)


def _sentencepiece(report: Report) -> Path | None:
    if importlib.util.find_spec("sentencepiece") is not None:
        return None
    folder = tools_folder() / SENTENCEPIECE.replace("==", "-")

    def fetch(draft: Path) -> None:
        report("fetching sentencepiece for the converter")
        only = ["--no-deps", "--only-binary", ":all:", "--target", str(draft)]
        _pip(["install", *only, SENTENCEPIECE])

    _make(folder, fetch)
    return folder


def _fetch_scripts(folder: Path, report: Report) -> None:
    """Download the source distribution and unpack the scripts."""
    report("fetching llama.cpp's converter, once (77 MB)")
    parts = folder / "download"
    parts.mkdir()
    pinned = parts / "requirements.txt"
    pinned.write_text(f"{SOURCE}=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    source = ["--no-deps", "--no-binary", SOURCE, "--require-hashes", "--dest", str(parts)]
    _pip(["download", *source, "--requirement", str(pinned)])
    report("unpacking llama.cpp's converter")
    (archive,) = parts.glob("*.tar.gz")
    with tarfile.open(archive) as packed, storage.disk_errors(folder):
        packed.extractall(folder, members=_wanted(packed), filter="data")
    shutil.rmtree(parts)


def _wanted(packed: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the scripts' files, renamed to lie directly in the folder."""
    for member in packed:
        inner = PurePosixPath(*PurePosixPath(member.name).parts[1:])
        if not member.isfile() or not inner.is_relative_to(VENDORED):
            continue
        name = inner.relative_to(VENDORED)
        if any(name.is_relative_to(wanted) for wanted in UNPACKED):
            yield member.replace(name=str(name), deep=False)


def _pip(arguments: Sequence[str]) -> None:
    if importlib.util.find_spec("pip") is None:
        raise ResourceError(
            "llama.cpp's converter is fetched with pip, which this environment does not have.",
            hint="Install pip into it, or name a checkout of llama.cpp: --llama-cpp DIR",
        )
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ResourceError(
            f"llama.cpp's converter could not be fetched: {_last_line(done.stderr)}",
            hint=NAME_A_CHECKOUT,
        )


def _checked(command: Sequence[str], on_wait: Callable[[], None], env: dict[str, str]) -> str:
    """Run a program of llama.cpp; return what it printed if it succeeds."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=env
        )
        try:
            while process.poll() is None:
                on_wait()
                time.sleep(POLL_SECONDS)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        text = output.read()
    log.info("%s", text)
    if process.returncode:
        raise _failure(text)
    return text


def _failure(output: str) -> OrpoQloraError:
    """Return why a program of llama.cpp failed, from what it printed."""
    way_out = (
        "Name another checkout of llama.cpp (--llama-cpp DIR), or export the merged model: "
        "--merged DIR"
    )
    for pattern, thing in _REFUSALS:
        found = pattern.search(output)
        if found:
            unknown = thing.format(*found.groups())
            return UnsupportedModel(f"llama.cpp's converter does not know {unknown}.", hint=way_out)
    if "No space left on device" in output:
        return DiskFull("The disk is full.", hint="Free some space and export again.")
    return OrpoQloraError(f"llama.cpp's converter failed: {_last_line(output)}", hint=way_out)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return without_secrets(lines[-1][:SHOWN_CHARACTERS]) if lines else "it printed nothing."
