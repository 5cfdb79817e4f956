import json
import math
import re
from html import unescape

import pytest

from orpo_qlora.charts import lines as line_charts
from orpo_qlora.charts import plots
from orpo_qlora.charts.scales import Scale
from orpo_qlora.charts.view import FAR, MOST_SMOOTHING, ChartView, parse_steps
from orpo_qlora.config import TrainConfig
from orpo_qlora.methods import METHODS
from orpo_qlora.runs.curves.metrics import NAMES, TOKENS_PER_SECOND, MetricsTail
from orpo_qlora.ui.parts import cards
from orpo_qlora.ui.runs.value_table import value_table

LIGHT, DARK = "#ffffff", "#181e24"
PLOTS = {plot.name: plot for plot in plots.PLOTS}
LOSS, LOGPS = PLOTS["loss"], PLOTS["logps"]


def tail_of(tmp_path, records):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    tail = MetricsTail(path)
    tail.refresh()
    return tail.snapshot()


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
    drawn = {
        quantity.metric
        for plot in plots.PLOTS
        for method in METHODS
        for quantity in plots.quantities_of(plot, TrainConfig(method=method))
    }
    assert drawn <= {*NAMES, TOKENS_PER_SECOND}


def test_components_of_the_loss_are_stacked_and_add_up(tmp_path):
    tail = tail_of(tmp_path, [{"step": 1, "loss": 2.2, "nll_loss": 2.0, "or_loss": 0.4}])
    loss, nll, odds = plots.curves_of(LOSS, tail, TrainConfig(lambda_=0.5))
    assert loss.points == [(1, 2.2)]
    assert nll.points[0][1] + odds.points[0][1] == pytest.approx(odds.line[0][1])
    assert odds.line == [(1, 2.2)]
    assert odds.shade_to == nll.points
    assert nll.shade_to == []
    # The upper component is an area: its line is the loss.
    chart = line_charts.draw_chart(LOSS, [loss, nll, odds], 0)
    assert chart.count('class="curve"') == 2
    assert chart.count('class="shade"') == 2


def test_smoothed_components_still_add_up(tmp_path):
    records = [
        {"step": step, "nll_loss": 2.0 + step % 3, "or_loss": step % 2 / 2.0, "loss": 0.0}
        for step in range(1, 40)
    ]
    for record in records:
        record["loss"] = record["nll_loss"] + 0.5 * record["or_loss"]
    _, nll, odds = plots.curves_of(
        LOSS, tail_of(tmp_path, records), TrainConfig(lambda_=0.5), ChartView(0.9)
    )
    sums = [one + other for (_, one), (_, other) in zip(nll.points, odds.points, strict=True)]
    assert sums == pytest.approx([value for _, value in odds.line])


def test_the_gap_between_chosen_and_rejected_is_shaded(tmp_path):
    records = [{"step": step, "logps/chosen": -1.0, "logps/rejected": -2.0} for step in (1, 2)]
    chosen, rejected = plots.curves_of(LOGPS, tail_of(tmp_path, records), TrainConfig(lambda_=0.1))
    assert chosen.shade_to == rejected.points
    assert rejected.shade_to is None
    chart = drawn(tmp_path, records, LOGPS)
    assert 'fill="url(#hatch-logps)"' in chart


def test_smoothing_keeps_what_was_measured_in_sight(tmp_path):
    records = [{"step": step, "loss": float(step % 2)} for step in range(1, 30)]
    (curve,) = plots.curves_of(
        LOSS, tail_of(tmp_path, records), TrainConfig(lambda_=0.1), ChartView(0.9)
    )
    assert {value for _, value in curve.raw} == {0.0, 1.0}
    assert all(0.2 < value < 0.8 for _, value in curve.points[5:])
    chart = line_charts.draw_chart(LOSS, [curve], 0)
    assert chart.count('class="curve-raw"') == chart.count('class="curve"') == 1


def test_held_out_points_are_never_smoothed(tmp_path):
    records = [{"step": step, "eval/loss": float(step % 2)} for step in range(1, 30)]
    (curve,) = plots.curves_of(
        LOSS, tail_of(tmp_path, records), TrainConfig(lambda_=0.1), ChartView(0.9)
    )
    assert curve.raw is None
    assert {value for _, value in curve.points} == {0.0, 1.0}


