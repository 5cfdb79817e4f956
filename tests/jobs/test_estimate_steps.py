"""The real estimate program with tiny models: a run takes what was estimated."""

import json
import shutil
import time

import pytest
from files import json_lines
from lesson import question, words_from
from policies import make_policy, random_pairs
from tiny import claim_layers

from orpo_qlora import storage
from orpo_qlora.config import build_config
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.errors import Busy, OrpoQloraError
from orpo_qlora.jobs import estimation
from orpo_qlora.jobs.job import JobState
from orpo_qlora.jobs.measured_steps import expected_run, expected_shares
from orpo_qlora.orpo.engine import build_engine
from orpo_qlora.orpo.loss import needs_of
from orpo_qlora.orpo.processes.ranks import Ranks, assign
from orpo_qlora.orpo.rows.batches import training_batches
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch

WAIT_SECONDS = 240.0


def write_pairs(path, pairs=24):
    rows = [
        (question(i), words_from(i, 4 + i % 5), words_from(3 * i + 1, 7, step=2))
        for i in range(pairs)
    ]
    path.write_text(json_lines(rows), encoding="utf-8")
    return path


def config_for(model, **settings):
    base = {"pairs_per_step": 4, "held_out": 0.25, "max_steps": 7, "eval_every": 3}
    return build_config({"model": str(model)} | base | settings)


@pytest.fixture
def request_for(tmp_path, tiny_model):
    path = write_pairs(tmp_path / "pairs.jsonl")
    report = load_preferences(path).report

    def make(**settings):
        config = config_for(settings.pop("model", tiny_model), **settings)
        return estimation.request_for(path, report, config)

    return make


def measured(request, **options):
    found = estimation.wait_for(request, lambda _: None, **options)
    # After its last word the program still writes to its log, and then lets go of its lock.
    deadline = time.monotonic() + WAIT_SECONDS
    while storage.is_locked(estimation.paths_of(request).lock):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def card_of(request):
    with pytest.raises(OrpoQloraError):
        measured(request)
    return estimation.read_answer(request).state.error


@pytest.fixture(scope="module")
def both(tiny_model, tmp_path_factory):
    """The estimate of a run, and the run."""
    folder = tmp_path_factory.mktemp("estimate-and-run")
    path = write_pairs(folder / "pairs.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORPO_QLORA_HOME", str(folder / "home"))
        dataset, config = load_preferences(path), config_for(tiny_model)
        request = estimation.request_for(path, dataset.report, config)
        estimated = measured(request)
        left = {file.name for file in estimation.paths_of(request).folder.iterdir()}
        assert left == {"estimate.json", "lock", "log.txt", "request.json", "state.json"}
        assert list(store.runs_folder().iterdir()) == []
        run = launch.wait_for(launch.start_run(config, dataset), WAIT_SECONDS)
    assert run.state.status == "finished", store.log_tail(run.paths)
    return estimated, run


def test_a_run_takes_the_steps_evaluations_and_samples_that_were_estimated(both):
    estimated, run = both
    records = [json.loads(line) for line in run.paths.metrics.read_text().splitlines()]
    assert estimated.steps == sum("loss" in record for record in records) == 7
    assert estimated.evaluations == sum("eval/loss" in record for record in records) == 4
    whens = [(sample["when"], sample["step"]) for sample in store.samples_of(run.paths)]
    assert estimated.samples == len(set(whens)) == 4
    assert (estimated.pairs, estimated.held_out_pairs) == (18, 6)


def test_a_run_takes_the_memory_that_was_measured(both):
    estimated, run = both
    lines = run.paths.metrics.read_text().splitlines()
    peak = max(json.loads(line).get("peak_memory_bytes", 0) for line in lines)
    assert estimated.measured_memory_bytes == pytest.approx(peak, rel=0.1)
    assert estimated.fits


def test_the_memory_model_predicts_what_is_measured(both):
    estimated, _ = both
    assert estimated.memory_bytes == estimated.measured_memory_bytes
    # Beside a tiny model, what the libraries take when first used weighs most.
    assert estimated.predicted_memory_bytes == pytest.approx(estimated.memory_bytes, rel=0.3)


def test_a_run_stays_within_the_disk_that_was_estimated(both):
    estimated, run = both
    taken = sum(file.stat().st_size for file in run.paths.folder.rglob("*") if file.is_file())
    adapter = (run.paths.adapter / "adapter_model.safetensors").stat().st_size
    assert adapter < taken
    # Metrics, log and account of so small a run weigh more than its adapter does.
    assert taken < estimated.disk_bytes + 300_000
    assert estimated.disk_bytes > 8 * adapter


def test_the_estimate_is_one_sentence_with_its_parts_below(both):
    estimated, _ = both
    first, *rest = estimated.sentences()
    assert first == estimated.sentence()
    assert first.startswith("About ")
    for words in ("of memory (", "free), ", "of disk."):
        assert words in first
    assert "for 7 steps, " in rest[0]
    assert f"({estimated.longest_tokens:,} tokens)" in rest[1]
    assert min(estimated.seconds.model_dump().values()) > 0


