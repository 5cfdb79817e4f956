"""The settings of an adapter that is trained further. Floor 1; no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orpo_qlora.errors import ModelNotFound, UnsupportedModel
from orpo_qlora.models.templates.tokenizer_files import TEMPLATE_FILE
from orpo_qlora.models.trust import ADAPTER_SETTINGS, refuse_unsafe_adapter
from orpo_qlora.setting import TEMPLATE_CHARACTERS, is_template_text

WEIGHTS = "adapter_model.safetensors"
_EXACT = frozenset(
    (
        *("task_type", "peft_type", "auto_mapping", "peft_version", "inference_mode"),
        *("base_model_name_or_path", "revision", "r", "lora_alpha", "lora_dropout"),
        *("target_modules", "target_parameters", "exclude_modules", "rank_pattern"),
        *("alpha_pattern", "layers_to_transform", "layers_pattern", "fan_in_fan_out"),
        *("use_rslora", "use_dora", "lora_bias", "megatron_core", "qalora_group_size"),
        *("init_lora_weights", "bias", "runtime_config", "ephemeral_gpu_offload"),
    )
)
"""Settings of PEFT with which the base stays as it is when the adapter is off."""
_FRESH_STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Initial weights that leave the base as it is; PiSSA, OLoRA, CorDA and LoftQ change it."""


@dataclass(frozen=True)
class AdapterSettings:
    """What an adapter's configuration decides for a run that starts from it."""

    rank: int
    alpha: float
    targets: str
    """As the setting `lora_targets` names them."""
    base: str
    """Hub id or folder of the base, empty if it is not recorded."""
    revision: str
    chat_template: str
    """Text of the template that lies beside the adapter, empty without one."""


def read_adapter_settings(folder: Path) -> AdapterSettings:
    """Return the settings of a LoRA adapter that can be trained further exactly.

    LoRA, rank-stabilised LoRA, DoRA and ranks by module are; kinds that change the base are not.

    Raises:
        ModelNotFound: the folder holds no safetensors adapter.
        UnsupportedModel: names the setting that cannot be trained further.
    """
    if not (folder / WEIGHTS).is_file() or not (folder / ADAPTER_SETTINGS).is_file():
        raise ModelNotFound(
            f"There is no LoRA adapter in {folder}: it needs {ADAPTER_SETTINGS} and {WEIGHTS}.",
            hint="Give a finished run, or the folder of an adapter saved by PEFT as safetensors.",
        )
    refuse_unsafe_adapter(folder)
    settings = json.loads((folder / ADAPTER_SETTINGS).read_text(encoding="utf-8"))
    changed = _changes_of_the_base(settings)
    if changed:
        raise UnsupportedModel(
            f"The adapter in {folder} uses {', '.join(changed)}, with which it cannot be trained "
            "further here: without it the model would not be its base.",
            hint="Start from an adapter of plain LoRA, rsLoRA or DoRA, or merge it into its base "
            "and train a new one.",
        )
    return AdapterSettings(
        rank=int(settings["r"]),
        alpha=float(settings["lora_alpha"]),
        targets=_targets(settings),
        base=str(settings.get("base_model_name_or_path") or ""),
        revision=str(settings.get("revision") or ""),
        chat_template=_template(folder / TEMPLATE_FILE),
    )


def _template(file: Path) -> str:
    """Return a template's text, empty where there is none that the setting could hold."""
    if not file.is_file() or file.stat().st_size > TEMPLATE_CHARACTERS:
        return ""
    text = file.read_text(encoding="utf-8", errors="replace")
    return text if is_template_text(text) else ""


def _changes_of_the_base(settings: Mapping[str, object]) -> list[str]:
    unknown = [name for name, value in settings.items() if value and name not in _EXACT]
    if settings.get("bias", "none") != "none":
        unknown.append(f"bias={settings['bias']}")
    start = settings.get("init_lora_weights", True)
    if start not in _FRESH_STARTS:
        unknown.append(f"init_lora_weights={start}")
    return sorted(unknown)


def _targets(settings: Mapping[str, object]) -> str:
    modules = settings.get("target_modules") or []
    parameters = settings.get("target_parameters")
    if isinstance(modules, str):
        return modules
    names = [*_texts(modules), *_texts(parameters)]
    return ",".join(sorted({name.rpartition(".")[2] for name in names}))


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
