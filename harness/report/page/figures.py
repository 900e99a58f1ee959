"""What a page's script draws: the numbers of each figure, small. ``templates/run.js`` has a function for each kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.domain import Limit
from harness.report.evidence.displaced import Displacement, quadrant_names
from harness.report.evidence.risen import MassCourse, Risers
from harness.report.evidence.training import SCORES, Training, sample
from harness.report.page import svg
from harness.report.page.lists import key_of, link
from harness.report.rows import Course
from harness.report.summarize import CandidateSummary, Summary
from harness.report.text import shorten, visible

MOST_POINTS = 4000
"""Points of a scatter plot; with several candidates each gets its share, but at least ``LEAST_POINTS``."""
LEAST_POINTS = 800
STATIC_POINTS = 800
"""Points of the scatter plot that stands in the HTML, all candidates together; at least a third of that each."""


def points_of(ids: Sequence[str], candidates: int, most: int = MOST_POINTS, least: int = LEAST_POINTS) -> list[int]:
    """Which pairs get a dot: those whose ids hash lowest, so the same in every run."""
    return sample(ids, max(most // max(candidates, 1), least))


def pack_id(place: int | str) -> str:
    """Of a candidate's figures by its place, or of the trajectory's."""
    return f"figures-{place}"


def body_id(place: int) -> str:
    """Of the pack with all about a candidate, where that does not stand in the HTML."""
    return f"body-{place}"


def of_candidate(item: CandidateSummary, several: int) -> dict[str, Any]:
    """Figure's key -> its numbers."""
    found: dict[str, Any] = {}
    for block in item.displacement:
        if block.chosen:
            found[f"changes {block.corpus}"] = _changes(block, item.checkpoint.name if several > 1 else "", several)
    for risers in item.risers:
        if risers.rising or risers.falling:
            found[f"tokens {risers.corpus}"] = _tokens(risers)
    for trained in item.training:
        if trained.n:
            found[f"trained {trained.corpus}"] = _trained(trained)
    return found


def of_trajectory(summary: Summary) -> dict[str, Any]:
    """The limits and masses over the training steps."""
    found: dict[str, Any] = {f"course {place}": _course(item) for place, item in enumerate(summary.courses)}
    return found | {f"mass {item.corpus}": _mass(item) for item in summary.masses}


def _changes(block: Displacement, candidate: str, several: int) -> dict[str, Any]:
    drawn = points_of(block.ids, several)
    fixed = {"candidate": candidate, "corpus": block.corpus}
    return {
        "link": link("fallen", {key: key_of(value) for key, value in fixed.items()}),
        "ids": [key_of(block.ids[index]) for index in drawn],
        "chosen": [round(block.chosen[index], 3) for index in drawn],
        "rejected": [round(block.rejected[index], 3) for index in drawn],
        "quadrants": list(quadrant_names(block).items()),
        "bins": svg.binned(block.chosen),
        "label": f"change of the chosen against the rejected answer, {len(drawn):,} of {len(block.ids):,} pairs",
    }


def _tokens(block: Risers) -> list[dict[str, Any]]:
    predicted = block.predicted
    return [
        {
            "token": visible(shorten(item.token, 40).replace(" ", "␣")),
            "relation": item.relation,
            "rise": item.rise,
            "reference": item.reference,
            "candidate": item.candidate,
            "prediction": item.prediction,
            "observed": place,
            "predicted": predicted.index(item) + 1,
        }
        for place, item in enumerate(block.ordered, start=1)
    ]


def _trained(block: Training) -> dict[str, Any]:
    return {
        "scores": [score.title for score in SCORES],
        "types": [row.name for row in block.types],
        "type": [item.pair_type for item in block.drawn],
        "score": [float(f"{item.score:.5g}") for item in block.drawn],
        "places": [[round(value, 1) for value in item.places] for item in block.drawn],
        "change": [round(item.change, 2) for item in block.drawn],
        "bins": [[item.low, item.high, dict(item.counts)] for item in block.bins],
    }


def _course(item: Course) -> dict[str, Any]:
    limit: Limit = item.limit
    return {
        "name": limit.id,
        "unit": limit.unit,
        "bound": limit.bound,
        "maximum": limit.is_maximum,
        "points": [
            {
                "step": point.step,
                "candidate": visible(point.candidate),
                "value": point.value,
                "low": point.low,
                "high": point.high,
                "answer": point.answer.word,
                "meaning": point.answer.meaning,
            }
            for point in sorted(item.points, key=lambda point: point.step)
        ],
    }


def _mass(item: MassCourse) -> dict[str, Any]:
    return {
        "reference": _masses(item.reference),
        "points": [{"step": point.step, "candidate": visible(point.name), **_masses(point)} for point in item.points],
    }


def _masses(point: Any) -> dict[str, float]:
    return {"opposite": point.opposite, "benign": point.benign, "other": point.other}
