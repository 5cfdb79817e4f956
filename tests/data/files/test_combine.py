"""Several files as one data set: the exact pairs, in every shape, with a share or a cap of each."""

import hashlib
import json
from pathlib import Path

import pytest
from files import json_lines, parquet, separated

from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.files.combine import check_files, load_files
from orpo_qlora.data.files.sources import (
    FileSet,
    Quota,
    SourceFile,
    joined_name,
    parse_cap,
    parse_share,
)
from orpo_qlora.data.pairs import load_preferences, read_pairs, split_pairs, write_pairs
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import InputError, NeedsColumns

ASKED = [("Why?", "Because.", "No idea."), ("How?", "So.", "Hm.")]
RANKED = [{"prompt": "What?", "responses": ["This.", "That.", "?"], "scores": [2, 3, 1]}]
LABELLED = [("When?", "Now.", True), ("When?", "Never.", False)]


def many(count, word="question"):
    return [(f"{word} {index}?", f"good {index}", f"bad {index}") for index in range(count)]


def file_of(folder, name, content, **about):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return SourceFile(path=str(path), **about)


def texts(dataset):
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in dataset.pairs]


@pytest.fixture
def three(tmp_path):
    return (
        file_of(tmp_path, "a.csv", separated(ASKED)),
        file_of(tmp_path, "b.jsonl", "".join(json.dumps(row) + "\n" for row in RANKED)),
        file_of(
            tmp_path,
            "c.parquet",
            parquet(LABELLED, ("prompt", "completion", "label")),
        ),
    )


def test_files_of_three_shapes_give_their_pairs_in_order(three):
    dataset = load_files(FileSet(files=three))
    assert texts(dataset) == [
        *ASKED,
        ("What?", "That.", "?"),
        ("When?", "Now.", "Never."),
    ]
    parts = dataset.report.files
    assert [(part.name, part.pairs_found, part.pairs_taken) for part in parts] == [
        ("a.csv", 2, 2),
        ("b.jsonl", 1, 1),
        ("c.parquet", 1, 1),
    ]
    assert [part.summary.shape for part in parts][1] == "ranked list"
    assert dataset.report.source == "a.csv + 2 files"
    assert dataset.report.rows_read == 5


def test_the_hash_is_of_all_files_in_order(three):
    report = check_files(FileSet(files=three))
    hashes = [hashlib.sha256(Path(file.path).read_bytes()).hexdigest() for file in three]
    assert [part.sha256 for part in report.files] == hashes
    assert (
        report.sha256 == hashlib.sha256("".join(f"{one}\n" for one in hashes).encode()).hexdigest()
    )
    other = check_files(FileSet(files=three[::-1]))
    assert other.sha256 != report.sha256


def test_rows_count_through_all_files_and_have_a_place_in_words(three):
    dataset = load_files(FileSet(files=three))
    rows = [pair.row for pair in dataset.pairs]
    assert rows == sorted(set(rows))
    assert [dataset.report.place_of(row) for row in rows[:3]] == [
        "a.csv, row 1",
        "a.csv, row 2",
        "b.jsonl, row 1",
    ]


def test_a_single_file_is_read_as_before(tmp_path):
    file = file_of(tmp_path, "a.csv", separated(ASKED))
    alone, one = load_preferences(tmp_path / "a.csv"), load_files(FileSet(files=(file,)))
    assert list(one.pairs) == list(alone.pairs)
    assert one.report == alone.report == check_files(FileSet(files=(file,)))
    assert one.report.files == ()


def test_a_cap_takes_so_many_and_a_share_its_part(tmp_path):
    a = file_of(tmp_path, "a.csv", separated(many(40)), quota=Quota(cap=7))
    b = file_of(tmp_path, "b.jsonl", json_lines(many(40, "other")), quota=Quota(share=0.25))
    report = check_files(FileSet(files=(a, b)))
    assert [part.pairs_taken for part in report.files] == [7, 10]
    assert report.pairs == 17
    assert report.candidates == report.pairs + report.rows_dropped
    lines = report.sentences()
    assert lines[:3] == [
        "80 rows read, 17 pairs usable.",
        "a.csv: 40 pairs found, 7 taken (cap 7).",
        "b.jsonl: 40 pairs found, 10 taken (share 0.25).",
    ]
    assert "a.csv: 33 pairs not taken: cap 7." in lines


def test_a_cap_larger_than_the_file_takes_all_and_says_so(tmp_path):
    file = file_of(tmp_path, "a.csv", separated(ASKED), quota=Quota(cap=500))
    dataset = load_files(FileSet(files=(file,)))
    assert texts(dataset) == ASKED
    assert dataset.report.files[0].sentence() == (
        "a.csv: 2 pairs found, 2 taken (cap 500, not reached)."
    )


def sampled(path, rows, seed=0, cap=10):
    path.write_text(separated(rows))
    file = SourceFile(path=str(path), quota=Quota(cap=cap))
    return texts(load_files(FileSet(files=(file,), sample_seed=seed)))


def test_a_sample_depends_on_the_seed_and_the_texts_alone(tmp_path):
    rows, path = many(50), tmp_path / "a.csv"
    first = sampled(path, rows)
    assert first == sampled(path, rows)
    assert sorted(sampled(path, rows[::-1])) == sorted(first)
    assert sampled(path, rows, seed=1) != first
    assert first == [row for row in rows if row in first]  # file order
    # A larger cap keeps what a smaller one took.
    assert set(sampled(path, rows, cap=5)) < set(first)


def test_a_sample_keeps_the_pairs_of_a_prompt_together(tmp_path):
    rows = [(f"q{index // 5}?", f"good {index}", f"bad {index}") for index in range(50)]
    prompts = [prompt for prompt, _, _ in sampled(tmp_path / "a.csv", rows, cap=15)]
    assert sorted(map(prompts.count, set(prompts))) == [5, 5, 5]


def test_duplicates_and_contradictions_across_files_name_file_and_row(tmp_path):
    a = file_of(tmp_path, "a.csv", separated(ASKED))
    b = file_of(tmp_path, "b.jsonl", json_lines([("New?", "y", "n"), ASKED[1]]))
    c = file_of(tmp_path, "c.jsonl", json_lines([("Why?", "No idea.", "Because.")]))
    report = check_files(FileSet(files=(a, b, c)))
    same, opposite = report.findings[:2]
    assert (same.id, same.file, same.rows) == ("duplicate", "b.jsonl", (2,))
    assert same.examples[0].text == "as a.csv, row 2: How?"
    assert (opposite.id, opposite.file, opposite.rows) == ("contradiction", "c.jsonl", (1,))
    assert opposite.examples[0].text == "against a.csv, row 1: Why?"
    assert "(b.jsonl, row 2)" in same.sentence()
    assert report.pairs == 5


def test_fixes_across_files_drop_the_pair_of_the_later_file(tmp_path):
    a = file_of(tmp_path, "a.csv", separated(ASKED))
    b = file_of(tmp_path, "b.jsonl", json_lines([("New?", "y", "n"), ASKED[1]]))
    c = file_of(tmp_path, "c.jsonl", json_lines([("Why?", "No idea.", "Because."), ASKED[0]]))
    fixes = ("duplicate", "contradiction")
    dataset = load_files(FileSet(files=(a, b, c), fixes=fixes))
    assert texts(dataset) == [*ASKED, ("New?", "y", "n")]
    report = dataset.report
    assert [(drop.file, drop.reason, drop.rows) for drop in report.drops] == [
        ("b.jsonl", "duplicate", (2,)),
        ("c.jsonl", "duplicate", (2,)),
        ("c.jsonl", "contradiction", (1,)),
    ]
    assert report.candidates == report.pairs + report.rows_dropped


def test_a_cap_is_filled_with_pairs_that_no_earlier_file_has(tmp_path):
    rows = many(20)
    a = file_of(tmp_path, "a.csv", separated(rows[:10]))
    b = file_of(tmp_path, "b.csv", separated(rows), quota=Quota(cap=10))
    dataset = load_files(FileSet(files=(a, b), fixes=("duplicate",)))
    assert texts(dataset) == rows


