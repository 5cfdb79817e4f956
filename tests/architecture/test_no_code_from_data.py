"""No call in the package turns data into code: its syntax trees are read for those that could."""

import ast
from itertools import chain
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "orpo_qlora"
MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {
    ("torch", "load"),
    ("yaml", "load"),
    ("yaml", "unsafe_load"),
    ("yaml", "full_load"),
    ("os", "system"),
    ("os", "popen"),
    ("pd", "read_pickle"),
}
ARGUMENTS = {
    "allow_pickle": False,
    "trust_remote_code": False,
    "shell": False,
    "weights_only": True,
}


def dangers(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            names = {module, *(alias.name for alias in node.names)}
            if names == {"pickle", "UnpicklingError"}:
                continue  # the error that torch raises for a pickle that asks for code
            yield from sorted(MODULES & {name.partition(".")[0] for name in names})
        if isinstance(node, ast.Call):
            yield from dangers_of_call(node)


def dangers_of_call(node):
    if isinstance(node.func, ast.Name) and node.func.id in CALLS:
        yield node.func.id
    owner = getattr(getattr(node.func, "value", None), "id", "")
    is_of_weights = any(keyword.arg == "weights_only" for keyword in node.keywords)
    if (owner, getattr(node.func, "attr", "")) in METHODS and not is_of_weights:
        yield f"{owner}.{node.func.attr}"
    for keyword in node.keywords:
        safe = ARGUMENTS.get(keyword.arg)
        if safe is not None and not (
            isinstance(keyword.value, ast.Constant) and keyword.value.value is safe
        ):
            yield f"{keyword.arg}="


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_no_data_becomes_code(path):
    assert list(dangers(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import marshal as m",
        "eval(x)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "torch.load(x, weights_only=chosen)",
        "from pickle import UnpicklingError, loads",
        "yaml.load(x)",
        "f(trust_remote_code=True)",
        "f(trust_remote_code=trust)",
        "subprocess.run(x, shell=True)",
        "np.load(x, allow_pickle=True)",
    ],
)
def test_the_look_finds_what_it_looks_for(text):
    assert list(dangers(ast.parse(text)))


def test_base_models_are_loaded_from_safetensors_without_their_code():
    files = [PACKAGE / "models" / name for name in ("loading.py", "templates/tokenizers.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    named = {
        getattr(node.func.value, "id", ""): {keyword.arg for keyword in node.keywords}
        for node in chain.from_iterable(map(ast.walk, trees))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "from_pretrained"
    }
    assert "trust_remote_code" in named["AutoTokenizer"]
    assert {"trust_remote_code", "use_safetensors"} <= named["AutoModelForCausalLM"]
