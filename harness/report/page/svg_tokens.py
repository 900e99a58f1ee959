"""Small plots of first tokens: predicted beside observed order, and mass by meaning over a trajectory."""

from __future__ import annotations

from markupsafe import Markup

from harness.report.evidence.risen import MassCourse, MassPoint, Risers
from harness.report.page.drawing import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Scale, dot, frame, line, svg, text
from harness.report.text import shorten, visible

_STEP = 17


def order(block: Risers) -> Markup:
    """The listed tokens twice: by the prediction and by their rise; a line joins each to itself."""
    predicted, observed = block.predicted, block.ordered
    height = 40 + _STEP * len(observed)
    body: list[str | Markup] = [
        text(130, 16, "predicted", "end", "name"),
        text(WIDTH - 130, 16, "observed", "start", "name"),
    ]
    for place, shift in enumerate(observed):
        before, after = 36 + _STEP * predicted.index(shift), 36 + _STEP * place
        style = f"slope {shift.relation}"
        body.append(line(136, before - 4, WIDTH - 136, after - 4, style))
        for x, y, anchor in ((130, before, "end"), (WIDTH - 130, after, "start")):
            mark = {"opposite": "✗ ", "benign": "✓ "}.get(shift.relation, "")
            body.append(text(x, y, mark + _named(shift.token), anchor, shift.relation))
    said = "; ".join(f"{_named(item.token)} {predicted.index(item) + 1}" for item in observed)
    title = f"Tokens from the largest rise to the largest fall, each with its place by the prediction: {said}"
    return svg(WIDTH, height, title, body, "figure")


def _named(token: str) -> str:
    return visible(shorten(token, 14).replace(" ", "␣"))


def masses(course: MassCourse, height: int = 230) -> Markup:
    """Mean probability of opposite, benign and other tokens against the training step; the reference's at the left."""
    steps = [point.step or 0 for point in course.points]
    x = Scale(steps[0], steps[-1], LEFT + 8, WIDTH - RIGHT - 58)
    y = Scale(0.0, 1.0, height - BOTTOM, TOP)
    body = frame(Scale(x.low, x.high, LEFT + 8, WIDTH - RIGHT - 58), y, "training step", "mean probability", height)
    for name in ("other", "benign", "opposite"):
        values = [_mass(point, name) for point in course.points]
        path = " ".join(f"{x(step):g},{y(value):g}" for step, value in zip(steps, values, strict=True))
        body.append(Markup('<polyline class="mass {}" points="{}"/>').format(name, path))
        body += [dot(x(step), y(value), f"dot {name}", 3) for step, value in zip(steps, values, strict=True)]
        body.append(
            line(LEFT, y(_mass(course.reference, name)), LEFT + 7, y(_mass(course.reference, name)), f"before {name}")
        )
        body.append(text(x(steps[-1]) + 7, y(values[-1]) + 4, name, "start", f"label {name}"))
    said = "; ".join(
        f"step {point.step}: opposite {point.opposite:.3f}, benign {point.benign:.3f}" for point in course.points
    )
    return svg(WIDTH, height, f"Mean probability by meaning over the training steps. {said}", body, "figure")


def _mass(point: MassPoint, name: str) -> float:
    return {"opposite": point.opposite, "benign": point.benign, "other": point.other}[name]
