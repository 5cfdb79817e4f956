import json
import os

import pytest

from orpo_qlora import storage
from orpo_qlora.errors import CheckpointError, DiskFull
from orpo_qlora.runs import checkpoints
from orpo_qlora.runs.checkpoints import MANIFEST, find_checkpoint, save_checkpoint
from orpo_qlora.runs.identity import Identity

IDENTITY = Identity(settings={"seed": 1}, data={"train.jsonl": "ab"}, model={})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "checkpoints"


def content(step):
    def write(draft):
        (draft / "weights.bin").write_bytes(bytes([step]) * 1000)
        (draft / "progress.json").write_text(json.dumps({"step": step}))

    return write


def save(folder, *steps):
    for step in steps:
        save_checkpoint(folder, step, IDENTITY, content(step))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_saved_checkpoint_is_found_with_what_it_belongs_to(folder):
    save(folder, 3)
    found = find_checkpoint(folder)
    assert found.newest.step == 3
    assert found.newest.manifest.identity == IDENTITY
    assert (found.newest.folder / "weights.bin").read_bytes() == b"\3" * 1000
    assert found.damaged == ()
    assert names(folder) == ["step-3"]


def test_without_checkpoints_nothing_is_found_and_nothing_is_wrong(folder):
    assert find_checkpoint(folder) == checkpoints.Found(None, ())


def test_the_two_newest_are_kept_by_step_whatever_the_clock_says(folder):
    save(folder, 5, 10)
    for name, age in (("step-5", 0), ("step-10", 10_000)):
        os.utime(folder / name, (age, age))
    save(folder, 20)
    os.utime(folder / "step-20", (1, 1))
    assert names(folder) == ["step-10", "step-20"]
    save(folder, 100)
    assert names(folder) == ["step-100", "step-20"]
    assert find_checkpoint(folder).newest.step == 100


def truncate(path):
    with (path / "weights.bin").open("r+b") as file:
        file.truncate(10)


def flip(path):
    data = bytearray((path / "weights.bin").read_bytes())
    data[500] ^= 1
    (path / "weights.bin").write_bytes(data)


def empty(path):
    for file in path.iterdir():
        file.unlink()


DAMAGE = {
    "truncated": (truncate, "weights.bin has 10 bytes instead of 1,000"),
    "flipped": (flip, "weights.bin differs from its checksum"),
    "file gone": (lambda path: (path / "progress.json").unlink(), "progress.json cannot be read"),
    "no manifest": (lambda path: (path / MANIFEST).unlink(), "manifest.json cannot be read"),
    "half a manifest": (
        lambda path: (path / MANIFEST).write_text('{"step": 2'),
        "manifest.json is damaged",
    ),
    "empty": (empty, "manifest.json cannot be read"),
    "renamed": (lambda path: path.rename(path.with_name("step-90")), "names step 2"),
    "newer": (
        lambda path: (path / MANIFEST).write_text(
            (path / MANIFEST).read_text().replace('"schema_version": 1', '"schema_version": 9')
        ),
        "another version",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_with_the_reason(folder, kind):
    damage, words = DAMAGE[kind]
    save(folder, 1, 2)
    damage(folder / "step-2")
    found = find_checkpoint(folder)
    assert found.newest.step == 1
    assert len(found.damaged) == 1
    assert words in found.damaged[0]


def test_the_quick_look_sees_all_but_changed_bytes(folder):
    save(folder, 1, 2)
    flip(folder / "step-2")
    assert find_checkpoint(folder, read_everything=False).newest.step == 2
    truncate(folder / "step-2")
    assert find_checkpoint(folder, read_everything=False).newest.step == 1


def test_damaged_ones_do_not_count_towards_the_two_that_stay(folder):
    save(folder, 1, 2)
    flip(folder / "step-2")
    save(folder, 3)
    assert names(folder) == ["step-1", "step-2", "step-3"]
    save(folder, 4)
    assert names(folder) == ["step-3", "step-4"]


def test_only_damaged_ones_are_refused_with_every_reason(folder):
    save(folder, 1, 2)
    flip(folder / "step-1")
    truncate(folder / "step-2")
    with pytest.raises(CheckpointError) as caught:
        checkpoints.refuse_foreign(find_checkpoint(folder), IDENTITY)
    assert "step-1" in caught.value.message
    assert "step-2" in caught.value.message
    assert "--from-start" in caught.value.hint


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(folder):
    save(folder, 1, 2)
    flip(folder / "step-2")
    save(folder, 2)
    assert find_checkpoint(folder).newest.step == 2
    assert names(folder) == ["step-1", "step-2"]


def test_a_full_disk_keeps_the_old_ones_and_leaves_nothing(folder):
    save(folder, 1, 2)

    def full(draft):
        (draft / "weights.bin").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskFull, match="step-3"):
        save_checkpoint(folder, 3, IDENTITY, full)
    assert names(folder) == ["step-1", "step-2"]
    assert find_checkpoint(folder).newest.step == 2


def test_leftovers_of_a_dead_writer_are_swept(folder):
    save(folder, 1)
    (folder / ".draft-1234").mkdir()
    (folder / ".draft-1234" / "weights.bin").write_bytes(b"half")
    assert find_checkpoint(folder).newest.step == 1
    checkpoints.sweep(folder)
    assert names(folder) == ["step-1"]


def test_everything_is_private(folder):
    save(folder, 1)
    for path in (folder, folder / "step-1"):
        assert path.stat().st_mode & 0o077 == 0
    assert storage.sha256_of(folder / "step-1" / "weights.bin")
