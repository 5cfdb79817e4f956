"""Runs on base models without a chat template, from settings to chat and export."""

import json
import shutil

import pytest
import torch
from lesson import dataset_of, lesson
from safetensors.torch import load_file
from tiny import make_base_model, strip_template
from transformers import AutoTokenizer

from orpo_qlora.chat import client
from orpo_qlora.chat.client import ChatSettings, Column
from orpo_qlora.config import build_config
from orpo_qlora.data.messages import Message
from orpo_qlora.evaluation import request as evaluation_request
from orpo_qlora.export import merge
from orpo_qlora.models import loading
from orpo_qlora.models.templates import rendering
from orpo_qlora.orpo.rows.tokens import to_tokens
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch

WAIT_SECONDS = 240.0
OWN = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
ASK = (Message("user", "question 1 about gravity"),)


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    return make_base_model(tmp_path_factory.mktemp("base") / "tiny-base", is_sentencepiece=True)


def train(model, **settings):
    values = {
        **{"model": str(model), "pairs_per_step": 4, "held_out": 0.25, "max_steps": 2},
        **settings,
    }
    run = launch.wait_for(launch.start_run(build_config(values), lesson(24)), WAIT_SECONDS)
    assert run.state.status == "finished", store.log_tail(run.paths)
    return run


@pytest.fixture(scope="module")
def runs(base_model, tmp_path_factory):
    """Two runs of one base model: chatml by itself, and a template file that is gone since."""
    home = tmp_path_factory.mktemp("home-of-base-runs")
    file = home / "own.jinja"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORPO_QLORA_HOME", str(home))
        file.write_text(OWN)
        runs = [train(base_model), train(base_model, chat_template=str(file))]
        file.unlink()
        yield runs
        client.release()


@pytest.fixture
def home_of_runs(runs, monkeypatch):
    monkeypatch.setenv("ORPO_QLORA_HOME", str(runs[0].paths.folder.parent.parent))


def test_the_run_says_which_template_it_uses(runs):
    first, second = runs
    assert (
        "Chat template: chatml, since the model has none; “</s>” ends each turn."
        in first.state.notes
    )
    assert first.config.chat_template == "auto"
    assert second.config.chat_template == OWN
    assert any(
        note.startswith("Chat template: custom (") and note.endswith("“</s>” ends each turn.")
        for note in second.state.notes
    )


