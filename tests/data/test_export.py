"""What is taken away can be brought back: the same pairs, and nothing a spreadsheet would run."""

import csv
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orpo_qlora.data.export import write_clean, write_report
from orpo_qlora.data.messages import Message
from orpo_qlora.data.pairs import PreferencePair, load_preferences
from orpo_qlora.errors import InputError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
FORMULAS = st.builds(
    lambda marks, sign, rest: marks + sign + rest + "x",
    st.sampled_from(["", "'", "''"]),
    st.sampled_from(["=", "+", "-", "@", "\t", "\r"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10),
)
CHATS = st.builds(
    lambda system, turns: (
        *(Message("system", text) for text in system),
        *(
            Message(role, text)
            for pair in turns
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ),
    ),
    st.lists(TEXTS, max_size=1),
    st.lists(st.tuples(TEXTS, TEXTS), max_size=2),
)


def pairs_of(texts, earlier):
    made = st.builds(
        lambda prompt, chosen, other, turns: PreferencePair(
            prompt, chosen, chosen.strip() + other, 0, turns
        ),
        texts,
        texts,
        TEXTS,
        earlier,
    )
    return st.lists(made, min_size=1, max_size=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("export")


def numbered(pairs):
    return tuple(
        PreferencePair(one.prompt, one.chosen, one.rejected, row, one.earlier)
        for row, one in enumerate(pairs, start=1)
    )


@given(pairs=pairs_of(st.one_of(TEXTS, FORMULAS), CHATS))
@settings(max_examples=150, deadline=None)
def test_json_lines_are_exact(folder, pairs):
    path = folder / "clean.jsonl"
    write_clean(path, pairs)
    assert load_preferences(path).pairs == numbered(pairs)


@given(pairs=pairs_of(st.one_of(TEXTS, FORMULAS).filter(lambda text: "\0" not in text), CHATS))
@settings(max_examples=150, deadline=None)
def test_csv_is_read_back_and_holds_no_formula(folder, pairs):
    pairs = [pair for pair in pairs if "\0" not in pair.rejected + repr(pair.earlier)]
    if not pairs:
        return
    path = folder / "clean.csv"
    write_clean(path, pairs)
    assert load_preferences(path).pairs == numbered(pairs)
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.reader(file):
            assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)


def test_an_apostrophe_of_a_foreign_file_is_kept(tmp_path):
    path = tmp_path / "foreign.csv"
    path.write_text("prompt,chosen,rejected\n'=1,'+b,c\n")
    assert load_preferences(path).pairs[0].prompt == "'=1"


def test_file_for_excel_begins_with_a_byte_order_mark(tmp_path):
    write_clean(tmp_path / "a.CSV", [PreferencePair("é", "b", "c", 1)])
    assert (tmp_path / "a.CSV").read_bytes().startswith(b"\xef\xbb\xbf")


def test_pairs_without_turns_are_plain_text(tmp_path):
    write_clean(tmp_path / "a.jsonl", [PreferencePair("a", "b", "c", 1)])
    line = (tmp_path / "a.jsonl").read_text()
    assert json.loads(line) == {"prompt": "a", "chosen": "b", "rejected": "c"}


def test_nul_cannot_stand_in_a_csv(tmp_path):
    with pytest.raises(InputError, match="Row 7 holds a NUL") as caught:
        write_clean(tmp_path / "a.csv", [PreferencePair("a", "b\0", "c", 7)])
    assert "hidden-characters" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"a\.xlsx is neither"):
        write_clean(tmp_path / "a.xlsx", [])


def test_report_is_written_as_data_or_in_words(tmp_path):
    source = tmp_path / "mine.csv"
    source.write_text("prompt,chosen,rejected\na,b,c\na,b,c\n,b,c\n")
    report = load_preferences(source).report
    write_report(tmp_path / "report.json", report)
    assert json.loads((tmp_path / "report.json").read_text())["rows_read"] == 3
    write_report(tmp_path / "report.md", report)
    words = (tmp_path / "report.md").read_text()
    assert "- 3 rows read, 2 pairs usable." in words
    assert "| `duplicate`: the pair occurs more than once in the file | warning | 1 |" in words
    assert report.sha256 in words


def test_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone/a\.jsonl cannot be written \(No such file"):
        write_clean(tmp_path / "gone" / "a.jsonl", [])
