"""What plots are made of: scales, ticks and elements of SVG, each text escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from harness.report.text import visible


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def inside(self, value: float) -> float:
        """The pixel of a value, at the edge where it lies outside."""
        return self(min(max(value, self.low), self.high))


def spread(values: Sequence[float], start: float, end: float, margin: float = 0.06) -> Scale:
    """A scale over the finite values with a margin on both sides."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    pad = (high - low) * margin or max(abs(high), 1.0) * margin
    return Scale(low - pad, high + pad, start, end)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within [low, high]."""
    raw = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def svg(width: int, height: int, title: str, body: Sequence[str | Markup], kind: str) -> Markup:
    head = Markup('<svg class="plot {}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">')
    content = Markup("").join([Markup("<title>{}</title>").format(visible(title)), *body])
    return head.format(kind, width, height, width, height, visible(title)) + content + Markup("</svg>")


def cell(width: int, height: int, title: str, body: Sequence[str | Markup]) -> Markup:
    """A plot in a table's cell: there are hundreds of them, so as short as may be."""
    head = Markup('<svg class="plot cell" viewBox="0 0 {} {}" width="{}" role="img"><title>{}</title>')
    return head.format(width, height, width, visible(title)) + Markup("").join(body) + Markup("</svg>")


def path(way: str, style: str) -> Markup:
    return Markup('<path class="{}" d="{}"/>').format(style, way)


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(style, x1, y1, x2, y2)


def text(x: float, y: float, text: str, anchor: str = "middle", style: str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(style, x, y, anchor, escape(text))


def rect(x: float, y: float, width: float, height: float, style: str) -> Markup:
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
        style, round(x, 1), round(y, 1), round(max(width, 0), 1), round(max(height, 0), 1)
    )


def dot(x: float, y: float, style: str, radius: float = 4) -> Markup:
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(style, x, y, radius)


# ---------------------------------------------------------------- figures with axes

WIDTH, HEIGHT = 360, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 14, 38


def frame(x: Scale, y: Scale, x_name: str, y_name: str, height: int = HEIGHT) -> list[Markup]:
    """Axes with ticks, and zero lines where zero is inside."""
    bottom, right = height - BOTTOM, WIDTH - RIGHT
    body = [rect(LEFT, TOP, right - LEFT, bottom - TOP, "frame")]
    for tick in ticks(x.low, x.high):
        body += [line(x(tick), bottom, x(tick), bottom + 4, "axis"), text(x(tick), bottom + 15, f"{tick:g}")]
    for tick in ticks(y.low, y.high):
        body += [line(LEFT - 4, y(tick), LEFT, y(tick), "axis"), text(LEFT - 7, y(tick) + 4, f"{tick:g}", "end")]
    if x.low < 0 < x.high:
        body.append(line(x(0), TOP, x(0), bottom, "zero"))
    if y.low < 0 < y.high:
        body.append(line(LEFT, y(0), right, y(0), "zero"))
    body.append(text((LEFT + right) / 2, height - 6, x_name, style="name"))
    body.append(
        Markup('<text class="name" transform="translate(11 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
            round((TOP + bottom) / 2), y_name
        )
    )
    return body