def test_training_and_held_out_are_curves_of_their_own(tmp_path):
    tail = tail_of(tmp_path, [{"step": 0, "eval/loss": 3.0}, {"step": 1, "loss": 2.5}])
    curves = plots.curves_of(LOSS, tail, TrainConfig(lambda_=0.1))
    assert [(curve.label, curve.is_held_out, curve.points) for curve in curves] == [
        ("loss", False, [(1, 2.5)]),
        ("loss, held-out", True, [(0, 3.0)]),
    ]


def test_headlines_prefer_held_out_pairs(tmp_path):
    records = [
        {"step": 0, "eval/rewards/accuracies": 0.5},
        {"step": 9, "rewards/accuracies": 1.0, "loss": 1.0},
        {"step": 10, "eval/rewards/accuracies": 0.9},
    ]
    loss, accuracy = cards.headline_tiles(tail_of(tmp_path, records))
    assert (accuracy.title, accuracy.before, accuracy.now) == ("Accuracy, held-out", "50 %", "90 %")
    assert (loss.title, loss.before, loss.now) == ("Loss, training", "", "1")


def drawn(tmp_path, records, plot=LOSS, last_step=0, view=plots.AS_MEASURED):
    curves = plots.curves_of(plot, tail_of(tmp_path, records), TrainConfig(lambda_=0.1), view)
    return line_charts.draw_chart(plot, curves, last_step, view)


def test_chart_grows_with_the_run(tmp_path):
    records = [{"step": step, "loss": 3 - step / 10} for step in range(1, 9)]
    few, many = (drawn(tmp_path, records[:count]) for count in (3, 8))
    lengths = [
        len(re.search(r'class="curve" stroke="\S+" d="(\S.*?)"', text)[1].split("L"))
        for text in (few, many)
    ]
    assert lengths == [3, 8]


def test_single_measurement_is_a_dot(tmp_path):
    assert 'class="dots dots-round"' in drawn(tmp_path, [{"step": 0, "eval/loss": 3.0}])


def test_held_out_curve_is_distinct_without_its_colour(tmp_path):
    records = [{"step": step, "loss": 2.0, "eval/loss": 2.5} for step in (1, 2)]
    chart = drawn(tmp_path, records)
    assert chart.count('class="curve"') == 1
    assert chart.count('class="curve curve-held-out"') == 1
    # Every measurement is a dot; of the training curve only its end.
    found = re.findall(r'class="dots[^>]*d="(.*?)"', chart)
    assert sorted(dots.count("h0") for dots in found) == [1, 2]


def test_axis_spans_the_whole_run_from_the_start(tmp_path):
    assert 'data-high="600"' in drawn(tmp_path, [{"step": 1, "loss": 3.0}], last_step=600)


def test_screen_reader_hears_the_latest_values(tmp_path):
    chart = drawn(tmp_path, [{"step": 4, "loss": 1.5}, {"step": 4, "eval/loss": 1.25}])
    assert (
        'aria-label="Loss and its components: loss 1.5 at step 4; loss, held-out 1.25 at step 4"'
        in chart
    )


def test_pointer_gets_every_point(tmp_path):
    chart = drawn(tmp_path, [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}])
    curves = json.loads(unescape(re.search(r'data-curves="(.*?)"', chart)[1]))
    assert curves[0]["points"] == [[1, 3.0], [2, 2.0]]


def test_chart_without_measurements_says_so():
    assert "Nothing measured yet." in line_charts.draw_chart(LOSS, [], 0)
    assert "Loss and its components: nothing measured yet" in line_charts.draw_chart(LOSS, [], 0)


def test_chosen_steps_without_measurements_say_that_it_is_the_steps(tmp_path):
    records = [{"step": step, "loss": 3.0} for step in (11, 20)]
    for steps in ((1, 5), (30, 35), (50, 60)):
        chart = drawn(tmp_path, records, last_step=40, view=ChartView(steps=steps))
        assert "Nothing was measured in these steps." in chart
        assert 'aria-label="Loss and its components: nothing was measured in these steps"' in chart
        assert "step 20" not in chart
    # Between two measurements the line runs through; one alone is a dot.
    for steps in ((12, 15), (20, 30), (1, 11)):
        chart = drawn(tmp_path, records, last_step=40, view=ChartView(steps=steps))
        assert f'data-low="{steps[0]}" data-high="{steps[1]}"' in chart


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [-2.5, -2.5], [1e-9, 2e-9], [1e6, 3e6]])
def test_any_values_can_be_drawn(tmp_path, values):
    records = [{"step": step, "loss": value} for step, value in enumerate(values)]
    places = re.findall(r'class="(?:curve|dots)[^>]* d="([^"]*)"', drawn(tmp_path, records))
    numbers = [float(text) for place in places for text in re.findall(r"-?[\d.]+", place)]
    assert all(0 <= number <= line_charts.SIZE for number in numbers)


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


