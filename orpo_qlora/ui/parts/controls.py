"""Options of the command line in hints, by the names that the page has for them. Floor 6."""

from __future__ import annotations

import re

from orpo_qlora.data.columns import ShapeName

PART_LABELS = {
    "prompt": "Prompt",
    "chosen": "Chosen",
    "rejected": "Rejected",
    "first": "First response",
    "second": "Second response",
    "verdict": "Verdict",
    "responses": "Responses",
    "scores": "Scores or ranks",
    "label": "Label",
    "system": "System message",
    "context": "Context",
}
SHAPE_LABELS: dict[ShapeName, str] = {
    "pairs": "Chosen and rejected",
    "verdict": "Two responses, verdict",
    "ranking": "Ranked responses",
    "conversation": "Conversation and rejected",
    "labelled": "Labelled single responses",
}
VALUE_LABELS = {"first_values": "First wins if", "second_values": "Second wins if"}
CONTROLS = {
    "--config-name": "“Config”",
    "--data-revision": "“Revision”",
    "--embedder": "“orpo-qlora evaluate … --embedder” in a terminal",
    "--gguf FILE": "“GGUF f16”",
    "--judge-model": "“Judge model”",
    "--judge-url": "“Judge address”",
    "--llama-cpp DIR": "“orpo-qlora export … --llama-cpp DIR” in a terminal",
    "--max-rows": "“Rows at most”",
    "--merged DIR": "“Merged model”",
    "--prompt-from-common-prefix": "“Use common prefix”",
    "--reward-model": "“Reward model”",
    "--split": "“Split”",
}
"""Labels of the page, or a command where it has no control."""
_OPTION = re.compile(rf"(?:{'|'.join(map(re.escape, CONTROLS))})(?![\w-])")


_MAP = re.compile(r"--map \w+=[^\s,]*[^\s,.](?: --map \w+=[^\s,]*[^\s,.])*")
_NAMED = PART_LABELS | VALUE_LABELS | {"shape": "Shape"}


def named_on_page(text: str) -> str:
    """Return a hint or a message with the page's names of options."""
    named = _OPTION.sub(lambda found: CONTROLS[found[0]], text)
    return _MAP.sub(lambda found: ", ".join(map(_chosen, found[0].split("--map ")[1:])), named)


def _chosen(assignment: str) -> str:
    """Return a part and its column, or the shape, as they are chosen on the page."""
    part, _, value = assignment.strip().partition("=")
    shapes = {str(name): label for name, label in SHAPE_LABELS.items()}
    shown = shapes.get(value, value) if part == "shape" else value
    return f"“{_NAMED.get(part, part)}”" + ("" if value == "COLUMN" else f" ({shown})")