def test_the_adapter_carries_tokenizer_and_template_and_no_embedding_rows(runs, base_model):
    for run, opened in zip(
        runs,
        (
            "<s><|im_start|>user\nhello</s>\n<|im_start|>assistant\n",
            "<s>user: hello</s>\nassistant: ",
        ),
        strict=True,
    ):
        tokenizer = AutoTokenizer.from_pretrained(run.paths.adapter)
        messages = [{"role": "user", "content": "hello"}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert text == opened
        assert len(tokenizer) == len(AutoTokenizer.from_pretrained(base_model))
        assert run.trained_config.chat_template == tokenizer.chat_template
        weights = load_file(run.paths.adapter / "adapter_model.safetensors")
        assert all("lora_" in name for name in weights)
        assert not any("embed" in name or "lm_head" in name for name in weights)
        settings = (run.paths.adapter / "tokenizer_config.json").read_text()
        assert str(base_model.parent) not in settings


@pytest.mark.usefixtures("home_of_runs")
def test_each_run_and_the_base_beside_it_is_prompted_with_its_own_template(runs, base_model):
    settings = ChatSettings(temperature=0, max_tokens=10)

    def answers(*ids):
        columns = [Column(run=run, turns=ASK) for run in ids]
        return list(client.ask(columns, settings))[-1].texts

    both = answers(runs[0].id, runs[1].id)
    beside = [answers("", run.id) for run in runs]
    assert both == (beside[0][1], beside[1][1])
    for run, (base, tuned) in zip(runs, beside, strict=True):
        assert (base, tuned) == plain_answers(run, base_model)
    assert beside[0][0] != beside[1][0]


def plain_answers(run, base_model):
    """Return what plain PEFT answers with the template beside the adapter, bare and tuned."""
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(run.paths.adapter)
    base = loading.load_base(str(base_model), dequantized=True)
    policy = PeftModel.from_pretrained(base.model, run.paths.adapter)
    messages = [{"role": "user", "content": ASK[0].content}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    ends = {"do_sample": False, "max_new_tokens": 10, "eos_token_id": [2, tokenizer.eos_token_id]}
    texts = []
    with torch.no_grad():
        for is_tuned in (False, True):
            if is_tuned:
                new = policy.generate(**ids, **ends)
            else:
                with policy.disable_adapter():
                    new = policy.generate(**ids, **ends)
            answer = new[0, ids["input_ids"].shape[1] :]
            texts.append(tokenizer.decode(answer, skip_special_tokens=True))
    return tuple(texts)


@pytest.mark.usefixtures("home_of_runs")
def test_evaluation_and_merged_model_use_the_template_of_the_run(runs, tmp_path):
    run = runs[1]
    card = evaluation_request.wait_for(run, lambda _: None)
    tokenizer = AutoTokenizer.from_pretrained(run.paths.adapter)
    pairs = to_tokens(tokenizer, store.held_out_pairs(run.paths))
    assert card.scores.chosen_tokens == tuple(len(pair.chosen) for pair in pairs)
    logged = store.metrics_of(run.paths).series("logps/chosen", held_out=True)[-1][1]
    measured = sum(card.scores.tuned_chosen) / len(pairs)
    assert measured == pytest.approx(logged, abs=1e-4)

    folder = tmp_path / "merged"
    merge.merge_run(run, folder, "float32")
    assert AutoTokenizer.from_pretrained(folder).chat_template == OWN
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.eos_token_id in (ends if isinstance(ends, list) else [ends])


def test_the_end_of_turn_is_part_of_the_trained_answer(runs, base_model):
    """Its id is the last of each answer, and its log-prob one of those that the loss reads."""
    from orpo_qlora.orpo.engine import build_engine
    from orpo_qlora.orpo.objectives.base import CHOSEN
    from orpo_qlora.orpo.rows.packing import Needs

    base = loading.load_base(str(base_model))
    pair = to_tokens(base.tokenizer, store.training_pairs(runs[0].paths)[:1])[0]
    end = rendering.end_of_answer(base.tokenizer).token
    assert base.tokenizer.convert_ids_to_tokens(end) == "</s>"
    assert pair.chosen[-1] == pair.rejected[-1] == end
    policy = loading.attach_new_adapter(base, runs[0].config)
    engine = build_engine(policy, Needs(prompt=True, rejected=True), [pair])
    (group,) = engine.micro_steps([pair], 10_000)
    with torch.no_grad():
        measured, _ = engine.measure(group)
        ids = torch.tensor([pair.prompt + pair.chosen])
        logps = torch.log_softmax(policy(input_ids=ids).logits[0, :-1].float(), -1)
    expected = logps.gather(1, ids[0, 1:, None])[len(pair.prompt) - 1 :].sum()
    assert measured.counts[0, CHOSEN] == len(pair.chosen)
    assert float(measured.sums[0, CHOSEN]) == pytest.approx(float(expected), rel=1e-4)
    assert base.model.get_input_embeddings().num_embeddings == 400


THINGS = [
    "cats",
    "dogs",
    "rain",
    "snow",
    "tea",
    "bread",
    "trains",
    "ships",
    "stars",
    "trees",
    "music",
    "books",
]
OPINIONS = dataset_of(
    *(
        (
            f"What do you think of {thing}?",
            f"I like {thing}.",
            f"I do not want to talk about {thing}, and then there is more to say about that",
        )
        for thing in THINGS
    )
)


@pytest.fixture
def real_base(demo_models, tmp_path):
    """The real demo model without its chat template; its weights are not copied."""
    source, folder = demo_models / "smollm2-135m-instruct", tmp_path / "smollm2-base"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    settings = folder / "tokenizer_config.json"
    settings.unlink()
    shutil.copy(source / settings.name, settings)
    return strip_template(folder)


@pytest.mark.slow
def test_a_real_base_model_learns_the_format_and_stops_at_the_end_of_turn(real_base):
    """With Zephyr's template, which this model has never seen: the base talks on."""
    question = "What do you think of pizza?"
    values = {
        **{"model": str(real_base), "chat_template": "zephyr", "lora_r": 8, "max_steps": 6},
        **{"learning_rate": 1e-3, "scheduler": "constant", "warmup_ratio": 0, "held_out": 0},
        **{"pairs_per_step": 4, "max_length": 256, "sample_prompts": [question]},
        "quantization": "none",
    }
    run = launch.wait_for(launch.start_run(build_config(values), OPINIONS), WAIT_SECONDS)
    assert run.state.status == "finished", store.log_tail(run.paths)
    columns = [Column(run=run_id, turns=(Message("user", question),)) for run_id in ("", run.id)]
    try:
        last = list(client.ask(columns, ChatSettings(temperature=0, max_tokens=24)))[-1]
    finally:
        client.release()
    assert last.ended == {0, 1}
    assert last.cut == {0}, "the base reaches the limit, the adapter ends its turn"
    base, tuned = last.texts
    assert tuned == "I like pizza."
    samples = {one["when"]: one["answer"] for one in store.samples_of(run.paths)}
    assert samples["end"] == tuned
    assert samples["start"].startswith(base), "the base answers without the adapter"
