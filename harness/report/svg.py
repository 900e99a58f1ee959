"""Small plots as inline SVG: no script, no font, no request; colours come from the page, so dark mode is free.

Every plot says in words what it shows (``<title>``), and nothing is told by colour alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from harness.domain import Limit
from harness.report.rows import Answer, Course, number
from harness.report.summarize import Shift
from harness.report.text import visible
from harness.report.training import SCORES, Training


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


def _svg(width: int, height: int, title: str, body: Sequence[str | Markup], kind: str) -> Markup:
    head = Markup('<svg class="plot {}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">')
    content = Markup("").join([Markup("<title>{}</title>").format(visible(title)), *body])
    return head.format(kind, width, height, width, height, visible(title)) + content + Markup("</svg>")


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(style, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str = "middle", style: str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(style, x, y, anchor, escape(text))


def _rect(x: float, y: float, width: float, height: float, style: str) -> Markup:
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
        style, round(x, 1), round(y, 1), round(max(width, 0), 1), round(max(height, 0), 1)
    )


def _dot(x: float, y: float, style: str, radius: float = 4) -> Markup:
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"/>').format(style, x, y, radius)


# ---------------------------------------------------------------- in table cells


def interval(
    value: float, low: float, high: float, limit: Limit, width: int = 190, among: Sequence[float] = ()
) -> Markup:
    """An interval against its bound: the side that breaks the limit is shaded. ``among``: what else is on its scale."""
    if not all(map(math.isfinite, (value, low, high))):
        return Markup("")
    x = spread((low, high, value, limit.bound, 0.0, *among), 4, width - 4, margin=0.12)
    edge = x(limit.bound)
    broken = _rect(edge, 3, width - 2 - edge, 22, "broken") if limit.is_maximum else _rect(2, 3, edge - 2, 22, "broken")
    body = [
        broken,
        _line(2, 25.5, width - 2, 25.5, "axis"),
        _line(x(0.0), 21, x(0.0), 29, "zero"),
        _line(edge, 1, edge, 27, "bound"),
        _line(x(low), 14, x(high), 14, "whisker"),
        _line(x(low), 9, x(low), 19, "whisker"),
        _line(x(high), 9, x(high), 19, "whisker"),
        _dot(x(value), 14, "value"),
    ]
    title = f"{number(value)}, interval {number(low)} to {number(high)}; limit {limit.describe()} (shaded: broken)"
    return _svg(width, 30, title, body, "cell")


def dumbbell(reference: float, candidate: float, low: float, high: float, width: int = 190) -> Markup:
    """Reference (ring) and candidate (disc) on a common scale, an arrow's length apart."""
    if not (math.isfinite(reference) and math.isfinite(candidate)):
        return Markup("")
    x = Scale(low, high, 8, width - 8)
    body = [
        _line(8, 13, width - 8, 13, "axis"),
        _line(x(reference), 13, x(candidate), 13, "whisker"),
        _dot(x(reference), 13, "ring", 5.5),
        _dot(x(candidate), 13, "value", 3.5),
    ]
    title = f"reference {number(reference)} (ring), candidate {number(candidate)} (disc)"
    return _svg(width, 26, title, body, "cell")


def bar(value: float, most: float, style: str, width: int = 140) -> Markup:
    """A bar from zero to ``value``, on a scale that ends at ``most``."""
    if not (math.isfinite(value) and most > 0):
        return Markup("")
    return _svg(width, 16, number(value), [_rect(1, 2, max(value, 0) / most * (width - 2), 12, f"bar {style}")], "cell")


def widest(shifts: Sequence[Shift]) -> float:
    """The scale that bars of these shifts share."""
    return max((abs(item.rise) for item in shifts), default=0.0)


# ---------------------------------------------------------------- figures

_WIDTH, _HEIGHT = 360, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 14, 38


