"""Runs that start from an adapter: exact weights, the chain, refusals."""

import json
import math
import random
import shutil

import pytest
import torch
from ended import copy_run
from lesson import dataset_of, lesson, question, words_from
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from tuned import make_adapters_tell, make_finished_run

from orpo_qlora.config import build_config
from orpo_qlora.data.pairs import split_pairs
from orpo_qlora.errors import ConfigError, InputError, ModelNotFound, UnknownRun, UnsupportedModel
from orpo_qlora.export.bundle import export_adapter
from orpo_qlora.export.origin import origin_of
from orpo_qlora.export.reports.passport import loss_passport
from orpo_qlora.models.start_adapter import read_adapter_settings
from orpo_qlora.models.templates import tokenizers
from orpo_qlora.orpo.rows.tokens import tokenize_pairs
from orpo_qlora.runs import store
from orpo_qlora.runs.lineage import read_lineage
from orpo_qlora.runs.process import launch, sweep
from orpo_qlora.runs.process.start import with_start
from orpo_qlora.runs.process.sweep import Variation

WAIT_SECONDS = 240.0
SETTINGS = {
    **{"pairs_per_step": 4, "held_out": 0.25, "max_steps": 3, "learning_rate": 1e-3},
    **{"quantization": "none", "scheduler": "constant", "warmup_ratio": 0, "lambda": 0.5},
}


def new_pairs(count=16):
    """Return pairs that `lesson` does not have."""
    return dataset_of(
        *((question(i), words_from(i + 2, 5), words_from(2 * i, 4, step=3)) for i in range(count))
    )


def trained(dataset, **values):
    paths = launch.start_run(build_config(SETTINGS | values), dataset)
    run = launch.wait_for(paths, WAIT_SECONDS)
    assert run.state.status == "finished", store.log_tail(paths)
    return run


