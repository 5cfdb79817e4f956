"""Every kind of bad file people have been seen to bring, by number: read, remarked on or refused.

B46 to B57 that concern uploads, file names and settings are tested where those live: the limit of
the page, its file store and its form; B59, a model that is certain, belongs to the objective.
"""

import gzip
import io
import json
import zipfile

import pytest
from files import assistant, json_lines, parquet, separated, user

from orpo_qlora.config import build_config
from orpo_qlora.data import source
from orpo_qlora.data.choices import ReadChoices
from orpo_qlora.data.columns import ColumnMapping
from orpo_qlora.data.pairs import load_dataset, split_pairs
from orpo_qlora.errors import BrokenRows, ConfigError, DataError, NeedsColumns, NeedsEncoding

HEADER = "prompt,chosen,rejected\n"
ROW = ("why?", "because", "no idea")
LINE = "why?,because,no idea\n"
TEXT = "The first sentence stands here. " * 8


def zipped(name):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"0" * 10_000_000)
    return memory.getvalue()


def loaded(tmp_path, content, choices=None, name="pairs.csv"):
    path = tmp_path / "stored"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_dataset(path, name, choices)


def texts_of(dataset):
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in dataset.pairs]


DIALOGUE = "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: why?\n\nAssistant: "
MESSAGES = ([user("why?")], [assistant("because")], [assistant("no idea")])


