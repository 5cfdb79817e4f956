"""One GGUF file of an ended run for all tests of this folder; the converter is fetched once."""

import pytest
from ended import copy_run
from llama_checkout import checkout_for
from transformers import AutoTokenizer

from orpo_qlora import storage
from orpo_qlora.export.gguf import write
from orpo_qlora.export.gguf.types import TYPES
from orpo_qlora.export.gguf.write import GgufOptions
from orpo_qlora.export.merge import merge_in_memory


@pytest.fixture(scope="session")
def tools(home_of_all, tiny_model):
    """A home with llama.cpp's scripts, and a checkout that knows the tiny model's tokenizer."""
    home = home_of_all("home-of-tools")
    checkout = home / "llama.cpp"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(storage.HOME_VARIABLE, str(home))
        with storage.FileLock(home / "tests.lock"):
            if not checkout.is_dir():
                checkout_for(AutoTokenizer.from_pretrained(tiny_model), checkout)
    return home


@pytest.fixture
def tuned(copied_run, own_home, tools):
    """A finished run in a home that has the tools."""
    (own_home / "tools").symlink_to(tools / "tools")
    return copied_run


@pytest.fixture
def options(tools):
    return GgufOptions(TYPES["f16"], "trained", str(tools / "llama.cpp"))


@pytest.fixture(scope="session")
def own_numbers(ended_run, tmp_path_factory):
    """What the run's own model gives."""
    home = tmp_path_factory.mktemp("own") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(storage.HOME_VARIABLE, str(home))
        return merge_in_memory(copy_run(ended_run, home), "float16", answering=True).own


@pytest.fixture(scope="session")
def made_gguf(ended_run, tools, tmp_path_factory):
    """An f16 file of the run, with its checks."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(storage.HOME_VARIABLE, str(folder / "home"))
        run = copy_run(ended_run, folder / "home")
        (folder / "home" / "tools").symlink_to(tools / "tools")
        made = GgufOptions(TYPES["f16"], "trained", str(tools / "llama.cpp"))
        checks = write.write_gguf(run, folder / "model.gguf", made, lambda *_, **__: None)
    return folder / "model.gguf", checks
