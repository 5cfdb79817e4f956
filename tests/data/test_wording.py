"""Sizes in words."""

import pytest

from orpo_qlora.data.wording import in_bytes


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 kB"),
        (12_400, "12 kB"),
        (60_000_000, "60 MB"),
        (2_940_000_000, "2.9 GB"),
        (23_400_000_000, "23 GB"),
        (1_500_000_000_000, "1.5 TB"),
    ],
)
def test_sizes_in_words(count, words):
    assert in_bytes(count) == words
