"""bfloat16 on a CPU is offered by its flags and by measured numbers, never chosen."""

import pytest
import torch
from files import json_lines
from lesson import question, words_from

from orpo_qlora.config import build_config
from orpo_qlora.data.pairs import load_preferences
from orpo_qlora.jobs import bfloat16_offer, estimation, interactive
from orpo_qlora.jobs.bfloat16_offer import InFloat32, Offer, compare, is_offered, response_logps
from orpo_qlora.jobs.estimate_steps import EstimateProgram
from orpo_qlora.models import loading
from orpo_qlora.models.devices import machine
from orpo_qlora.models.devices.hardware import Arithmetic, choose_arithmetic
from orpo_qlora.orpo.rows.tokens import TokenizedPair
from orpo_qlora.runs.process import training_setup

FLAGS = {
    "genoa": "fpu sse2 avx2 avx512f avx512_bf16 avx512_vnni",
    "sapphire-rapids": "fpu avx512f avx512_bf16 amx_bf16 amx_tile amx_int8",
    "ice-lake": "fpu sse2 avx2 avx512f avx512_vnni",
    "old": "fpu sse2",
}
ON_CPU = Arithmetic("cpu", torch.float32, "")


@pytest.fixture
def cpu(tmp_path, monkeypatch):
    def have(flags):
        file = tmp_path / "cpuinfo"
        file.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\n", encoding="utf-8")
        monkeypatch.setattr(machine, "CPU_DESCRIPTION", file)

    return have


@pytest.mark.parametrize(
    ("name", "has_unit"),
    [("genoa", True), ("sapphire-rapids", True), ("ice-lake", False), ("old", False)],
)
def test_the_flags_of_the_cpu_decide(cpu, name, has_unit):
    cpu(FLAGS[name])
    assert machine.multiplies_bfloat16() is has_unit
    assert is_offered(build_config({}), ON_CPU) is has_unit
    assert choose_arithmetic("auto").dtype == torch.float32, "never the silent default"


def test_a_cpu_that_does_not_describe_itself_is_offered_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CPU_DESCRIPTION", tmp_path / "missing")
    assert not machine.multiplies_bfloat16()


def test_a_number_type_that_was_set_is_not_questioned(cpu):
    cpu(FLAGS["genoa"])
    assert not is_offered(build_config({"compute_dtype": "float32"}), ON_CPU)
    assert not is_offered(build_config({}), Arithmetic("cuda", torch.bfloat16, ""))


def pairs():
    source = torch.Generator().manual_seed(3)

    def tokens(count):
        return tuple(torch.randint(3, 300, (count,), generator=source).tolist())

    return [TokenizedPair(tokens(6), tokens(5), tokens(8), row) for row in range(1, 7)]


def test_both_number_types_are_measured_on_the_same_pairs(tiny_model):
    settings = {"model": str(tiny_model), "pairs_per_step": 2, "max_steps": 2}
    config, train = build_config(settings), pairs()
    base = training_setup.load_base_to_train(config)
    engine = training_setup.engine_for(config, loading.attach_new_adapter(base, config), train)
    logps = response_logps(engine, train)
    assert logps.shape == (12,)
    offer = compare(config, train[:4], train[4:], InFloat32(logps[:8], 1.0))
    assert offer.responses == 8
    assert offer.speedup > 0
    # A tiny model with large weights: the difference shows, and is rounding.
    assert 1e-5 < offer.mean_nats <= offer.most_nats < 0.3


def test_the_sentence_names_speed_difference_and_setting():
    text = Offer(speedup=1.25, mean_nats=0.0042, most_nats=0.021, responses=16).sentence()
    assert "--set compute_dtype=bfloat16" in text
    assert "80% of its time" in text
    assert "16 responses differ by 0.004 nats a token on average, 0.02 at most" in text
    assert text.endswith("The default stays float32.")
    slower = Offer(speedup=0.5, mean_nats=0.004, most_nats=0.02, responses=16).sentence()
    assert "200% of its time" in slower
    assert slower.endswith("It gains nothing here.")
    assert bfloat16_offer.CHANGE == {"compute_dtype": "bfloat16"}


def test_the_estimate_reports_what_it_measured(cpu, tmp_path, tiny_model, monkeypatch):
    """In this process, so that the flags can be injected."""
    cpu(FLAGS["genoa"])
    monkeypatch.setattr(interactive, "work_behind_answers", lambda _: None)
    data = tmp_path / "pairs.jsonl"
    rows = [(question(i), words_from(i, 4 + i % 5), words_from(3 * i + 1, 7)) for i in range(12)]
    data.write_text(json_lines(rows), encoding="utf-8")
    settings = {"model": str(tiny_model), "pairs_per_step": 2, "max_steps": 2, "held_out": 0.25}
    request = estimation.request_for(data, load_preferences(data).report, build_config(settings))
    paths = estimation.paths_of(request)
    paths.folder.mkdir(parents=True)
    paths.request.write_text(request.model_dump_json(), encoding="utf-8")
    program = EstimateProgram(paths)
    monkeypatch.setattr(program, "report", lambda *_: None)
    assert program._answer().is_measured
    (offer,) = [note for note in program._notes if "bfloat16" in note]
    assert "--set compute_dtype=bfloat16" in offer
    assert "responses differ by" in offer
