"""Every kind of bad file people have been seen to bring, by number: read exactly or refused.

What is read with a remark, row by row, is in test_bad_rows.py.
"""

import gzip
import io
import json
import zipfile

import pytest
from files import (
    DIALOGUE,
    HEAD,
    LINE,
    ROW,
    assistant,
    json_lines,
    loaded,
    parquet,
    separated,
    texts_of,
    user,
)

from orpo_qlora.data.files.choices import ReadChoices
from orpo_qlora.errors import BrokenRows, DataError, NeedsColumns, NeedsEncoding


def zipped(name):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"0" * 10_000_000)
    return memory.getvalue()


MESSAGES = ([user("why?")], [assistant("because")], [assistant("no idea")])


@pytest.mark.parametrize(
    ("content", "rows", "sentence"),
    [
        pytest.param(HEAD + LINE, [ROW], "1 row read, 1 pair usable.", id="B01 plain"),
        pytest.param(b"\xef\xbb\xbf" + (HEAD + LINE).encode(), [ROW], "UTF-8", id="B02 mark"),
        pytest.param(
            b'\xef\xbb\xbf"prompt",chosen,rejected\n' + LINE.encode(), [ROW], "UTF-8",
            id="B02 mark, quoted header",
        ),
        pytest.param(
            separated([ROW], separator="\t").encode("utf-16"), [ROW], "TSV, UTF-16",
            id="B03 UTF-16 LE, tabs",
        ),
        pytest.param(
            b"\xfe\xff" + (HEAD + LINE).encode("utf-16-be"), [ROW], "CSV, UTF-16",
            id="B03 UTF-16 BE",
        ),
        pytest.param(
            separated([("a", "b\nc", "d")], end="\r\n"), [("a", "b\nc", "d")], "CSV", id="B08 CRLF"
        ),
        pytest.param(separated([ROW], end="\r"), [ROW], "CSV", id="B08 CR"),
        pytest.param(
            HEAD.strip() + "\r\na,b,c\n" + 'd,"e\r\nf",g\r',
            [("a", "b", "c"), ("d", "e\r\nf", "g")], "2 pairs usable", id="B08 mixed",
        ),
        pytest.param(
            separated([("a,b", "c,d", "e")], separator=";"), [("a,b", "c,d", "e")],
            "CSV, semicolon", id="B09 semicolon",
        ),
        pytest.param(separated([ROW], separator="\t"), [ROW], "TSV", id="B10 tabs named .csv"),
        pytest.param("sep=,\n" + HEAD + LINE, [ROW], "1 row read", id="B11 sep line"),
        pytest.param(
            HEAD + '"a ""b""","c, d","e\nf"\n', [('a "b"', "c, d", "e\nf")], "1 pair usable",
            id="B12 quotes",
        ),
        pytest.param(
            "id," + HEAD + "7," + LINE, [ROW], "Columns not used: “id”.", id="B19 extra column"
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
            HEAD + "NA,null,None\nnan,007,1e5\ntrue,NULL,n/a\n",
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
            HEAD + "מה זה,😀 👩‍👩‍👧,𝒳 مرحبا\n", [("מה זה", "😀 👩‍👩‍👧", "𝒳 مرحبا")],
            "1 pair usable", id="B42 right to left, emoji, astral",
        ),
        pytest.param(
            HEAD + f"a,{'b' * 1_000_000},c\n", [("a", "b" * 1_000_000, "c")], "1 pair usable",
            id="B44 a row of 1 MB",
        ),
        pytest.param(json_lines([ROW], end="\n\n \n"), [ROW], "1 row read", id="B51 blank lines"),
        pytest.param(
            HEAD + "=cmd|' /C calc'!A0,+1,@x\n", [("=cmd|' /C calc'!A0", "+1", "@x")],
            "1 pair usable", id="B52 formulas are text",
        ),
        pytest.param(
            HEAD + "<script>alert(1)</script>,![](http://x/y.png),<b>no</b>\n",
            [("<script>alert(1)</script>", "![](http://x/y.png)", "<b>no</b>")],
            "1 pair usable", id="B53 markup is text",
        ),
        pytest.param(json_lines([ROW]), [ROW], "JSON lines", id="B50 JSON lines named .csv"),
        pytest.param(json.dumps([dict(zip(("prompt", "chosen", "rejected"), ROW, strict=True))]),
                     [ROW], "JSON array", id="B50 JSON array named .csv"),
        pytest.param(parquet([ROW]), [ROW], "Parquet", id="B48 Parquet named .csv"),
    ],
)  # fmt: skip
def test_is_read_exactly_and_reports_how(tmp_path, content, rows, sentence):
    dataset = loaded(tmp_path, content)
    assert texts_of(dataset) == rows
    assert sentence in dataset.report.to_markdown()