def test_second_look_is_on_disk_and_asking_again_measures_again(request_for):
    request = request_for()
    assert not estimation.is_requested(request)
    first = measured(request)
    log = estimation.paths_of(request).log
    before = log.read_text()
    assert measured(request) == first
    cheap = request_for(name="other", learning_rate=0.01, scheduler="linear")
    assert estimation.ask(cheap).estimate == first
    assert log.read_text() == before
    assert measured(request, again=True).made_at > first.made_at


@pytest.mark.parametrize(
    "settings",
    [{"max_length": 512}, {"lambda": 0}, {"epochs": 2}, {"lora_r": 4}, {"model": "nobody/nothing"}],
)
def test_a_setting_that_costs_something_is_another_question(request_for, settings):
    assert request_for(**settings).key != request_for().key


def test_a_changed_model_folder_is_another_question(request_for, tiny_model, tmp_path):
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    before = request_for(model=copy).key
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert request_for(model=copy).key != before


def test_what_the_memory_cannot_hold_is_not_tried(request_for, tiny_model, tmp_path):
    deep = claim_layers(tiny_model, tmp_path / "deep")
    greedy = {"max_tokens_per_forward": 10**9, "activation_checkpointing": "off"}
    answer = measured(request_for(model=deep, lora_r=1, pairs_per_step=18, **greedy))
    assert not answer.is_measured
    assert not answer.fits
    assert answer.sentence().startswith("Does not fit: it takes about ")
    assert answer.changes[0].startswith("“Tokens per forward”: set it to 0")
    assert not any("smaller base model" in change for change in answer.changes)


def test_a_base_that_cannot_be_held_is_not_loaded(request_for, tiny_model, tmp_path):
    giant = shutil.copytree(tiny_model, tmp_path / "giant")
    config = json.loads((giant / "config.json").read_text())
    config |= {"hidden_size": 32_768, "intermediate_size": 131_072, "num_hidden_layers": 400}
    (giant / "config.json").write_text(json.dumps(config))
    answer = measured(request_for(model=giant))
    assert not answer.is_measured
    assert answer.memory_bytes > 10**12
    assert len(answer.changes) == 1
    assert "smaller base model" in answer.changes[0] or "more memory" in answer.changes[0]


@pytest.mark.parametrize(
    ("settings", "slug", "words"),
    [
        ({"max_length": 16}, "data", "longer than 16 tokens"),
        ({"lora_targets": "nonsense"}, "unsupported-model", "LoRA cannot be put"),
    ],
)
def test_a_failure_is_the_card_a_run_would_leave(request_for, settings, slug, words):
    request = request_for(**settings)
    card = card_of(request)
    assert card.slug == slug
    assert words in card.message
    assert card.hint
    # It stays until asked again.
    assert estimation.ask(request).state.status == "failed"


def test_a_run_goes_first(request_for, tmp_path, tiny_model):
    request = request_for()
    assert estimation.ask(request).state.status == "starting"
    dataset = load_preferences(tmp_path / "pairs.jsonl")
    paths = launch.start_run(config_for(tiny_model, max_steps=5000), dataset)
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while estimation.read_answer(request).state.is_busy:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        state = estimation.read_answer(request).state
        assert (state.status, state.error.slug) == ("failed", "busy")
        assert store.read_run(paths).is_at_work
        with pytest.raises(Busy, match="needs the machine to itself"):
            estimation.ask(request, again=True)
    finally:
        launch.end_run(paths, 0.0)


def test_a_plan_that_died_is_called_lost(request_for):
    request = request_for()
    paths = estimation.paths_of(request)
    paths.folder.mkdir()
    state = JobState(status="working", phase="training a step on the longest pairs")
    storage.write_whole(paths.state, state.model_dump_json())
    lost = estimation.ask(request).state
    assert lost.status == "lost"
    assert "Longest sequence" in lost.error.hint


class OneOf(Ranks):
    """A rank that only takes its share."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def share(self, items, cost):
        places = assign([cost(item) for item in items], self.size)
        return [item for item, place in zip(items, places, strict=True) if place == self.rank]


def test_the_time_of_several_gpus_is_that_of_the_one_with_most_tokens():
    config = build_config({"pairs_per_step": 4, "epochs": 1, "eval_every": 50})
    train, held_out = random_pairs(9, longest=40, seed=1), random_pairs(5, seed=2)
    engine = build_engine(make_policy("llama-untied"), needs_of(config), train)
    alone = expected_run(config, engine, train, held_out)
    assert alone.shared(expected_shares(config, engine, train, held_out, 1)) == alone
    ranks = [OneOf(rank, 3) for rank in range(3)]

    def most(pairs):
        return max(engine.tokens(engine.share(pairs, one)) for one in ranks)

    found = alone.shared(expected_shares(config, engine, train, held_out, 3))
    steps = training_batches(train, config, lambda: 0)
    assert found.training_tokens == pytest.approx(sum(map(most, steps)))
    assert found.evaluation_tokens == pytest.approx(alone.evaluations * most(held_out))
    assert alone.training_tokens / 3 <= found.training_tokens < alone.training_tokens