def test_ticks_of_a_logarithmic_axis_are_round():
    assert Scale(0.9, 120, is_log=True).ticks() == [1, 2, 5, 10, 20, 50, 100]
    assert Scale(1e-7, 2, is_log=True).ticks() == pytest.approx([1e-7, 1e-5, 1e-3, 1e-1])
    assert Scale(2.05, 2.4, is_log=True).ticks() == [2.1, 2.2, 2.3, 2.4]


def test_ticks_of_small_numbers_are_distinct():
    assert len(set(Scale(0, 2e-6).ticks())) >= 4


def test_logarithmic_axis_draws_what_is_above_nought(tmp_path):
    records = [{"step": step, "loss": value} for step, value in enumerate((1.0, 0.0, 100.0))]
    chart = drawn(tmp_path, records, view=ChartView(0.0, is_log=True))
    line = re.search(r'class="curve" stroke="\S+" d="M(.*?)"', chart)[1].split("L")
    assert len(line) == 2
    assert "logarithmic" in chart
    assert "logarithmic" not in drawn(tmp_path, records, LOGPS, view=ChartView(0.0, is_log=True))


def test_zoom_shows_the_chosen_steps_in_full(tmp_path):
    records = [{"step": step, "loss": step / 1000} for step in range(1, 5001)]
    view = ChartView(0.0, steps=(1000, 1200))
    chart = drawn(tmp_path, records, view=view)
    assert 'data-low="1000" data-high="1200"' in chart
    curves = json.loads(unescape(re.search(r'data-curves="(.*?)"', chart)[1]))
    # Every step of the stretch, and a neighbour on each side.
    assert [step for step, _ in curves[0]["points"]] == list(range(999, 1202))


def test_values_that_are_no_numbers_are_marked(tmp_path):
    records = [{"step": step, "loss": 2.0} for step in range(9)] + [{"step": 9, "eval/loss": "NaN"}]
    chart = drawn(tmp_path, records)
    assert chart.count('class="broken"') == 1
    assert "loss, held-out is not a finite number at step 9" in chart


def test_a_chart_stays_small_however_long_the_run(tmp_path):
    short, long = (
        drawn(
            tmp_path,
            [{"step": s, "loss": 2 + math.sin(s * s)} for s in range(count)],
            view=ChartView(0.6),
        )
        for count in (500, 20_000)
    )
    assert len(long) < 1.5 * len(short) < 60_000


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("", None),
        ("  ", None),
        ("100-200", (100, 200)),
        ("1,000 – 2,000", (1000, 2000)),
        ("100 to 200", (100, 200)),
        ("100-", (100, FAR)),
        ("-100", (0, 100)),
    ],
)
def test_steps_as_people_type_them(text, steps):
    assert parse_steps(text) == (steps, "")


@pytest.mark.parametrize("text", ["abc", "200-100", "5", "-", "1-2-3", "<b>", "7-7"])
def test_no_range_is_said_and_shows_all(text):
    steps, complaint = parse_steps(text)
    assert steps is None
    assert "is not a range of steps" in complaint


@pytest.mark.parametrize("smoothing", [None, "x", float("nan"), -1, 10**400])
def test_any_smoothing_that_is_sent_can_be_drawn(smoothing):
    assert 0 <= ChartView.of((smoothing, None, None)).smoothing <= MOST_SMOOTHING


def test_table_has_the_latest_values(tmp_path):
    records = [
        {"step": 1, "loss": 3.0, "or_loss": 0.5, "peak_memory_bytes": 2e9},
        {"step": 2, "loss": 1.0, "or_loss": 0.5},
        {"step": 2, "eval/loss": 1.5},
    ]
    table = value_table(tail_of(tmp_path, records), TrainConfig(), ChartView(0.5))
    rows = {
        re.search(r"<th.*?>(.*?)<", row)[1]: re.findall(r"<td>(.*?)</td>", row)
        for row in table.split("<tr>")[2:]
    }
    assert rows["loss"] == ["nats", "1", "1.67", "2", "1.5", "2"]
    assert rows["λ·OR"][1] == "0.05"
    assert rows["peak memory"][:2] == ["GB", "2"]
