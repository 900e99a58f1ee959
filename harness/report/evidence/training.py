"""Which pairs do the damage? A table of kind ``training`` -> plain data: how alike a pair's answers were, and Δ⁺.

A row of the table is ``harness.probes.similarity.TrainingRow``: scores of the reference, and what training did to the
pair (Δ = candidate - reference, nats per response; Δ⁺ of the chosen answer). From it come

    percentile        place of a pair among all n by length-normalised CHES, 100 (rank - 1/2) / n with mean ranks for
                      ties: near 0 least alike, near 100 most alike (figure 4 of Razin et al., arXiv 2410.08847, shows
                      ranks by type of pair)
    split by type     what the judge reads in a pair's two answers: both refuse, both comply, mixed
    ρ                 Spearman's, over pairs, between a score and Δ⁺; with its interval where the record has one
                      (``ches_rank_correlation``), else computed here without

A large corpus is drawn by a sample of its pairs, the same in every run; every number is over all of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness import stats
from harness.probes.similarity import Entanglement
from harness.report.rows import LimitRow
from harness.report.text import PairTexts, pair_texts

if TYPE_CHECKING:
    import pandas as pd

CORRELATION = "ches_rank_correlation"
"""The metric whose case writes the table."""
MOST_DRAWN = 2000
"""Pairs drawn as points; a sample of a larger corpus."""
HIGHEST = 100
"""Pairs with the highest score that are listed; with several candidates fewer."""
BINS = 40

PAIR_TYPES = ("both refuse", "both comply", "mixed", "other")
"""As ``TrainingRow.pair_type``, where there was a judge."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Score:
    """A score that pairs can be ranked by, named as in the table. Edit similarity has no unit, the others h squared."""

    field: str
    title: str
    formula: str


SCORES = (
    Score(
        "ches_normalised",
        "length-normalised CHES",
        "⟨S⁺, S⁻⟩/(n⁺n⁻) − ‖S⁺‖²/(n⁺)²; the paper filters by it",
    ),
    Score("ches", "CHES", "⟨S⁺, S⁻⟩ − ‖S⁺‖²"),
    Score("alpha_ches", "α-weighted CHES", "⟨G⁺, G⁻⟩ − ‖G⁺‖²"),
    Score("last_hidden", "last-hidden similarity", "⟨h⁺, h⁻⟩, last position"),
    Score("edit", "edit similarity", "1 − Levenshtein/length, on tokens"),
)
"""The one that the paper filters by comes first. S, G and h: see ``harness.probes.similarity``."""

_NUMBERS = (*(score.field for score in SCORES), "delta_chosen", "delta_rejected")
_LIMITED = {"": "ches", "per token": "ches_normalised"}
"""Unit of a limit on ``ches_rank_correlation`` -> the score that its interval is about."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's ρ between a score and Δ⁺."""

    score: Score
    rho: float
    low: float
    high: float
    """Bounds; NaN where there is no interval."""
    source: str
    """Where the number comes from, in words."""
    zero: float
    """Percentile at which the score turns positive: 100 times the share of pairs that have 0 or less."""

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True, slots=True)
class TypeRow:
    """The pairs of one type, or all of them."""

    name: str
    """One of ``PAIR_TYPES``, or ``all pairs``."""
    n: int
    share: float
    """Of all pairs."""
    lower: float
    median: float
    upper: float
    """Quartiles of the percentile."""
    change: float
    """Mean Δ⁺, nats per response."""
    fell: float
    """Share with Δ⁺ < 0."""
    cases: tuple[float, ...]
    """Share of each ``Entanglement``, in its order."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A pair as a point."""

    pair_type: str
    score: float
    """Length-normalised CHES, the first of ``SCORES``."""
    places: tuple[float, ...]
    """Percentile by each of ``SCORES``."""
    change: float
    """Δ⁺, nats per response."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs whose length-normalised CHES lies in [low, high)."""

    low: float
    high: float
    counts: Mapping[str, int]
    """Type -> pairs; '' where no judge told the types."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A pair with a high score."""

    corpus: str
    pair_id: str
    category: str
    pair_type: str
    entanglement: str
    percentile: float
    change: float
    """Δ⁺, nats per response."""
    rejected_change: float
    """Δ⁻."""
    scores: tuple[float, ...]
    """In the order of ``SCORES``."""
    chosen_tokens: int
    rejected_tokens: int
    texts: PairTexts | None


