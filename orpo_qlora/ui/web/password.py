"""The one password of a page that others can reach, and who may still try it. Floor 5.

Only a salted hash is kept, in the home, readable by its owner alone. The password is made here, too
long to be guessed; the back-off keeps those who try from costing time.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orpo_qlora import storage
from orpo_qlora.errors import InputError

LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # none that looks like another; 5 bits each
GROUPS, GROUP_LETTERS = 5, 4
SALT_BYTES = 16
COST = 2**14
"""Of scrypt: 16 MiB and some 50 ms a try."""
BLOCK, MEMORY_BYTES = 8, 64 * 1024 * 1024

FREE_TRIES = 3
LONGEST_WAIT_SECONDS = 300.0
FORGET_SECONDS = 3600.0
ADDRESSES_KEPT = 10_000
SESSION_SECONDS = 7 * 24 * 3600.0
SESSIONS_KEPT = 1000

Clock = Callable[[], float]


class Password(BaseModel):
    """What is kept of a password."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    salt: str = Field(pattern=r"^[0-9a-f]{32}$")
    cost: int = Field(ge=COST, le=2**18)
    scrypt: str = Field(pattern=r"^[0-9a-f]{64}$")

    @classmethod
    def of(cls, text: str) -> Password:
        """Return what is kept of a new password."""
        salt = secrets.token_bytes(SALT_BYTES)
        return cls(salt=salt.hex(), cost=COST, scrypt=_hash(text, salt, COST).hex())

    def matches(self, text: str) -> bool:
        """Tell whether this is the password; takes the same time whatever is wrong with it."""
        found = _hash(text, bytes.fromhex(self.salt), self.cost)
        return hmac.compare_digest(found, bytes.fromhex(self.scrypt))


def _hash(text: str, salt: bytes, cost: int) -> bytes:
    return hashlib.scrypt(
        text.encode("utf-8", "surrogatepass"),
        salt=salt, n=cost, r=BLOCK, p=1, maxmem=MEMORY_BYTES * (cost // COST), dklen=32,
    )  # fmt: skip


def password_file() -> Path:
    """Return where the hash is kept; without the file the next start makes a new password."""
    return storage.home() / "login.json"


def open_password() -> tuple[Password, str | None]:
    """Return what is kept of the home's password, and the password itself when it is new.

    Raises:
        InputError: what is kept cannot be read.
        DiskFull: a new one cannot be kept.
    """
    path = password_file()
    if not path.exists():
        text = "-".join(
            "".join(secrets.choice(LETTERS) for _ in range(GROUP_LETTERS)) for _ in range(GROUPS)
        )
        password = Password.of(text)
        if _keep(path, password):
            return password, text
    try:
        return Password.model_validate_json(path.read_bytes()), None
    except (OSError, ValidationError) as exc:
        raise InputError(
            f"The login in {path} cannot be read.",
            hint="Delete that file and start again: a new password is made then.",
        ) from exc


def _keep(path: Path, password: Password) -> bool:
    """Write a new file that only its owner can read; False if somebody else was first."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with storage.disk_errors(path):
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(password.model_dump_json())
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)
        except FileExistsError:
            return False
        finally:
            draft.unlink(missing_ok=True)
        storage.sync_folder(path.parent)
    return True


class BackOff:
    """Who gave a wrong password lately, and how long they have to wait; per address."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait_seconds(self, address: str) -> float:
        """Return how long an address has to wait until its next try; 0 if it may try now."""
        count, at = self._failures.get(address, (0, 0.0))
        if count < FREE_TRIES:
            return 0.0
        wait = min(2.0 ** (count - FREE_TRIES + 1), LONGEST_WAIT_SECONDS)
        return max(0.0, at + wait - self._clock())

    def failed(self, address: str) -> None:
        """Take note of a wrong password."""
        now = self._clock()
        count, at = self._failures.pop(address, (0, now))
        self._failures[address] = (count + 1 if now - at < FORGET_SECONDS else 1, now)
        if len(self._failures) > ADDRESSES_KEPT:
            self._failures.popitem(last=False)

    def succeeded(self, address: str) -> None:
        """Forget an address that knows the password."""
        self._failures.pop(address, None)


class Sessions:
    """The browsers that gave the password, by a random token; they end with the page."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._used: OrderedDict[bytes, float] = OrderedDict()

    def open(self) -> str:
        """Return the token of a new session."""
        token = secrets.token_urlsafe(32)
        self._used[_name(token)] = self._clock()
        if len(self._used) > SESSIONS_KEPT:
            self._used.popitem(last=False)
        return token

    def is_open(self, token: str) -> bool:
        """Tell whether a token's session is open, and keep it open for longer."""
        name, now = _name(token), self._clock()
        used = self._used.pop(name, None)
        if used is None or now - used > SESSION_SECONDS:
            return False
        self._used[name] = now
        return True


def _name(token: str) -> bytes:
    # Looked up by its hash: the time a look-up takes tells nothing about the token.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