@pytest.mark.parametrize(
    ("content", "rows", "sentence"),
    [
        pytest.param(HEADER + LINE, [ROW], "1 row read, 1 pair usable.", id="B01 plain"),
        pytest.param(b"\xef\xbb\xbf" + (HEADER + LINE).encode(), [ROW], "UTF-8", id="B02 mark"),
        pytest.param(
            b'\xef\xbb\xbf"prompt",chosen,rejected\n' + LINE.encode(), [ROW], "UTF-8",
            id="B02 mark, quoted header",
        ),
        pytest.param(
            separated([ROW], separator="\t").encode("utf-16"), [ROW], "TSV, UTF-16",
            id="B03 UTF-16 LE, tabs",
        ),
        pytest.param(
            b"\xfe\xff" + (HEADER + LINE).encode("utf-16-be"), [ROW], "CSV, UTF-16",
            id="B03 UTF-16 BE",
        ),
        pytest.param(
            separated([("a", "b\nc", "d")], end="\r\n"), [("a", "b\nc", "d")], "CSV", id="B08 CRLF"
        ),
        pytest.param(separated([ROW], end="\r"), [ROW], "CSV", id="B08 CR"),
        pytest.param(
            HEADER.strip() + "\r\na,b,c\n" + 'd,"e\r\nf",g\r',
            [("a", "b", "c"), ("d", "e\r\nf", "g")], "2 pairs usable", id="B08 mixed",
        ),
        pytest.param(
            separated([("a,b", "c,d", "e")], separator=";"), [("a,b", "c,d", "e")],
            "CSV, semicolon", id="B09 semicolon",
        ),
        pytest.param(separated([ROW], separator="\t"), [ROW], "TSV", id="B10 tabs named .csv"),
        pytest.param("sep=,\n" + HEADER + LINE, [ROW], "1 row read", id="B11 sep line"),
        pytest.param(
            HEADER + '"a ""b""","c, d","e\nf"\n', [('a "b"', "c, d", "e\nf")], "1 pair usable",
            id="B12 quotes",
        ),
        pytest.param(
            "id," + HEADER + "7," + LINE, [ROW], "Columns not used: “id”.", id="B19 extra column"
        ),
        pytest.param(
            "REJECTED, Chosen , PROMPT\nno idea,because,why?\n", [ROW], "1 pair usable",
            id="B20 case and space",
        ),
        pytest.param(
            "question,response_j,response_k\n" + LINE, [ROW],
            "Columns guessed from their names: “question” as prompt, “response_j” as chosen, "
            "“response_k” as rejected.", id="B21 synonyms",
        ),
        pytest.param(
            "instruction,positive,negative\n" + LINE, [ROW], "“positive” as chosen",
            id="B21 more synonyms",
        ),
        pytest.param(
            HEADER + "NA,null,None\nnan,007,1e5\ntrue,NULL,n/a\n",
            [("NA", "null", "None"), ("nan", "007", "1e5"), ("true", "NULL", "n/a")],
            "3 pairs usable", id="B29 words for missing",
        ),
        pytest.param(
            json_lines([(DIALOGUE + "a", DIALOGUE + "b")], ("chosen", "rejected")),
            [("why?", "a", "b")], "JSON lines", id="B35 HH-RLHF",
        ),
        pytest.param(
            separated([map(json.dumps, MESSAGES)]), [ROW], "1 pair usable", id="B37 JSON in cells"
        ),
        pytest.param(
            separated([map(repr, MESSAGES)]), [ROW], "1 pair usable", id="B38 Python in cells"
        ),
        pytest.param(
            HEADER + "מה זה,😀 👩‍👩‍👧,𝒳 مرحبا\n", [("מה זה", "😀 👩‍👩‍👧", "𝒳 مرحبا")],
            "1 pair usable", id="B42 right to left, emoji, astral",
        ),
        pytest.param(
            HEADER + f"a,{'b' * 1_000_000},c\n", [("a", "b" * 1_000_000, "c")], "1 pair usable",
            id="B44 a row of 1 MB",
        ),
        pytest.param(json_lines([ROW], end="\n\n \n"), [ROW], "1 row read", id="B51 blank lines"),
        pytest.param(
            HEADER + "=cmd|' /C calc'!A0,+1,@x\n", [("=cmd|' /C calc'!A0", "+1", "@x")],
            "1 pair usable", id="B52 formulas are text",
        ),
        pytest.param(
            HEADER + "<script>alert(1)</script>,![](http://x/y.png),<b>no</b>\n",
            [("<script>alert(1)</script>", "![](http://x/y.png)", "<b>no</b>")],
            "1 pair usable", id="B53 markup is text",
        ),
        pytest.param(json_lines([ROW]), [ROW], "JSON lines", id="B50 JSON lines named .csv"),
        pytest.param(json.dumps([dict(zip(("prompt", "chosen", "rejected"), ROW, strict=True))]),
                     [ROW], "JSON array", id="B50 JSON array named .csv"),
        pytest.param(parquet([ROW]), [ROW], "Parquet", id="B48 Parquet named .csv"),
    ],
)  # fmt: skip
def test_is_read_exactly_and_said_how(tmp_path, content, rows, sentence):
    dataset = loaded(tmp_path, content)
    assert texts_of(dataset) == rows
    assert sentence in dataset.report.to_markdown()


