"""The base models offered by name. Floor 1; no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CatalogueModel:
    """An instruct model known to work here: safetensors, a chat template, no remote code."""

    name: str
    """As typed by the user and stored in a config."""
    hub_id: str
    title: str
    parameters_billion: float
    licence: str

    @property
    def label(self) -> str:
        """One line for a list."""
        return f"{self.title} ({self.parameters_billion:g}B, {self.licence})"


DEMO = CatalogueModel(
    "smollm2-135m-instruct",
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "SmolLM2 135M Instruct",
    0.135,
    "Apache-2.0",
)

CATALOGUE = (
    DEMO,
    CatalogueModel(
        "qwen2.5-0.5b-instruct",
        "Qwen/Qwen2.5-0.5B-Instruct",
        "Qwen2.5 0.5B Instruct",
        0.49,
        "Apache-2.0",
    ),
    CatalogueModel(
        "llama-3.2-1b-instruct",
        "meta-llama/Llama-3.2-1B-Instruct",
        "Llama 3.2 1B Instruct",
        1.24,
        "Llama 3.2 Community",
    ),
    CatalogueModel(
        "qwen2.5-1.5b-instruct",
        "Qwen/Qwen2.5-1.5B-Instruct",
        "Qwen2.5 1.5B Instruct",
        1.54,
        "Apache-2.0",
    ),
    CatalogueModel(
        "smollm2-1.7b-instruct",
        "HuggingFaceTB/SmolLM2-1.7B-Instruct",
        "SmolLM2 1.7B Instruct",
        1.71,
        "Apache-2.0",
    ),
    CatalogueModel(
        "qwen3-4b-instruct",
        "Qwen/Qwen3-4B-Instruct-2507",
        "Qwen3 4B Instruct",
        4.02,
        "Apache-2.0",
    ),
    CatalogueModel(
        "mistral-7b-instruct-v0.3",
        "mistralai/Mistral-7B-Instruct-v0.3",
        "Mistral 7B Instruct v0.3",
        7.25,
        "Apache-2.0",
    ),
    CatalogueModel(
        "qwen2.5-7b-instruct",
        "Qwen/Qwen2.5-7B-Instruct",
        "Qwen2.5 7B Instruct",
        7.62,
        "Apache-2.0",
    ),
    CatalogueModel(
        "llama-3.1-8b-instruct",
        "meta-llama/Llama-3.1-8B-Instruct",
        "Llama 3.1 8B Instruct",
        8.03,
        "Llama 3.1 Community",
    ),
)


def find_model(name: str) -> CatalogueModel | None:
    """Return the catalogue entry with that name or hub id, if there is one."""
    return next((entry for entry in CATALOGUE if name in {entry.name, entry.hub_id}), None)
