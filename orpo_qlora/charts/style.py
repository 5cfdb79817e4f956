"""Style sheets of charts, shared by the page and reports."""

from pathlib import Path

_FOLDER = Path(__file__).parent
STYLES = [_FOLDER / "theme.css", _FOLDER / "charts.css"]
