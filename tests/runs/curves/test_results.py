import json

import pytest
from made_runs import evaluation, step_record

from orpo_qlora.runs.curves import results
from orpo_qlora.runs.curves.results import ResultsTail


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def add(path, *records, end="\n"):
    with path.open("a") as file:
        file.write("".join(json.dumps(record) + end for record in records))


def test_without_a_file_there_is_nothing(path):
    assert ResultsTail(path).refresh() == results.NOTHING


@pytest.mark.parametrize("piece_bytes", [7, 300, 1_000_000])
def test_the_latest_line_of_each_kind_counts(path, monkeypatch, piece_bytes):
    monkeypatch.setattr(results, "PIECE_BYTES", piece_bytes)
    for step in range(1, 9):
        add(path, step_record(step, 0.5, float(step)))
        if step in (2, 4):
            add(path, evaluation(step, 0.5, step / 8, 2.0))
    add(path, step_record(9, 0.5, 9.0), end="")
    found = ResultsTail(path).refresh()
    assert (found.training.step, found.training.value("loss")) == (8, 8.0)
    assert (found.held_out.step, found.held_out.value("rewards/accuracies")) == (4, 0.5)
    # chosen −1, rejected −2
    assert found.held_out.gap == 1.0
    assert found.training.value("no such metric") is None


@pytest.mark.parametrize("together", [True, False])
def test_the_base_model_measured_last_is_not_the_latest_result(path, together):
    tail = ResultsTail(path)
    add(path, step_record(5, 0.5, 5.0), evaluation(5, 0.5, 0.75, 2.0))
    if not together:
        tail.refresh()
    add(path, evaluation(0, 0.5, 0.25, 3.0))
    found = tail.refresh()
    assert (found.held_out.step, found.held_out.value("rewards/accuracies")) == (5, 0.75)
    assert found.training.step == 5


def test_only_what_was_appended_is_read(path, monkeypatch):
    add(path, *(step_record(step, 0.5, 1.0) for step in range(1, 50)))
    tail = ResultsTail(path)
    tail.refresh()
    read = []
    real = results._lines_backwards

    def counted(file, low, high):
        for line in real(file, low, high):
            read.append(line)
            yield line

    monkeypatch.setattr(results, "_lines_backwards", counted)
    assert tail.refresh().training.step == 49
    assert read == []
    add(path, step_record(50, 0.5, 1.0), evaluation(50, 0.5, 1.0, 1.0))
    assert tail.refresh().held_out.step == 50
    assert len(read) == 2


def test_a_file_that_was_rewound_is_read_from_its_beginning(path):
    add(path, step_record(1, 0.5, 1.0), evaluation(5, 0.5, 1.0, 1.0))
    tail = ResultsTail(path)
    assert tail.refresh().held_out.step == 5
    other = path.with_name("other")
    add(other, step_record(1, 0.5, 3.0))
    other.replace(path)
    found = tail.refresh()
    assert found.held_out is None
    assert found.training.value("loss") == 3.0


def test_lines_that_are_no_records_are_passed_over(path):
    path.write_text('{"step": 3, "loss": 1.0}\nnonsense\n[1]\n{"loss": 2}\n\n')
    found = ResultsTail(path).refresh()
    assert found.training.step == 3


def test_what_is_not_a_number_is_left_out(path):
    path.write_text('{"step": 3, "loss": "NaN", "nll_loss": 1.0}\n')
    assert ResultsTail(path).refresh().training.values == {"step": 3.0, "nll_loss": 1.0}
