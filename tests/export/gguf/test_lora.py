"""The adapter alone as a GGUF file, by llama.cpp's converter."""

import json

import gguf
import pytest

from orpo_qlora.errors import UnsupportedModel
from orpo_qlora.export.gguf.lora import ON_NF4, compare_lora, write_lora
from orpo_qlora.export.gguf.read_back import ReadBackError


def quiet(*_, **__):
    """Take progress."""


def test_every_matrix_is_in_the_file_and_a_damaged_one_is_caught(tuned, options, tmp_path):
    target = tmp_path / "adapter.gguf"
    lines = write_lora(tuned, target, options, quiet)
    assert lines[0].startswith("All 28 matrices and alpha are the run's")
    assert ON_NF4 in lines
    manifest = tmp_path / "adapter.gguf.manifest.json"
    assert {path for path in tmp_path.iterdir() if "gguf" in path.name} == {target, manifest}
    assert json.loads(manifest.read_text())["matrices"] == 28
    alpha = json.loads((tuned.paths.adapter / "adapter_config.json").read_text())["lora_alpha"]
    with pytest.raises(ReadBackError, match="alpha is"):
        compare_lora(target, tuned.paths.adapter, alpha + 1)
    tensor = gguf.GGUFReader(target).tensors[3]
    content = bytearray(target.read_bytes())
    content[tensor.data_offset : tensor.data_offset + 64] = bytes(64)
    target.write_bytes(content)
    with pytest.raises(ReadBackError, match="differs in the file"):
        compare_lora(target, tuned.paths.adapter, alpha)


def test_an_adapter_that_a_gguf_file_cannot_express_is_refused(tuned, options, tmp_path):
    file = tuned.paths.adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_rslora": True}))
    with pytest.raises(UnsupportedModel, match="cannot express use_rslora"):
        write_lora(tuned, tmp_path / "adapter.gguf", options, quiet)
