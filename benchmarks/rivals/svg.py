"""Panels of a picture as plain SVG, which a Markdown page can show; axes as in the charts."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.rivals.results import Mean, Point
from orpo_qlora.charts.bars import Bins
from orpo_qlora.charts.scales import Scale
from orpo_qlora.runs import present

WIDTH, HEIGHT = 300, 200
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 30, 40
LINE_HEIGHT = 18
"""All in pixels."""
GREY, DARK = "#d5d9de", "#333a42"
STYLE = f"text{{font:12px sans-serif;fill:{DARK}}}.title{{font-weight:600}}"


@dataclass
class Panel:
    """One pair of axes; values beyond their ends would be drawn outside."""

    title: str
    axis: str
    """Caption of the horizontal axis."""
    x: Scale
    y: Scale
    ticks: Sequence[tuple[float, str]] = ()
    """Labels of the horizontal axis; round numbers where empty."""
    drawn: list[str] = field(default_factory=list)

    def across(self, value: float) -> float:
        """Return where a value is from the panel's left edge."""
        return LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)

    def down(self, value: float) -> float:
        """Return where a value is from the panel's upper edge."""
        return HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)

    def line(self, points: Sequence[Point], colour: str, *, is_dashed: bool = False) -> None:
        """Draw means as a line with dots, their intervals as a band."""
        upper = [(point.step, point.mean.high) for point in points]
        lower = [(point.step, point.mean.low) for point in reversed(points)]
        self.drawn.append(
            f'<path d="M{self._path([*upper, *lower])}Z" fill="{colour}" fill-opacity="0.15"/>'
        )
        middle = [(point.step, point.mean.value) for point in points]
        dashes = ' stroke-dasharray="5 3"' if is_dashed else ""
        self.drawn.append(
            f'<path d="M{self._path(middle)}" fill="none" stroke="{colour}" '
            f'stroke-width="2"{dashes}/>'
        )
        self.drawn += [self._dot(step, value, colour) for step, value in middle]

    def curve(self, points: Sequence[tuple[float, float]], colour: str) -> None:
        """Draw a line without dots."""
        self.drawn.append(
            f'<path d="M{self._path(points)}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )

    def whisker(self, at: float, mean: Mean, values: Sequence[float], colour: str) -> None:
        """Draw a mean with its interval, and the values it is of."""
        x = self.across(at)
        self.drawn.append(
            f'<path d="M{x:.1f} {self.down(mean.low):.1f}V{self.down(mean.high):.1f}" '
            f'stroke="{colour}" stroke-width="2"/>'
        )
        self.drawn += [
            f'<circle cx="{x + 7:.1f}" cy="{self.down(one):.1f}" r="2" fill="{colour}" '
            'fill-opacity="0.6"/>'
            for one in values
        ]
        self.drawn.append(self._dot(at, mean.value, colour))

    def bars(self, bins: Bins, values: Sequence[float], colour: str) -> None:
        """Draw shares of values as outlined bars."""
        shares = [count / len(values) for count in bins.tally(values)]
        for index, share in enumerate(shares):
            left, right = (self.across(bins.start(at)) for at in (index, index + 1))
            top, floor = self.down(share), self.down(0)
            self.drawn.append(
                f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
                f'height="{floor - top:.1f}" fill="{colour}" fill-opacity="0.25" '
                f'stroke="{colour}"/>'
            )

    def _dot(self, x: float, y: float, colour: str) -> str:
        return f'<circle cx="{self.across(x):.1f}" cy="{self.down(y):.1f}" r="3" fill="{colour}"/>'

    def _path(self, points: Sequence[tuple[float, float]]) -> str:
        return "L".join(f"{self.across(x):.1f} {self.down(y):.1f}" for x, y in points)

    def __str__(self) -> str:
        floor, middle = HEIGHT - BOTTOM, (LEFT + WIDTH - RIGHT) / 2
        parts = [_text(LEFT, 16, self.title, "start", "title")]
        for tick in self.y.ticks():
            y = self.down(tick)
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="{GREY}"/>')
            parts.append(_text(LEFT - 6, y + 4, present.number(tick), "end"))
        for at, label in self.ticks or [(t, present.number(t)) for t in self.x.ticks()]:
            parts.append(_text(self.across(at), floor + 16, label, "middle"))
        parts.append(_text(middle, floor + 33, self.axis, "middle"))
        return "".join([*parts, *self.drawn])


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{name}>{html.escape(text)}</text>'


def picture(title: str, panels: Sequence[Panel], legend: Sequence[tuple[str, str]]) -> str:
    """Return panels side by side as an SVG file.

    Args:
        title: for screen readers.
        panels: from left to right.
        legend: label and colour of each series.
    """
    width, height = WIDTH * len(panels), HEIGHT + LINE_HEIGHT + 8
    drawn = [
        f'<g transform="translate({index * WIDTH} 0)">{panel}</g>'
        for index, panel in enumerate(panels)
    ]
    room = (width - LEFT) / max(1, len(legend))
    for index, (label, colour) in enumerate(legend):
        x, y = LEFT + index * room, HEIGHT + LINE_HEIGHT / 2
        drawn.append(f'<rect x="{x:.1f}" y="{y - 5:.1f}" width="14" height="6" fill="{colour}"/>')
        drawn.append(_text(x + 20, y + 3, label, "start"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">\n<title>{html.escape(title)}</title>'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )
