import stat

import pytest

from orpo_qlora import presets, storage
from orpo_qlora.config import TrainConfig, build_config
from orpo_qlora.errors import ConfigError, DiskFull
from orpo_qlora.shipped_presets import preset_names


def test_what_is_saved_is_read_back_but_for_the_name_of_the_run():
    config = build_config({"lambda": 0.35, "name": "a run", "sample_prompts": ["Why?", "Où ?"]})
    assert presets.save_preset(" mine ", config) == "mine"
    assert build_config(presets.read_preset("mine")) == config.model_copy(update={"name": ""})
    assert presets.all_names() == [*preset_names(), "mine"]


def test_saving_again_replaces():
    for lambda_ in (0.2, 0.4):
        presets.save_preset("mine", build_config({"lambda": lambda_}))
    assert presets.own_names() == ["mine"]
    assert presets.read_preset("mine")["lambda"] == 0.4


@pytest.mark.parametrize(
    "name", ["", " ", "../up", "a/b", ".hidden", "demo-cpu", "x" * 61, "dot.", "a\nb", "a\0b", "é"]
)
def test_a_name_that_is_no_plain_file_name_is_refused(name, own_home):
    with pytest.raises(ConfigError) as caught:
        presets.save_preset(name, TrainConfig())
    assert caught.value.hint
    assert not list(own_home.rglob("*.yaml"))


def test_only_own_presets_can_be_deleted():
    presets.save_preset("mine", TrainConfig())
    presets.delete_preset("mine")
    assert presets.own_names() == []
    for name in ("mine", "demo-cpu", "../mine"):
        with pytest.raises(ConfigError, match="not one of your own"):
            presets.delete_preset(name)


def test_a_shipped_preset_cannot_be_shadowed():
    presets.save_preset("mine", build_config({"lambda": 1.5}))
    folder = storage.home() / "presets"
    (folder / "mine.yaml").rename(folder / "demo-cpu.yaml")
    assert presets.read_preset("demo-cpu")["lambda"] == 0.5


def test_folder_of_presets_is_private():
    presets.save_preset("mine", TrainConfig())
    assert stat.S_IMODE((storage.home() / "presets").stat().st_mode) == 0o700


def test_full_disk_keeps_the_older_preset(monkeypatch):
    presets.save_preset("mine", build_config({"lambda": 0.2}))

    def full(folder):
        raise DiskFull("full")

    monkeypatch.setattr(storage, "disk_errors", full)
    with pytest.raises(DiskFull):
        presets.save_preset("mine", build_config({"lambda": 0.4}))
    assert presets.read_preset("mine")["lambda"] == 0.2


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"lambda: [", "is not YAML"),
        (b"\xff\xfe\x00", "it is not text"),
        (b"just words", "holds no settings"),
        (b"- 1\n- 2\n", "holds no settings"),
        (b"", "holds no settings"),
        (b"a: &a [1, 1]\nb: &b [*a, *a]\n", "refers to parts of itself"),
        (b"x: " + b"9" * 5000, "is not YAML"),
        (b"[" * 100_000, "lists in lists"),
        (b"lambda: " + b"- " * 50, "is not YAML"),
        (b"- " * 50 + b"1", "lists in lists"),
        (b"lambda: !!python/object/apply:os.system ['true']\n", "is not YAML"),
        (b"#" * 100_001, "is too large"),
    ],
)
def test_a_file_that_is_no_preset_is_refused_by_name(tmp_path, content, fact):
    path = tmp_path / "given.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^given\.yaml") as caught:
        presets.read_file(path)
    assert fact in caught.value.message
    assert caught.value.hint


def test_a_file_with_a_mark_is_read(tmp_path):
    path = tmp_path / "given.yaml"
    path.write_bytes(b"\xef\xbb\xbflambda: 0.2\r\n")
    assert presets.read_file(path) == {"lambda": 0.2}
