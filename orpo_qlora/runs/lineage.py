"""Which adapters a run was started from, back to the first. Floor 3; no torch.

The chain is copied into each run and each exported adapter, so that it outlives the runs it names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from orpo_qlora import storage
from orpo_qlora.data.wording import plural

LINEAGE = "lineage.json"


class Ancestor(BaseModel):
    """A trained adapter, and the one that its training started from."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run: str = ""
    """Id of the run, empty for an adapter trained by other means."""
    title: str
    adapter_sha256: str
    base: str = ""
    base_files: dict[str, str] = {}
    """Fingerprints of the base's files (see `identity`), empty where they are not known."""
    steps: int = 0
    objective: str = ""
    data: str = ""
    """Name of the data file."""
    data_sha256: str = ""
    pairs_sha256: str = ""
    """Of the training pairs."""
    parent: Ancestor | None = None

    def chain(self) -> Iterator[Ancestor]:
        """Yield this adapter and those before it, the latest first."""
        one: Ancestor | None = self
        while one is not None:
            yield one
            one = one.parent

    def sentence(self) -> str:
        """Return the whole chain as text, the latest first."""
        return "; which started from ".join(one._own_sentence() for one in self.chain())

    def _own_sentence(self) -> str:
        if not self.run:
            return f"the adapter {self.title} (SHA-256 {self.adapter_sha256})"
        return (
            f"run {self.run} “{self.title}” (adapter SHA-256 {self.adapter_sha256}): "
            f"{plural(self.steps, 'step')} of {self.objective} on {self.data} (SHA-256 "
            f"{self.data_sha256}; training pairs {self.pairs_sha256})"
        )


def parent_title(folder: Path) -> str:
    """Return what a run that started from an adapter calls it, empty for a new adapter.

    Args:
        folder: the run's copy of the starting adapter.
    """
    ancestor = read_lineage(folder)
    return f"the adapter “{ancestor.title}”" if ancestor else ""


def read_lineage(folder: Path) -> Ancestor | None:
    """Return the chain recorded in a folder, None without one."""
    try:
        return Ancestor.model_validate_json((folder / LINEAGE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def write_lineage(folder: Path, ancestor: Ancestor) -> None:
    """Record a chain in a folder."""
    storage.write_whole(folder / LINEAGE, ancestor.model_dump_json(indent=1))