@pytest.mark.parametrize(
    ("content", "kind", "facts"),
    [
        pytest.param(
            (HEAD + LINE).encode("utf-16-le"), DataError,
            ["looks like UTF-16 without its mark", "Save it again as UTF-8"], id="B04 LE",
        ),
        pytest.param(
            (HEAD + LINE).encode("utf-16-be"), DataError,
            ["looks like UTF-16 without its mark"], id="B04 BE",
        ),
        pytest.param(
            HEAD.encode() + "你好,很好,不好\n".encode("gbk"), NeedsEncoding,
            ["is not UTF-8: line 2", "Choose the encoding in which the text reads right"],
            id="B05 GBK",
        ),
        pytest.param(
            HEAD.encode() + "質問です,はい,いいえ\n".encode("cp932"), NeedsEncoding,
            ["is not UTF-8: line 2"], id="B05 Shift-JIS",
        ),
        pytest.param(
            HEAD.encode() + "這是什麼,我不知道,不好\n".encode("big5"), NeedsEncoding,
            ["is not UTF-8: line 2"], id="B05 Big5",
        ),
        pytest.param(
            HEAD.encode() + "café,naïve,“quoted”\n".encode("cp1252"), NeedsEncoding,
            ["line 2, byte offset 26 (0xE9)"], id="B06 Windows-1252",
        ),
        pytest.param(
            (HEAD + "é,è,ê\nö,ä,ü\n").encode() + b"x,\xff,y\n", BrokenRows,
            ["is not UTF-8: line 4", "1 line is damaged, the others are UTF-8",
             "drop the damaged rows"], id="B07 one bad line",
        ),
        pytest.param(
            HEAD + 'He said \\"no\\",b,c\n"a \\"b, c\\" d",e,f\n', DataError,
            ['writes \\" inside cells: replace it by ""'], id="B13 backslashes",
        ),
        pytest.param(
            HEAD + LINE + 'a,"b,c\nd,e,f\n', DataError,
            ["row 2 (line 3) has a quoted cell that opens on line 3 and does not close"],
            id="B14 unclosed quote",
        ),
        pytest.param(
            HEAD + LINE + "a,b\n" + "a,b,c,d\n", BrokenRows,
            ["row 2 (line 3) has 2 cells where the header has 3",
             "row 3 (line 4) has 4 cells where the header has 3"], id="B15 width",
        ),
        pytest.param(
            HEAD + "1,why?,because,no idea\n", BrokenRows,
            ["row 1 (line 2) has 4 cells where the header has 3"], id="B16 index trap",
        ),
        pytest.param(
            HEAD + "a,b\0,c\n", DataError, ["NUL byte on line 2 (byte offset 26)"], id="B17 NUL"
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
        pytest.param(HEAD, DataError, ["has a header but no rows"], id="B24 header only"),
        pytest.param(zipped("xl/workbook.xml"), DataError, ["an Excel workbook"], id="B48 xlsx"),
        pytest.param(
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), DataError, ["old Excel workbook"],
            id="B48 xls",
        ),
        pytest.param(b"%PDF-1.7\n", DataError, ["a PDF document"], id="B48 PDF"),
        pytest.param(
            b"- prompt: why?\n  chosen: so\n", DataError, ["a YAML file", "JSON lines"],
            id="B48 YAML",
        ),
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
        loaded(tmp_path, HEAD.encode() + content)
    proposed = caught.value.candidates[0]
    dataset = loaded(tmp_path, HEAD.encode() + content, ReadChoices(encoding=proposed.encoding))
    assert proposed.encoding == best
    assert proposed.preview == ",".join(texts_of(dataset)[0])
