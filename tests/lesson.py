"""Pairs made of the words of one sentence: quick to learn from, and the same every time."""

from orpo_qlora.data.pairs import PreferenceData, PreferencePair
from orpo_qlora.data.summary import DataSummary

LESSON = "gravity pulls things together and hello is a word that people say when they meet"
WORDS = LESSON.split()


def words_from(start: int, count: int, step: int = 1) -> str:
    """Return so many words of the lesson from a place on, every `step`-th."""
    return " ".join(WORDS[(start + step * k) % len(WORDS)] for k in range(count))


def question(i: int) -> str:
    """Return the question of a number."""
    return f"question {i} about {words_from(i, 1)}"


def dataset_of(*pairs: tuple[str, str, str]) -> PreferenceData:
    """Return prompts with their answers as the reader of a file would."""
    made = tuple(PreferencePair(*texts, row) for row, texts in enumerate(pairs, start=1))
    count = len(made)
    report = DataSummary(source="made.csv", sha256="cd" * 32, rows_read=count, pairs=count)
    return PreferenceData(made, report)


def lesson(pairs: int = 16) -> PreferenceData:
    """Return pairs whose answers are six words and seven."""
    return dataset_of(
        *((question(i), words_from(i, 6), words_from(3 * i + 1, 7, step=2)) for i in range(pairs))
    )
