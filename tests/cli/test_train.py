import json

from orpo_qlora.cli import train
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.examples import example_path
from orpo_qlora.data.pairs import load_preferences, split_pairs
from orpo_qlora.runs import store


def test_a_result_says_what_the_curves_mean(capsys):
    dataset = load_preferences(example_path("hello"))
    paths = store.create_run(TrainConfig(), split_pairs(dataset.pairs, 0, 1), dataset.report)
    records = [{"step": step, "loss": 3 - step / 100} for step in range(1, 41)]
    paths.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    train.print_result(store.read_run(paths))
    assert capsys.readouterr().out.startswith("The loss falls (2.75 → 2.65). (healthy)")
