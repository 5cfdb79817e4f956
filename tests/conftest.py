"""Every test gets a home folder of its own, a fixed seed and no hub."""

import gc
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "True"  # as Gradio does where its analytics are off
# Tiny models: a second thread costs more than it computes; the demo model's would wait for each
# other where browser, page or another test needs a core too.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # importing its ORPO trainer warns that it may move
# Before anything imports Triton, as bitsandbytes does: without a GPU kernels run as Python.
if not any(Path("/dev", name).exists() for name in ("nvidiactl", "kfd", "dxg")):
    os.environ["TRITON_INTERPRET"] = "1"

TESTS = Path(__file__).parent
MOSTLY_WAITING = ("browser", "faults", "chat/test_page.py")
"""What drives browsers begins first: afterwards a process has none, and may run event loops."""
LONGEST = (
    *("faults/test_many_runs.py", "browser/test_main_job.py", "browser/test_data_tab.py"),
    *("browser/test_live_view.py", "faults/test_worker.py", "faults/test_page.py"),
    *("browser/test_hub.py", "browser/test_shapes.py", "browser/test_flow.py"),
    *("browser/test_axe.py", "chat/test_page.py", "faults/test_chat.py"),
    *("faults/test_queue.py", "faults/test_page_death.py", "faults/test_random_kills.py"),
    *("runs/process/test_base_model.py", "parity/test_trl.py", "cli/test_main.py"),
    *("runs/process/shared/test_worker.py", "evaluation/test_measure.py"),
    *("evaluation/test_shared.py", "ui/web/test_security.py", "jobs/hub/test_fetch.py"),
    *("runs/process/test_start.py", "export/gguf/test_lora.py", "ui/test_secrets.py"),
    *("runs/process/test_forkserver.py", "runs/test_learning.py", "cli/test_verify.py"),
)
"""Files that take longest, which begin first: at the end no process works alone for long."""

# The same examples every time, however slow the machine: a failure is never a matter of luck.
settings.register_profile(
    "suite", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("ORPO_QLORA_HOME", str(tmp_path / "home"))
    random.seed(0)
    return tmp_path / "home"


@pytest.fixture
def whole_float64(monkeypatch):
    """Norms and rotary embeddings compute in float32 inside; here they too use float64.

    Without this a comparison in float64 measures those casts instead of the formula.
    """
    import torch

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch, "float32", torch.float64)


def pytest_configure(config):
    """Start programs, and the processes of xdist, as forks of one that has imported libraries."""
    from forkserver import Server, popen_of

    from orpo_qlora.program import PROGRAM_ENVIRONMENT

    if not hasattr(subprocess.Popen, "server"):
        server = Server({**PROGRAM_ENVIRONMENT, **os.environ})
        config.add_cleanup(server.close)
        patch = pytest.MonkeyPatch()
        patch.setattr(subprocess, "Popen", popen_of(server))
        config.add_cleanup(patch.undo)


def pytest_collection_modifyitems(items):
    """Let a failed browser test run once more; order the files."""
    for item in items:
        if item.get_closest_marker("browser") is not None:
            item.add_marker(pytest.mark.flaky(reruns=1))
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    items.sort(key=is_mostly_waiting, reverse=True)


def is_mostly_waiting(item):
    return any(item.path.is_relative_to(TESTS / name) for name in MOSTLY_WAITING)


def pytest_collection_finish():
    """Leave what is imported by now out of later garbage collections: 800,000 objects."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    """List what passed or failed only after a rerun: each is a defect to fix."""
    repeated = sorted({report.nodeid for report in terminalreporter.stats.get("rerun", ())})
    if repeated:
        terminalreporter.section("DEFECTS: browser tests that ran twice", sep="!", red=True)
        for node in repeated:
            terminalreporter.line(node)


@pytest.fixture(scope="session", autouse=True)
def usual_priority():
    """Keep the priority of this process: a job that a test runs in it would lower it for good."""
    from orpo_qlora.jobs import interactive

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interactive, "_give_way_at_first_answer", lambda: None)
        yield


@pytest.fixture
def cold(monkeypatch):
    """Start the programs of this test, and those that they start, as a user's machine does."""
    monkeypatch.setenv("COLD", "1")


@pytest.fixture
def shim(monkeypatch):
    """Programs started from now on look for faults; see tests/faults/shim."""
    paths = [str(TESTS / "faults" / "shim"), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))


@pytest.fixture
def fake_worker(shim, monkeypatch):
    """Runs take 20 ms a step and no model."""
    monkeypatch.setenv("FAKE_WORKER", "1")


@pytest.fixture(scope="module", autouse=True)
def no_browser_beside_event_loops(request):
    """Close the browser that tests of this process share once none of them is left."""
    if "pages" in sys.modules and not is_mostly_waiting(request):
        sys.modules["pages"].shared_browser.close()


@pytest.fixture(scope="session", autouse=True)
def closed_browser():
    yield
    if "pages" in sys.modules:
        sys.modules["pages"].shared_browser.close()


@pytest.fixture(scope="session")
def home_of_all(tmp_path_factory):
    """Return a function that gives a home, by name, to all processes that share the tests."""

    def named(name):
        base = tmp_path_factory.getbasetemp()
        home = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
        home.mkdir(mode=0o700, exist_ok=True)
        return home

    return named


@pytest.fixture(scope="session")
def demo_models(home_of_all):
    """The folder of base models with the real demo model in it, made once for all processes."""
    from orpo_qlora import storage
    from orpo_qlora.models import demo
    from orpo_qlora.models.weights import convert

    # Where the home is named, as in CI, `make setup` has converted the model into it.
    known = demo.demo_folder() if storage.HOME_VARIABLE in os.environ else None
    shared = home_of_all("demo-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(storage.HOME_VARIABLE, str(shared))
        # The first process makes it, the others wait.
        with storage.FileLock(shared / "demo.lock"):
            if known and (known / demo.RECORD).is_file() and not demo.is_prepared():
                shutil.copytree(known, demo.demo_folder(), dirs_exist_ok=True)
            convert.prepare_demo_model()
    return shared / "models"


@pytest.fixture
def demo_home(own_home, demo_models):
    """A home of the test's own that already has the demo model."""
    own_home.mkdir(mode=0o700)
    (own_home / "models").symlink_to(demo_models)
    return own_home


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A folder with a tiny random chat model and a real tokenizer."""
    from tiny import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture(scope="session")
def ended_run(tiny_model, home_of_all):
    """A finished run with its report card; a test that changes it takes `copied_run`."""
    from ended import TOKEN, evaluated_run

    from orpo_qlora import storage
    from orpo_qlora.runs import store

    home = home_of_all("home-of-an-ended-run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(storage.HOME_VARIABLE, str(home))
        patch.setenv("HF_TOKEN", TOKEN)
        with storage.FileLock(home / "tests.lock"):
            made = store.list_runs()
            return made[0] if made else evaluated_run(tiny_model)


@pytest.fixture
def copied_run(ended_run, own_home):
    """The same run in a home of the test's own."""
    from ended import copy_run

    return copy_run(ended_run, own_home)