def _frame(x: Scale, y: Scale, x_name: str, y_name: str, height: int = _HEIGHT) -> list[Markup]:
    """Axes with ticks, and zero lines where zero is inside."""
    bottom, right = height - _BOTTOM, _WIDTH - _RIGHT
    body = [_rect(_LEFT, _TOP, right - _LEFT, bottom - _TOP, "frame")]
    for tick in ticks(x.low, x.high):
        body += [_line(x(tick), bottom, x(tick), bottom + 4, "axis"), _text(x(tick), bottom + 15, f"{tick:g}")]
    for tick in ticks(y.low, y.high):
        body += [_line(_LEFT - 4, y(tick), _LEFT, y(tick), "axis"), _text(_LEFT - 7, y(tick) + 4, f"{tick:g}", "end")]
    if x.low < 0 < x.high:
        body.append(_line(x(0), _TOP, x(0), bottom, "zero"))
    if y.low < 0 < y.high:
        body.append(_line(_LEFT, y(0), right, y(0), "zero"))
    body.append(_text((_LEFT + right) / 2, height - 6, x_name, style="name"))
    body.append(
        Markup('<text class="name" transform="translate(11 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
            round((_TOP + bottom) / 2), y_name
        )
    )
    return body


def scatter(chosen: Sequence[float], rejected: Sequence[float]) -> Markup:
    """Δ⁺ against Δ⁻, a dot per pair, with the quadrant in which both fell shaded."""
    x = spread((*chosen, 0.0), _LEFT, _WIDTH - _RIGHT)
    y = spread((*rejected, 0.0), _HEIGHT - _BOTTOM, _TOP)
    body = [_rect(_LEFT, y(0), x(0) - _LEFT, _HEIGHT - _BOTTOM - y(0), "broken")]
    body += _frame(x, y, "Δ⁺, chosen (nats)", "Δ⁻, rejected (nats)")
    points = "".join(f"M{x(a):g} {y(b):g}h0" for a, b in zip(chosen, rejected, strict=True))
    body.append(Markup('<path class="points" d="{}"/>').format(points))
    body.append(_text(_LEFT + 5, _HEIGHT - _BOTTOM - 6, "both fell", "start", "label"))
    title = (
        f"Scatter of {len(chosen):,} pairs: change of the chosen against the rejected answer's log-probability (nats); "
        "the shaded quadrant holds pairs of which both fell"
    )
    return _svg(_WIDTH, _HEIGHT, title, body, "figure")


def histogram(values: Sequence[float], bins: int = 30) -> Markup:
    """How Δ⁺ is distributed, fallen and risen apart."""
    lowest, highest = min(*values, 0.0), max(*values, 0.0)
    width = (highest - lowest) / (bins - 2) or 1.0
    first = math.floor(lowest / width)  # zero is an edge: no bar holds both signs
    bins = math.floor(highest / width) - first + 1
    x = Scale(first * width, (first + bins) * width, _LEFT, _WIDTH - _RIGHT)
    counts = [0] * bins
    for value in values:
        counts[min(math.floor(value / width) - first, bins - 1)] += 1
    y = Scale(0, max(counts) * 1.06 or 1.0, _HEIGHT - _BOTTOM, _TOP)
    body = _frame(x, y, "Δ⁺, chosen (nats)", "pairs")
    for index, count in enumerate(counts):
        left, right = x((first + index) * width), x((first + index + 1) * width)
        style = "bar opposite" if first + index < 0 else "bar benign"
        if count:
            body.append(_rect(left + 0.4, y(count), right - left - 0.8, _HEIGHT - _BOTTOM - y(count), style))
    title = (
        f"Histogram of the change of {len(values):,} chosen answers' log-probability, in nats; bars left of zero fell"
    )
    return _svg(_WIDTH, _HEIGHT, title, body, "figure")


_MARKS = {
    Answer.KEPT: "value",
    Answer.BROKEN: "value bad",
    Answer.UNDECIDED: "ring",
    Answer.UNMEASURED: "ring",
    Answer.UNANSWERED: "ring",
}