@dataclass(frozen=True, slots=True)
class Training:
    """The pairs of one corpus, one candidate."""

    corpus: str
    missing: str = ""
    """Why there is nothing to show; everything below is empty then."""
    n: int = 0
    """Pairs that the numbers are over."""
    unusable: int = 0
    """Pairs left out: a score or a change that is not finite."""
    judged: bool = False
    """A judge told the types of the pairs."""
    drawn: tuple[Drawn, ...] = ()
    correlations: tuple[Correlation, ...] = ()
    problems: tuple[str, ...] = ()
    """Why the record's correlation cannot be used."""
    bins: tuple[Bin, ...] = ()
    """Of all pairs; the outermost hold what lies further out (``binned``)."""
    types: tuple[TypeRow, ...] = ()
    """Of the types that occur; () without a judge."""
    everything: TypeRow | None = None
    highest: tuple[Suspect, ...] = ()
    source: str = ""
    """The table file, relative to the run directory."""


CASES = tuple(case.value for case in Entanglement)
"""What one step on a pair does to its answers, to first order: the columns of ``TypeRow.cases``."""


def training(
    corpus: str,
    frame: pd.DataFrame,
    rows: Sequence[LimitRow],
    texts: Mapping[str, Mapping[str, Any]],
    *,
    points: int = MOST_DRAWN,
    highest: int = HIGHEST,
    source: str = "",
) -> Training:
    """What the page shows of one table.

    Args:
        corpus: its name.
        frame: [pairs], the columns of ``TrainingRow``.
        rows: the candidate's limits on ``ches_rank_correlation`` and this corpus.
        texts: pair id -> row of the corpus' table of pairs; empty where that is not kept.
        points: pairs drawn at most.
        highest: pairs listed at most.
        source: the table's file.

    Raises:
        KeyError: a column is missing.
        ValueError: a pair is there twice, or has a type or case that does not exist; the pair is named.
    """
    ids = [str(item) for item in frame["pair_id"]]
    types, cases = [str(item) for item in frame["pair_type"]], [str(item) for item in frame["entanglement"]]
    _check(ids, types, cases)
    numbers = {name: frame[name].to_numpy(dtype=np.float64) for name in _NUMBERS}
    usable = np.all(np.isfinite(np.stack(list(numbers.values()))), axis=0)
    kept = np.flatnonzero(usable)
    left_out = len(ids) - kept.size
    if not kept.size:
        return Training(corpus, unusable=left_out, source=source)
    numbers = {name: values[kept] for name, values in numbers.items()}
    ids, types, cases = ([items[index] for index in kept] for items in (ids, types, cases))
    places = {score.field: percentiles(numbers[score.field]) for score in SCORES}
    percentile = places["ches_normalised"]
    judged = any(types)
    members = {name: np.array([item == name for item in types]) for name in PAIR_TYPES}

    def type_row(name: str, mask: npt.NDArray[np.bool_]) -> TypeRow:
        return _type_row(name, mask, percentile, numbers["delta_chosen"], np.array(cases))

    def scores(index: int) -> tuple[float, ...]:
        return tuple(float(numbers[score.field][index]) for score in SCORES)

    def drawn(index: int) -> Drawn:
        by_score = tuple(float(places[score.field][index]) for score in SCORES)
        return Drawn(types[index], scores(index)[0], by_score, float(numbers["delta_chosen"][index]))

    def suspect(index: int) -> Suspect:
        row = frame.iloc[int(kept[index])]
        return Suspect(
            corpus=corpus,
            pair_id=ids[index],
            category=str(row["category"]),
            pair_type=types[index],
            entanglement=cases[index],
            percentile=float(percentile[index]),
            change=float(numbers["delta_chosen"][index]),
            rejected_change=float(numbers["delta_rejected"][index]),
            scores=scores(index),
            chosen_tokens=int(row["chosen_tokens"]),
            rejected_tokens=int(row["rejected_tokens"]),
            texts=pair_texts(texts.get(ids[index])),
        )

    by_score = sorted(range(len(ids)), key=lambda index: (-numbers["ches_normalised"][index], ids[index]))
    return Training(
        corpus,
        n=len(ids),
        unusable=left_out,
        judged=judged,
        drawn=tuple(drawn(index) for index in sample(ids, points)),
        correlations=tuple(_correlation(score, numbers, rows) for score in SCORES),
        problems=tuple(dict.fromkeys(m.problem for row in rows if (m := row.measurement) is not None and m.problem)),
        bins=binned(numbers["ches_normalised"], types),
        types=tuple(type_row(name, mask) for name, mask in members.items() if mask.any()),
        everything=type_row("all pairs", np.ones(len(ids), dtype=np.bool_)),
        highest=tuple(suspect(index) for index in by_score[:highest]),
        source=source,
    )


