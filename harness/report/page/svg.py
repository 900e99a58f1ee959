"""Small plots as inline SVG: no script, no font, no request; colours come from the page, so dark mode is free.

Every plot says in words what it shows (``<title>``), and nothing is told by colour alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from harness.domain import Limit
from harness.report.evidence.risen import Shift
from harness.report.evidence.training import SCORES, Training
from harness.report.page.drawing import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    cell,
    dot,
    frame,
    line,
    path,
    rect,
    spread,
    svg,
    text,
    ticks,
)
from harness.report.rows import Answer, Course, number

# ---------------------------------------------------------------- in table cells


def interval(
    value: float, low: float, high: float, limit: Limit, width: int = 190, among: Sequence[float] = ()
) -> Markup:
    """An interval against its bound: the side that breaks the limit is shaded. ``among``: what else is on its scale."""
    if not all(map(math.isfinite, (value, low, high))):
        return Markup("")
    x = spread((low, high, value, limit.bound, 0.0, *among), 4, width - 4, margin=0.12)
    edge = x(limit.bound)
    start, stop = (edge, width - 2) if limit.is_maximum else (2, edge)
    body = [
        path(f"M{start:g} 3H{stop:g}V25H{start:g}z", "broken"),
        path(f"M2 25.5H{width - 2}", "axis"),
        path(f"M{x(0.0):g} 21v8", "zero"),
        path(f"M{edge:g} 1v26", "bound"),
        path(f"M{x(low):g} 9v10M{x(high):g} 9v10m0-5H{x(low):g}", "whisker"),
        dot(x(value), 14, "value"),
    ]
    title = f"{number(value)}, interval {number(low)} to {number(high)}; limit {limit.describe()} (shaded: broken)"
    return cell(width, 30, title, body)


def dumbbell(reference: float, candidate: float, low: float, high: float, width: int = 190) -> Markup:
    """Reference (ring) and candidate (disc) on a common scale, an arrow's length apart."""
    if not (math.isfinite(reference) and math.isfinite(candidate)):
        return Markup("")
    x = Scale(low, high, 8, width - 8)
    body = [
        path(f"M8 13H{width - 8}", "axis"),
        path(f"M{x(reference):g} 13H{x(candidate):g}", "whisker"),
        dot(x(reference), 13, "ring", 5.5),
        dot(x(candidate), 13, "value", 3.5),
    ]
    title = f"reference {number(reference)} (ring), candidate {number(candidate)} (disc)"
    return cell(width, 26, title, body)


def bar(value: float, most: float, style: str, width: int = 140) -> Markup:
    """A bar from zero to ``value``, on a scale that ends at ``most``."""
    if not (math.isfinite(value) and most > 0):
        return Markup("")
    return cell(width, 16, number(value), [rect(1, 2, max(value, 0) / most * (width - 2), 12, f"bar {style}")])


def widest(shifts: Sequence[Shift]) -> float:
    """The scale that bars of these shifts share."""
    return max((abs(item.rise) for item in shifts), default=0.0)


# ---------------------------------------------------------------- figures


def scatter(
    chosen: Sequence[float], rejected: Sequence[float], counts: Mapping[str, int], drawn: Sequence[int] | None = None
) -> Markup:
    """Δ⁺ against Δ⁻, a dot per pair, the quadrants named with their counts, that in which both fell shaded.

    Args:
        chosen: [pairs] Δ⁺.
        rejected: [pairs] Δ⁻.
        counts: of the quadrants, as ``displaced.quadrant_names``.
        drawn: the pairs that get a dot; None: all.
    """
    x = spread((*chosen, 0.0), LEFT, WIDTH - RIGHT)
    y = spread((*rejected, 0.0), HEIGHT - BOTTOM, TOP)
    dots = range(len(chosen)) if drawn is None else drawn
    body = [rect(LEFT, y(0), x(0) - LEFT, HEIGHT - BOTTOM - y(0), "broken")]
    body += frame(x, y, "Δ⁺, chosen (nats)", "Δ⁻, rejected (nats)")
    points = "".join(f"M{x(chosen[index]):g} {y(rejected[index]):g}h0" for index in dots)
    body.append(Markup('<path class="points" d="{}"/>').format(points))
    low, high, left, right = HEIGHT - BOTTOM - 6, TOP + 13, LEFT + 5, WIDTH - RIGHT - 5
    corners = ((left, low, "start"), (left, high, "start"), (right, low, "end"), (right, high, "end"))
    for (across, down, anchor), (name, count) in zip(corners, counts.items(), strict=True):
        body.append(text(across, down, f"{name}: {count:,}", anchor, "label"))
    said = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    title = (
        f"Scatter of {len(dots):,} of {len(chosen):,} pairs: change of the chosen against the rejected answer's "
        f"log-probability (nats); {said}"
    )
    return svg(WIDTH, HEIGHT, title, body, "figure")


