"""Bad rows people have been seen to bring, by number: remarked on, left out, or kept as they are.

Where each number is tested is listed in test_all_cases.py.
"""

import json

import pytest
from files import DIALOGUE, HEAD, LINE, ROW, json_lines, loaded, separated, texts_of

from orpo_qlora.config import build_config
from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.data.pairs import split_pairs
from orpo_qlora.data.readers import source
from orpo_qlora.errors import ConfigError, DataError

TEXT = "The first sentence stands here. " * 8


@pytest.mark.parametrize(
    ("content", "kept", "left_out"),
    [
        pytest.param(
            (HEAD + "é,è,ê\n").encode() + b"x,\xff,y\n" + LINE.encode(),
            [1, 3],
            (2,),
            id="B07",
        ),
        pytest.param(HEAD + LINE + "a,b\na,b,c,d\n", [1], (2, 3), id="B15"),
        pytest.param(HEAD + "1,why?,because,no\n" + LINE, [2], (1,), id="B16"),
        pytest.param(json_lines([ROW]) + "[]\n{\n" + json_lines([ROW]), [1, 4], (2, 3), id="B51"),
    ],
)
def test_broken_rows_are_left_out_and_counted_when_chosen(tmp_path, content, kept, left_out):
    dataset = loaded(tmp_path, content, ReadChoices(fixes=("broken-rows",)))
    assert [pair.row for pair in dataset.pairs] == kept
    report = dataset.report
    assert [(drop.reason, drop.rows) for drop in report.drops] == [("broken-rows", left_out)]
    assert report.rows_read == report.pairs + report.rows_dropped


GOOD = ("how?", "so", "not")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        pytest.param([ROW, ("a", "b\x07", "c")], "control, zero-width", id="B17 control character"),
        pytest.param([ROW], "There are very few pairs (1)", id="B25 one row"),
        pytest.param([ROW, GOOD], "There are very few pairs (2)", id="B26 few rows"),
        pytest.param(
            [ROW, (" ", "b", "c")], "1 dropped: the prompt is empty (row 2)", id="B27 no prompt"
        ),
        pytest.param(
            [ROW, ("a", " ", "c")], "1 dropped: the chosen response is empty (row 2)",
            id="B28 chosen",
        ),
        pytest.param(
            [ROW, ("a", "b", "\n")], "1 dropped: the rejected response is empty (row 2)",
            id="B28 rejected",
        ),
        pytest.param(
            [ROW, ("a", "b", " b ")], "1 dropped: chosen and rejected are the same (row 2)",
            id="B30 identical",
        ),
        pytest.param(
            [ROW, ("a", "é", "e\u0301")],
            "differ only in white space or in how letters are encoded",
            id="B30 identical but for NFC",
        ),
        pytest.param(
            [ROW, ROW], "the pair occurs more than once in the file (row 2)", id="B31 duplicate"
        ),
        pytest.param(
            [ROW, (ROW[0], ROW[2], ROW[1])], "another pair prefers the opposite (row 2)",
            id="B32 contradiction",
        ),
        pytest.param(
            [ROW, ("What is the sky?", "What is the sky? Blue.", "Red.")],
            "begins by repeating the prompt (row 2)", id="B34 prompt repeated",
        ),
        pytest.param([ROW, ("a", "b<|im_end|>", "c")], "control tokens", id="B40 ChatML"),
        pytest.param([ROW, ("a", "b</s>", "c")], "control tokens", id="B40 </s>"),
        pytest.param(
            [ROW, ("[INST] a [/INST]", "b", "c")], "in a chat template already", id="B40 [INST]"
        ),
        pytest.param([ROW, ("cafe\u0301", "b", "c")], "in two parts (not Unicode NFC)", id="B41"),
        pytest.param([ROW, ("a\u200b", "b", "c")], "zero-width", id="B41 zero width"),
        pytest.param([ROW, ("a", "b\ufeffc", "c")], "zero-width", id="B41 mark inside"),
        pytest.param([ROW, ("a\u202eb", "b", "c")], "direction characters", id="B42 bidi override"),
        pytest.param([ROW, ("a", "b" * 32_767, "c")], "where Excel cuts (row 2)", id="B45 Excel"),
        pytest.param(
            [ROW, ("my key is sk-" + "a1B2" * 8, "b", "c")], "a likely API key", id="B58 secret"
        ),
        pytest.param(
            [ROW, ("ask jane@example.org", "b", "c")], "an e-mail address", id="B58 e-mail"
        ),
        pytest.param(
            [ROW, ("a", TEXT + "But it stops in the middle of", "c")],
            "in the middle of a sentence (row 2)",
            id="truncated answer",
        ),
    ],
)  # fmt: skip
def test_is_read_with_a_remark(tmp_path, rows, words):
    report = loaded(tmp_path, separated(rows)).report
    assert words in "\n".join([*report.sentences(), *report.remarks()])


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        pytest.param(
            [(DIALOGUE + "a", DIALOGUE.replace("why", "how") + "b")], "different-prompts", id="B36"
        ),
        pytest.param([(DIALOGUE + "a\n\nHuman: more", DIALOGUE + "b")], "bad-turns", id="B39"),
        pytest.param([(DIALOGUE + "a\ud800", DIALOGUE + "b")], "no-text", id="B43"),
    ],
)
def test_row_is_left_out_with_its_reason(tmp_path, rows, reason):
    good = [(DIALOGUE + "yes", DIALOGUE + "no")]
    lines = [json.dumps(dict(zip(("chosen", "rejected"), row, strict=True))) for row in good + rows]
    report = loaded(tmp_path, "\n".join(lines)).report
    assert [(drop.reason, drop.rows) for drop in report.drops] == [(reason, (2,))]


def test_b23_columns_can_be_chosen_where_no_header_is(tmp_path):
    mapping = ColumnMapping("Column 1", "Column 2", "Column 3")
    dataset = loaded(tmp_path, LINE, ReadChoices(has_header=False, mapping=mapping))
    assert texts_of(dataset) == [ROW]


def test_b33_all_pairs_of_a_prompt_are_on_one_side(tmp_path):
    rows = [(f"q{index % 10}", f"good {index}", f"bad {index}") for index in range(40)]
    split = split_pairs(loaded(tmp_path, separated(rows)).pairs, 0.3, seed=1)
    assert not {pair.prompt for pair in split.train} & {pair.prompt for pair in split.held_out}
    assert len(split.held_out) == 12


def test_b46_file_over_the_limit_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "FILE_BYTES", 20)
    with pytest.raises(DataError, match=r"pairs\.csv has 43 bytes; at most 20 can be read"):
        loaded(tmp_path, HEAD + LINE[:20])


@pytest.mark.parametrize(
    "name", ["../../x.csv", "x" * 300, "CON.csv", "a\u202ecsv.exe", "a\nb", "<img onerror=x>"]
)
def test_b54_file_name_is_a_label_and_nothing_else(tmp_path, name):
    assert loaded(tmp_path, HEAD + LINE, name=name).report.source == name


def test_b55_same_content_twice_is_the_same_data(tmp_path):
    one, two = (loaded(tmp_path, HEAD + LINE, name=name) for name in ("a.csv", "b.csv"))
    assert one.report.sha256 == two.report.sha256
    assert one.pairs == two.pairs


@pytest.mark.parametrize("value", ["nan", "1e400", "-1", "much"])
def test_b57_settings_that_are_no_number_are_refused(value):
    with pytest.raises(ConfigError):
        build_config({"lambda": value})
