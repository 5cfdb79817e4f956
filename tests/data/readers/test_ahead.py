"""A file is read in one pass after its bytes were scanned, however often its head is looked at."""

from itertools import islice

import pytest
from files import json_array, json_lines, separated

from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.data.readers import ahead as ahead_module
from orpo_qlora.data.readers import json_records
from orpo_qlora.data.readers import source as source_module
from orpo_qlora.data.readers.ahead import Ahead
from orpo_qlora.data.readers.rows import Row

ROWS = [(f"question {index}?", f"good {index}", f"bad {index}") for index in range(3000)]


class Passes:
    """Numbers from 0, and how often they were started and read."""

    def __init__(self, count):
        self.count, self.started, self.read = count, 0, 0

    def __call__(self):
        self.started += 1
        for number in range(self.count):
            self.read += 1
            yield number


def test_looking_and_taking_is_one_pass():
    passes = Passes(10)
    ahead = Ahead(passes)
    assert list(islice(ahead.look(), 3)) == [0, 1, 2]
    assert list(islice(ahead.look(), 5)) == [0, 1, 2, 3, 4]
    assert list(ahead.take()) == list(range(10))
    assert (passes.started, passes.read) == (1, 10)
    assert list(ahead.take()) == list(range(10))
    assert passes.started == 2


def test_looking_at_everything_and_past_the_end():
    ahead = Ahead(Passes(3))
    assert [*ahead.look(), *ahead.look(), *ahead.take()] == [0, 1, 2] * 3
    assert list(Ahead(Passes(0)).take()) == list(Ahead(Passes(0)).look()) == []


def test_what_is_too_large_to_keep_is_read_again(monkeypatch):
    monkeypatch.setattr(ahead_module, "AHEAD_CHARACTERS", 100)
    rows = [Row(({"text": "x" * 30},), number, 0) for number in range(1, 9)]
    starts = []

    def start():
        starts.append(1)
        return iter(rows)

    ahead = Ahead(start)
    assert list(islice(ahead.look(), 6)) == rows[:6]
    assert ahead._seen == []
    assert list(ahead.take()) == rows
    assert len(starts) == 2


@pytest.mark.parametrize(
    ("content", "most"),
    [
        # One more opening finds the format, of an object one more finds columns and one the list.
        pytest.param(separated(ROWS), 2, id="CSV"),
        pytest.param(json_array(ROWS), 2, id="JSON array"),
        pytest.param(json_lines(ROWS), 4, id="JSON lines"),
        pytest.param('{"data": ' + json_array(ROWS) + "}", 4, id="JSON object"),
    ],
)
def test_a_text_is_opened_once_for_its_rows(tmp_path, monkeypatch, content, most):
    opened, read = [], []

    class Counted(source_module._Reported):
        def __init__(self, *arguments):
            opened.append(1)
            super().__init__(*arguments)

        def readinto(self, buffer):
            count = super().readinto(buffer)
            read.append(count)
            return count

    monkeypatch.setattr(source_module, "_Reported", Counted)
    monkeypatch.setattr(source_module, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(json_records, "CHUNK_CHARACTERS", 4096)
    path = tmp_path / "pairs"
    path.write_text(content)
    dataset = load_preferences(path)
    assert [(pair.prompt, pair.chosen, pair.rejected) for pair in dataset.pairs] == ROWS
    assert len(opened) == most
    passes = 2 if content.startswith('{"data"') else 1
    assert sum(read) <= passes * len(content) + 20 * 4096
