"""Options of the command line in hints, by the names that the page has for them. Floor 6."""

from __future__ import annotations

import re

CONTROLS = {
    "--config-name": "“Config”",
    "--data-revision": "“Revision”",
    "--embedder": "“orpo-qlora evaluate … --embedder” in a terminal",
    "--gguf FILE": "“GGUF f16”",
    "--judge-model": "“Judge model”",
    "--judge-url": "“Judge address”",
    "--llama-cpp DIR": "“orpo-qlora export … --llama-cpp DIR” in a terminal",
    "--max-rows": "“Rows at most”",
    "--merged DIR": "“Merged model”",
    "--reward-model": "“Reward model”",
    "--split": "“Split”",
}
"""Labels of the page, or a command where it has no control."""
_OPTION = re.compile(rf"(?:{'|'.join(map(re.escape, CONTROLS))})(?![\w-])")


def named_on_page(hint: str) -> str:
    """Return a hint with the page's names of options."""
    return _OPTION.sub(lambda found: CONTROLS[found[0]], hint)
