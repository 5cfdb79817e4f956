"""Checks of the texts of one pair, independent of each other. Floor 1; no torch.

All of them run on every row of a file, so each starts with its cheapest test.
"""

from __future__ import annotations

import re
import unicodedata

EXCEL_CHARACTERS = 32_767
SCRIPT_CHARACTERS = 300
"""Characters at the beginning of a text that its script is detected from."""
SHORTEST_PROMPT = 12
"""Shorter prompts, “Hello” say, open an answer by chance."""
SHORTEST_TRUNCATED = 200
NEAR_SHARE = 0.05
"""Two answers are nearly identical if they differ in one place of at most this share."""
NEAR_CHARACTERS = 40
SHORT_CHARACTERS = 200
"""Up to here two texts are compared whatever their lengths say."""

TEMPLATE = re.compile(
    r"<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|\[INST\]|<\|user\|>|<\|assistant\|>"
    r"|<\|(?:USER|CHATBOT)_TOKEN\|>|<｜(?:User|Assistant)｜>"
    r"|\A\s*(?:###\s*(?:Instruction|Human|User)\s*:|(?:Human|USER|User)\s*:)"
    r"|(?:\n\s*###\s*(?:Response|Assistant)\s*:|\n\nAssistant:)"
)
"""Headers that only a chat template writes, or a transcript at the beginning of a text."""
_TEMPLATE_SIGNS = ("<", "[INST]", "###", "Human:", "Assistant:", "USER:", "User:")
SPECIAL = re.compile(
    r"<\|[A-Za-z][\w. -]{1,40}\|>|<｜[^<>｜\n]{1,40}｜>|</?s>|\[/?INST\]|<</?SYS>>"
    r"|<(?:bos|eos|pad|unk)>|<(?:start|end)_of_turn>"
)
HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064"
    "\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)
"""Joiners (U+200C, U+200D) are not among them: Persian and emoji need them."""
EMAIL = re.compile(r"\b[\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.[A-Za-z]{2,24}\b")
SECRET = re.compile(
    r"\bsk-[A-Za-z0-9_-]{20,}|\bhf_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{40,}|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    r"|\bAIza[\w-]{35}|-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?=-----END|\Z)"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"
)
# Prose has few underscores, so most patterns are skipped.
_SECRET_SIGNS = ("sk-", "xox", "AKIA", "AIza", "PRIVATE KEY", "eyJ")
_UNDERSCORE_SIGNS = ("hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_")
_SCRIPTS = (
    ("Kana", re.compile("[\u3041-\u30ff]")),
    ("Hangul", re.compile("[\uac00-\ud7a3]")),
    ("Han", re.compile("[\u3400-\u9fff]")),
    ("Cyrillic", re.compile("[\u0400-\u052f]")),
    ("Arabic", re.compile("[\u0600-\u06ff]")),
    ("Hebrew", re.compile("[\u0590-\u05ff]")),
    ("Devanagari", re.compile("[\u0900-\u097f]")),
    ("Greek", re.compile("[\u0370-\u03ff]")),
    ("Thai", re.compile("[\u0e00-\u0e7f]")),
)
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
SHORTEST_SCRIPT = 20
"""Letters needed to detect the script of a text."""
_LANGUAGES = {
    "English": ["the", "and", "is", "of", "to", "that", "are", "you", "it", "for", "with", "this"],
    "German": ["der", "die", "und", "wird", "nicht", "das", "ein", "zu", "wir", "mit", "auf"],
    "French": ["le", "les", "des", "est", "une", "dans", "et", "pour", "qui", "la", "un", "du"],
    "Spanish": ["el", "los", "una", "que", "por", "con", "es", "las", "la", "un", "del", "se"],
    "Italian": ["il", "che", "di", "per", "una", "sono", "non", "della", "un", "la", "con", "del"],
    "Portuguese": ["que", "uma", "não", "os", "para", "com", "em", "um", "da", "por", "mais"],
    "Dutch": ["het", "een", "van", "niet", "dat", "zijn", "de", "en", "ik", "je", "voor", "met"],
}
_COMMON_WORDS: dict[str, list[str]] = {}
"""Each word with the languages that it is common in."""
for _language, _words in _LANGUAGES.items():
    for _word in _words:
        _COMMON_WORDS.setdefault(_word, []).append(_language)
_ENGLISH = frozenset(_LANGUAGES["English"])
_LANGUAGE_WORDS = 2
"""Words of a language that a text needs before it counts as written in it."""
_PLACEHOLDER = re.compile(r"<(?:image|audio|video)(?:_\d+)?>")


def may_be_templated(text: str) -> bool:
    """Return whether a text may be templated; a cheap test that most texts fail."""
    return _has_any(text, _TEMPLATE_SIGNS)


def _has_any(text: str, signs: tuple[str, ...]) -> bool:
    # A loop: a generator costs more than all the searches.
    for sign in signs:  # noqa: SIM110
        if sign in text:
            return True
    return False


def is_templated(text: str) -> bool:
    """Return whether a text is in a chat template already, or is a transcript."""
    return may_be_templated(text) and TEMPLATE.search(text) is not None


def media_placeholder(text: str) -> str:
    """Return the first placeholder such as “<image>” in a text, or an empty text."""
    found = _PLACEHOLDER.search(text) if "<" in text else None
    return found[0] if found else ""


def special_token(text: str) -> str:
    """Return the first control token of language models in a text, or nothing."""
    if "<" not in text and "[" not in text:
        return ""
    found = SPECIAL.search(text)
    return found[0] if found else ""


def without_special_tokens(text: str) -> str:
    """Return a text without control tokens of language models."""
    return SPECIAL.sub("", text)