def course(item: Course, low: int, high: int, height: int = 230) -> Markup:
    """A limit's value against the training step, its interval as a band, its bound as a dashed line."""
    points = sorted(item.points, key=lambda point: point.step)
    bounds = [edge for point in points for edge in (point.low, point.high)]
    x = spread((low, high), _LEFT, _WIDTH - _RIGHT)
    y = spread((*(point.value for point in points), *bounds, item.limit.bound, 0.0), height - _BOTTOM, _TOP, 0.08)
    edge = y(item.limit.bound)
    if item.limit.is_maximum:
        body = [_rect(_LEFT, _TOP, _WIDTH - _RIGHT - _LEFT, edge - _TOP, "broken")]
    else:
        body = [_rect(_LEFT, edge, _WIDTH - _RIGHT - _LEFT, height - _BOTTOM - edge, "broken")]
    body += _frame(x, y, "training step", item.limit.unit or "", height)
    banded = [point for point in points if math.isfinite(point.low) and math.isfinite(point.high)]
    if len(banded) > 1:
        outline = [(x(p.step), y(p.low)) for p in banded] + [(x(p.step), y(p.high)) for p in reversed(banded)]
        body.append(Markup('<polygon class="band" points="{}"/>').format(" ".join(f"{a:g},{b:g}" for a, b in outline)))
    body.append(_line(_LEFT, edge, _WIDTH - _RIGHT, edge, "bound"))
    path = " ".join(f"{x(point.step):g},{y(point.value):g}" for point in points)
    body.append(Markup('<polyline class="whisker" points="{}"/>').format(path))
    for point in points:
        body.append(_dot(x(point.step), y(point.value), _MARKS[point.answer]))
        if point.answer is Answer.BROKEN:
            body.append(_text(x(point.step), y(point.value) - 7, "×", style="mark"))
    said = "; ".join(f"step {point.step}: {point.value:.3f} [{point.low:.3f}, {point.high:.3f}]" for point in points)
    return _svg(_WIDTH, height, f"{item.limit.metric} over the training steps. {said}", body, "figure")


# ---------------------------------------------------------------- pairs by what the reference made of them

_KINDS = {"both refuse": "refuse", "both comply": "comply", "mixed": "mixed", "other": "other", "": "refuse"}
"""Type of a pair -> class of its mark: disc, square, cross, triangle. Without a judge all pairs have one."""
_SHAPES = {"refuse": "h0", "comply": "h0", "mixed": "m-3.2-3.2 6.4 6.4m0-6.4-6.4 6.4", "other": "m0-3.6 3.6 6.2h-7.2z"}
"""How a mark goes on from its place; discs and squares are the ends of a line without length."""


def _marks(places: Sequence[tuple[float, float]], kind: str) -> Markup:
    path = "".join(f"M{x:g} {y:g}{_SHAPES[kind]}" for x, y in places)
    return Markup('<path class="mark-{}" d="{}"/>').format(kind, path)


def kind_mark(pair_type: str) -> Markup:
    """The mark of a type of pairs, for legends; what it means stands beside it."""
    head = Markup('<svg class="plot key" viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">')
    return head + _marks([(7.0, 7.0)], _KINDS[pair_type]) + Markup("</svg>")


def _by_type(types: Sequence[str]) -> dict[str, int]:
    """Type -> pairs, the commonest first, so that rare ones lie on top."""
    return {name: count for name, count in Counter(types).most_common() if name in _KINDS}


def pairs(block: Training) -> Markup:
    """Length-normalised CHES against Δ⁺, a mark per pair by its type; below the zero line chosen answers fell."""
    values = [item.score for item in block.drawn]
    return _changes(block, spread(values, _LEFT, _WIDTH - _RIGHT), values, f"{SCORES[0].title} (units of h²)")


