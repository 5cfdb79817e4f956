"""An estimate in words."""

import pytest

from orpo_qlora.jobs.estimation import Estimate, Seconds, about


def estimate(**changes):
    known = {
        "made_at": 0.0,
        "device": "cpu",
        "pairs": 90,
        "held_out_pairs": 10,
        "longest_tokens": 1500,
        "steps": 42,
        "evaluations": 5,
        "samples": 5,
        "seconds": Seconds(start_up=10, training=700, evaluation=100, sampling=30),
        "memory_bytes": 2_900_000_000,
        "predicted_memory_bytes": 2_700_000_000,
        "measured_memory_bytes": 2_850_000_000,
        "free_memory_bytes": 23_000_000_000,
        "disk_bytes": 60_000_000,
        "needed_disk_bytes": 268_000_000,
        "free_disk_bytes": 10**11,
    }
    return Estimate(**{**known, **changes})


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "about 1 second"),
        (9, "about 9 seconds"),
        (42, "about 40 seconds"),
        (100, "about 2 minutes"),
        (840, "about 14 minutes"),
        (5400, "about 1.5 hours"),
        (100_000, "about 28 hours"),
    ],
)
def test_time_in_words(seconds, words):
    assert about(seconds) == words


def test_what_fits_is_one_sentence():
    text = "About 14 minutes, 2.9 GB of memory (23 GB free), 60 MB of disk."
    assert estimate().sentence() == text
    assert "of GPU memory (" in estimate(device="cuda").sentence()


def test_what_does_not_fit_says_so_first_and_what_to_change_next():
    tight = estimate(free_memory_bytes=2_000_000_000, changes=("Take less.",))
    assert tight.sentences()[0].startswith("Does not fit: about 14 minutes, 2.9 GB")
    assert tight.sentences()[1] == "Take less."
    assert not tight.fits
    full = estimate(free_disk_bytes=5_000_000)
    assert full.sentence().endswith("60 MB of disk and 268 MB to start (5.0 MB free).")
    assert not full.fits


def test_the_number_of_gpus_is_said_where_there_are_several():
    one, few = estimate(device="cuda"), estimate(device="cuda", processes=4)
    assert few.sentences()[0] == one.sentences()[0]
    (added,) = set(few.sentences()) - set(one.sentences())
    assert added.startswith("The time is for 4 GPUs, ")
    assert "sum of gradients between them is not included" in added
    assert "that of one process" in " ".join(estimate(processes=2).sentences())


def test_what_was_not_tried_claims_no_time():
    unmeasured = estimate(measured_memory_bytes=0, seconds=Seconds(), free_memory_bytes=10**9)
    assert unmeasured.sentences() == [
        "Does not fit: it takes about 2.9 GB of memory (1.0 GB free)."
    ]
