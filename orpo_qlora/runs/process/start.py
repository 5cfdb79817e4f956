"""Starting a run from an adapter: which settings it decides, and its copy. Floor 3; no torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orpo_qlora import storage
from orpo_qlora.config import TrainConfig, setting_fields
from orpo_qlora.errors import ConfigError, InputError, UnsupportedModel
from orpo_qlora.methods import method_with_strength
from orpo_qlora.models.catalogue import find_model
from orpo_qlora.models.start_adapter import WEIGHTS, AdapterSettings, read_adapter_settings
from orpo_qlora.models.trust import ADAPTER_SETTINGS
from orpo_qlora.runs import lineage, store
from orpo_qlora.runs.checkpoints import find_checkpoint
from orpo_qlora.runs.lineage import Ancestor
from orpo_qlora.runs.present import setting_value
from orpo_qlora.runs.store import Run, RunPaths


@dataclass(frozen=True)
class _Start:
    """The adapter that a setting names."""

    reference: str
    """Run id, or absolute folder."""
    folder: Path
    settings: AdapterSettings
    run: Run | None


def with_start(config: TrainConfig) -> TrainConfig:
    """Return the settings of a run with those that its starting adapter decides filled in.

    A setting that has its default value is not the user's: it becomes that of the adapter.

    Raises:
        ConfigError: lists every setting that contradicts the adapter.
        InputError: there is no such run, or it has no final adapter.
        ModelError: the folder holds no adapter that can be trained further.
    """
    if not config.start_from:
        return config
    start = _find(config.start_from)
    wanted = settings_of(start.run, start.settings)
    wrong = [name for name, value in wanted.items() if not _is_compatible(config, name, value)]
    if wrong:
        found = [
            f"{name} is {setting_value(_value(config, name))}, not {setting_value(wanted[name])}"
            for name in wrong
        ]
        raise ConfigError(
            f"The adapter that the run starts from has other settings: {'; '.join(found)}.",
            hint=f"Remove {', '.join(wrong)}: the adapter decides. For another base, rank or "
            "targets train a new adapter.",
        )
    if "model" in wanted and _is_same_base(config.model, str(wanted["model"])):
        del wanted["model"]  # the user's name for it may be a folder of this machine
    _refuse_unknown_base(str(wanted.get("model", config.model)))
    return config.model_copy(update={**wanted, "start_from": start.reference})


def _refuse_unknown_base(model: str) -> None:
    is_hub_id = model.count("/") == 1 and not model.startswith(("/", ".", "~"))
    if not (is_hub_id or find_model(model) or Path(model).expanduser().is_dir()):
        raise ConfigError(
            f"The adapter that the run starts from belongs to the base model “{model}”, which is "
            "no folder on this machine.",
            hint="Set the base model to its folder or hub id.",
        )


def settings_of(run: Run | None, adapter: AdapterSettings) -> dict[str, object]:
    """Return the settings that a starting adapter decides, by name."""
    found: dict[str, object] = {"lora_r": adapter.rank, "lora_alpha": adapter.alpha}
    if run is not None:
        config = run.config
        found |= {"model": config.model, "revision": config.revision}
        found |= {"quantization": config.quantization, "chat_template": config.chat_template}
        return found | {"lora_targets": config.lora_targets}
    if adapter.base:
        found["model"] = adapter.base
    if adapter.revision:
        found["revision"] = adapter.revision
    if adapter.chat_template:
        found["chat_template"] = adapter.chat_template
    return found | {"lora_targets": adapter.targets}


def _find(reference: str) -> _Start:
    folder = Path(reference).expanduser()
    if (folder / ADAPTER_SETTINGS).is_file():
        folder = folder.absolute()
        return _Start(str(folder), folder, read_adapter_settings(folder), None)
    if os.sep in reference:
        read_adapter_settings(folder)  # explains what is missing
    run = store.find_run(reference)
    if run.is_active or run.state.status not in {"finished", "stopped"} or not run.has_adapter:
        raise InputError(
            f"Run “{run.title}” is {run.state.status} and has no final adapter to start from.",
            hint="Choose a run that finished, or was stopped after its first steps.",
        )
    return _Start(run.id, run.paths.adapter, read_adapter_settings(run.paths.adapter), run)


def _value(config: TrainConfig, name: str) -> object:
    return getattr(config, name)


def _is_compatible(config: TrainConfig, name: str, wanted: object) -> bool:
    value = _value(config, name)
    if value in (wanted, setting_fields()[name].default):
        return True
    if name == "lora_targets":
        return {part.strip() for part in str(value).split(",")} == set(str(wanted).split(","))
    return name == "model" and _is_same_base(str(value), str(wanted))


def _is_same_base(model: str, other: str) -> bool:
    return not _base_names(model).isdisjoint(_base_names(other))


def _base_names(model: str) -> set[str]:
    """Return the names under which a base may be recorded: id, catalogue name, folder name."""
    entry = find_model(model)
    names = {model, Path(model).name} if os.sep in model else {model}
    return names | ({entry.name, entry.hub_id} if entry else set())


def copy_start(paths: RunPaths, config: TrainConfig) -> None:
    """Copy the starting adapter and its chain into the run's folder, unless they are there.

    The folder appears whole.

    Raises:
        InputError: the adapter is gone.
        DiskFull: nothing is left behind.
    """
    if not config.start_from or (paths.start / lineage.LINEAGE).is_file():
        return
    start = _find(config.start_from)
    draft = paths.start.with_name(f".{paths.start.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with storage.disk_errors(draft):
            draft.mkdir(mode=0o700)
            for name in (WEIGHTS, ADAPTER_SETTINGS):
                shutil.copyfile(start.folder / name, draft / name)
            lineage.write_lineage(draft, _ancestor(start, storage.sha256_of(draft / WEIGHTS)))
            storage.sync_files(draft)
            draft.rename(paths.start)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    storage.sync_folder(paths.folder)


def _ancestor(start: _Start, sha256: str) -> Ancestor:
    if start.run is not None:
        return ancestor_of(start.run, sha256)
    known = lineage.read_lineage(start.folder)
    if known is not None and known.adapter_sha256 == sha256:
        return known
    return Ancestor(
        title=start.folder.name, adapter_sha256=sha256, base=_portable_name(start.settings.base)
    )


def ancestor_of(run: Run, sha256: str) -> Ancestor:
    """Return a run's adapter with the chain before it."""
    newest = find_checkpoint(run.paths.checkpoints, read_everything=False).newest
    return Ancestor(
        run=run.id,
        title=run.title,
        adapter_sha256=sha256,
        base=_portable_name(run.config.model),
        base_files=newest.manifest.identity.model if newest else {},
        steps=run.state.step,
        objective=method_with_strength(run.config),
        data=run.report.source,
        data_sha256=run.report.sha256,
        pairs_sha256=storage.sha256_of(run.paths.train) if run.paths.train.is_file() else "",
        parent=lineage.read_lineage(run.paths.start),
    )


def _portable_name(model: str) -> str:
    """Return a base's name without the folders of this machine."""
    return Path(model).name if Path(model).is_absolute() else model


def refuse_another_base(paths: RunPaths, base_files: Mapping[str, str]) -> None:
    """Refuse a base whose files are not those that the starting adapter was trained on.

    Raises:
        UnsupportedModel: names a file that differs.
    """
    ancestor = lineage.read_lineage(paths.start)
    known = ancestor.base_files if ancestor else {}
    compared = [
        name for name in sorted(known) if name == "config.json" or name.endswith(".safetensors")
    ]
    changed = [name for name in compared if base_files.get(name) != known[name]]
    if changed:
        raise UnsupportedModel(
            f"The base model is not the one that the starting adapter was trained on: "
            f"{changed[0]} differs.",
            hint="Restore the base model's files, or train a new adapter.",
        )
