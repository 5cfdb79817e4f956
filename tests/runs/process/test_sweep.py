import pytest
from made_runs import PAIRS, REPORT, SPLIT, make_run

from orpo_qlora.config import build_config, setting_fields
from orpo_qlora.errors import ConfigError, InputError
from orpo_qlora.runs import labels, store
from orpo_qlora.runs.differences import value_of
from orpo_qlora.runs.process import launch, sweep
from orpo_qlora.runs.process import queue as run_queue
from orpo_qlora.runs.process.sweep import Variation, parse_over, parse_values

LAMBDAS = Variation("lambda", (0.05, 0.1, 0.2))


def over(**values):
    return [
        Variation("lambda" if name == "lambda_" else name, each) for name, each in values.items()
    ]


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    """Runs stay in the queue: what is tested is what was queued."""
    monkeypatch.setattr(launch, "_start_next", lambda: None)


def test_a_sweep_is_runs_that_differ_in_lambda_alone():
    config = build_config({"name": "mine", "lambda": 0.1, "max_steps": 3, "seed": 7})
    runs = sweep.start_sweep(config, [LAMBDAS], SPLIT, REPORT)
    assert [run.config.lambda_ for run in runs] == [0.05, 0.1, 0.2]
    assert [run.title for run in runs] == ["mine λ = 0.05", "mine λ = 0.1", "mine λ = 0.2"]
    ((tag,),) = {run.label.tags for run in runs}
    assert tag.startswith("sweep-")
    assert {run.label.varied for run in runs} == {("lambda",)}
    others = [run.config.model_copy(update={"lambda_": 0, "name": ""}) for run in runs]
    assert others[0] == others[1] == others[2]
    assert {store.held_out_pairs(run.paths) for run in runs} == {PAIRS[15:]}
    assert [run.id for run in run_queue.queued_runs()] == [run.id for run in runs]
    assert sweep.group_of(tag) == sweep.group_of("last") == runs


def test_two_settings_are_crossed():
    config = build_config({"name": "mine"})
    variations = over(nll_on=("sequence", "answer"), learning_rate=(1e-4, 2e-4))
    runs = sweep.start_sweep(config, variations, SPLIT, REPORT)
    assert [(run.config.nll_on, run.config.learning_rate) for run in runs] == [
        ("sequence", 1e-4), ("sequence", 2e-4), ("answer", 1e-4), ("answer", 2e-4),
    ]  # fmt: skip
    assert runs[3].title == "mine NLL on = answer, learning rate = 0.0002"
    assert {run.label.varied for run in runs} == {("nll_on", "learning_rate")}


def test_runs_without_a_name_are_named_after_their_data_and_what_is_varied():
    runs = sweep.start_sweep(build_config({}), over(lora_r=(8, 16)), SPLIT, REPORT)
    assert [run.title for run in runs] == ["pairs LoRA rank = 8", "pairs LoRA rank = 16"]
    # The default name ends with λ.
    (first, *_) = sweep.start_sweep(build_config({}), [LAMBDAS], SPLIT, REPORT)
    assert first.title == "pairs · SmolLM2 135M · λ 0.05"


def test_the_seed_is_varied_on_the_split_of_the_first():
    runs = sweep.start_sweep(build_config({}), over(seed=(1, 2)), SPLIT, REPORT)
    assert {store.training_pairs(run.paths) for run in runs} == {PAIRS[:15]}


def test_a_new_name_of_a_run_keeps_what_its_sweep_varies():
    (first, *_) = sweep.start_sweep(build_config({}), [LAMBDAS], SPLIT, REPORT)
    labels.write_label(first.paths.label, labels.label_of("other", first.label.tags))
    assert store.read_run(first.paths).label.varied == ("lambda",)


