"""Many pairs in little memory behave like a tuple of them."""

import gc
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_qlora import storage
from orpo_qlora.data import spool
from orpo_qlora.data.spool import Chosen, Spool

ITEMS = st.lists(st.text(max_size=20), max_size=30)


def spool_of(items):
    made = Spool(str.encode, bytes.decode)
    for item in items:
        made.append(item)
    return made


def descriptors():
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@given(items=ITEMS, memory=st.integers(1, 60), data=st.data())
@settings(deadline=None)
def test_items_come_back_in_order_from_memory_and_disk(items, memory, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "MEMORY_BYTES", memory)
        made = spool_of(items)
    assert list(made) == items
    assert made == items
    assert made == tuple(items)
    assert len(made) == len(items)
    assert made[1:-1] == tuple(items[1:-1])
    assert made[::-2] == tuple(items[::-2])
    if items:
        place = data.draw(st.integers(-len(items), len(items) - 1))
        assert made[place] == items[place]
        assert items[place] in made
    places = data.draw(st.lists(st.integers(0, max(0, len(items) - 1)), max_size=5 * bool(items)))
    assert Chosen(made, array("Q", places)) == [items[place] for place in places]


def test_other_content_is_not_equal():
    assert spool_of("abc") != ["a", "b"]
    assert spool_of("abc") != ["a", "b", "d"]
    assert spool_of("abc") != 3


@pytest.mark.parametrize("place", [3, -4])
def test_place_that_is_not_there_is_an_index_error(place):
    with pytest.raises(IndexError):
        spool_of("abc")[place]


def test_file_has_no_name_and_is_closed_with_its_spool(monkeypatch):
    monkeypatch.setattr(spool, "MEMORY_BYTES", 10)
    before = descriptors()
    made = spool_of(["x" * 100] * 5)
    assert descriptors() == before + 1
    assert list((storage.home() / "datasets").iterdir()) == []
    assert made[4] == "x" * 100
    del made
    assert descriptors() == before


ROWS = 6_000
PROGRAM = """
import resource, sys
from pathlib import Path
from orpo_qlora.data import spool
from orpo_qlora.data.pairs import load_preferences
spool.MEMORY_BYTES = int(sys.argv[2])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
dataset = load_preferences(Path(sys.argv[1]))
print(len(dataset.pairs), peak() - before)
"""


@pytest.mark.slow
def test_large_file_needs_far_less_memory_than_its_size(tmp_path):
    path = tmp_path / "large.csv"
    text = "All work and no play makes Jack a dull boy. " * 48
    with path.open("w") as file:
        file.write("prompt,chosen,rejected\n")
        file.writelines(f"Question {i}?,{text}{i},{text}no {i}\n" for i in range(ROWS))
    size = path.stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(size // 8)],
        capture_output=True,
        text=True,
        check=True,
    )
    count, peak = map(int, done.stdout.split())
    assert count == ROWS
    # An eighth is kept in memory, as much again while it goes to disk, and 64 bits for each text;
    # the rest is for the reader's own buffers, however large the file is.
    assert peak < size / 2
