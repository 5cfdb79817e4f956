"""The page process starts in seconds and never holds the GPU because it never imports these."""

import json
import subprocess
import sys

HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets"}
PROGRAM = """
import json, sys
import orpo_qlora.ui.studio
orpo_qlora.ui.studio.build_studio()
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


def test_page_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert HEAVY.isdisjoint(json.loads(done.stdout))
