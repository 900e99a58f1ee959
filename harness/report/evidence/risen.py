"""First tokens: which rose and fell, what they mean, what was predicted; prompt by prompt, and over a trajectory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from harness.record import RunRecord
from harness.report.evidence.blocks import Rates
from harness.report.evidence.shelf import Shelf
from harness.report.rows import by_step, limit_rows
from harness.report.text import Excerpt, excerpt

RELATIONS = ("opposite", "benign", "other")
"""To y⁺; worst first."""
_RISERS, _FALLERS = 5, 3
"""Tokens shown of one prompt."""


@dataclass(frozen=True, slots=True)
class Shift:
    """A token's probability at the first response position under both models."""

    token: str
    relation: str
    """To y⁺: benign (the same meaning), opposite or other."""
    reference: float
    candidate: float
    rise: float
    prediction: float
    """⟨W_z, W_y⁺ − W_y⁻⟩."""


@dataclass(frozen=True, slots=True)
class PromptRisers:
    """The tokens that moved most on one prompt."""

    corpus: str
    pair_id: str
    category: str
    rising: tuple[Shift, ...]
    """Largest rise first; never empty."""
    falling: tuple[Shift, ...]
    prompt: Excerpt | None
    chosen: Excerpt | None

    @property
    def top(self) -> Shift:
        return self.rising[0]


@dataclass(frozen=True, slots=True)
class Risers:
    """The tokens that moved most on one corpus."""

    corpus: str
    missing: str = ""
    rising: tuple[Shift, ...] = ()
    """Mean over prompts, largest rise first."""
    falling: tuple[Shift, ...] = ()
    rank_correlation: float = math.nan
    """Between prediction and change of log-probability, mean over prompts."""
    overlap: float = math.nan
    """Share of the tokens predicted to rise most that are among those that did, mean over prompts."""
    prompts: int = 0
    top_relations: Mapping[str, int] | None = None
    """Relation of the top riser -> prompts."""
    tops: tuple[PromptRisers, ...] = ()
    """Prompts on which a token rose: those whose top riser means the opposite first, then by its rise."""
    risen: int = 0
    """All of those prompts, shown or not."""
    rates: tuple[Rates, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def ordered(self) -> tuple[Shift, ...]:
        """The listed tokens from the largest rise to the largest fall."""
        return (*self.rising, *reversed(self.falling))

    @property
    def predicted(self) -> tuple[Shift, ...]:
        """The same, from the highest prediction to the lowest."""
        return tuple(sorted(self.ordered, key=lambda item: -item.prediction))


def risers(corpus: str, shelf: Shelf, candidate: str, most: int) -> Risers:
    """From rows of ``harness.probes.catastrophic.RiserRow``; at most ``most`` prompts. Raises ``Absent``."""
    frame = shelf.frame("risers", candidate, corpus).sort_values("rank", kind="stable")
    overall = frame[frame["pair_id"] == ""].to_dict(orient="records")
    own = frame[frame["pair_id"] != ""]
    firsts = own[own["rank"] == 1].to_dict(orient="records")
    place = {name: index for index, name in enumerate(RELATIONS)}
    firsts.sort(key=lambda row: (place[str(row["relation"])], -float(row["rise"])))
    chosen = [str(row["pair_id"]) for row in firsts[:most]]
    rows = own[own["pair_id"].isin(chosen)].sort_values("pair_id", kind="stable").to_dict(orient="records")
    by_pair = {str(name): list(group) for name, group in groupby(rows, key=lambda row: row["pair_id"])}
    texts = shelf.items("pairs", corpus)
    return Risers(
        corpus,
        rising=tuple(_shift(row) for row in overall if row["rank"] > 0),
        falling=tuple(_shift(row) for row in reversed(overall) if row["rank"] < 0),
        rank_correlation=float(overall[0]["rank_correlation"]) if overall else math.nan,
        overlap=float(overall[0]["overlap"]) if overall else math.nan,
        prompts=own["pair_id"].nunique(),
        top_relations=dict(Counter(str(row["relation"]) for row in firsts)),
        tops=tuple(_prompt(corpus, name, by_pair[name], texts) for name in chosen),
        risen=len(firsts),
        sources=(shelf.file("risers", candidate, corpus).path,),
    )


def _shift(row: Mapping[Any, Any]) -> Shift:
    return Shift(
        token=str(row["text"]),
        relation=str(row["relation"]),
        reference=float(row["reference"]),
        candidate=float(row["candidate"]),
        rise=float(row["rise"]),
        prediction=float(row["prediction"]),
    )


def _prompt(
    corpus: str, pair_id: str, rows: Sequence[Mapping[Any, Any]], texts: Mapping[str, Mapping[str, Any]]
) -> PromptRisers:
    asked = texts.get(pair_id)
    return PromptRisers(
        corpus=corpus,
        pair_id=pair_id,
        category=str(rows[0]["category"]),
        rising=tuple(_shift(row) for row in rows if row["rank"] > 0)[:_RISERS],
        falling=tuple(_shift(row) for row in reversed(rows) if row["rank"] < 0)[:_FALLERS],
        prompt=excerpt(str(asked["prompt"])) if asked else None,
        chosen=excerpt(str(asked["chosen"])) if asked else None,
    )


# ---------------------------------------------------------------- over a trajectory


@dataclass(frozen=True, slots=True)
class MassPoint:
    """Mean probability by meaning at the first response position, one checkpoint."""

    name: str
    step: int | None
    opposite: float
    benign: float
    other: float


@dataclass(frozen=True, slots=True)
class MassCourse:
    """The masses on one corpus over the training steps."""

    corpus: str
    reference: MassPoint
    points: tuple[MassPoint, ...]
    """In step order."""


def mass_courses(record: RunRecord) -> tuple[MassCourse, ...]:
    """One for each corpus on which at least two checkpoints of a trajectory have masses; from the record alone."""
    found: dict[str, dict[str, MassPoint]] = {}
    before: dict[str, MassPoint] = {}
    for name in by_step(record):
        for row in limit_rows(record, name):
            m, corpus = row.measurement if not row.limit.baseline else None, row.limit.corpus
            ours = _masses(m.counts, "candidate", record, name) if m else None
            theirs = _masses(m.counts, "reference", record, record.reference.name) if m else None
            if ours and theirs:
                found.setdefault(corpus, {}).setdefault(name, ours)
                before.setdefault(corpus, theirs)
    return tuple(
        MassCourse(corpus, before[corpus], tuple(points.values()))
        for corpus, points in found.items()
        if len(points) > 1
    )


def _masses(counts: Mapping[str, float], role: str, record: RunRecord, name: str) -> MassPoint | None:
    values = [counts.get(f"{role} {relation} mass", math.nan) for relation in RELATIONS]
    if not all(map(math.isfinite, values)):
        return None
    return MassPoint(name, record.checkpoint(name).step, *values)