def percentiles(values: Floats) -> Floats:
    """Place of each value among all, 0 to 100; [n] -> [n]. Ties share the mean of their places."""
    from scipy.stats import rankdata  # here, so that a report without such a table does not wait for it

    return np.asarray(100 * (rankdata(values) - 0.5) / values.size, dtype=np.float64)


def binned(values: Floats, types: Sequence[str], most: int = BINS) -> tuple[Bin, ...]:
    """Bins of equal width between the 0.5th and the 99.5th percentile; zero is an edge where it lies between.

    What lies further out is counted in the outermost bins, so that a few extreme pairs do not squeeze all others.
    """
    low, high = (float(edge) for edge in np.percentile(values, (0.5, 99.5)))
    width = (high - low) / most or 1.0
    first = math.floor(low / width)
    number = math.floor(high / width) - first + 1
    places = (np.clip(np.floor(values / width), first, first + number - 1) - first).astype(np.int64)
    tallies = [Counter[str]() for _ in range(number)]
    for place, name in zip(places.tolist(), types, strict=True):
        tallies[place][name] += 1
    return tuple(
        Bin((first + index) * width, (first + index + 1) * width, dict(tally)) for index, tally in enumerate(tallies)
    )


def sample(ids: Sequence[str], most: int) -> list[int]:
    """Positions of at most ``most`` pairs, in their order: those whose ids hash lowest, so the same in every run."""
    if len(ids) <= most:
        return list(range(len(ids)))

    def key(index: int) -> bytes:
        return sha256(ids[index].encode("utf-8", "surrogatepass")).digest()

    return sorted(sorted(range(len(ids)), key=key)[:most])


def _check(ids: Sequence[str], types: Sequence[str], cases: Sequence[str]) -> None:
    seen: set[str] = set()
    for pair_id, pair_type, case in zip(ids, types, cases, strict=True):
        if pair_id in seen:
            raise ValueError(f"pair {pair_id!r} is there twice")
        seen.add(pair_id)
        if pair_type and pair_type not in PAIR_TYPES:
            raise ValueError(f"pair {pair_id!r} has the pair_type {pair_type!r}; one of {', '.join(PAIR_TYPES)}")
        if case not in CASES:
            raise ValueError(f"pair {pair_id!r} has the entanglement {case!r}; one of: {'; '.join(CASES)}")
        if bool(pair_type) != bool(types[0]):
            raise ValueError(f"pairs {ids[0]!r} and {pair_id!r}: one has a pair_type and the other none")


def _type_row(
    name: str, mask: npt.NDArray[np.bool_], percentile: Floats, change: Floats, cases: npt.NDArray[np.str_]
) -> TypeRow:
    n = int(mask.sum())
    lower, median, upper = (float(item) for item in np.percentile(percentile[mask], (25, 50, 75)))
    return TypeRow(
        name=name,
        n=n,
        share=n / mask.size,
        lower=lower,
        median=median,
        upper=upper,
        change=float(change[mask].mean()),
        fell=float((change[mask] < 0).mean()),
        cases=tuple(float((cases[mask] == case).mean()) for case in CASES),
    )


def _correlation(score: Score, numbers: Mapping[str, Floats], rows: Sequence[LimitRow]) -> Correlation:
    """The record's number where it has one, with its interval where the limit is on this score."""
    zero = 100 * float((numbers[score.field] <= 0).mean())
    recorded = [(row.limit.id, m) for row in rows if (m := row.measurement) is not None and not m.problem]
    for name, m in recorded:
        if _LIMITED.get(m.unit) == score.field and math.isfinite(m.value):
            said = f"the record, limit {name}; one-sided {m.alpha:g} at each end"
            return Correlation(score, m.value, m.low, m.high, said, zero)
    for name, m in recorded:
        if math.isfinite(rho := m.counts.get(f"rho_{score.field}", math.nan)):
            return Correlation(score, rho, math.nan, math.nan, f"the record, limit {name}; no interval", zero)
    found = stats.rank_correlation(numbers[score.field], numbers["delta_chosen"])
    said = found.problem or "computed from the table; no interval"
    return Correlation(score, found.value, math.nan, math.nan, said, zero)
