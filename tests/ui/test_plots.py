import json
import re
from html import unescape

import pytest

from orpo_qlora.runs.metrics import NAMES, MetricsTail
from orpo_qlora.ui import charts, plots
from orpo_qlora.ui.charts import Scale

LIGHT, DARK = "#ffffff", "#181e24"
LOSS = plots.PLOTS[0]


def tail_of(tmp_path, records):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    tail = MetricsTail(path)
    tail.refresh()
    return tail


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", [LIGHT, DARK])
@pytest.mark.parametrize("colour", [plots.BLUE, plots.ORANGE, plots.GREEN])
def test_curves_stand_out_in_both_modes(colour, page):
    assert contrast(colour, page) >= 3


def test_every_plotted_metric_exists():
    assert {quantity.metric for plot in plots.PLOTS for quantity in plot.quantities} <= set(NAMES)


def test_parts_of_the_loss_add_up(tmp_path):
    tail = tail_of(tmp_path, [{"step": 1, "loss": 2.2, "nll_loss": 2.0, "or_loss": 0.4}])
    loss, nll, odds = (curve.points[0][1] for curve in plots.curves_of(LOSS, tail, 0.5))
    assert loss == pytest.approx(nll + odds)


def test_training_and_held_out_are_curves_of_their_own(tmp_path):
    tail = tail_of(tmp_path, [{"step": 0, "eval/loss": 3.0}, {"step": 1, "loss": 2.5}])
    curves = plots.curves_of(LOSS, tail, 0.1)
    assert [(curve.label, curve.is_held_out, curve.points) for curve in curves] == [
        ("loss", False, [(1, 2.5)]),
        ("loss, held-out", True, [(0, 3.0)]),
    ]


def test_long_curve_is_thinned_without_losing_its_spikes():
    points = [(step, float(step % 7)) for step in range(20_000)]
    points[12_345] = (12_345, 99.0)
    points[54] = (54, -99.0)
    thin = plots.thinned(points)
    assert len(thin) <= plots.MOST_POINTS
    assert {(12_345, 99.0), (54, -99.0), points[0], points[-1]} <= set(thin)
    assert thin == sorted(thin)


def test_short_curve_is_kept_as_it_is():
    points = [(step, 1.0) for step in range(plots.MOST_POINTS)]
    assert plots.thinned(points) == points


def test_headlines_prefer_held_out_pairs(tmp_path):
    records = [
        {"step": 0, "eval/rewards/accuracies": 0.5},
        {"step": 9, "rewards/accuracies": 1.0, "loss": 1.0},
        {"step": 10, "eval/rewards/accuracies": 0.9},
    ]
    loss, accuracy = plots.headline_tiles(tail_of(tmp_path, records))
    assert (accuracy.title, accuracy.before, accuracy.now) == ("Accuracy, held-out", "50 %", "90 %")
    assert (loss.title, loss.before, loss.now) == ("Loss, training", "", "1")


def drawn(tmp_path, records, plot=LOSS, last_step=0):
    return charts.draw_chart(
        plot, plots.curves_of(plot, tail_of(tmp_path, records), 0.1), last_step
    )


def test_chart_grows_with_the_run(tmp_path):
    records = [{"step": step, "loss": 3 - step / 10} for step in range(1, 9)]
    few, many = (drawn(tmp_path, records[:count]) for count in (3, 8))
    lengths = [
        len(re.search(r'class="curve" stroke="\S+" d="(\S.*?)"', text)[1].split("L"))
        for text in (few, many)
    ]
    assert lengths == [3, 8]


def test_single_measurement_is_a_dot(tmp_path):
    assert 'class="dots"' in drawn(tmp_path, [{"step": 0, "eval/loss": 3.0}])


def test_held_out_curve_is_told_apart_without_its_colour(tmp_path):
    records = [{"step": step, "loss": 2.0, "eval/loss": 2.5} for step in (1, 2)]
    chart = drawn(tmp_path, records)
    assert chart.count('class="curve"') == 1
    assert chart.count('class="curve curve-held-out"') == 1
    assert chart.count('class="dots"') == 1


def test_axis_spans_the_whole_run_from_the_start(tmp_path):
    assert 'data-high="600"' in drawn(tmp_path, [{"step": 1, "loss": 3.0}], last_step=600)


def test_screen_reader_hears_the_latest_values(tmp_path):
    chart = drawn(tmp_path, [{"step": 4, "loss": 1.5, "nll_loss": 1.25}])
    assert 'aria-label="Loss and its parts: loss 1.5 at step 4; NLL 1.25 at step 4"' in chart


def test_pointer_gets_every_point_as_text(tmp_path):
    chart = drawn(tmp_path, [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}])
    curves = json.loads(unescape(re.search(r'data-curves="(.*?)"', chart)[1]))
    assert curves[0]["points"] == [[1, "3"], [2, "2"]]


def test_chart_without_measurements_says_so():
    assert "Nothing measured yet." in charts.draw_chart(LOSS, [], 0)


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [-2.5, -2.5], [1e-9, 2e-9], [1e6, 3e6]])
def test_any_values_can_be_drawn(tmp_path, values):
    records = [{"step": step, "loss": value} for step, value in enumerate(values)]
    places = re.findall(r'class="(?:curve|dots)"[^>]* d="([^"]*)"', drawn(tmp_path, records))
    numbers = [float(text) for place in places for text in re.findall(r"-?[\d.]+", place)]
    assert all(0 <= number <= charts.SIZE for number in numbers)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-2.6, -1.1, [-2.5, -2, -1.5]),
        (0, 60, [0, 10, 20, 30, 40, 50, 60]),
    ],
)
def test_ticks_are_round_numbers_inside_the_axis(low, high, ticks):
    assert Scale(low, high).ticks() == ticks
