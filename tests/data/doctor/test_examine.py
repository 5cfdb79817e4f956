"""Each row is used or left out for one reason; findings are reported and fixed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpo_qlora.config import TrainConfig
from orpo_qlora.data.doctor import findings
from orpo_qlora.data.doctor.examine import PROMPT_PAIRS, Doctor, excerpt, fault_of, too_many_passes
from orpo_qlora.data.messages import Message
from orpo_qlora.data.readers.rows import Row
from orpo_qlora.data.shapes.base import Preference
from orpo_qlora.data.summary import ROWS_KEPT
from orpo_qlora.errors import InputError

ENGLISH = "Explain in a few words what the moon is made of."
PROSE = "The first sentence stands here. " * 8


def pref(prompt="why is that so?", chosen="because it is", rejected="no idea at all", earlier=()):
    return Preference(earlier, prompt, chosen, rejected)


def examined(*preferences, fixes=()):
    doctor = Doctor(fixes)
    kept = [
        doctor.examine(Row((), number, number + 1), preference)
        for number, preference in enumerate(preferences, start=1)
    ]
    return doctor, kept


def finding_of(doctor, kind):
    return next((found for found in doctor.findings() if found.id == kind), None)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (("a", "b", "c"), ""),
        (("", "b", "c"), "empty-prompt"),
        ((" \n\t\u00a0", "b", "c"), "empty-prompt"),
        (("a", "", "c"), "empty-chosen"),
        (("a", "  ", "c"), "empty-chosen"),
        (("a", "b", ""), "empty-rejected"),
        (("a", "b", "\r\n"), "empty-rejected"),
        (("a", "b", "b"), "identical"),
        (("a", " b", "b\n"), "identical"),
        (("a", "b", "B"), ""),
        (("a", "a", "b"), ""),
        (("", "", ""), "empty-prompt"),
        (("a", "", ""), "empty-chosen"),
        (("a", " b ", " c "), ""),
    ],
)
def test_first_reason_that_holds_is_given(cells, reason):
    assert fault_of(*cells) == reason


def test_drops_are_in_the_order_of_reasons_and_name_their_rows():
    doctor, kept = examined(
        pref("a", "b", "b"), pref("a", "b", "c"), pref("", "b", "c"), pref("a", "b", ""),
        pref("", "", ""), pref("d", "e", "f"), "bad-turns",
    )  # fmt: skip
    assert [place for place, one in enumerate(kept, start=1) if one] == [2, 6]
    assert [(drop.reason, drop.rows, drop.count) for drop in doctor.drops()] == [
        ("bad-turns", (7,), 1),
        ("empty-prompt", (3, 5), 2),
        ("empty-rejected", (4,), 1),
        ("identical", (1,), 1),
    ]
    assert all(drop.label == findings.BY_ID[drop.reason].label for drop in doctor.drops())


OTHER = pref("what then?", "go on now", "stop here")
# id, preferences of which only the last has it, and a sign that the example shows.
FOUND = [
    ("same-but-for-form", [pref(chosen="one  two\nthree", rejected="one two three")], "one two"),
    ("same-but-for-form", [pref(chosen="ren\u00e9", rejected="rene\u0301")], "rené"),
    ("duplicate", [pref(), OTHER, pref(chosen="because it is ")], "as row 1: why is that so?"),
    (
        "contradiction",
        [pref(), OTHER, pref(chosen="no idea at all", rejected="because it is")],
        "against row 1: why is that so?",
    ),
    ("repeated-prompt", [pref(chosen=f"answer {i}") for i in range(PROMPT_PAIRS + 1)], "why"),
    ("templated", [OTHER, pref("<|im_start|>user\nhi<|im_end|>")], "<|im_start|>user"),
    ("templated", [pref("### Instruction: sing")], "### Instruction"),
    ("templated", [pref("\n\nHuman: hello\n\nAssistant:")], "Human: hello"),
    ("special-tokens", [pref(chosen="yes<|im_end|>")], "<|im_end|> in yes"),
    ("special-tokens", [pref(rejected="[INST] no")], "[INST] in"),
    ("special-tokens", [pref("bye</s>")], "</s> in bye"),
    ("prompt-in-answer", [pref(chosen="why is that so? Because.")], "why is that so? Because."),
    ("truncated", [pref(chosen=PROSE + "And here is one that stops in the middle of")], "of"),
    ("excel-cut", [pref(chosen="x" * 32_767)], "why"),
    ("near-identical", [pref(chosen=PROSE + "It is 7.", rejected=PROSE + "It is 8.")], "The first"),
    (
        "language-mix",
        [pref(ENGLISH, "Луна состоит из камня и пыли, в основном.", "Rock, dust and such.")],
        "Explain",
    ),
    ("language-mix", [pref(ENGLISH, "我的家乡是一个美丽的小城市", "a small town")], "Explain"),
    (
        "language-mix",
        [pref(ENGLISH, "La luna est une roche, et les cailloux sont dans le ciel.", "No idea.")],
        "English → French",
    ),
    (
        "language-mix",
        [pref("Wo steht das Haus, und wer wohnt auf dem Dach?", "It is one of the men.")],
        "German → English",
    ),
    ("hidden-characters", [pref("a\u200bb")], "U+200B in"),
    ("hidden-characters", [pref(rejected="abc\u202edef")], "U+202E in"),
    ("hidden-characters", [pref(chosen="bell\x07")], "U+0007 in"),
    ("letter-forms", [pref(chosen="rene\u0301 noir")], "accents in"),
    ("secret", [pref(chosen="my key is sk-" + "a1B2" * 8)], "sk-a1B…"),
    ("secret", [pref("hf_" + "Q" * 34)], "hf_QQQ…"),
    ("secret", [pref(rejected="-----BEGIN RSA PRIVATE KEY-----")], "-----B…"),
    ("e-mail", [pref(chosen="write to jane.doe@example.org please")], "j…@example.org"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "preferences", "sign"), FOUND)
def test_finding_names_its_row_and_shows_an_example(kind, preferences, sign):
    doctor, kept = examined(*preferences)
    assert all(kept)
    assert kept[-1] == preferences[-1]  # nothing is changed or left out without being asked
    found = finding_of(doctor, kind)
    assert found.rows == (len(preferences),)
    assert (found.count, found.share) == (1, 1 / len(preferences))
    assert sign in found.examples[0].text
    assert found.examples[0].row == len(preferences)
    assert not found.fixed
    assert found.label == findings.BY_ID[kind].label


@pytest.mark.parametrize(("kind", "preferences", "sign"), FOUND)
def test_fix_drops_or_mends_what_was_found(kind, preferences, sign):
    doctor, kept = examined(*preferences, fixes=(kind,))
    found = finding_of(doctor, kind)
    assert found.fixed
    assert found.count == 1
    assert all(kept[:-1])
    if findings.BY_ID[kind].drops:
        assert kept[-1] is None
        assert [(drop.reason, drop.count) for drop in doctor.drops()] == [(kind, 1)]
    else:
        again, _ = examined(kept[-1])
        assert finding_of(again, kind) is None
        assert not doctor.drops()
    assert doctor.rows_read == doctor.kept + sum(drop.count for drop in doctor.drops())


@pytest.mark.parametrize(
    "preference",
    [
        pref("Is “a < b” right?", "Yes, [see] <b>here</b>.", "<s"),
        pref(chosen="Zwölf Boxkämpfer jagen Viktor 👩‍👩‍👧 über den Deich", rejected="می‌خواهم"),
        pref(chosen=PROSE + "The last one ends well."),
        pref(chosen=PROSE + "\n- short item"),
        pref(chosen=PROSE + "\n```\nlong line of code with a lot of words in it\n```"),
        pref(chosen="12 apples", rejected="13 apples"),
        pref("hi there", "hi there, friend", "go"),
        pref("Mail me @ noon", "a@b", "skate-board at the ghetto"),
        pref("Who asked the human: a test", "Say user: no", "assistant"),
    ],
)
def test_ordinary_text_is_not_suspected(preference):
    doctor, _ = examined(preference)
    assert [found.id for found in doctor.findings()] == ["few-pairs"]


@pytest.mark.parametrize(
    ("fix", "before", "after"),
    [
        ("special-tokens", pref("<s>a", "b<|im_end|>", "[INST]c[/INST]"), pref("a", "b", "c")),
        (
            "prompt-in-answer",
            pref("Why is the sky blue?", "Why is the sky blue?\n\nIt scatters.", "Who knows"),
            pref("Why is the sky blue?", "It scatters.", "Who knows"),
        ),
        ("hidden-characters", pref("a\u200b", "\ufeffb", "c\x00d"), pref("a", "b", "cd")),
        ("letter-forms", pref("a", "rene\u0301", "c"), pref("a", "ren\u00e9", "c")),
    ],
)
def test_text_is_fixed_as_the_fix_says(fix, before, after):
    assert examined(before, fixes=(fix,))[1] == [after]


def test_answer_that_a_fix_empties_is_dropped_as_empty():
    doctor, kept = examined(pref(chosen="<|im_end|>"), fixes=("special-tokens",))
    assert kept == [None]
    assert doctor.drops()[0].reason == "empty-chosen"


def test_earlier_turns_make_another_prompt():
    turn = (Message("user", "before"), Message("assistant", "ok"))
    doctor, _ = examined(pref(), pref(earlier=turn))
    assert finding_of(doctor, "duplicate") is None
    doctor, _ = examined(pref(earlier=turn), pref(earlier=turn))
    assert finding_of(doctor, "duplicate").rows == (2,)


def test_earlier_turns_are_checked_and_fixed_too():
    def turns(text):
        return (Message("user", text), Message("assistant", "ok"))

    doctor, _ = examined(pref(earlier=turns("jane@example.org, sk-" + "a1B2" * 8)))
    assert finding_of(doctor, "e-mail").rows == finding_of(doctor, "secret").rows == (1,)
    before = pref(earlier=turns("a<|im_end|>\u200b"))
    _, kept = examined(before, fixes=("special-tokens", "hidden-characters"))
    assert kept == [pref(earlier=turns("a"))]


KEY = "sk-" + "a1B2" * 20
MAIL = "jane.doe@example.org"
BODY = "MIIEpAIBAAKCAQEA0Z3VS5JJcds3xfn"
HELD = {
    "key": KEY,
    "mail": MAIL,
    "pem": f"-----BEGIN RSA PRIVATE KEY-----\n{BODY}\n-----END RSA PRIVATE KEY-----",
}
TAIL = " and so it goes on for some more words and then it stops in the middle of"
# What is found, and pairs that hold a text: at the beginning, at the end, or where an excerpt ends.
HOLDING = [
    ("duplicate", lambda held: [pref("word " * 18 + held)] * 2),
    ("contradiction", lambda held: [pref(held, "a", "b"), pref(held, "b", "a")]),
    ("hidden-characters", lambda held: [pref(f"a\u200b {held}")]),
    ("templated", lambda held: [pref(f"### Instruction: {held}")]),
    ("truncated", lambda held: [pref(chosen=f"{PROSE}{held}{TAIL}")]),
    ("near-identical", lambda held: [pref(chosen=f"{held} {PROSE}7", rejected=f"{held} {PROSE}8")]),
    ("prompt-in-answer", lambda held: [pref(f"Say {held}!", f"Say {held}! Yes.")]),
    (
        "language-mix",
        lambda held: [
            pref(f"Tell me what is in the {held}", f"Das Haus {held}, und wer wohnt auf dem Dach")
        ],
    ),
    ("empty-chosen", lambda held: [pref(held, chosen="")]),
    ("identical", lambda held: [pref(held, "a", "a")]),
    ("no-text", lambda held: [pref(held, "\ud800")]),
]


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
@pytest.mark.parametrize(("kind", "make"), HOLDING, ids=[kind for kind, _ in HOLDING])
def test_no_example_shows_a_key_or_an_address(kind, make, held):
    for fixes in ((), (kind,) if kind in findings.FIXES else ()):
        doctor, _ = examined(*make(held), fixes=fixes)
        assert finding_of(doctor, kind).examples
        shown = " ".join(one.text for found in doctor.findings() for one in found.examples)
        for sign in ("a1B2a1B2", "doe@", BODY[:8]):
            assert sign not in shown


def test_half_characters_are_no_text():
    doctor, kept = examined(pref(chosen="a\ud800"), pref(rejected=""), pref())
    assert [bool(one) for one in kept] == [False, False, True]
    assert doctor.drops()[0].reason == "no-text"
    examined(pref("\ud800", "", ""))[0].findings()[0].model_dump_json()


@pytest.mark.parametrize(
    ("longer", "of", "expected"),
    [(16, 20, "longer"), (3, 20, "shorter"), (10, 20, ""), (19, 19, "")],
)
def test_length_bias_is_reported_from_enough_pairs_with_what_it_teaches(longer, of, expected):
    pairs = [pref(f"question {i}", "long answer", "short") for i in range(longer)]
    pairs += [pref(f"question {i}", "short", "long answer") for i in range(longer, of)]
    found = finding_of(examined(*pairs)[0], "length-bias")
    if not expected:
        assert found is None
        return
    assert f"Expect {expected} answers" in found.advice
    count = longer if expected == "longer" else of - longer
    assert (found.count, found.share) == (count, count / of)
    assert f"is the {expected} one in {count / of:.0%}" in found.label


@pytest.mark.parametrize(
    ("longer", "shorter", "equal", "expected"),
    [
        (0, 0, 30, ""),
        (5, 5, 20, ""),
        (0, 14, 16, ""),
        (0, 20, 10, "shorter one in 67%"),
        (20, 0, 10, "longer one in 67%"),
    ],
)
def test_answers_of_equal_length_speak_for_neither(longer, shorter, equal, expected):
    answers = [("long answer", "short")] * longer + [("short", "long answer")] * shorter
    answers += [("right", "wrong")] * equal
    pairs = [pref(f"question {i}", *both) for i, both in enumerate(answers)]
    found = finding_of(examined(*pairs)[0], "length-bias")
    assert expected in found.label if expected else found is None


def test_few_pairs_are_reported_and_many_are_not():
    few, _ = examined(*(pref(f"question {i}") for i in range(49)))
    assert finding_of(few, "few-pairs").count == 49
    enough, _ = examined(*(pref(f"question {i}") for i in range(50)))
    assert finding_of(enough, "few-pairs") is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_steps": 125}, ""),
        ({"max_steps": 200}, "about 16 times"),
        ({"max_steps": 200, "pairs_per_step": 1}, ""),
        ({"epochs": 10}, ""),
        ({"epochs": 30}, "about 30 times"),
        ({"epochs": 30, "max_steps": 1}, ""),
    ],
)
def test_settings_that_show_every_pair_very_often_are_reported(settings, expected):
    found = too_many_passes(100, TrainConfig(**settings))
    assert expected in found.label if expected else found is None


def test_unknown_fix_is_refused_with_those_there_are():
    with pytest.raises(InputError, match="no fix “everything”") as caught:
        Doctor(("duplicate", "everything"))
    assert "duplicate" in caught.value.hint


def test_row_numbers_of_very_many_rows_are_capped_but_counted():
    doctor, _ = examined(*(pref("") for _ in range(ROWS_KEPT + 5)))
    drop = doctor.drops()[0]
    assert (len(drop.rows), drop.count) == (ROWS_KEPT, ROWS_KEPT + 5)


def test_examples_are_short_and_on_one_line():
    assert excerpt("a\nb  c") == "a b c"
    assert len(excerpt("word " * 100_000)) <= 120


TEXTS = st.one_of(
    st.sampled_from(["", "a", "a ", "b", "<|im_end|>", "a<|im_end|>", "rene\u0301", "\ud800"]),
    st.text(max_size=20),
)
TAKEN = st.one_of(
    st.sampled_from(["bad-turns", "no-text"]),
    st.builds(pref, TEXTS, TEXTS, TEXTS),
)


@given(st.lists(TAKEN, max_size=30), st.sets(st.sampled_from(findings.FIXES)))
def test_counts_always_add_up(taken, fixes):
    doctor, kept = examined(*taken, fixes=tuple(fixes))
    assert doctor.rows_read == len(taken)
    assert doctor.kept == sum(one is not None for one in kept)
    assert doctor.rows_read == doctor.kept + sum(drop.count for drop in doctor.drops())
    for found in doctor.findings():
        assert 0 <= found.share <= 1
        assert found.fixed == (found.id in fixes)
    rows = [row for drop in doctor.drops() for row in drop.rows]
    assert len(rows) == len(set(rows))
    assert (doctor.drops(), kept) == (lambda d, k: (d.drops(), k))(*examined(*taken, fixes=fixes))


def test_reasoning_is_left_as_it_is_and_named():
    thought = "<think>\nScattering.\n</think>\n\nAir scatters blue light."
    doctor, [kept, other, plain] = examined(
        pref(chosen=thought), pref(rejected="Hm.</think>No."), pref(prompt="what is <think>?")
    )
    assert kept.chosen == thought
    assert other.rejected == "Hm.</think>No."
    assert plain is not None
    found = finding_of(doctor, "reasoning")
    assert (found.count, found.rows, found.severity, found.fix) == (2, (1, 2), "note", "")
    assert found.examples[0].text.startswith("<think> Scattering.")