def places(block: Training, index: int) -> Markup:
    """The same by the percentile of one score (of ``SCORES``), which is what ρ sees; dashed: it turns positive.

    Raw scores grow with the square of the length: drawn as they are, a few long pairs would crowd the others together.
    """
    x, zero = Scale(0, 100, _LEFT, _WIDTH - _RIGHT), block.correlations[index].zero
    turn = [_line(x(zero), _TOP, x(zero), _HEIGHT - _BOTTOM, "half")] if 0 < zero < 100 else []
    name = f"percentile by {SCORES[index].title}"
    return _changes(block, x, [item.places[index] for item in block.drawn], name, turn)


def _changes(block: Training, x: Scale, values: Sequence[float], name: str, extra: Sequence[Markup] = ()) -> Markup:
    """``values`` [drawn] against Δ⁺."""
    y = spread((*(item.change for item in block.drawn), 0.0), _HEIGHT - _BOTTOM, _TOP)
    body = [_rect(_LEFT, y(0), _WIDTH - _RIGHT - _LEFT, _HEIGHT - _BOTTOM - y(0), "broken")]
    body += [*_frame(x, y, name, "Δ⁺, chosen (nats per response)"), *extra]
    at = list(zip(values, block.drawn, strict=True))
    groups = _by_type([item.pair_type for item in block.drawn])
    body += [
        _marks([(x(value), y(item.change)) for value, item in at if item.pair_type == kind], _KINDS[kind])
        for kind in groups
    ]
    body.append(_text(_WIDTH - _RIGHT - 5, _HEIGHT - _BOTTOM - 6, "chosen fell", "end", "label"))
    types = ", ".join(f"{count:,} {kind}" for kind, count in groups.items() if kind)
    title = (
        f"Scatter of {len(at):,} pairs{f' ({types})' if types else ''}: {name} under the reference against the change "
        "of the chosen answer's log-probability (nats); shaded: it fell"
    )
    return _svg(_WIDTH, _HEIGHT, title, body, "figure")


_ROW, _LABELS = 62, 84


def ranks(block: Training) -> Markup:
    """Percentile of the length-normalised CHES by type: a box from quartile to quartile over a strip of marks."""
    height = _TOP + _ROW * len(block.types) + _BOTTOM
    bottom, right = height - _BOTTOM, _WIDTH - _RIGHT
    x = Scale(0, 100, _LABELS, right)
    body = [_rect(_LABELS, _TOP, right - _LABELS, bottom - _TOP, "frame"), _line(x(50), _TOP, x(50), bottom, "half")]
    for tick in (0, 25, 50, 75, 100):
        body += [_line(x(tick), bottom, x(tick), bottom + 4, "axis"), _text(x(tick), bottom + 15, f"{tick}")]
    for position, row in enumerate(block.types):
        top, kind = _TOP + _ROW * position, _KINDS[row.name]
        body += [
            _text(_LABELS - 8, top + 27, row.name, "end"),
            _text(_LABELS - 8, top + 41, f"n = {row.n:,}", "end", "name"),
        ]
        # the fractional parts of multiples of the golden ratio fill the strip evenly, and the same way every time
        mine = (item.places[0] for item in block.drawn if item.pair_type == row.name)
        strip = [(x(place), round(top + 31 + 24 * (0.618034 * index % 1), 1)) for index, place in enumerate(mine)]
        lower, upper = x(row.lower), x(row.upper)
        body += [_marks(strip, kind), _rect(lower, top + 7, upper - lower, 14, f"box mark-{kind}")]
        body.append(_line(x(row.median), top + 4, x(row.median), top + 24, "median"))
    body.append(_text((_LABELS + right) / 2, height - 6, "percentile by length-normalised CHES", style="name"))
    said = "; ".join(f"{row.name}: {row.lower:.0f}, {row.median:.0f}, {row.upper:.0f}" for row in block.types)
    title = f"Percentile of pairs by length-normalised CHES, by type; quartiles and median. {said}"
    return _svg(_WIDTH, height, title, body, "figure")
