import re

import numpy as np
import pytest

from orpo_qlora.charts import margins


@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])
def test_bars_hold_every_pair_and_zero_is_an_edge(scale):
    values = scale * np.random.default_rng(1).normal(0.2, 1.0, 1000)
    bins = margins.choose_bins(values)
    tally = bins.tally(values)
    assert sum(tally) == 1000
    assert sum(tally[: -bins.first]) == (values <= 0).sum()
    assert 10 <= bins.count <= 60


def test_a_few_far_values_do_not_squeeze_the_rest():
    values = np.concatenate([np.linspace(-1, 1, 998), [-500.0, 900.0]])
    bins = margins.choose_bins(values)
    assert (bins.low, bins.high) == (pytest.approx(-1.0), pytest.approx(1.0))
    assert bins.tally(values)[-1] == bins.tally(np.linspace(-1, 1, 998))[-1] + 1


@pytest.mark.parametrize("values", [[0.0], [0.5, 0.5], [-2.0], [1e-9, -1e-9]])
def test_one_value_is_a_picture_too(values):
    page = margins.draw_margins(np.array(values), np.array(values))
    assert re.search(r'<rect x="[\d.]+" y="[\d.]+" width="[\d.]+" height="[\d.]+"', page)
    assert "nan" not in page


def test_the_chart_has_a_text_description():
    page = margins.draw_margins(np.array([-1.0, -0.5, 0.5]), np.array([0.5, 1.0, -0.1]))
    assert "Base: median -0.5, 33 % above 0, tuned: median +0.5, 67 % above 0." in page
    assert "<title>base, " in page
