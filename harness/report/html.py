"""Plain data -> one self-contained page: no request; whatever a model wrote is shown as text.

Verdict, tables, first cards and figures are HTML and SVG, for where scripts do not run. Scripts draw the figures again,
so that they answer, and put the whole lists in the place of the first cards.
"""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.corpus import counts as kinds_of_dirt
from harness.domain import Limit, unit_text
from harness.record import RunRecord
from harness.report import trust
from harness.report.basis import grounds
from harness.report.evidence import training
from harness.report.evidence.displaced import quadrant_names
from harness.report.page import assets, figures, pack, svg, svg_tokens
from harness.report.page.cards import card_lists
from harness.report.page.lists import fill, key_of, link
from harness.report.page.marked import head_of, model_text, rest_of, signed, token_strip, token_text
from harness.report.rows import (
    Answer,
    LimitRow,
    beside,
    companion,
    describe_peak,
    number,
    own_value,
    sample_size,
    short_bound,
)
from harness.report.summarize import Summary, summarize
from harness.report.text import counted, shorten, visible
from harness.tables import write_atomically

FILE = "report.html"
_LONGEST = 2000
"""Characters of a single reason, name or warning; texts that may be longer are excerpts."""

MOST_BYTES = 1_900_000
"""Of a page, so that it can be mailed, kept by the thousand and opened at once."""
MOST_STATIC = 500_000
"""Bytes of HTML about single candidates; of several, those that come later are packed like the cards."""
_PACKS = Markup("<!-- packs -->")

_SHA256 = re.compile("[0-9a-f]{64}")

_SYMBOLS = {
    Answer.KEPT: "✓",
    Answer.BROKEN: "✗",
    Answer.UNDECIDED: "?",
    Answer.UNMEASURED: "?",
    Answer.UNANSWERED: "∅",
}


def write(record: RunRecord, directory: Path, output: Path | None = None) -> Path:
    """Write the page of a run whole, or not at all.

    Args:
        record: the run.
        directory: where its tables lie.
        output: where the page goes; ``report.html`` in the run's directory by default.
    """
    path = output or directory / FILE
    page = render(summarize(record, directory)).encode("utf-8")
    write_atomically(path, lambda temporary: temporary.write_bytes(page))
    return path


def render(summary: Summary) -> str:
    """The page as text, of at most ``MOST_BYTES``: texts and figures first, then as many cards as fit."""
    record, several = summary.record, len(summary.candidates)
    made = environment()
    macros, evidence = (vars(made.get_template(name).module) for name in ("cards.html.j2", "evidence.html.j2"))
    places = {item.checkpoint.name: place for place, item in enumerate(summary.candidates)}
    lists = {
        name: card_lists(item, places[name], several > 1, record.reference.name, macros)
        for item in summary.candidates
        for name in [item.checkpoint.name]
    }
    bodies, packs = {}, []
    room = MOST_STATIC
    for item in summary.ordered if several > 1 else ():
        name = item.checkpoint.name
        body = Markup(evidence["body"](item, record.reference.name, lists[name], places[name], several))  # noqa: S704
        room -= pack.bytes_of(body)
        if room >= 0:
            bodies[name] = body
        else:
            packs.append(pack.pack(figures.body_id(places[name]), body))
    for place, item in enumerate(summary.candidates):
        packs.append(pack.pack(figures.pack_id(place), figures.of_candidate(item, several)))
    packs.append(pack.pack(figures.pack_id("trajectory"), figures.of_trajectory(summary)))
    steps = [step for item in record.candidates if (step := item.step) is not None]
    text = made.get_template("report.html.j2").render(
        s=summary,
        record=record,
        ordered=summary.ordered,
        places=places,
        lists=lists,
        bodies=bodies,
        grounds=grounds(record, summary.trust),
        first_step=min(steps, default=0),
        last_step=max(steps, default=1),
        packs=_PACKS,
    )
    left = MOST_BYTES - pack.bytes_of(text) - sum(map(pack.bytes_of, packs))
    packs.append(fill([item for own in lists.values() for item in own.values() if item], left))
    before, after = text.split(str(_PACKS))
    return before + "".join(packs) + after


def _templates() -> Path:
    return Path(__file__).parent / "templates"


@cache
def environment() -> Environment:
    """Autoescape always, unknown names are errors, and every text passes ``visible`` before it is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_templates()),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        number=number,
        own=own_value,
        sample_size=sample_size,
        unit=unit_text,
        companion=companion,
        beside=beside,
        exact=_exact,
        score=_score,
        severity=_severity,
        digest=_digest,
        model=model_text,
        token=token_text,
        head=head_of,
        rest=rest_of,
        signed=signed,
        strip=token_strip,
        bound=_bound,
        symbol=_SYMBOLS.__getitem__,
    )
    environment.globals.update(
        svg=svg, training=training, trust=trust, counted=counted, describe_peak=describe_peak, rank=_class_of
    )
    environment.globals.update(
        assets=assets,
        figures=figures,
        key_of=key_of,
        kinds_of_dirt=kinds_of_dirt,
        link=link,
        quadrant_names=quadrant_names,
        svg_tokens=svg_tokens,
    )
    return environment


def _finalize(value: Any) -> Any:
    """Nothing reaches the page with invisible characters in it, whichever expression it came from."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(shorten(value, _LONGEST))
    return value


def _bound(limit: Limit) -> str:
    return short_bound(limit).replace("<=", "≤").replace(">=", "≥")


def _exact(value: float) -> str:
    """For sorting: all digits, '' for no number."""
    return repr(value) if math.isfinite(value) else ""


def _score(value: float) -> str:
    """A similarity: they go from far below one to millions, so four digits instead of three decimals."""
    if not math.isfinite(value):
        return "n/a"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _digest(text: str) -> str:
    """The first twelve characters of a SHA-256, as people see it; any other text as it is."""
    return text[:12] if _SHA256.fullmatch(text) else text


def _severity(row: LimitRow) -> int:
    """For sorting: broken first, kept last."""
    order = (Answer.BROKEN, Answer.UNDECIDED, Answer.UNMEASURED, Answer.UNANSWERED, Answer.KEPT)
    return order.index(row.answer)


def _class_of(row: LimitRow) -> str:
    return row.answer.word.lower()
