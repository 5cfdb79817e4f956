"""What the loading libraries raise, as one sentence with a way out. Floor 1; no torch.

transformers explains itself at length: a page of class names, tables of weights, advice on its own
options. The user reads the model's name, the reason in one sentence and a hint; the full text goes
to the log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from orpo_qlora.errors import UnsupportedModel

log = logging.getLogger(__name__)

LIBRARY_ERRORS = (
    *(ValueError, LookupError, RuntimeError, TypeError, AttributeError, ImportError, OSError),
    *(SafetensorError, StrictDataclassError),
)
"""What transformers, PEFT, safetensors and bitsandbytes raise on a model they cannot load."""
REASON_CHARACTERS = 160
OTHER_MODEL = "Choose another model."
DOWNLOAD_AGAIN = "Download the model again, or choose another."


@dataclass(frozen=True)
class Reason:
    """Why something cannot be loaded: a clause without a full stop, and what to do."""

    text: str
    hint: str


_KNOWN: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Reason]], ...] = (
    (
        re.compile(r"Unrecognized configuration class <class '[\w.]*?(\w+?)(?:Config)?'>"),
        lambda found: Reason(
            f"{found[1]} is not a causal language model, which continues a text",
            "Choose a decoder-only language model, Llama or Qwen for instance.",
        ),
    ),
    (
        re.compile(r"model type `([^`]+)` but Transformers does not recognize"),
        lambda found: Reason(
            f"the installed transformers does not know its type “{found[1]}”",
            "Update transformers if the model is newer than it, or choose another model.",
        ),
    ),
    (
        re.compile(r"Should have a `model_type` key"),
        lambda _: Reason("its config.json names no model_type", DOWNLOAD_AGAIN),
    ),
    (
        re.compile(r"ignore_mismatched_sizes|size mismatch for"),
        lambda _: Reason(
            "its weights have other shapes than its settings describe", DOWNLOAD_AGAIN
        ),
    ),
    (
        re.compile(r"an? (\w+) quantized model|quantization method (?:'|\")?(\w+)", re.IGNORECASE),
        lambda found: Reason(
            f"its weights are stored in {(found[1] or found[2]).upper()}, "
            "which cannot be read here",
            "Choose the original, unquantised version of the model.",
        ),
    ),
)


@contextmanager
def loading_errors(failure: str, hint: str = "") -> Iterator[None]:
    """Turn what the loading libraries raise into an UnsupportedModel of one sentence.

    Args:
        failure: what failed, to be followed by the reason: “tiny-llama cannot be loaded”.
        hint: the way out where the reason has none of its own.
    """
    try:
        yield
    except LIBRARY_ERRORS as exc:
        log.info("%s", failure, exc_info=exc)
        reason = reason_of(exc)
        raise UnsupportedModel(
            f"{failure}: {reason.text}.",
            hint=hint if reason.hint == OTHER_MODEL and hint else reason.hint,
        ) from exc


def reason_of(error: BaseException) -> Reason:
    """Return the reason that an exception of a loading library gives, in one sentence."""
    text = str(error)
    for pattern, describe in _KNOWN:
        found = pattern.search(text)
        if found:
            return describe(found)
    if isinstance(error, SafetensorError):
        detail = text.removeprefix("Error while deserializing header: ")
        return Reason(f"a weight file is damaged or incomplete ({_brief(detail)})", DOWNLOAD_AGAIN)
    if isinstance(error, KeyError):
        return Reason(f"its settings hold the unknown value or key {_brief(text)}", OTHER_MODEL)
    return Reason(_brief(text) or type(error).__name__, OTHER_MODEL)


def _brief(text: str) -> str:
    """Return the first sentence of a text on one line, class names without their modules."""
    # A strict dataclass names its validator first and the error on the next line.
    text = re.sub(r"^.*?[vV]alidation error for .*?\n\s*\w+Error: ", "", text, flags=re.DOTALL)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)
    line = " ".join(text.split())
    sentence = re.split(r"(?<=[^\d\s])[.!?](?:\s|$)", line, maxsplit=1)[0]
    if len(sentence) > REASON_CHARACTERS:
        sentence = sentence[:REASON_CHARACTERS].rsplit(" ", 1)[0] + " …"
    return sentence.rstrip(".:")
