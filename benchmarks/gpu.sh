#!/usr/bin/env bash
# The whole GPU table in under ten minutes: this project and TRL; short, hh and long pairs; random
# models of the shapes of Llama-3.1-8B and Qwen2.5-0.5B; the tests that need a GPU; doctor.
# Writes benchmarks/results/gpu.json and gpu.md.
#   benchmarks/gpu.sh              on a machine with a GPU
#   benchmarks/gpu.sh --dry-run    tiny shapes, on a CPU too, to try the script
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
[ -x "$(command -v "$python")" ] || python=python3
exec "$python" -m benchmarks.gpu "$@"
