"""Conversations with a real chat process and a tiny real model; one process for all tests here."""

import re
import shutil
import time
from itertools import pairwise

import pytest
from talk import ASK, ENDLESS, GREEDY, ask, begin, wait_until
from tiny import make_tiny_model

from orpo_qlora import storage
from orpo_qlora.chat import bases, client, protocol
from orpo_qlora.chat.client import ChatSettings, Column, cut_note
from orpo_qlora.data.messages import Message
from orpo_qlora.errors import InputError, ModelNotFound, UnknownRun, UnsupportedModel
from orpo_qlora.runs import store
from orpo_qlora.runs.state import ErrorCard, RunState

pytestmark = pytest.mark.usefixtures("shared_home")


def test_two_columns_stream_and_a_second_message_continues(run):
    client.release()
    updates = ask(run)
    assert updates[0].note == "starting the chat process…"
    assert any("loading the base model" in update.note for update in updates)
    texts = [update for update in updates if update.base and update.tuned]
    assert len(texts) > 8
    for before, after in pairwise(updates):
        assert after.base.startswith(before.base)
        assert after.tuned.startswith(before.tuned)
    last = updates[-1]
    assert last.is_done
    assert last.tokens_per_second > 0
    assert last.note == "base and tuned cut at 12 tokens; allow more to read on"
    assert last.base != last.tuned

    again = ask(run)[-1]
    assert (again.base, again.tuned) == (last.base, last.tuned)

    more = [Message("user", "And why?")]
    updates = ask(
        run,
        base=[*ASK, Message("assistant", last.base), *more],
        tuned=[*ASK, Message("assistant", last.tuned), *more],
    )
    assert not any("loading" in update.note for update in updates), "the model stays in memory"
    assert updates[-1].base != last.base

    prompted = ask(run, ChatSettings(system="Be brief.", temperature=0, max_tokens=12))[-1]
    assert prompted.base != last.base, "the system prompt reaches the model"


