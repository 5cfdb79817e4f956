"""The run folder: created once, written by the worker, read by everyone. Floor 3.

See docs/run-folder.md for who writes which file.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from orpo_qlora import storage
from orpo_qlora.config import SCHEMA_VERSION, TrainConfig, build_config
from orpo_qlora.data.pairs import PreferencePair, Split, read_pairs, write_pairs
from orpo_qlora.data.summary import DataSummary, FilePart
from orpo_qlora.errors import ConfigError, InputError, UnknownRun
from orpo_qlora.models.templates.tokenizer_files import TEMPLATE_FILE
from orpo_qlora.runs.checkpoints import find_checkpoint
from orpo_qlora.runs.curves.metrics import Metrics, shared_tail
from orpo_qlora.runs.file_cache import FileMemory
from orpo_qlora.runs.labels import NO_LABEL, RunLabel, default_name, read_label, write_label
from orpo_qlora.runs.paths import RunPaths as RunPaths
from orpo_qlora.runs.state import RunState, Status

_DRAFT, _DELETED = ".draft-", ".deleted-"
RUN_ID = re.compile(r"^\d{8}-\d{6}-[0-9a-f]{4}$")
VERSIONED = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "trl", "gradio")


@dataclass(frozen=True)
class Run:
    """A run as read from its folder; `state.status` reflects the worker's lock."""

    paths: RunPaths
    config: TrainConfig
    report: DataSummary
    state: RunState
    label: RunLabel = NO_LABEL

    @property
    def id(self) -> str:
        """The run's id."""
        return self.paths.id

    @property
    def title(self) -> str:
        """Its name, or the default one made of data, model and λ."""
        config = self.config
        return self.name or default_name(self.report.source, config)

    @property
    def name(self) -> str:
        """The name in the label or in the settings; empty without one."""
        return self.label.name or self.config.name

    @property
    def is_active(self) -> bool:
        """Whether the run is queued or has a living worker."""
        return self.state.status == "queued" or self.is_at_work

    @property
    def is_at_work(self) -> bool:
        """Whether the run has a living worker."""
        return self.state.status in {"starting", "running", "stopping"}

    @property
    def is_resumable(self) -> bool:
        """Whether the run ended early."""
        return self.state.status in {"stopped", "failed", "interrupted"}

    @property
    def checkpoint_step(self) -> int:
        """The step of the newest intact checkpoint, 0 without one."""
        newest = find_checkpoint(self.paths.checkpoints, read_everything=False).newest
        return newest.step if newest else 0

    @property
    def trained_config(self) -> TrainConfig:
        """The settings with the text of the chat template saved beside the adapter, if it is.

        The base's own template may change after a run.
        """
        text = self.saved_template
        return self.config.model_copy(update={"chat_template": text}) if text else self.config

    @property
    def saved_template(self) -> str:
        """The text of the chat template beside the adapter, empty without one."""
        saved = self.paths.adapter / TEMPLATE_FILE
        return saved.read_text(encoding="utf-8") if saved.is_file() else ""

    @property
    def has_adapter(self) -> bool:
        """Whether the run left an adapter to chat with."""
        return (self.paths.adapter / "adapter_model.safetensors").is_file()

    @property
    def has_final_adapter(self) -> bool:
        """Whether the run has ended with an adapter that belongs to the end of its curves."""
        return self.state.status in {"finished", "stopped"} and self.has_adapter


def runs_folder() -> Path:
    """Return the folder of all runs."""
    return storage.home() / "runs"


def create_run(
    config: TrainConfig,
    split: Split,
    report: DataSummary,
    *,
    place: int = 0,
    ticket: str = "",
    label: RunLabel = NO_LABEL,
    stopped: str = "",
) -> RunPaths:
    """Make a run folder that holds everything the worker needs; its run is queued.

    The folder appears whole: it is filled under another name and renamed at the end.

    Args:
        config: every setting.
        split: pairs to train on and to measure on.
        report: the data summary of their file.
        place: where in the queue.
        ticket: what the order carried.
        label: tags by which it is found among many, and what its sweep varies.
        stopped: why the run is stopped instead of queued; empty for a queued one.

    Raises:
        DiskFull: no run folder is left behind.
    """
    run_id, now = _new_id(), time.time()
    state = RunState(created_at=now, place=place, ticket=ticket)
    if stopped:
        end: dict[str, object] = {"status": "stopped", "ended_at": now, "notes": (stopped,)}
        state = state.model_copy(update=end)
    draft = RunPaths(runs_folder() / f"{_DRAFT}{run_id}")
    final = runs_folder() / run_id
    with storage.disk_errors(draft.folder):
        try:
            draft.folder.mkdir(mode=0o700)
            draft.train.parent.mkdir(mode=0o700)
            write_pairs(draft.train, split.train)
            write_pairs(draft.held_out, split.held_out)
            draft.report.write_text(report.model_dump_json(indent=1), encoding="utf-8")
            draft.config.write_text(_config_text(config, report), encoding="utf-8")
            write_state(draft, state)
            if label != NO_LABEL:
                write_label(draft.label, label)
            storage.sync_files(draft.train.parent)
            storage.sync_files(draft.folder)
            draft.folder.rename(final)
        finally:
            shutil.rmtree(draft.folder, ignore_errors=True)
        storage.sync_folder(final.parent)
    return RunPaths(final)


