"""How sure a share is."""

import pytest

from orpo_qlora.runs.curves.intervals import Z_95, Interval, wilson


def test_the_interval_is_that_of_the_formula():
    found, mirrored = wilson(0.8, 10), wilson(0.2, 10)
    assert (found.low, found.high) == pytest.approx((0.49015, 0.94331), abs=2e-5)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - 0.94331, 1 - 0.49015), abs=2e-5)


def test_the_interval_stays_a_share_and_narrows():
    assert wilson(0, 0) == Interval(0, 0.0, 1.0, "wilson")
    found = wilson(1.0, 5)
    assert found.high == pytest.approx(1.0)
    assert found.low == pytest.approx(1 / (1 + Z_95**2 / 5))
    widths = [wilson(0.5, count).high - wilson(0.5, count).low for count in (4, 40, 400)]
    assert widths == sorted(widths, reverse=True)