def test_answers_are_those_of_plain_peft(run):
    import torch
    from peft import PeftModel

    from orpo_qlora.models import loading

    update = ask(run)[-1]
    base = loading.load_base(run.config.model, dequantized=True)
    policy = PeftModel.from_pretrained(base.model, run.paths.adapter)
    ids = base.tokenizer.apply_chat_template(
        [{"role": "user", "content": ASK[0].content}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    texts = []
    with torch.no_grad():
        for is_tuned in (False, True):
            if is_tuned:
                new = policy.generate(**ids, do_sample=False, max_new_tokens=12)
            else:
                with policy.disable_adapter():
                    new = policy.generate(**ids, do_sample=False, max_new_tokens=12)
            answer = new[0, ids["input_ids"].shape[1] :]
            texts.append(base.tokenizer.decode(answer, skip_special_tokens=True))
    assert [update.base, update.tuned] == texts


def test_two_runs_share_one_base(make_run):
    first, second = make_run(), make_run(seed=1)
    one = ask(first)[-1]
    updates = ask(second)
    assert not any("base model" in update.note for update in updates)
    two = updates[-1]
    assert one.base == two.base
    assert one.tuned != two.tuned
    assert ask(first)[-1].tuned == one.tuned
    assert client.status().runs[-2:] == (second.id, first.id)


def test_another_base_replaces_the_first(make_run, tmp_path):
    first = make_run()
    second = make_run(make_tiny_model(tmp_path / "other", hidden=32))
    ask(first)
    ask(second)
    status = client.status()
    assert status.model == second.config.model
    assert status.runs == (second.id,)


def test_a_rewritten_adapter_is_read_again(run, adapter_of):
    before = ask(run)[-1]
    adapter_of(run.config.model, run.paths.adapter, seed=3)
    after = ask(run)[-1]
    assert after.base == before.base
    assert after.tuned != before.tuned
    assert client.status().runs.count(run.id) == 1


def test_closing_the_answer_frees_the_process_for_the_next(run):
    answer = begin(run)
    assert client.status().is_answering
    answer.close()
    wait_until(lambda: not client.status().is_answering, seconds=120)
    assert ask(run)[-1].is_done


def test_stop_ends_the_answer_and_keeps_its_text(run):
    answer = begin(run)
    client.stop()
    *_, last = answer
    assert last.is_done
    assert last.note == "stopped"
    assert 0 < len(last.base) < 4000


def test_a_second_question_waits_its_turn(run):
    answer = begin(run)
    second = client.stream(run, ASK, ASK, GREEDY)
    assert next(second).note == "waiting for another answer to end…"
    answer.close()
    *_, last = second
    assert last.is_done
    assert last.base


def test_run_without_adapter_names_itself(make_run):
    run = make_run(has_adapter=False)
    with pytest.raises(ModelNotFound, match=re.escape(f"Run “{run.title}” has no adapter")):
        ask(run)
    assert run.id not in client.status().runs


def test_run_at_work_without_adapter_says_to_wait(make_run):
    run = make_run(has_adapter=False)
    store.write_state(run.paths, RunState(status="running", created_at=time.time()))
    lock = storage.FileLock(run.paths.lock)
    assert lock.acquire()
    try:
        with pytest.raises(ModelNotFound, match="is running and has no adapter yet"):
            ask(run)
    finally:
        lock.release()


def test_pickled_weights_are_refused(run):
    (run.paths.adapter / "adapter_model.bin").write_bytes(b"\x80")
    with pytest.raises(UnsupportedModel, match="a kind of file that can run code"):
        ask(run)


def test_an_adapter_of_another_model_is_a_clear_error(run, adapter_of, tmp_path):
    other = make_tiny_model(tmp_path / "other", hidden=32)
    adapter_of(other, run.paths.adapter)
    with pytest.raises(UnsupportedModel, match="does not fit its base model"):
        ask(run)
    adapter_of(run.config.model, run.paths.adapter)
    assert ask(run)[-1].is_done, "the next message loads everything again"


def test_a_removed_run_is_a_clear_error(run):
    shutil.rmtree(run.paths.folder)
    with pytest.raises(UnknownRun, match=run.id):
        ask(run)


def test_errors_come_back_as_the_class_they_were():
    card = ErrorCard.of(ModelNotFound("gone", hint="look", where="here"))
    error = card.to_error()
    assert type(error) is ModelNotFound
    assert (error.message, error.hint, error.where) == ("gone", "look", "here")
    assert ErrorCard(slug="of-tomorrow", message="new").to_error().message == "new"


def test_at_most_four_adapters_are_held(make_run):
    runs = [make_run(seed=seed) for seed in range(5)]
    first = ask(runs[0])[-1].tuned
    for run in runs[1:]:
        ask(run)
    assert client.status().runs == tuple(run.id for run in runs[1:])
    assert ask(runs[0])[-1].tuned == first


def test_beside_a_run_the_chat_takes_one_core(make_run):
    run, busy = make_run(), make_run(has_adapter=False)
    ask(run)
    store.write_state(busy.paths, RunState(status="running", created_at=time.time()))
    lock = storage.FileLock(busy.paths.lock)
    assert lock.acquire()
    try:
        assert ask(run)[-1].is_done
    finally:
        lock.release()
    *_, last = (line for line in protocol.log_file().read_text().splitlines() if run.id in line)
    assert last.endswith("on 1 threads")


def answers_of(runs, settings=GREEDY, question=""):
    columns = [Column(run=run.id if run else "", turns=ASK) for run in runs]
    return list(client.ask(columns, settings, question))


def test_base_and_several_runs_answer_together_with_their_hashes(make_run):
    one, two = make_run(), make_run(seed=1)
    last = answers_of([one, None, two])[-1]
    first, second = ask(one)[-1], ask(two)[-1]
    assert last.texts == (first.tuned, first.base, second.tuned)
    assert len(set(last.texts)) == 3
    hashes = [
        storage.sha256_of(run.paths.adapter / "adapter_model.safetensors") for run in (one, two)
    ]
    assert last.adapters == (hashes[0], "", hashes[1])
    assert last.ended == last.cut == {0, 1, 2}
    assert last.is_done


def test_runs_of_another_base_are_refused_and_nothing_is_unloaded(make_run, tmp_path):
    mine = make_run()
    other = make_run(make_tiny_model(tmp_path / "other", hidden=32))
    ask(mine)
    with pytest.raises(InputError, match="only runs of one base") as caught:
        answers_of([mine, other])
    assert mine.config.model in caught.value.message
    assert other.config.model in caught.value.message
    assert client.status().model == mine.config.model


def test_the_base_alone_is_refused_without_a_run():
    with pytest.raises(InputError, match="No run is chosen"):
        answers_of([None])


def test_no_more_runs_answer_at_once_than_adapters_are_held(make_run):
    runs = [make_run(has_adapter=False)] * (bases.ADAPTERS_HELD + 1)
    with pytest.raises(InputError, match="cannot answer at the same time"):
        bases.common_base(runs)


def test_a_stop_by_id_ends_that_question_only(run):
    columns = [Column(run=run.id, turns=ASK)]
    answer = client.ask(columns, ENDLESS, "mine")
    next(update for update in answer if any(update.texts))
    client.stop("another")
    assert next(answer).note == ""
    waiting = client.ask(columns, ENDLESS, "late")
    assert next(waiting).note == "waiting for another answer to end…"
    client.stop("late")
    client.stop("mine")
    *_, last = answer
    assert (last.is_done, last.note, last.ended) == (True, "stopped", frozenset())
    *_, late = waiting
    assert (late.is_done, late.note, late.texts) == (True, "stopped", ("",))


def test_cut_columns_are_named():
    assert cut_note(["base", "tuned"], {0, 1}, GREEDY) == (
        "base and tuned cut at 12 tokens; allow more to read on"
    )
    assert cut_note(["base", "tuned"], {1}, GREEDY).startswith("tuned cut")
    assert cut_note(["base", "tuned"], (), GREEDY) == ""
