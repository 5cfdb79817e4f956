"""A person sees what each encoding would look like, the right one first."""

import pytest

from orpo_qlora.data.readers.encodings import CANDIDATES, LABELS, PREVIEW_CHARACTERS, codec_of
from orpo_qlora.data.readers.encodings import candidates_for as candidates
from orpo_qlora.errors import DataError


@pytest.mark.parametrize(
    ("encoding", "codec", "text"),
    [
        ("gb18030", "gbk", "你好吗,我很好,不好"),
        ("gb18030", "gbk", "计算机科学"),
        ("big5", "cp950", "這個問題很難,我不知道"),
        ("shift_jis", "cp932", "これは質問です。どうしますか"),
        ("euc-jp", "euc-jp", "これは質問です"),
        ("euc-kr", "cp949", "이것은 질문입니다"),
        ("windows-1252", "cp1252", "the prompt é café, “quoted” naïve"),
        ("windows-1252", "cp1252", "It’s fine"),
        ("windows-1252", "cp1252", "Übergrößenträger fährt"),
        ("windows-1251", "cp1251", "Это вопрос о погоде"),
        ("koi8-r", "koi8-r", "Это вопрос о погоде"),
        ("windows-1253", "cp1253", "Καλημέρα κόσμε"),
        ("windows-1255", "cp1255", "שלום לכולם, זה רק ניסיון"),
        ("windows-1256", "cp1256", "مرحبا بالعالم"),
        ("windows-874", "cp874", "สวัสดีชาวโลก"),
    ],
)
def test_right_encoding_comes_first_and_reads_right(encoding, codec, text):
    found = candidates(text.encode(codec))
    assert (found[0].encoding, found[0].preview) == (encoding, text)
    assert found[0].label == LABELS[encoding]
    assert len(found) <= CANDIDATES
    assert text.encode(codec).decode(codec_of(found[0].encoding)) == text


def test_central_european_is_among_the_candidates():
    text = "Zażółć gęślą jaźń"
    assert text in [one.preview for one in candidates(text.encode("cp1250"))]


def test_preview_begins_near_the_letters_in_question():
    sample = ("x " * 5000 + "é" + " y" * 5000).encode("cp1252")
    preview = candidates(sample)[0].preview
    assert "é" in preview
    assert len(preview) <= PREVIEW_CHARACTERS


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("UTF8", "utf-8"), ("gbk", "gb18030"), ("SJIS", "cp932"), ("Latin-1", "iso-8859-1"),
        ("cp1252", "windows-1252"), ("utf-16le", "utf-16-le"), ("euc_kr", "cp949"),
        *((name, codec_of(name)) for name in LABELS),
    ],
)  # fmt: skip
def test_encodings_go_by_any_of_their_names(name, codec):
    assert codec_of(name) == codec
    assert "abc".encode(codec)


@pytest.mark.parametrize("name", ["", "rot13", "base64", "idna", "unicode_escape", "utf-7", "x\0"])
def test_other_codecs_are_refused_with_those_there_are(name):
    with pytest.raises(DataError, match="no encoding that can be read") as caught:
        codec_of(name)
    assert "windows-1252" in caught.value.hint
