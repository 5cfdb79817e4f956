import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orpo_qlora.runs.curves import series as module
from orpo_qlora.runs.curves.series import Course, Series, decayed_sums, weight_for

FINITE = st.floats(-1e6, 1e6)
WEIGHTS = st.one_of(st.floats(0.01, 0.999), st.sampled_from([0.5, 0.9, 0.99]))


def course_of(values):
    return Course(np.arange(1, len(values) + 1, dtype=np.int32), np.array(values, float))


def averaged(values, weight):
    """The same average as it is written down in textbooks."""
    mean, share, found = 0.0, 0.0, []
    for value in values:
        mean = weight * mean + (1 - weight) * value
        share = weight * share + (1 - weight)
        found.append(mean / share)
    return found


@pytest.mark.parametrize("count", [0, 1, 2, 499, 500])
def test_few_points_are_all_drawn(count):
    course = course_of(np.sin(np.arange(count)))
    assert course.thinned().points() == course.points()


@given(st.lists(FINITE, min_size=1, max_size=900), st.integers(10, 60))
def test_thinning_keeps_ends_extremes_and_order_in_bounded_room(values, most):
    course = course_of(values)
    thin = course.thinned(most)
    assert len(thin) <= most
    assert set(thin.points()) <= set(course.points())
    assert thin.steps.tolist() == sorted(set(thin.steps.tolist()))
    assert thin.points()[0] == course.points()[0]
    assert thin.points()[-1] == course.points()[-1]
    assert thin.values.min() == course.values.min()
    assert thin.values.max() == course.values.max()


@pytest.mark.parametrize("count", [501, 5_000, 50_000, 1_000_000])
def test_no_spike_gets_lost_and_the_picture_stays_full(count):
    values = np.random.default_rng(count).random(count)
    for index, value in {count // 3: 9.0, count // 2: -9.0, count - 2: 7.0}.items():
        values[index] = value
    thin = course_of(values).thinned()
    assert module.MOST_DRAWN // 3 < len(thin) <= module.MOST_DRAWN
    assert {9.0, -9.0, 7.0} <= set(thin.values.tolist())


def test_drawn_points_stay_in_place_while_the_run_grows():
    values = np.random.default_rng(1).random(6_000)
    drawn = [set(course_of(values[:count]).thinned().points()) for count in (5_000, 5_001, 5_100)]
    # All but the latest point and the stretch it lies in, of 32 points.
    assert len(drawn[0] - drawn[1]) <= 3
    assert len(drawn[0] - drawn[2]) <= 4


@given(st.lists(FINITE, min_size=1, max_size=300), WEIGHTS)
def test_smoothing_is_the_unbiased_moving_average(values, weight):
    series = Series()
    series.extend(range(1, len(values) + 1), values)
    smooth = series.course(smoothing=weight).values
    expected = averaged(values, weight)
    assert smooth == pytest.approx(expected, rel=1e-9, abs=1e-9 * max(map(abs, values)) + 1e-12)


@given(st.lists(FINITE, min_size=1, max_size=300), WEIGHTS, st.lists(st.integers(1, 90)))
def test_smoothing_in_pieces_equals_smoothing_at_once(values, weight, cuts):
    grown, whole = Series(), Series()
    start = 0
    for end in [*np.cumsum(cuts).tolist(), len(values)]:
        piece = values[start:end]
        if piece:
            grown.extend(range(start + 1, start + 1 + len(piece)), piece)
            grown.course(smoothing=weight)
            start += len(piece)
    grown.extend(range(start + 1, len(values) + 1), values[start:])
    whole.extend(range(1, len(values) + 1), values)
    largest = max(map(abs, values))
    assert grown.course(smoothing=weight).values == pytest.approx(
        whole.course(smoothing=weight).values, rel=1e-9, abs=1e-9 * largest + 1e-12
    )


@given(FINITE, st.integers(1, 200), WEIGHTS)
def test_smoothing_leaves_a_constant_alone(value, count, weight):
    series = Series()
    series.extend(range(count), [value] * count)
    assert series.course(smoothing=weight).values == pytest.approx(np.full(count, value))


@pytest.mark.parametrize("weight", [0.001, 0.5, 0.999])
def test_sums_over_blocks_continue_earlier_ones(weight):
    values = np.ones(3 * module.BLOCK + 1)
    expected, so_far = [], 5.0
    for value in values:
        so_far = weight * so_far + value
        expected.append(so_far)
    assert decayed_sums(values, weight, 5.0) == pytest.approx(expected)


def test_smoothing_counts_every_point_not_only_the_drawn_ones():
    # One in a hundred is high: thinned first, an average of extremes would be far too high.
    values = np.zeros(100_000)
    values[::100] = 1.0
    series = Series()
    series.extend(range(len(values)), values)
    assert series.course(smoothing=0.99).thinned().values[-1] < 0.02


def test_values_that_are_no_numbers_are_kept_apart():
    series = Series()
    series.extend([1, 2, 3, 4], [1.0, math.nan, math.inf, 2.0])
    assert series.course().points() == [(1, 1.0), (4, 2.0)]
    assert series.broken == [2, 3]


def test_what_a_reader_holds_does_not_change():
    series = Series()
    series.extend([1, 2], [1.0, 2.0])
    held, smooth = series.course(), series.course(smoothing=0.5)
    before = smooth.points()
    series.extend(range(3, 500), [9.0] * 497)
    assert held.points() == [(1, 1.0), (2, 2.0)]
    assert smooth.points() == before
    assert series.course(2, 0.5).points() == before


def test_a_stretch_has_a_neighbour_on_each_side():
    course = course_of([10.0, 20.0, 30.0, 40.0, 50.0])
    assert course.within(3, 3).steps.tolist() == [2, 3, 4]
    assert course.within(1, 9).steps.tolist() == [1, 2, 3, 4, 5]
    assert course.within(7, 9).steps.tolist() == [5]


def test_only_the_latest_choices_of_smoothing_are_kept():
    series = Series()
    series.extend(range(10), range(10))
    for weight in (0.1, 0.2, 0.3, 0.4):
        series.course(smoothing=weight)
    assert len(series._smooth) == module.KEPT_SMOOTHINGS


def test_a_choice_smooths_the_same_part_of_a_picture_at_any_length():
    assert weight_for(0.6, 5) == weight_for(0.6, 250) == 0.6
    for count in (1_000, 32_000, 1_000_000):
        # What is left of a point after a hundredth of the picture.
        left = weight_for(0.6, count) ** (count / 100)
        assert 0.6**5 < left < 0.6**1.2
    assert weight_for(0.0, 100_000) == 0.0


def test_smoothing_does_not_restart_with_every_step():
    assert len({weight_for(0.6, count) for count in range(20_000, 30_000)}) == 1