@pytest.fixture(scope="module")
def parent_of_all(brief_model, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORPO_QLORA_HOME", str(tmp_path_factory.mktemp("home-of-a-parent")))
        return trained(lesson(16), model=str(brief_model), name="first", lora_r=4, lora_alpha=8)


@pytest.fixture
def parent(parent_of_all, own_home):
    return copy_run(parent_of_all, own_home)


def adapter_of(brief_model, folder, **options):
    """Write an adapter that changes answers, as PEFT alone does."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(brief_model, dtype=torch.float32)
    defaults = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    policy = get_peft_model(model, LoraConfig(**defaults | options, task_type="CAUSAL_LM"))
    make_adapters_tell(policy)
    policy.save_pretrained(folder)
    return folder


def naive_training(brief_model, adapter, pairs):
    """Return the losses and weights of the same steps in a plain loop of float64."""
    model = AutoModelForCausalLM.from_pretrained(brief_model, dtype=torch.float64)
    policy = PeftModel.from_pretrained(
        model, str(adapter), is_trainable=True, autocast_adapter_dtype=False
    ).double()
    weights = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0)
    order = list(range(len(pairs)))
    random.Random("42-0").shuffle(order)
    losses = []
    for step in range(3):
        batch = [pairs[index] for index in order[4 * step : 4 * step + 4]]
        losses.append(naive_loss(policy, batch))
        optimizer.zero_grad()
        losses[-1].backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    names = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    plain = {name.replace(".default", ""): p.detach() for name, p in names.items()}
    # The vector of DoRA is saved without the name of its parameter.
    plain = {name.replace("_vector.weight", "_vector"): p for name, p in plain.items()}
    return [loss.item() for loss in losses], plain


def naive_loss(policy, batch):
    nll, tokens, odds = 0.0, 0, []
    for pair in batch:
        means = []
        for answer in (pair.chosen, pair.rejected):
            ids = torch.tensor([[*pair.prompt, *answer]])
            logps = policy(input_ids=ids).logits[0, :-1].log_softmax(-1)
            logps = logps.gather(1, ids[0, 1:, None])[:, 0]
            means.append(logps[-len(answer) :].mean())
            if answer is pair.chosen:
                nll, tokens = nll - logps.sum(), tokens + len(logps)
        log_odds = [mean - torch.log1p(-mean.exp()) for mean in means]
        odds.append(-torch.nn.functional.logsigmoid(log_odds[0] - log_odds[1]))
    return nll / tokens + 0.5 * torch.stack(odds).mean()


def assert_is_naive(run, brief_model, adapter):
    """Compare every step's loss and the final adapter with the naive loop."""
    tokenizer = tokenizers.load_tokenizer(brief_model)
    pairs = tokenize_pairs(tokenizer, store.training_pairs(run.paths), 1024, "drop").pairs
    losses, weights = naive_training(brief_model, adapter, pairs)
    found = [value for _, value in store.metrics_of(run.paths).series("loss")]
    assert found == pytest.approx(losses, rel=1e-5)
    saved = load_file(run.paths.adapter / "adapter_model.safetensors")
    assert saved.keys() == weights.keys()
    before = load_file(adapter / "adapter_model.safetensors")
    moved = sum(((weights[n] - before[n]) ** 2).sum() for n in saved) ** 0.5
    apart = sum(((weights[n] - saved[n]) ** 2).sum() for n in saved) ** 0.5
    assert moved > 0.05
    assert apart < 1e-2 * moved


def test_a_second_training_is_a_plain_loop_from_the_first_ones_adapter(parent, brief_model):
    run = trained(new_pairs(), start_from="first", model=str(brief_model))
    config = run.config
    assert (config.start_from, config.lora_r, config.lora_alpha) == (parent.id, 4, 8.0)
    assert_is_naive(run, brief_model, parent.paths.adapter)


@pytest.mark.parametrize(
    "options",
    [{"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"q_proj": 2}}],
    ids=["rslora", "dora", "ranks-by-module"],
)
def test_other_kinds_of_lora_are_trained_further_exactly(brief_model, tmp_path, options):
    folder = adapter_of(brief_model, tmp_path / "theirs", **options)
    run = trained(new_pairs(), start_from=str(folder), model=str(brief_model))
    assert_is_naive(run, brief_model, folder)


def test_curves_begin_with_the_base_and_the_starting_adapter(parent):
    """On the parent's own pairs the starting adapter has the parent's last values."""
    run = trained(lesson(16), start_from=parent.id, max_steps=1)
    assert run.config.model == parent.config.model
    for name in ("loss", "nll_loss", "logps/chosen", "logps/rejected", "rewards/accuracies"):
        first = store.metrics_of(parent.paths).series(name, held_out=True)
        second = store.metrics_of(run.paths).series(name, held_out=True)
        assert [step for step, _ in second] == [0, 0, 1]
        assert second[0][1] == pytest.approx(first[0][1], rel=1e-6)
        assert second[1][1] == pytest.approx(first[-1][1], rel=1e-6)


def test_the_chain_is_in_passport_and_export_and_outlives_its_runs(parent, brief_model, tmp_path):
    second = trained(new_pairs(), start_from=parent.id, name="second")
    third = trained(lesson(8), start_from="second", max_steps=1)
    chain = list(read_lineage(third.paths.start).chain())
    assert [one.run for one in chain] == [second.id, parent.id]
    assert [one.data_sha256 for one in chain] == [run.report.sha256 for run in (second, parent)]
    assert all(len(one.pairs_sha256) == 64 for one in chain)
    assert "model.safetensors" in chain[0].base_files
    shutil.rmtree(parent.paths.folder)
    shutil.rmtree(second.paths.folder)
    fact = {fact.label: fact.value for fact in loss_passport(third, origin_of(third))}
    assert fact["Started from"].startswith(f"run {second.id} “second” (adapter SHA-256 ")
    assert "3 steps of ORPO (λ = 0.5) on made.csv" in fact["Started from"]
    assert f"which started from run {parent.id} “first”" in fact["Started from"]
    export_adapter(third, tmp_path / "third.zip")
    shutil.unpack_archive(tmp_path / "third.zip", tmp_path / "unpacked")
    (folder,) = (tmp_path / "unpacked").iterdir()
    fourth = trained(lesson(8), start_from=str(folder), model=str(brief_model), max_steps=1)
    chain = [one.run for one in read_lineage(fourth.paths.start).chain()]
    assert chain == [third.id, second.id, parent.id]


def test_a_stopped_run_resumes_after_its_parent_is_gone(parent, brief_model):
    run = trained(new_pairs(), start_from=parent.id, max_steps=4, checkpoint_every=2)
    wanted = load_file(run.paths.adapter / "adapter_model.safetensors")
    # As if it had been killed in step 3.
    newest = run.paths.checkpoints / "step-4"
    shutil.rmtree(newest)
    shutil.rmtree(parent.paths.folder)
    state = run.state.model_copy(update={"status": "stopped", "step": 2})
    store.write_state(run.paths, state)
    assert launch.resume_run(run.paths) == 2
    again = launch.wait_for(run.paths, WAIT_SECONDS)
    assert again.state.status == "finished", store.log_tail(run.paths)
    found = load_file(run.paths.adapter / "adapter_model.safetensors")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    steps = [step for step, _ in store.metrics_of(run.paths).series("loss", held_out=True)]
    assert steps[:2] == [0, 0]
    assert steps.count(0) == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_r": 64}, "lora_r is 64, not 4"),
        ({"lora_alpha": 7.0}, "lora_alpha is 7, not 8."),
        ({"lora_targets": "q_proj"}, "lora_targets is q_proj, not all-linear"),
        ({"model": "Qwen/Qwen2.5-0.5B-Instruct"}, "model is Qwen/Qwen2.5-0.5B-Instruct, not "),
        ({"revision": "v2"}, "revision is v2, not "),
    ],
)
def test_a_setting_that_contradicts_the_adapter_is_refused(parent, values, message):
    with pytest.raises(ConfigError) as caught:
        with_start(build_config({"start_from": "first", **SETTINGS, **values}))
    assert message in caught.value.message
    assert caught.value.hint.startswith(f"Remove {next(iter(values))}: the adapter decides.")


def test_settings_that_agree_are_accepted_in_any_order(brief_model, tmp_path):
    folder = adapter_of(brief_model, tmp_path / "theirs", target_modules=["v_proj", "q_proj"])
    values = {"start_from": str(folder), "lora_r": 4, "lora_alpha": 8, "model": str(brief_model)}
    config = with_start(build_config({"lora_targets": "v_proj, q_proj"} | values))
    assert config.lora_targets == "q_proj,v_proj"


def test_a_changed_base_is_refused(parent, brief_model, tmp_path):
    """The folder has the same name, and other weights."""
    weights = load_file(brief_model / "model.safetensors")
    weights = {name: weight * 1.01 for name, weight in weights.items()}
    copy = shutil.copytree(brief_model, tmp_path / brief_model.name)
    from safetensors.torch import save_file

    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    config = build_config(SETTINGS | {"start_from": parent.id})
    paths = launch.start_run(config, lesson(8))
    launch.end_run(paths, 0)
    text = paths.config.read_text().replace(str(brief_model), str(copy))
    paths.config.write_text(text)
    launch.resume_run(paths, from_start=True)
    run = launch.wait_for(paths, WAIT_SECONDS)
    assert run.state.status == "failed"
    assert run.state.error.message == (
        "The base model is not the one that the starting adapter was trained on: "
        "model.safetensors differs."
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"bias": "all"}, "bias=all"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights=pissa"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"something_new": {"of": 2027}}, "something_new"),
    ],
)
def test_kinds_that_change_the_base_are_refused_by_name(brief_model, tmp_path, settings, named):
    folder = adapter_of(brief_model, tmp_path / "theirs")
    config = json.loads((folder / "adapter_config.json").read_text()) | settings
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel) as caught:
        read_adapter_settings(folder)
    assert f"uses {named}, with which" in caught.value.message


