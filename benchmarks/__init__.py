"""Measurements against peers and under fire; they borrow small models and visitors of the tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))
