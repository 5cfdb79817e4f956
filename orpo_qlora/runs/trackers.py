"""Trackers that metrics can be sent to, and which are installed. Floor 3; no torch.

Nothing is sent anywhere by default. A tracker that could send is configured to write to this disk
only, unless its own environment variables are set.
"""

from __future__ import annotations

from importlib.util import find_spec

from orpo_qlora.errors import ConfigError

SETTING = "report_to"
NONE = "none"
PACKAGES: dict[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}
"""Packages by tracker; one of them is enough."""


def is_installed(tracker: str) -> bool:
    """Whether a tracker can be used here."""
    return any(find_spec(package) is not None for package in PACKAGES[tracker])


def is_offered(setting: str, choice: str) -> bool:
    """Whether a choice of a setting is shown on this machine."""
    return setting != SETTING or choice == NONE or is_installed(choice)


def check_installed(tracker: str) -> None:
    """Refuse a tracker that is not installed.

    Raises:
        ConfigError: with the command to install it.
    """
    if tracker != NONE and not is_installed(tracker):
        raise ConfigError(
            f"{SETTING} = {tracker}, which is not installed here.",
            hint=f"Run: pip install {PACKAGES[tracker][0]} — or set {SETTING} to {NONE}.",
        )
