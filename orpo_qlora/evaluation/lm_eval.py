"""lm-eval's tasks on a run's adapter: `python -m orpo_qlora.evaluation.lm_eval RUN TASKS`. Floor 5.

lm-eval (MIT) is not part of this package; it loads base and adapter itself and writes its results
into the run's folder.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from orpo_qlora.config import TrainConfig
from orpo_qlora.errors import OrpoQloraError
from orpo_qlora.models.weights import find
from orpo_qlora.runs import store
from orpo_qlora.runs.store import RunPaths

RESULTS = "lm-eval"


def command_of(paths: RunPaths, config: TrainConfig, base: Path, tasks: str) -> list[str]:
    """Return the command line: the base in 4 bits where the run had it so, with the adapter."""
    model = [f"pretrained={base}", f"peft={paths.adapter}", "trust_remote_code=False"]
    if config.quantization == "nf4":
        model += ["load_in_4bit=True", "bnb_4bit_quant_type=nf4"]
    return [
        *(sys.executable, "-m", "lm_eval", "run", "--model", "hf"),
        *("--model_args", ",".join(model), "--tasks", tasks),
        *("--output_path", str(paths.folder / RESULTS)),
    ]


def main(arguments: Sequence[str]) -> int:
    """Run the tasks; return lm-eval's exit code."""
    run = store.read_run(store.paths_of(arguments[0]))
    try:
        base = find.find_weights(run.config.model, run.config.revision)
    except OrpoQloraError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    command = command_of(run.paths, run.trained_config, base, arguments[1])
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