def test_a_sweep_from_a_run_has_its_pairs_and_counts_it_in():
    paths = make_run(name="mine", accuracy=0.5, tags=("night",), **{"lambda": 0.1})
    first, *rest = sweep.sweep_from(store.read_run(paths), [LAMBDAS])
    assert first.id == paths.id
    assert [run.config.lambda_ for run in rest] == [0.05, 0.2]
    assert [run.state.status for run in rest] == ["queued", "queued"]
    assert {store.training_pairs(run.paths) for run in rest} == {PAIRS[:15]}
    assert first.label.tags[0] == "night"
    assert {run.label.tags for run in rest} == {first.label.tags[1:]}
    assert first.label.varied == ("lambda",)
    # More values later join the same sweep.
    _, more, *before = sweep.sweep_from(store.read_run(paths), over(lambda_=(1.0,)))
    assert [run.id for run in before] == [run.id for run in rest]
    assert more.label.tags == first.label.tags[1:]
    assert more.title == "mine λ = 1"
    assert [run.config.lambda_ for run in sweep.group_of("last")] == [0.05, 0.1, 0.2, 1.0]


def test_other_settings_make_another_sweep_of_a_run():
    paths = make_run(name="mine", **{"lambda": 0.1})
    sweep.sweep_from(store.read_run(paths), [LAMBDAS])
    first, second = sweep.sweep_from(store.read_run(paths), over(lora_r=(8,)))
    assert len(first.label.tags) == 2
    assert second.label.tags == first.label.tags[1:]
    assert len(sweep.group_of(first.label.tags[0])) == 3
    assert len(sweep.group_of(first.label.tags[1])) == 2


def test_a_sweep_ordered_twice_is_one():
    paths = make_run(**{"lambda": 0.1})
    wanted = over(lambda_=(0.2, 0.3))
    twice = [sweep.sweep_from(store.read_run(paths), wanted) for _ in range(2)]
    assert [run.id for run in twice[0]] == [run.id for run in twice[1]]
    config = build_config({})
    ordered = [sweep.start_sweep(config, [LAMBDAS], SPLIT, REPORT, "abcdef12") for _ in range(2)]
    assert ordered[0] == ordered[1]
    assert len(store.list_runs()) == 3 + 3


def test_a_template_file_is_one_value_however_often_it_is_ordered(tmp_path):
    text = "{% for m in messages %}{{ m['role'] + m['content'] + eos_token }}{% endfor %}"
    files = [tmp_path / "one.jinja", tmp_path / "same.jinja"]
    for file in files:
        file.write_text(text)
    wanted = [Variation("chat_template", ("chatml", str(files[0])))]
    config = build_config({})
    ordered = [sweep.start_sweep(config, wanted, SPLIT, REPORT, "abcdef12") for _ in range(2)]
    assert ordered[0] == ordered[1]
    assert {run.config.chat_template for run in ordered[0]} == {"chatml", text}
    twice = [Variation("chat_template", tuple(map(str, files)))]
    with pytest.raises(InputError, match="Two runs would both have chat template = custom"):
        sweep.start_sweep(config, twice, SPLIT, REPORT)


def test_a_sweep_needs_another_value():
    paths = make_run(**{"lambda": 0.1})
    with pytest.raises(InputError, match=r"λ = 0\.1 already"):
        sweep.sweep_from(store.read_run(paths), over(lambda_=(0.1,)))
    assert len(store.list_runs()) == 1


def test_an_unknown_sweep_names_those_there_are():
    with pytest.raises(InputError, match="No run has the tag “night”") as caught:
        sweep.group_of("night")
    assert "orpo-qlora sweep" in caught.value.hint
    (first, *_) = sweep.start_sweep(build_config({}), [LAMBDAS], SPLIT, REPORT)
    with pytest.raises(InputError) as caught:
        sweep.group_of("night")
    assert first.label.tags[0] in caught.value.hint


