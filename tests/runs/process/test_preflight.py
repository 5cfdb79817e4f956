from collections import namedtuple

import pytest

from orpo_qlora import storage
from orpo_qlora.errors import DiskFull, InputError
from orpo_qlora.runs.process import preflight

Usage = namedtuple("Usage", "total used free")


def test_a_good_home_passes_and_keeps_nothing_of_the_look():
    preflight.check_home()
    assert [path for path in storage.home().iterdir() if path.is_file()] == []


def test_a_full_disk_is_refused_with_what_is_free_and_needed(monkeypatch):
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 5 * 10**6))
    with pytest.raises(DiskFull, match=r"5\.0 MB free, and this needs 268 MB"):
        preflight.check_home()


def test_a_home_that_cannot_be_written_is_refused(monkeypatch):
    home = storage.home()
    monkeypatch.setattr(storage, "home", lambda: home / "runs" / "no such folder")
    with pytest.raises(InputError, match="cannot be used"):
        preflight.check_home()


def test_a_file_system_that_grants_every_lock_is_refused(monkeypatch):
    monkeypatch.setattr(storage.fcntl, "flock", lambda *_: None)
    with pytest.raises(InputError, match="does not enforce file locks"):
        preflight.check_home()


def test_room_for_checkpoints_is_more_than_is_ever_there_at_once():
    """Two that stay, one in the making, each three times the weights; and the adapter twice."""
    assert preflight.checkpoints_bytes(10**9, kept=2) > (3 * 3 + 2) * 10**9
