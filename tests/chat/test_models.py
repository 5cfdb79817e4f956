"""When the chat may load a model, and when it unloads it."""

import json
import shutil
from types import SimpleNamespace

import psutil
import pytest

from orpo_qlora.chat import models as chat_models
from orpo_qlora.chat import server
from orpo_qlora.errors import Busy, OutOfMemory
from orpo_qlora.models.devices import hardware

GIB = chat_models.GIB


@pytest.fixture
def with_free(monkeypatch):
    def set_free(free_bytes):
        memory = SimpleNamespace(available=free_bytes)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)

    return set_free


def test_beside_a_run_the_chat_needs_half_as_much_again_and_a_gibibyte(run, with_free):
    with_free(4 * GIB)
    chat_models._refuse_when_short(2 * GIB, "cpu", run)
    with_free(4 * GIB - 1)
    with pytest.raises(Busy, match=r"needs 4\.3 GB of memory") as caught:
        chat_models._refuse_when_short(2 * GIB, "cpu", run)
    assert caught.value.where == run.id


def test_alone_the_chat_needs_what_the_weights_need(with_free):
    with_free(2 * GIB)
    chat_models._refuse_when_short(2 * GIB, "cpu", None)
    with_free(2 * GIB - 1)
    with pytest.raises(OutOfMemory, match="does not fit"):
        chat_models._refuse_when_short(2 * GIB, "cpu", None)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weight_bytes_are_those_of_the_loaded_model(run, endless_model, tmp_path, dtype):
    from transformers import AutoModelForCausalLM

    arithmetic = hardware.choose_arithmetic(dtype)
    model = AutoModelForCausalLM.from_pretrained(endless_model, dtype=arithmetic.dtype)
    needed = chat_models._weight_bytes(endless_model, chat_models.BaseKey.of(run), arithmetic)
    footprint = model.get_memory_footprint(return_buffers=False)
    assert needed == footprint
    folder = shutil.copytree(endless_model, tmp_path / "twice")
    shutil.copy(folder / "model.safetensors", folder / "consolidated.safetensors")
    index = {"weight_map": dict.fromkeys(model.state_dict(), "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    needed = chat_models._weight_bytes(folder, chat_models.BaseKey.of(run), arithmetic)
    assert needed == footprint, "the same weights split differently are not loaded"


@pytest.mark.parametrize(
    ("device", "beside", "free", "reason"),
    [
        ("cuda", "", 9 * GIB, "needs the GPU"),
        ("cuda", "same", GIB, ""),
        ("cpu", "", 2 * GIB, ""),
        ("cpu", "same", 2 * GIB - 1, "needs the memory"),
    ],
)
def test_an_idle_chat_makes_room_for_a_run(
    run, with_free, monkeypatch, device, beside, free, reason
):
    with_free(free)
    monkeypatch.setattr(server, "active_run", lambda: run)
    monkeypatch.setattr(server, "give_way", lambda niceness: None)  # not for this process
    monkeypatch.setattr(chat_models.LoadedPolicies, "device", device)
    chat = server.Chat("token", idle_seconds=60)
    assert chat._run_to_make_way_for() == "", "without a model there is nothing to unload"
    chat.loaded.key = chat_models.BaseKey.of(run)
    chat._beside = run.id if beside else ""
    assert chat._run_to_make_way_for().endswith(reason)
    assert bool(chat._run_to_make_way_for()) == bool(reason)