@pytest.mark.parametrize(
    ("text", "setting", "values"),
    [
        ("lambda=0.05, 0.1, 0.5", "lambda", (0.05, 0.1, 0.5)),
        ("lambda=1 0.5;0.7", "lambda", (0.5, 0.7, 1.0)),
        ("lambda=0", "lambda", (0.0,)),
        (" learning_rate = 2e-4,1e-4", "learning_rate", (1e-4, 2e-4)),
        ("pairs_per_step=16,4", "pairs_per_step", (4, 16)),
        ("nll_on=answer,sequence", "nll_on", ("sequence", "answer")),
        ("track_rejected=yes,no", "track_rejected", (False, True)),
        ("max_tokens_per_forward=auto,512", "max_tokens_per_forward", (0, 512)),
        ("lora_targets=q_proj,v_proj; all-linear", "lora_targets", ("all-linear", "q_proj,v_proj")),
    ],
)
def test_values_are_read_as_typed(text, setting, values):
    assert parse_over(text) == Variation(setting, values)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("lambda", ConfigError, "“lambda” is not a setting with its values"),
        ("lamda=0.1,0.2", ConfigError, "“lamda” is not a setting .did you mean lambda"),
        ("lambda=", InputError, "There is no value of lambda"),
        ("lambda=0.1,0.10", InputError, r"lambda = 0\.1 is given twice"),
        ("lambda=0.1,3", ConfigError, "less than or equal to 2"),
        ("lambda=0.1,much", ConfigError, "much"),
        ("lambda=nan,1", ConfigError, "finite"),
        ("nll_on=sequence,all", ConfigError, "all"),
        ("name=a,b", InputError, "only labels a run"),
        ("held_out=0.1,0.2", InputError, "share one split"),
    ],
)
def test_wrong_values_are_refused(text, error, message):
    with pytest.raises(error, match=message) as caught:
        parse_over(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("variations", "message"),
    [
        ([], "varies 1 or 2 settings; these are 0"),
        (over(lambda_=(0.1, 0.2), lora_r=(8, 16), seed=(1, 2)), "these are 3"),
        ([LAMBDAS, LAMBDAS], "lambda is varied twice"),
        (
            over(seed=(1, 2, 3, 4), lambda_=(0.1, 0.2, 0.5, 1.0)),
            "at most 12 runs; these would be 16",
        ),
        (over(lambda_=(0.1,)), "lambda has a single value"),
        (over(lambda_=(0.1, 0.2), seed=(3,)), "seed has a single value"),
    ],
)
def test_a_sweep_that_compares_nothing_or_too_much_is_refused(variations, message):
    with pytest.raises(InputError, match=message) as caught:
        sweep.start_sweep(build_config({}), variations, SPLIT, REPORT)
    assert caught.value.hint
    assert store.list_runs() == []


@pytest.mark.parametrize(
    ("settings", "setting", "values"),
    [
        ({"lambda": 0.1}, "lambda", (0.05, 0.1, 0.2)),
        ({"lambda": 0}, "lambda", (0.05, 0.1, 0.5)),
        ({"lambda": 2}, "lambda", (1.0, 2.0)),
        ({"learning_rate": 2e-4}, "learning_rate", (1e-4, 2e-4, 4e-4)),
        ({"lora_r": 16}, "lora_r", (8, 16, 32)),
        ({"lora_r": 1}, "lora_r", (1, 2)),
        ({}, "nll_on", ("sequence", "answer")),
        ({}, "track_rejected", (False, True)),
        ({}, "lora_targets", ("all-linear",)),
        ({}, "revision", ()),
    ],
)
def test_values_around_one_are_offered(settings, setting, values):
    assert sweep.offered_values(build_config(settings), setting) == values


@pytest.mark.parametrize(
    ("method", "setting", "values"),
    [
        ("orpo", "lambda", (0.05, 0.1, 0.2)),
        ("dpo", "beta", (0.05, 0.1, 0.2)),
        ("simpo", "beta", (1.0, 2.0, 4.0)),
        ("sft", "learning_rate", (1e-4, 2e-4, 4e-4)),
    ],
)
def test_the_weight_of_a_method_is_offered_first(method, setting, values):
    config = build_config({"method": method})
    assert sweep.usual_setting(config) == setting
    assert sweep.offered_values(config, setting) == values
    assert len(sweep.runs_from(config, [Variation(setting, values)])) == 3


def test_what_is_offered_can_be_read_back():
    config = build_config({})
    for setting in sweep.sweepable_settings():
        offered = sweep.offered_values(config, setting)
        if offered:
            read = parse_values(setting, sweep.values_text(offered)).values
            assert sorted(map(str, read)) == sorted(map(str, offered)), setting
    assert set(setting_fields()) - set(sweep.sweepable_settings()) == set(sweep.NOT_VARIED)
    assert value_of(config, "lambda") == 0.1
