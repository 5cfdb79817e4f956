"""The chat while something dies, disappears or needs its memory; a tiny real model answers."""

import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest
from serving import serving
from talk import ASK, ask, begin, wait_until
from tiny import make_endless_model
from tuned import make_finished_run, write_adapter
from visitor import Visitor

from orpo_qlora import storage
from orpo_qlora.chat import client, protocol
from orpo_qlora.chat.server import NICENESS, SHARED
from orpo_qlora.errors import Busy, ModelNotFound
from orpo_qlora.runs import store
from orpo_qlora.runs.process import launch

GIB = 2**30
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def endless_model(tmp_path_factory):
    return make_endless_model(tmp_path_factory.mktemp("endless"))


@pytest.fixture
def run(endless_model):
    yield make_finished_run(endless_model)
    client.release()


@pytest.fixture
def set_free(shim, tmp_path, monkeypatch):
    """Return a function that sets the free memory the chat process sees."""
    file = tmp_path / "free"

    def set_to(count):
        storage.write_whole(file, str(count))  # the chat process may be reading it

    set_to(8 * GIB)
    monkeypatch.setenv("FREE_BYTES", str(file))
    return set_to


def niceness(pid):
    """Return that of every thread: Linux has no other."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return {os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in threads}


def is_chat_there():
    return storage.is_locked(protocol.lock_file())


def test_a_run_that_needs_the_memory_does_not_wait_for_the_end_of_an_answer(
    run, fake_worker, start, set_free, wait_for
):
    answer = begin(run)
    paths = start(max_steps=100_000)
    wait_for(lambda: store.read_run(paths).state.step > 2)
    for _ in range(20):
        assert not next(answer).is_done, "while there is memory for both, both continue"
    # The answer runs at low priority, also when it began before the run.
    wait_until(lambda: niceness(client.status().pid) == {NICENESS}, seconds=30)
    set_free(GIB)
    *_, last = answer
    assert last.is_done
    assert last.note == f"stopped: run {paths.id} needs the memory"
    assert last.base
    wait_until(lambda: not is_chat_there(), seconds=PATIENCE_SECONDS)
    with pytest.raises(Busy, match="is running, and the chat needs") as caught:
        ask(run)
    assert "never loses memory to the chat" in caught.value.hint
    step = store.read_run(paths).state.step
    wait_for(lambda: store.read_run(paths).state.step > step)
    launch.end_run(paths, 20.0)
    assert ask(run)[-1].is_done


def test_beside_a_run_the_chat_notes_that_both_share_the_processor(
    run, fake_worker, start, wait_for
):
    paths = start(max_steps=100_000)
    wait_for(lambda: store.read_run(paths).state.step > 2)
    answer = begin(run)
    assert next(answer).note == SHARED
    assert niceness(client.status().pid) == {NICENESS}
    step = store.read_run(paths).state.step
    for _ in range(20):
        assert not next(answer).is_done
    wait_for(lambda: store.read_run(paths).state.step > step)
    launch.end_run(paths, 20.0)
    while next(answer).note:
        pass
    for _ in range(20):
        assert next(answer).note == ""
    answer.close()


def test_an_adapter_removed_while_it_is_loaded_ends_no_answer_and_gives_no_other(run):
    before = ask(run)[-1]
    answer = begin(run)
    kept = run.paths.folder / "elsewhere"
    run.paths.adapter.rename(kept)
    for _ in range(20):
        assert not next(answer).is_done
    answer.close()
    with pytest.raises(ModelNotFound, match="has no adapter"):
        ask(run)
    kept.rename(run.paths.adapter)
    again = ask(run)[-1]
    assert (again.base, again.tuned) == (before.base, before.tuned)

    shutil.rmtree(run.paths.adapter)
    write_adapter(run.config.model, run.paths.adapter, seed=5)
    after = ask(run)[-1]
    assert after.base == before.base
    assert after.tuned != before.tuned


def is_answering():
    status = client.status()
    return status is not None and status.is_answering


def has_begun(tab):
    """Whether text of the answer is on the page."""
    return "tokens/s" in str(tab.value("chat-note"))


def test_a_tab_closed_and_a_process_killed_in_mid_answer(run, own_home):
    """An answer continues for a moment without a page, in case the tab is reloaded."""
    with serving(own_home) as served:
        tab = Visitor(served.address)
        tab.load()
        tab.put("chat-run", ["base", run.id])
        tab.put("chat-max-tokens", 1024)
        tab.put("chat-temperature", 0)
        tab.put("chat-message", ASK[0].content)
        tab.stream("chat-send", "click", until=lambda _: has_begun(tab))
        assert is_answering()
        tab.close()
        wait_until(lambda: not is_answering(), seconds=PATIENCE_SECONDS)

        # The next one need not wait, and sees an error when the process dies.
        tab = Visitor(served.address)
        tab.load()
        tab.put("chat-run", ["base", run.id])
        tab.put("chat-max-tokens", 1024)
        tab.put("chat-message", ASK[0].content)
        pid = client.status().pid

        def kill(_):
            if has_begun(tab) and psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)

        tab.stream("chat-send", "click", until=kill)
        assert "in the middle of an answer" in tab.value("chat-error")
        assert "chat-text" in tab.value("chat-newest")
        tab.put("chat-max-tokens", 16)
        tab.put("chat-message", ASK[0].content)
        tab.stream("chat-send", "click")
        assert tab.value("chat-error") == ""
        assert client.status().pid != pid
        tab.close()