@pytest.mark.parametrize(
    ("content", "kind", "facts"),
    [
        pytest.param(
            (HEADER + LINE).encode("utf-16-le"), DataError,
            ["looks like UTF-16 without its mark", "Save it again as UTF-8"], id="B04 LE",
        ),
        pytest.param(
            (HEADER + LINE).encode("utf-16-be"), DataError,
            ["looks like UTF-16 without its mark"], id="B04 BE",
        ),
        pytest.param(
            HEADER.encode() + "你好,很好,不好\n".encode("gbk"), NeedsEncoding,
            ["is not UTF-8: line 2", "Choose the encoding in which the text reads right"],
            id="B05 GBK",
        ),
        pytest.param(
            HEADER.encode() + "質問です,はい,いいえ\n".encode("cp932"), NeedsEncoding,
            ["is not UTF-8: line 2"], id="B05 Shift-JIS",
        ),
        pytest.param(
            HEADER.encode() + "這是什麼,我不知道,不好\n".encode("big5"), NeedsEncoding,
            ["is not UTF-8: line 2"], id="B05 Big5",
        ),
        pytest.param(
            HEADER.encode() + "café,naïve,“quoted”\n".encode("cp1252"), NeedsEncoding,
            ["line 2, byte offset 26 (0xE9)"], id="B06 Windows-1252",
        ),
        pytest.param(
            (HEADER + "é,è,ê\nö,ä,ü\n").encode() + b"x,\xff,y\n", BrokenRows,
            ["is not UTF-8: line 4", "1 line is damaged, the others are UTF-8",
             "leave the damaged rows out"], id="B07 one bad line",
        ),
        pytest.param(
            HEADER + 'He said \\"no\\",b,c\n"a \\"b, c\\" d",e,f\n', DataError,
            ['writes \\" inside cells: replace it by ""'], id="B13 backslashes",
        ),
        pytest.param(
            HEADER + LINE + 'a,"b,c\nd,e,f\n', DataError,
            ["row 2 (line 3) has a quoted cell that opens on line 3 and does not close"],
            id="B14 unclosed quote",
        ),
        pytest.param(
            HEADER + LINE + "a,b\n" + "a,b,c,d\n", BrokenRows,
            ["row 2 (line 3) has 2 cells where the header has 3",
             "row 3 (line 4) has 4 cells where the header has 3"], id="B15 width",
        ),
        pytest.param(
            HEADER + "1,why?,because,no idea\n", BrokenRows,
            ["row 1 (line 2) has 4 cells where the header has 3"], id="B16 index trap",
        ),
        pytest.param(
            HEADER + "a,b\0,c\n", DataError, ["NUL byte on line 2 (byte offset 26)"], id="B17 NUL"
        ),
        pytest.param(
            "prompt,chosen,answer\n" + LINE, NeedsColumns,
            ["has no column “rejected”; its columns are “prompt”, “chosen”, “answer”"],
            id="B18 missing column",
        ),
        pytest.param(
            "prompt,chosen,chosen\n" + LINE, DataError, ["names “chosen” more than once"],
            id="B22 duplicate names",
        ),
        pytest.param(
            LINE + LINE, NeedsColumns,
            ["The first line of pairs.csv does not name the columns", "“why?”, “because”"],
            id="B23 no header",
        ),
        pytest.param("", DataError, ["pairs.csv is empty"], id="B24 0 bytes"),
        pytest.param(" \n\n", DataError, ["pairs.csv is empty"], id="B24 white space"),
        pytest.param(HEADER, DataError, ["has a header but no rows"], id="B24 header only"),
        pytest.param(zipped("xl/workbook.xml"), DataError, ["an Excel workbook"], id="B48 xlsx"),
        pytest.param(
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), DataError, ["old Excel workbook"],
            id="B48 xls",
        ),
        pytest.param(b"%PDF-1.7\n", DataError, ["a PDF document"], id="B48 PDF"),
        pytest.param(zipped("pairs.csv"), DataError, ["a zip archive", "Unpack"], id="B49 zip"),
        pytest.param(
            gzip.compress(b"0" * 10_000_000), DataError, ["a gzip archive", "Unpack it"],
            id="B49 gzip bomb",
        ),
        pytest.param(
            "<!DOCTYPE html>\n<html><body>Sign in</body></html>", DataError,
            ["a web page", "download the data itself"], id="B50 HTML",
        ),
        pytest.param(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", DataError,
            ["Git LFS pointer"], id="B50 LFS pointer",
        ),
        pytest.param(
            json_lines([ROW]) + '{"prompt": "a",}\n', BrokenRows,
            ["row 2 (line 2) is not valid JSON", "comma"], id="B51 trailing comma",
        ),
        pytest.param(
            json_lines([ROW]) + '{"prompt": NaN}\n', BrokenRows, ["holds NaN"], id="B51 NaN"
        ),
        pytest.param(
            json_lines([ROW]) + '{"prompt": "a", "prompt": "b"}\n', BrokenRows,
            ["names “prompt” more than once"], id="B51 duplicate keys",
        ),
        pytest.param(json_lines([ROW]) + "7\n", BrokenRows, ["is the value “7”"], id="B51 number"),
        pytest.param(
            json_lines([ROW]) + "[" * 99_999, BrokenRows, ["nested too deeply"], id="B51 nesting"
        ),
        pytest.param(
            json_lines([ROW]) + '{"prompt": ' + "9" * 5000 + "}", BrokenRows,
            ["a number that is too long"], id="B51 5000 digits",
        ),
    ],
)  # fmt: skip
def test_is_refused_with_the_place_and_the_way_out(tmp_path, content, kind, facts):
    with pytest.raises(DataError) as caught:
        loaded(tmp_path, content)
    assert type(caught.value) is kind
    assert "pairs.csv" in caught.value.message
    assert caught.value.hint
    for fact in facts:
        assert fact in str(caught.value)


