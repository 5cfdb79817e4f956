"""The number types of a GGUF file: size, tolerance, who writes them. Floor 5; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from orpo_qlora.errors import InputError


@dataclass(frozen=True)
class GgufType:
    """A number type of the weights in a GGUF file."""

    id: str
    bits: float
    """A weight, scales included."""
    tolerance: float
    """Largest accepted difference in the mean log-prob of an answer, nats a token."""
    merged_as: str
    """Number type of the merged weights that are converted; half the room of float32."""
    is_k_quant: bool = False
    """Whether `llama-quantize` writes it from an f16 file; the converter cannot."""


TYPES = {
    kind.id: kind
    for kind in (
        GgufType("f16", 16, 0.005, "float16"),
        GgufType("bf16", 16, 0.03, "bfloat16"),
        GgufType("q8_0", 8.5, 0.03, "float16"),
        GgufType("q6_k", 6.6, 0.06, "float16", is_k_quant=True),
        GgufType("q5_k_m", 5.7, 0.15, "float16", is_k_quant=True),
        GgufType("q4_k_m", 4.9, 0.3, "float16", is_k_quant=True),
    )
}


def type_of(name: str) -> GgufType:
    """Return a type by its name, in any case.

    Raises:
        InputError: there is none of that name.
    """
    found = TYPES.get(name.lower())
    if found is None:
        raise InputError(
            f"“{name}” is no type of a GGUF file.", hint=f"Choose one of {', '.join(TYPES)}."
        )
    return found