def binned(values: Sequence[float], bins: int = 30) -> list[tuple[float, float, int]]:
    """(low, high, count) of about ``bins`` bins of equal width; zero is an edge, so no bin holds both signs."""
    lowest, highest = min(*values, 0.0), max(*values, 0.0)
    width = (highest - lowest) / (bins - 2) or 1.0
    first = math.floor(lowest / width)
    bins = math.floor(highest / width) - first + 1
    counts = [0] * bins
    for value in values:
        counts[min(math.floor(value / width) - first, bins - 1)] += 1
    return [((first + index) * width, (first + index + 1) * width, count) for index, count in enumerate(counts)]


def histogram(values: Sequence[float], bins: int = 30) -> Markup:
    """How Δ⁺ is distributed, fallen and risen apart."""
    found = binned(values, bins)
    x = Scale(found[0][0], found[-1][1], LEFT, WIDTH - RIGHT)
    y = Scale(0, max(count for *_, count in found) * 1.06 or 1.0, HEIGHT - BOTTOM, TOP)
    body = frame(x, y, "Δ⁺, chosen (nats)", "pairs")
    for low, high, count in found:
        left, right = x(low), x(high)
        style = "bar opposite" if low < 0 else "bar benign"
        if count:
            body.append(rect(left + 0.4, y(count), right - left - 0.8, HEIGHT - BOTTOM - y(count), style))
    title = (
        f"Histogram of the change of {len(values):,} chosen answers' log-probability, in nats; bars left of zero fell"
    )
    return svg(WIDTH, HEIGHT, title, body, "figure")


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
    x = spread((low, high), LEFT, WIDTH - RIGHT)
    y = spread((*(point.value for point in points), *bounds, item.limit.bound, 0.0), height - BOTTOM, TOP, 0.08)
    edge = y(item.limit.bound)
    if item.limit.is_maximum:
        body = [rect(LEFT, TOP, WIDTH - RIGHT - LEFT, edge - TOP, "broken")]
    else:
        body = [rect(LEFT, edge, WIDTH - RIGHT - LEFT, height - BOTTOM - edge, "broken")]
    body += frame(x, y, "training step", item.limit.unit or "", height)
    banded = [point for point in points if math.isfinite(point.low) and math.isfinite(point.high)]
    if len(banded) > 1:
        outline = [(x(p.step), y(p.low)) for p in banded] + [(x(p.step), y(p.high)) for p in reversed(banded)]
        body.append(Markup('<polygon class="band" points="{}"/>').format(" ".join(f"{a:g},{b:g}" for a, b in outline)))
    body.append(line(LEFT, edge, WIDTH - RIGHT, edge, "bound"))
    path = " ".join(f"{x(point.step):g},{y(point.value):g}" for point in points)
    body.append(Markup('<polyline class="whisker" points="{}"/>').format(path))
    for point in points:
        body.append(dot(x(point.step), y(point.value), _MARKS[point.answer]))
        if point.answer is Answer.BROKEN:
            body.append(text(x(point.step), y(point.value) - 7, "×", style="mark"))
    said = "; ".join(f"step {point.step}: {point.value:.3f} [{point.low:.3f}, {point.high:.3f}]" for point in points)
    return svg(WIDTH, height, f"{item.limit.metric} over the training steps. {said}", body, "figure")


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
    return _changes(block, spread(values, LEFT, WIDTH - RIGHT), values, f"{SCORES[0].title} (units of h²)")


def places(block: Training, index: int) -> Markup:
    """The same by the percentile of one score (of ``SCORES``), which is what ρ sees; dashed: it turns positive.

    Raw scores grow with the square of the length: drawn as they are, a few long pairs would crowd the others together.
    """
    x, zero = Scale(0, 100, LEFT, WIDTH - RIGHT), block.correlations[index].zero
    turn = [line(x(zero), TOP, x(zero), HEIGHT - BOTTOM, "half")] if 0 < zero < 100 else []
    name = f"percentile by {SCORES[index].title}"
    return _changes(block, x, [item.places[index] for item in block.drawn], name, turn)