def test_runs_and_folders_without_an_adapter_are_refused(brief_model, own_home, tmp_path):
    own_home.mkdir(mode=0o700)
    (own_home / "runs").mkdir()
    make_finished_run(brief_model, has_adapter=False, name="bare")
    with pytest.raises(InputError, match="no final adapter to start from"):
        with_start(build_config({"start_from": "bare"}))
    with pytest.raises(UnknownRun):
        with_start(build_config({"start_from": "nobody"}))
    with pytest.raises(ModelNotFound, match=r"adapter_config\.json"):
        with_start(build_config({"start_from": str(tmp_path)}))


def test_a_refused_start_makes_no_run(parent):
    before = store.all_paths()
    with pytest.raises(ConfigError):
        launch.start_run(build_config({"start_from": "first", "lora_r": 3}), lesson(8))
    assert store.all_paths() == before


def test_each_run_of_a_sweep_has_the_adapter_and_the_same_order_makes_no_more(parent, monkeypatch):
    monkeypatch.setattr(launch, "_start_next", lambda: None)
    over = [Variation("learning_rate", (1e-4, 1e-3))]
    config = build_config(SETTINGS | {"start_from": "first"})
    data = lesson(8)
    split = split_pairs(data.pairs, 0.25, 42)
    made = [sweep.start_sweep(config, over, split, data.report, "abcdef") for _ in range(2)]
    assert made[0] == made[1]
    wanted = load_file(parent.paths.adapter / "adapter_model.safetensors")
    for run in made[0]:
        assert (run.config.start_from, run.config.lora_r) == (parent.id, 4)
        found = load_file(run.paths.start / "adapter_model.safetensors")
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    named = [Variation("start_from", ("", "first"))]
    one = build_config(SETTINGS | {"lora_r": 4, "lora_alpha": 8, "model": parent.config.model})
    made = [sweep.start_sweep(one, named, split, data.report, "fedcba") for _ in range(2)]
    assert made[0] == made[1]
    assert {run.config.start_from for run in made[0]} == {"", parent.id}


def test_a_sweep_of_what_the_adapter_decides_is_refused(parent):
    data = lesson(8)
    split = split_pairs(data.pairs, 0.25, 42)
    before = store.all_paths()
    # 16 is the default, which the adapter replaces by its 4.
    over = [Variation("lora_r", (4, 16))]
    config = build_config(SETTINGS | {"start_from": "first"})
    with pytest.raises(InputError, match=r"both have LoRA rank = 4\. The adapter .* decides"):
        sweep.start_sweep(config, over, split, data.report)
    assert store.all_paths() == before


def test_the_reference_of_a_further_training_is_its_starting_adapter(parent):
    run = trained(new_pairs(), start_from=parent.id, method="dpo", max_steps=1)
    metrics = store.metrics_of(run.paths)
    assert metrics.series("loss")[0][1] == pytest.approx(math.log(2), abs=1e-6)
    base, start = metrics.series("rewards/margins", held_out=True)[:2]
    assert abs(base[1]) > 1e-4
    assert start == (0, pytest.approx(0, abs=1e-6))
    identity = json.loads(run.paths.reference.read_text().splitlines()[0])["identity"]
    assert identity["starting_adapter"] == read_lineage(run.paths.start).adapter_sha256
