"""The cards that torch may use, from the driver's answers and the environment. Floor 1; no torch.

nvidia-smi numbers cards by slot; CUDA numbers them from fastest to slowest unless
`CUDA_DEVICE_ORDER=PCI_BUS_ID`. `CUDA_VISIBLE_DEVICES` counts in CUDA's order.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ASK_SECONDS = 5.0
"""Timeout of nvidia-smi: a sleeping card needs a second or two."""
QUESTION = (
    "--query-gpu=index,uuid,name,memory.total,driver_version",
    "--format=csv,noheader,nounits",
)
LIST = ("-L",)
GIGABYTE = 1024**3
AMD_CARDS = Path("/sys/class/drm")
AMD_VENDOR = "0x1002"
LEAST_AMD_BYTES = 4 * GIGABYTE
"""Below, it is the graphics part of a processor."""
_LISTED_CARD = re.compile(r"GPU \d+: .*\(UUID: (?P<uuid>\S+)\)")
_LISTED_PART = re.compile(r"\s+MIG (?P<profile>\S*?(?P<gb>\d+)gb\S*)\s.*\(UUID: (?P<uuid>\S+)\)")
_PART_OF_CARD = re.compile(r"MIG-(?P<card>GPU-[0-9a-fA-F-]+)/\d+/\d+")
_SHORTEST_UUID = 4
"""Characters, `GPU-` and `MIG-` alone name no card."""


@dataclass(frozen=True)
class Gpu:
    """A card, or a MIG instance of one, that torch could use."""

    name: str
    memory_bytes: int
    platform: str = "CUDA"
    """`CUDA` or `ROCm`: what torch must be built for."""

    @property
    def words(self) -> str:
        """Name and memory."""
        return f"{self.name} ({round(self.memory_bytes / GIGABYTE)} GB)"


@dataclass(frozen=True)
class Part:
    """A MIG instance."""

    uuid: str
    gpu: Gpu


@dataclass(frozen=True)
class Card:
    """A line of the driver's answer."""

    index: str
    uuid: str
    gpu: Gpu
    driver: str = ""
    parts: tuple[Part, ...] = ()

    @property
    def usable(self) -> list[Gpu]:
        """What a program can use of it: the card, or its MIG instances."""
        return [part.gpu for part in self.parts] or [self.gpu]


@dataclass(frozen=True)
class Visible:
    """The cards that torch may use."""

    gpus: list[Gpu]
    note: str = ""
    """Why they may be others; empty where they are certain."""


def ask_driver(question: Sequence[str] = QUESTION) -> str:
    """Return the output of nvidia-smi, empty where it is missing, fails or does not return."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        asked = subprocess.run(
            [program, *question],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ASK_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""  # then the smallest preset is proposed; all can still be chosen
    return asked.stdout


def read_cards(answer: str, listing: str = "") -> list[Card]:
    """Return the NVIDIA cards in the order of nvidia-smi.

    Args:
        answer: to `QUESTION`, one line a card.
        listing: to `LIST`, which also has the MIG instances.
    """
    parts = _parts(listing)
    cards = []
    for line in answer.splitlines():
        fields = [field.strip() for field in line.split(", ")] + [""] * 4
        index, uuid, name, memory, driver = fields[:5]
        if memory.isdecimal():
            gpu = Gpu(name, int(memory) * 1024**2)
            own = tuple(
                replace(part, gpu=replace(part.gpu, name=f"{name} {part.gpu.name}"))
                for part in parts.get(uuid, [])
            )
            cards.append(Card(index, uuid, gpu, driver, own))
    return cards


def _parts(listing: str) -> dict[str, list[Part]]:
    found: dict[str, list[Part]] = {}
    card = ""
    for line in listing.splitlines():
        if named := _LISTED_CARD.match(line):
            card = named["uuid"]
        elif part := _LISTED_PART.match(line):
            gpu = Gpu(f"MIG {part['profile']}", int(part["gb"]) * GIGABYTE)
            found.setdefault(card, []).append(Part(part["uuid"], gpu))
    return found


def visible_cards(cards: Sequence[Card], environment: Mapping[str, str]) -> Visible:
    """Return what torch may use of the cards.

    Args:
        cards: see `read_cards`.
        environment: `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` of it are read.
    """
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return Visible([gpu for card in cards for gpu in card.usable])
    wanted = [part.strip() for part in chosen.split(",")]
    is_by_slot = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    are_alike = len({gpu for card in cards for gpu in card.usable}) == 1
    if wanted[0].isdecimal() and int(wanted[0]) < len(cards) and not (is_by_slot or are_alike):
        note = (
            f"CUDA_VISIBLE_DEVICES={chosen} counts cards from fastest to slowest, nvidia-smi by "
            "slot; the smallest card decides. Set CUDA_DEVICE_ORDER=PCI_BUS_ID to count by slot."
        )
        return Visible([gpu for card in cards for gpu in card.usable], note)
    found: list[Gpu] = []
    for part in wanted:
        named = _named(part, cards)
        if not named:
            break  # CUDA ignores this entry and all after it
        found += named
    note = ""
    if cards and not found:
        note = (
            f"CUDA_VISIBLE_DEVICES={chosen} names no card of this machine, so none is used. "
            "nvidia-smi -L lists their identifiers."
        )
    return Visible(found, note)


def _named(part: str, cards: Sequence[Card]) -> list[Gpu]:
    """Return what one entry of `CUDA_VISIBLE_DEVICES` names; a MIG card by its first instance."""
    old = _PART_OF_CARD.fullmatch(part)
    for card in cards:
        if old and card.uuid == old["card"]:
            return card.usable  # any of them: the driver does not list instance numbers
        is_uuid = len(part) > _SHORTEST_UUID and card.uuid.startswith(part)
        if card.index == part or is_uuid:
            return card.usable[:1]
        for instance in card.parts:
            if len(part) > _SHORTEST_UUID and instance.uuid.startswith(part):
                return [instance.gpu]
    return []


def amd_cards(environment: Mapping[str, str]) -> list[Gpu]:
    """Return the AMD cards that the kernel's driver lists, none where the environment hides all."""
    names = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    if any(environment.get(name) in ("", "-1") for name in names):
        return []
    found = []
    for device in sorted(AMD_CARDS.glob("card[0-9]*/device")):
        try:
            vendor = (device / "vendor").read_text(encoding="ascii").strip()
            memory = int((device / "mem_info_vram_total").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if vendor == AMD_VENDOR and memory >= LEAST_AMD_BYTES:
            found.append(Gpu("AMD GPU", memory, "ROCm"))
    return found