def test_findings_about_one_file_name_it_and_those_about_all_pairs_do_not(tmp_path):
    a = file_of(tmp_path, "a.csv", separated(ASKED))
    b = file_of(tmp_path, "b.csv", separated([("Who?", "sk-" + "a" * 30, "no"), ("x", "", "y")]))
    report = check_files(FileSet(files=(a, b)))
    secret, few = report.finding("secret"), report.finding("few-pairs")
    assert (secret.file, secret.rows) == ("b.csv", (1,))
    assert (few.file, few.count) == ("", 3)
    assert "1 dropped: the chosen response is empty (b.csv, row 2)." in report.sentences()


def test_each_file_has_choices_of_its_own(tmp_path):
    a = file_of(
        tmp_path, "a.jsonl", json.dumps(RANKED[0]) + "\n",
        choices=ReadChoices(pairs_from_ranking="best_rest"),
    )  # fmt: skip
    b = file_of(
        tmp_path, "b.csv", separated(ASKED).encode("utf-16-le"),
        choices=ReadChoices(encoding="utf-16-le"),
    )  # fmt: skip
    assert texts(load_files(FileSet(files=(a, b)))) == [
        ("What?", "That.", "This."),
        ("What?", "That.", "?"),
        *ASKED,
    ]


def test_files_of_one_name_get_numbers_and_one_file_cannot_come_twice(tmp_path):
    a = file_of(tmp_path / "x", "train.csv", separated(ASKED))
    b = file_of(tmp_path / "y", "train.csv", separated(many(1)))
    report = check_files(FileSet(files=(a, b)))
    assert [part.name for part in report.files] == ["train.csv", "train.csv (2)"]
    with pytest.raises(InputError, match=r"train\.csv is given twice"):
        load_files(FileSet(files=(a, b, a)))


def test_an_unusable_file_is_named(tmp_path):
    a = file_of(tmp_path, "a.csv", separated(ASKED))
    b = file_of(tmp_path, "b.csv", "x,y\n1,2\n")
    with pytest.raises(NeedsColumns, match=r"b\.csv"):
        load_files(FileSet(files=(a, b)))


def test_held_out_prompts_are_split_over_all_files(tmp_path):
    rows = [(f"q{index}?", "good", "bad") for index in range(20)]
    others = [(prompt, "better", "worse") for prompt, _, _ in rows]
    a = file_of(tmp_path, "a.csv", separated(rows))
    b = file_of(tmp_path, "b.csv", separated(others))
    split = split_pairs(load_files(FileSet(files=(a, b))).pairs, 0.25, 1)
    train, held_out = ({pair.prompt for pair in side} for side in (split.train, split.held_out))
    assert not train & held_out
    assert len(split.held_out) == 10


def test_report_and_pairs_survive_the_disk(tmp_path, three):
    dataset = load_files(FileSet(files=three))
    report = DataSummary.model_validate_json(dataset.report.model_dump_json())
    assert report == dataset.report
    write_pairs(tmp_path / "train.jsonl", dataset.pairs)
    assert list(read_pairs(tmp_path / "train.jsonl")) == list(dataset.pairs)
    assert "SHA-256 of c.parquet: `" in report.to_markdown()


@pytest.mark.parametrize(
    ("text", "share"), [("0.25", 0.25), ("1", 1), ("25 %", 0.25), ("0,5", 0.5), (" .1 ", 0.1)]
)
def test_shares_are_read_as_typed(text, share):
    assert parse_share(text, "a.csv") == Quota(share=share)


@pytest.mark.parametrize("text", ["0", "-0.5", "1.01", "120%", "half", "", "nan", "inf"])
def test_wrong_shares_are_refused(text):
    with pytest.raises(InputError, match=r"no share of a\.csv"):
        parse_share(text, "a.csv")


@pytest.mark.parametrize(("text", "cap"), [("500", 500), ("1", 1), ("1,000", 1000)])
def test_caps_are_read_as_typed(text, cap):
    assert parse_cap(text, "a.csv") == Quota(cap=cap)


@pytest.mark.parametrize("text", ["0", "-5", "0.5", "many", "", "²"])
def test_wrong_caps_are_refused(text):
    with pytest.raises(InputError, match=r"no cap for a\.csv"):
        parse_cap(text, "a.csv")


@pytest.mark.parametrize(
    ("names", "joined"),
    [(["a"], "a"), (["a", "b"], "a + b"), (["a", "b", "c"], "a + 2 files")],
)
def test_a_data_set_is_named_after_its_files(names, joined):
    assert joined_name(names) == joined
