"""Shell commands that open an export in other programs. Floor 5; no torch."""

from __future__ import annotations

import shlex
from pathlib import Path


def commands_for(kind: str, target: Path) -> tuple[str, ...]:
    """Return the commands for an export, ready to paste."""
    quoted = shlex.quote(str(target))
    if kind == "gguf":
        return (f"llama-server -m {quoted} --jinja", f"llama-cli -m {quoted} --jinja")
    if kind == "gguf-adapter":
        return (f"llama-server -m BASE.gguf --lora {quoted} --jinja",)
    if kind == "ollama":
        name = shlex.quote(ollama_name(target))
        file = shlex.quote(str(target / "Modelfile"))
        return (f"ollama create {name} -f {file}", f"ollama run {name}")
    return (f"vllm serve {quoted}", f"python -m sglang.launch_server --model-path {quoted}")


def ollama_name(folder: Path) -> str:
    """Return the name of a model in Ollama: the folder's, reduced to what Ollama takes."""
    kept = [sign if sign.isascii() and sign.isalnum() else "-" for sign in folder.name.lower()]
    return "".join(kept).strip("-") or "tuned"