def _new_id() -> str:
    """Return an unused id: ids made within one second differ by a random suffix."""
    while True:
        run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        if not (runs_folder() / run_id).exists():
            return run_id


def sweep_drafts() -> None:
    """Remove leftovers of interrupted creations and deletions; the caller holds the launch lock."""
    for prefix in (_DRAFT, _DELETED):
        for path in runs_folder().glob(f"{prefix}*"):
            remove_folder(path)


def set_aside(paths: RunPaths) -> Path:
    """Take a run out of the list by one rename; return its folder, which is to be removed."""
    aside = paths.folder.with_name(f"{_DELETED}{paths.id}")
    paths.folder.rename(aside)
    storage.sync_folder(aside.parent)
    return aside


def remove_folder(path: Path) -> None:
    """Remove a folder of the runs folder; of a link, only the link."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _config_text(config: TrainConfig, report: DataSummary) -> str:
    about: dict[str, object] = {
        "schema": SCHEMA_VERSION,
        "dataset_sha256": report.sha256,
        **({"dataset_source": report.hub.model_dump()} if report.hub else {}),
        "versions": {name: _installed(name) for name in VERSIONED},
    }
    if report.files:
        about["files"] = [_file_record(part) for part in report.files]
        about["sample_seed"] = report.sample_seed
    return yaml.safe_dump({"run": about}, sort_keys=False) + config.to_yaml()


def set_processes(paths: RunPaths, processes: int) -> None:
    """Replace the number of processes in a run's settings, which changes no step."""
    content = _read_yaml(paths.config) | {"processes": processes}
    storage.write_whole(paths.config, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _file_record(part: FilePart) -> dict[str, object]:
    return part.model_dump(exclude={"summary", "rows_before", "quota"}) | part.quota.model_dump(
        exclude_none=True
    )


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def paths_of(run: str) -> RunPaths:
    """Return the paths of a run given by id.

    Raises:
        UnknownRun: there is no such run.
    """
    folder = runs_folder() / run
    if not RUN_ID.match(run) or not folder.is_dir():
        raise UnknownRun(f"There is no run “{run}”.", hint="See the Runs tab, or orpo-qlora runs.")
    return RunPaths(folder)


def find_run(name_or_id: str) -> Run:
    """Return the run with that id, or the newest one with that name; "last" is the newest of all.

    Raises:
        UnknownRun: there is no such run.
    """
    runs = list_runs() if name_or_id else []  # a run without a name is not meant by none
    if name_or_id == "last" and runs:
        return runs[0]
    # A name that a run was given later counts before one that another run had before.
    for part in ("id", "name", "config.name"):
        named = {attrgetter(part)(run): run for run in reversed(runs)}
        if name_or_id in named:
            return named[name_or_id]
    raise UnknownRun(f"There is no run “{name_or_id}”.", hint="List them with orpo-qlora runs.")


def list_runs() -> list[Run]:
    """Return every readable run, newest first."""
    return list(readable(all_paths()))


def readable(several: Iterable[RunPaths]) -> Iterator[Run]:
    """Yield the runs that can be read; one may be deleted this moment, or be of a newer version."""
    for paths in several:
        with suppress(InputError, ValidationError):
            yield read_run(paths)


def all_paths() -> list[RunPaths]:
    """Return every run's paths, newest first."""
    folder = runs_folder()
    with os.scandir(folder) as found:
        names = [entry.name for entry in found if RUN_ID.match(entry.name)]
    return [RunPaths(folder / name) for name in sorted(names, reverse=True)]


def active_run() -> Run | None:
    """Return the run that has a living worker, if any."""
    at_work = (paths for paths in all_paths() if _may_be_at_work(paths))
    return next((run for run in readable(at_work) if run.is_at_work), None)


def _may_be_at_work(paths: RunPaths) -> bool:
    return not _has_ended(paths) and storage.is_locked(paths.lock)


def _has_ended(paths: RunPaths) -> bool:
    try:
        return stored_state(paths).is_done
    except (FileNotFoundError, ValidationError):
        return True


def read_run(paths: RunPaths) -> Run:
    """Return a run as read from its folder.

    Raises:
        UnknownRun: the folder is gone.
        ConfigError: a newer version made it.
    """
    try:
        state = stored_state(paths)
        config, report = _configs.of(paths.config), _reports.of(paths.report)
    except FileNotFoundError as exc:
        raise UnknownRun(f"The folder of run “{paths.id}” is gone or incomplete.") from exc
    return Run(paths, config, report, _seen(paths, state), read_label(paths.label))


def _parsed_config(path: Path) -> TrainConfig:
    try:
        settings = _read_yaml(path)
        schema = int(settings.pop("run")["schema"])
    except (yaml.YAMLError, ValueError, AttributeError, KeyError, TypeError) as exc:
        raise ConfigError("The run's config.yaml is damaged.", where=str(path)) from exc
    if schema > SCHEMA_VERSION:
        raise ConfigError(
            "The run was made by a newer version of orpo-qlora than this one.",
            hint="Update orpo-qlora; the run is left as it is.",
            where=str(path),
        )
    return build_config(settings, source=str(path))


def _read_yaml(path: Path) -> dict[str, Any]:
    # What yaml.safe_load does, by libyaml where there is one: ten times as quick, and there may be
    # a thousand runs.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(path.read_text(encoding="utf-8"))
    try:
        content: dict[str, Any] = loader.get_single_data()
    finally:
        loader.dispose()
    return content


def _parsed_report(path: Path) -> DataSummary:
    return DataSummary.model_validate_json(path.read_bytes())


def _parsed_state(path: Path) -> RunState:
    return RunState.model_validate_json(path.read_bytes())


_configs, _reports = FileMemory(_parsed_config), FileMemory(_parsed_report)
_states = FileMemory(_parsed_state)


def _seen(paths: RunPaths, stored: RunState) -> RunState:
    """Derive what cannot be stored: a worker that died recorded no end.

    The process that starts a worker takes the run's lock before `queued` becomes `starting`, and
    the worker keeps that lock until it has recorded its end.
    """
    if stored.is_done:
        return stored
    if storage.is_locked(paths.lock):
        status: Status = "stopping" if paths.stop.exists() else stored.status
        return stored.model_copy(update={"status": "starting" if status == "queued" else status})
    # The worker may have ended between the two reads.
    stored = stored_state(paths)
    if stored.is_done or stored.status == "queued":
        return stored
    return stored.model_copy(update={"status": "interrupted"})


def stored_state(paths: RunPaths) -> RunState:
    """Return the content of `state.json`, for the worker; readers use `read_run`."""
    return _states.of(paths.state)


def write_state(paths: RunPaths, state: RunState) -> None:
    """Replace `state.json`."""
    storage.write_whole(paths.state, state.model_dump_json(indent=1))


def about_run(paths: RunPaths) -> dict[str, object]:
    """Return what `config.yaml` holds besides the settings: schema, data hash, versions."""
    about: dict[str, object] = _read_yaml(paths.config)["run"]
    return about


def training_pairs(paths: RunPaths) -> Sequence[PreferencePair]:
    """Return the pairs the run trains on."""
    return read_pairs(paths.train)


def held_out_pairs(paths: RunPaths) -> Sequence[PreferencePair]:
    """Return the pairs the run measures on."""
    return read_pairs(paths.held_out)


def metrics_of(paths: RunPaths, most_seconds: float = math.inf) -> Metrics:
    """Return the run's metrics as they are now.

    Args:
        paths: the run's.
        most_seconds: how long a long file may be read before the rest is left for the next call.
    """
    tail = shared_tail(paths.metrics)
    tail.refresh(most_seconds)
    return tail.snapshot()


def samples_of(paths: RunPaths) -> list[dict[str, object]]:
    """Return the sampled answers, oldest first."""
    return storage.read_json_lines(paths.samples)[0]


def log_tail(paths: RunPaths, lines: int = 40) -> str:
    """Return the last lines of the worker's log."""
    try:
        with paths.log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 64_000))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    # Progress bars rewrite their line with carriage returns; only the last writing counts.
    kept = [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join(kept[-lines:])


def to_json(run: Run) -> dict[str, object]:
    """Return a run as plain data, for `--json`."""
    return {
        "id": run.id,
        "name": run.name,
        "tags": list(run.label.tags),
        "folder": str(run.paths.folder),
        "state": json.loads(run.state.model_dump_json()),
        "config": run.config.model_dump(mode="json", by_alias=True),
        "data": json.loads(run.report.model_dump_json()),
        "has_adapter": run.has_adapter,
        "checkpoint_step": run.checkpoint_step,
    }