def _changes(block: Training, x: Scale, values: Sequence[float], name: str, extra: Sequence[Markup] = ()) -> Markup:
    """``values`` [drawn] against Δ⁺."""
    y = spread((*(item.change for item in block.drawn), 0.0), HEIGHT - BOTTOM, TOP)
    body = [rect(LEFT, y(0), WIDTH - RIGHT - LEFT, HEIGHT - BOTTOM - y(0), "broken")]
    body += [*frame(x, y, name, "Δ⁺, chosen (nats per response)"), *extra]
    at = list(zip(values, block.drawn, strict=True))
    groups = _by_type([item.pair_type for item in block.drawn])
    body += [
        _marks([(x(value), y(item.change)) for value, item in at if item.pair_type == kind], _KINDS[kind])
        for kind in groups
    ]
    body.append(text(WIDTH - RIGHT - 5, HEIGHT - BOTTOM - 6, "chosen fell", "end", "label"))
    types = ", ".join(f"{count:,} {kind}" for kind, count in groups.items() if kind)
    title = (
        f"Scatter of {len(at):,} pairs{f' ({types})' if types else ''}: {name} under the reference against the change "
        "of the chosen answer's log-probability (nats); shaded: it fell"
    )
    return svg(WIDTH, HEIGHT, title, body, "figure")


_ROW, _LABELS = 62, 84


def ranks(block: Training) -> Markup:
    """Percentile of the length-normalised CHES by type: a box from quartile to quartile over a strip of marks."""
    height = TOP + _ROW * len(block.types) + BOTTOM
    bottom, right = height - BOTTOM, WIDTH - RIGHT
    x = Scale(0, 100, _LABELS, right)
    body = [rect(_LABELS, TOP, right - _LABELS, bottom - TOP, "frame"), line(x(50), TOP, x(50), bottom, "half")]
    for tick in (0, 25, 50, 75, 100):
        body += [line(x(tick), bottom, x(tick), bottom + 4, "axis"), text(x(tick), bottom + 15, f"{tick}")]
    for position, row in enumerate(block.types):
        top, kind = TOP + _ROW * position, _KINDS[row.name]
        body += [
            text(_LABELS - 8, top + 27, row.name, "end"),
            text(_LABELS - 8, top + 41, f"n = {row.n:,}", "end", "name"),
        ]
        # the fractional parts of multiples of the golden ratio fill the strip evenly, and the same way every time
        mine = (item.places[0] for item in block.drawn if item.pair_type == row.name)
        strip = [(x(place), round(top + 31 + 24 * (0.618034 * index % 1), 1)) for index, place in enumerate(mine)]
        lower, upper = x(row.lower), x(row.upper)
        body += [_marks(strip, kind), rect(lower, top + 7, upper - lower, 14, f"box mark-{kind}")]
        body.append(line(x(row.median), top + 4, x(row.median), top + 24, "median"))
    body.append(text((_LABELS + right) / 2, height - 6, "percentile by length-normalised CHES", style="name"))
    said = "; ".join(f"{row.name}: {row.lower:.0f}, {row.median:.0f}, {row.upper:.0f}" for row in block.types)
    title = f"Percentile of pairs by length-normalised CHES, by type; quartiles and median. {said}"
    return svg(WIDTH, height, title, body, "figure")


def scores(block: Training) -> Markup:
    """How the length-normalised CHES is distributed, a row of bars for each type of pairs, on scales of their own."""
    names = [row.name for row in block.types] or [""]
    height = TOP + _ROW * len(names) + BOTTOM
    bottom, right = height - BOTTOM, WIDTH - RIGHT
    x = Scale(block.bins[0].low, block.bins[-1].high, _LABELS, right)
    body = [rect(_LABELS, TOP, right - _LABELS, bottom - TOP, "frame")]
    for tick in ticks(x.low, x.high):
        body += [line(x(tick), bottom, x(tick), bottom + 4, "axis"), text(x(tick), bottom + 15, f"{tick:g}")]
    if x.low < 0 < x.high:
        body.append(line(x(0), TOP, x(0), bottom, "zero"))
    for position, name in enumerate(names):
        base, most = TOP + _ROW * (position + 1), max(item.counts.get(name, 0) for item in block.bins)
        body.append(line(_LABELS, base, right, base, "axis"))
        body.append(text(_LABELS - 8, base - 24, name or "all pairs", "end"))
        body.append(text(_LABELS - 8, base - 10, f"≤ {most:,}", "end", "name"))
        for item in block.bins:
            tall = item.counts.get(name, 0) / (most or 1) * (_ROW - 10)
            if tall:
                width = x(item.high) - x(item.low) - 0.6
                body.append(rect(x(item.low) + 0.3, base - tall, width, tall, f"bar kind-{_KINDS[name]}"))
    body.append(text((_LABELS + right) / 2, height - 6, "length-normalised CHES (units of h²)", style="name"))
    title = f"Histogram of length-normalised CHES of {block.n:,} pairs, by type; bars right of zero: more alike"
    return svg(WIDTH, height, title, body, "figure")
