"""A llama.cpp checkout that knows the tokenizer of the tiny model, as its update script adds one.

The scripts are llama.cpp's own, fetched once for all tests; a copy registers one more tokenizer.
"""

import ast
import shutil
from hashlib import sha256

from orpo_qlora.export.gguf import llama_cpp

PLACE = '        if chkhsh == "b6e8e1518dc4305be2fe39c313ed643381c4da5db34a98f6a04c093f8afbe99b":'
START = "        chktxt = "


def checkout_for(tokenizer, folder):
    """Copy the fetched scripts into a folder and register a tokenizer as GPT-2's kind."""
    tool = llama_cpp.find_llama_cpp("", lambda text: None)
    shutil.copytree(tool.folder, folder)
    base = folder / "conversion" / "base.py"
    text = base.read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith(START))
    checked = ast.literal_eval(line.removeprefix(START))
    digest = sha256(str(tokenizer.encode(checked)).encode()).hexdigest()
    ours = f'        if chkhsh == "{digest}":\n            res = "gpt-2"\n'
    assert text.count(PLACE) == 1
    base.write_text(text.replace(PLACE, ours + PLACE), encoding="utf-8")
    return folder
