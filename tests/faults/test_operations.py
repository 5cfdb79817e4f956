"""Every file operation of everything that must be whole: killed there, or refused by a full disk.

For n = 1, 2, … a fork of this test fails at its n-th file operation; what is on disk must be the
old or the new state. The loop ends with the first fork in which no fault fires.
"""

import json
import os
import sys
import traceback

import pytest

from orpo_qlora import storage
from orpo_qlora.chat import protocol
from orpo_qlora.config import TrainConfig
from orpo_qlora.data.pairs import PreferencePair, Split
from orpo_qlora.data.summary import DataSummary
from orpo_qlora.errors import DiskFull
from orpo_qlora.runs import checkpoints, store
from orpo_qlora.runs.curves import metrics
from orpo_qlora.runs.identity import Identity
from orpo_qlora.runs.process import preflight
from orpo_qlora.runs.state import RunState

# The process that runs the tests may have threads; a fork here only writes files and leaves.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

FINISHED, REFUSED, SURVIVED, KILLED, WRONG = 0, 7, 8, -9, 99
MOST_OPERATIONS = 200


def run_with_fault(action, act, n):
    """Run an action in a fork that fails at its n-th file operation; return how it ended."""
    child = os.fork()
    if child == 0:
        code = WRONG
        try:
            sys.path.insert(0, os.path.join(os.path.dirname(__file__), "shim"))  # noqa: PTH118, PTH120
            from sitecustomize import Fault

            fault = Fault(act=act, n=n)
            fault.arm()
            action()
            code = FINISHED if fault.left > 0 else SURVIVED
        except DiskFull:
            code = REFUSED
        except BaseException:  # noqa: BLE001 - a fork must not return into pytest
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def try_every_operation(act, prepare, action, check):
    """Check what is left after a fault at each operation; return how many there were."""
    for n in range(1, MOST_OPERATIONS):
        prepare()
        ended = run_with_fault(action, act, n)
        assert ended in ({FINISHED, KILLED} if act == "kill" else {FINISHED, REFUSED, SURVIVED})
        check(is_done=ended in {FINISHED, SURVIVED})
        if ended == FINISHED:
            return n - 1
    raise AssertionError(f"a fault still fires at operation {MOST_OPERATIONS}")


IDENTITY = Identity(settings={}, data={}, model={})


def write(draft):
    (draft / "weights.bin").write_bytes(bytes(1000))
    (draft / "progress.json").write_text("{}")


@pytest.mark.parametrize("act", ["kill", "full"])
def test_a_checkpoint_is_there_whole_or_not_at_all(tmp_path, act):
    folders = iter(tmp_path / str(n) for n in range(MOST_OPERATIONS))
    now = []

    def prepare():
        now[:] = [next(folders)]
        for step in (1, 2):
            checkpoints.save_checkpoint(now[0], step, IDENTITY, write)

    def check(*, is_done):
        found = checkpoints.find_checkpoint(now[0])
        assert found.newest.step in ({3} if is_done else {2, 3})
        assert found.damaged == ()
        checkpoints.sweep(now[0])
        good = sorted(path.name for path in now[0].iterdir())
        assert len(good) >= 2
        assert all(name.startswith("step-") for name in good)
        assert checkpoints.find_checkpoint(now[0]) == found

    def action():
        checkpoints.save_checkpoint(now[0], 3, IDENTITY, write)

    operations = try_every_operation(act, prepare, action, check)
    assert operations > 10


@pytest.mark.parametrize("act", ["kill", "full"])
def test_a_file_is_replaced_whole(tmp_path, act):
    path = tmp_path / "state.json"

    def check(*, is_done):
        assert path.read_text() in ({"new"} if is_done else {"old", "new"})
        storage.sweep_temporaries(path)
        assert list(tmp_path.iterdir()) == [path]

    operations = try_every_operation(
        act,
        lambda: path.write_text("old"),
        lambda: storage.write_whole(path, "new"),
        check,
    )
    assert operations >= 4


@pytest.mark.parametrize("act", ["kill", "full", "half"])
def test_a_line_is_appended_whole(tmp_path, act):
    path = tmp_path / "metrics.jsonl"

    def check(*, is_done):
        storage.JsonLines(path).append({"step": 3})
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert steps in ([[1, 2, 3]] if is_done else [[1, 3], [1, 2, 3]])

    for n in range(1, 5):
        path.write_text('{"step": 1}\n')
        lines = storage.JsonLines(path)
        ended = run_with_fault(lambda to=lines: to.append({"step": 2}), act, n)
        lines.close()
        check(is_done=ended == FINISHED)
        if ended == FINISHED:
            break
    assert n == 2


def test_the_look_at_the_home_leaves_nothing_whenever_it_is_killed(own_home):
    def check(*, is_done):
        preflight.check_home()
        assert not list(own_home.glob(".*"))

    operations = try_every_operation("kill", storage.home, preflight.check_home, check)
    assert operations >= 3


def test_the_address_of_the_chat_is_whole_and_leaves_nothing(own_home):
    def write(port):
        protocol.write_address(protocol.Address(pid=1, port=port, token="t"))

    def check(*, is_done):
        assert protocol.read_address().port in ({2} if is_done else {1, 2})
        write(3)
        assert [path.name for path in protocol.folder().iterdir()] == ["server.json"]

    operations = try_every_operation("kill", lambda: write(1), lambda: write(2), check)
    assert operations >= 3


@pytest.mark.parametrize("act", ["kill", "full"])
def test_metrics_are_rewound_whole(tmp_path, act):
    path = tmp_path / "metrics.jsonl"

    def prepare():
        path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n')

    def check(*, is_done):
        steps = [record["step"] for record in storage.read_json_lines(path)[0]]
        assert steps in ([[1]] if is_done else [[1], [1, 2, 3]])

    def action():
        metrics.rewind(path, lambda record: metrics.is_of_step(record, 1))

    assert try_every_operation(act, prepare, action, check) >= 4


@pytest.mark.parametrize("act", ["kill", "full"])
def test_a_run_is_listed_whole_or_not_at_all(own_home, act):
    pairs = tuple(PreferencePair(f"q{i}", f"good {i}", f"bad {i}", i) for i in (1, 2, 3))
    report = DataSummary(source="pairs.csv", sha256="ab" * 32, rows_read=3, pairs=3)
    before = []

    def prepare():
        before[:] = [len(store.list_runs())]

    def action():
        store.create_run(TrainConfig(), Split(pairs[:2], pairs[2:]), report)

    def check(*, is_done):
        store.sweep_drafts()
        assert len(list(store.runs_folder().iterdir())) == len(store.list_runs())
        runs = store.list_runs()
        assert len(runs) - before[0] in ({1} if is_done else {0, 1})
        for run in runs:
            assert len(store.training_pairs(run.paths)) == 2
            assert run.state == RunState(created_at=run.state.created_at)

    assert try_every_operation(act, prepare, action, check) > 10