def hidden_character(text: str) -> str:
    """Return the code point of the first invisible character, or an empty text."""
    # Much faster than the search, and true of nearly all texts.
    if text.replace("\n", "").isprintable():
        return ""
    found = HIDDEN.search(text)
    return f"U+{ord(found[0]):04X}" if found else ""


def without_hidden_characters(text: str) -> str:
    """Return a text without invisible characters."""
    return HIDDEN.sub("", text)


def is_composed(text: str) -> bool:
    """Return whether accented letters are written as one character each (Unicode NFC)."""
    return text.isascii() or unicodedata.is_normalized("NFC", text)


def composed(text: str) -> str:
    """Return a text in Unicode NFC."""
    return unicodedata.normalize("NFC", text)


def repeats_prompt(prompt: str, answer: str) -> bool:
    """Return whether an answer begins with the whole prompt."""
    asked = prompt.strip()
    return len(asked) >= SHORTEST_PROMPT and answer.lstrip().startswith(asked)


def without_prompt(prompt: str, answer: str) -> str:
    """Return an answer without the prompt that it begins with."""
    if not repeats_prompt(prompt, answer):
        return answer
    return answer.lstrip()[len(prompt.strip()) :].lstrip()


def is_truncated(answer: str) -> bool:
    """Return whether a long answer stops inside a sentence of prose."""
    text = answer.rstrip()
    if len(text) < SHORTEST_TRUNCATED or not (text[-1].isalnum() or text[-1] in ",-–("):
        return False
    # A last line that is short is a heading, an item of a list or a signature.
    last = text[text.rfind("\n") + 1 :]
    words = last.count(" ") + 1
    is_code = "```" in answer or last.startswith(("    ", "\t"))
    return words >= 8 and ". " in text and not is_code


def same_but_for_form(one: str, other: str) -> bool:
    """Return whether two texts are equal up to white space and the encoding of letters."""
    both = len(one) + len(other)
    if both > SHORT_CHARACTERS and abs(len(one) - len(other)) * 5 > both:
        return False
    if one.isascii() and other.isascii() and _first_word(one) != _first_word(other):
        return False
    return _plain(one) == _plain(other)


def _first_word(text: str) -> list[str]:
    return text.split(None, 1)[:1]


def _plain(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", without_hidden_characters(text))
    return " ".join(text.split())


def is_near(one: str, other: str) -> bool:
    """Return whether two longer texts differ in one short place only."""
    longer = max(len(one), len(other))
    room = int(longer * NEAR_SHARE)
    if longer < NEAR_CHARACTERS or abs(len(one) - len(other)) > room:
        return False
    head = _common(one, other)
    tail = _common(one[head:][::-1], other[head:][::-1])
    return longer - head - tail <= room


def _common(one: str, other: str) -> int:
    """Return the length of the common beginning, by halving."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def language_of(text: str) -> str:
    """Return the language of a text by its commonest words, else its script, or nothing."""
    start = text[:SCRIPT_CHARACTERS]
    script = _script_of(start)
    if script != "Latin":
        return script
    found = _COMMON_WORDS.keys() & start.lower().split()
    english = len(found & _ENGLISH)
    # A clear winner among all languages is accepted at once.
    if english > _LANGUAGE_WORDS and english * 2 > len(found):
        return "English"
    counts: dict[str, int] = {}
    for word in found:
        for language in _COMMON_WORDS[word]:
            counts[language] = counts.get(language, 0) + 1
    # Related languages share some of their words, so a tie is no result.
    first, second = sorted([0, 0, *counts.values()])[:-3:-1]
    if first < _LANGUAGE_WORDS or first == second:
        return ""
    return max(counts, key=lambda name: counts[name])


def _script_of(start: str) -> str:
    if start.isascii():
        return "Latin" if len(start) >= SHORTEST_SCRIPT else ""
    counts = {name: len(pattern.findall(start)) for name, pattern in _SCRIPTS}
    # Japanese is written in both; its kana distinguish it from Chinese.
    if counts["Kana"]:
        counts["Kana"] += counts.pop("Han")
    counts["Latin"] = len(_LATIN.findall(start))
    name = max(counts, key=lambda script: counts[script])
    # A Han or kana character carries as much text as several letters.
    needed = SHORTEST_SCRIPT // 4 if name in {"Han", "Kana", "Hangul"} else SHORTEST_SCRIPT
    return name if counts[name] >= needed else ""


def secret_in(text: str) -> str:
    """Return the first likely API key or password in a text, masked, or an empty text."""
    found = SECRET.search(text) if _may_hold_secret(text) else None
    return _masked_secret(found) if found else ""


def _may_hold_secret(text: str) -> bool:
    return _has_any(text, _SECRET_SIGNS) or ("_" in text and _has_any(text, _UNDERSCORE_SIGNS))


def _masked_secret(found: re.Match[str]) -> str:
    return f"{found[0][:6]}…"


def email_in(text: str) -> str:
    """Return the first e-mail address of a text, masked, or nothing."""
    if "@" not in text:
        return ""
    found = EMAIL.search(text)
    return _masked_email(found) if found else ""


def _masked_email(found: re.Match[str]) -> str:
    return f"{found[0][0]}…@{found[0].rpartition('@')[2]}"


def masked(text: str) -> str:
    """Return a text whose keys and e-mail addresses can no longer be used."""
    if _may_hold_secret(text):
        text = SECRET.sub(_masked_secret, text)
    return EMAIL.sub(_masked_email, text) if "@" in text else text


def reasoning_in(answers: str) -> str:
    """Return the reasoning that a model wrote in tags; templates may open the first tag."""
    if "</think>" not in answers and "<think>" not in answers:
        return ""
    return answers[max(answers.find("<think>"), 0) :]