@pytest.mark.parametrize(
    ("content", "best"),
    [
        pytest.param("你好吗,我很好,不好\n".encode("gbk"), "gb18030", id="B05 GBK"),
        pytest.param("質問です,はい,いいえ\n".encode("cp932"), "shift_jis", id="B05 Shift-JIS"),
        pytest.param("這是什麼,我不知道,不好\n".encode("big5"), "big5", id="B05 Big5"),
        pytest.param("café,naïve,“quoted”\n".encode("cp1252"), "windows-1252", id="B06"),
    ],
)
def test_other_encodings_are_proposed_with_a_preview_and_read_once_confirmed(
    tmp_path, content, best
):
    with pytest.raises(NeedsEncoding) as caught:
        loaded(tmp_path, HEADER.encode() + content)
    proposed = caught.value.candidates[0]
    dataset = loaded(tmp_path, HEADER.encode() + content, ReadChoices(encoding=proposed.encoding))
    assert proposed.encoding == best
    assert proposed.preview == ",".join(texts_of(dataset)[0])


@pytest.mark.parametrize(
    ("content", "kept", "left_out"),
    [
        pytest.param(
            (HEADER + "é,è,ê\n").encode() + b"x,\xff,y\n" + LINE.encode(), [1, 3], (2,), id="B07"
        ),
        pytest.param(HEADER + LINE + "a,b\na,b,c,d\n", [1], (2, 3), id="B15"),
        pytest.param(HEADER + "1,why?,because,no\n" + LINE, [2], (1,), id="B16"),
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
            [ROW, ("a", " ", "c")], "1 dropped: the chosen answer is empty (row 2)", id="B28 chosen"
        ),
        pytest.param(
            [ROW, ("a", "b", "\n")], "1 dropped: the rejected answer is empty (row 2)",
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
            [ROW, ROW], "the pair stands in the file more than once (row 2)", id="B31 duplicate"
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
            [ROW, ("my key is sk-" + "a1B2" * 8, "b", "c")], "like a key", id="B58 secret"
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
        loaded(tmp_path, HEADER + LINE[:20])


@pytest.mark.parametrize(
    "name", ["../../x.csv", "x" * 300, "CON.csv", "a\u202ecsv.exe", "a\nb", "<img onerror=x>"]
)
def test_b54_file_name_is_a_label_and_nothing_else(tmp_path, name):
    assert loaded(tmp_path, HEADER + LINE, name=name).report.source == name


def test_b55_same_content_twice_is_the_same_data(tmp_path):
    one, two = (loaded(tmp_path, HEADER + LINE, name=name) for name in ("a.csv", "b.csv"))
    assert one.report.sha256 == two.report.sha256
    assert one.pairs == two.pairs


@pytest.mark.parametrize("value", ["nan", "1e400", "-1", "much"])
def test_b57_settings_that_are_no_number_are_refused(value):
    with pytest.raises(ConfigError):
        build_config({"lambda": value})
