"""Similarity of a pair's responses: which preference pairs are likely to displace likelihood, before training.

    ches              ⟨S⁺, S⁻⟩ − ‖S⁺‖²
    ches_normalised   ⟨S⁺, S⁻⟩ / (n⁺ n⁻) − ‖S⁺‖² / (n⁺)²           the score that the paper filters by
    last_hidden       ⟨h⁺_last, h⁻_last⟩
    alpha_ches        ⟨G⁺, G⁻⟩ − ‖G⁺‖²                             exact alignment of the LM head's gradients
    edit              1 − Levenshtein(y⁺, y⁻) / max(n⁺, n⁻)        on token ids, end of turn included

(Razin et al., arXiv 2410.08847, definitions 2 and 3; S, G and h as in ``PairSimilarity``.) Higher means more alike, and
in the paper a larger fall of the chosen response. What they do not say: in the paper's own runs training on the pairs
with the lowest scores still lost chosen log-probability, and the runs compared differ in their number of updates.

Metrics, all of the reference, where training starts:

    high_ches_share           share with CHES > 0
    chosen_falls_share        share with ⟨G⁺, G⁻⟩ > ‖G⁺‖²
    both_fall_share           share with ‖G⁺‖² < ⟨G⁺, G⁻⟩ < ‖G⁻‖²                  (Yuan et al., 2410.13828)
    full_both_fall_share      the same with the gradients g over all weights       (Yuan et al.)
    ches_rank_correlation     Spearman's ρ over pairs between CHES and Δ⁺: does the score predict this candidate's fall?

Shares have Clopper-Pearson bounds. ``counts`` of a share holds how many pairs fall into each case, ``examples`` the ids
of at most ``MAX_EXAMPLES`` pairs that moved the number towards breaking the limit, worst first; ``slices`` goes by
category. All raise ``MeasurementError`` for no pairs, double ids and scores that are not finite, naming the pair, and
``PolicyError`` for a unit the metric does not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np

from harness.domain import (
    Label,
    Limit,
    Measurement,
    PairGradient,
    PairScore,
    PairSimilarity,
    PreferencePair,
)
from harness.errors import MeasurementError
from harness.probes.common import Clusters, Positions, metric_of, probe, unit_of
from harness.probes.scored_pairs import PER_TOKEN, Flags, Floats, PairRow, measured_items, table
from harness.stats import Estimate, rank_correlation, share

SCORES = ("ches", "ches_normalised", "last_hidden", "alpha_ches", "edit")
"""Fields of ``PairSimilarity`` that pairs can be ranked by."""


class Entanglement(StrEnum):
    """What one DPO step on the pair does to its log-probabilities, as far as the LM head goes.

    To first order log π(y⁺) moves by ‖G⁺‖² − ⟨G⁺, G⁻⟩ and log π(y⁻) by ⟨G⁺, G⁻⟩ − ‖G⁻‖² (Yuan et al., 2410.13828).
    """

    APART = "chosen rises, rejected falls"
    BOTH_FALL = "both fall"
    BOTH_RISE = "both rise"
    SWAPPED = "chosen falls, rejected rises"


def entanglement(pair: PairSimilarity) -> Entanglement:
    """Which of the four cases a pair is; a log-probability that does not move counts as not falling."""
    return _case(pair.gradient_chosen, pair.gradient_inner, pair.gradient_rejected)


def _case(chosen: float, inner: float, rejected: float) -> Entanglement:
    """The case of ‖g⁺‖², ⟨g⁺, g⁻⟩ and ‖g⁻‖²."""
    if inner > chosen:
        return Entanglement.BOTH_FALL if inner < rejected else Entanglement.SWAPPED
    return Entanglement.APART if inner < rejected else Entanglement.BOTH_RISE


def highest(pairs: Sequence[PairSimilarity], score: str, share: float) -> list[str]:
    """Ids of the ``share`` of pairs with the highest score, highest first; ties go by id, so the answer is one.

    The number of pairs is rounded up: asked to drop 5 % of 10 pairs, one is dropped. ``share`` 0 gives none.

    Raises:
        ValueError: an unknown score, or a share outside [0, 1).
        MeasurementError: a score that is not finite; the pair is named.
    """
    if score not in SCORES:
        raise ValueError(f"unknown score {score!r}; one of {', '.join(SCORES)}")
    if not 0 <= share < 1:
        raise ValueError(f"a share of pairs must lie in [0, 1), not {share}")
    values = {pair.pair_id: float(getattr(pair, score)) for pair in pairs}
    for pair_id, value in values.items():
        if not np.isfinite(value):
            raise MeasurementError(f"pair {pair_id!r} has no finite {score}; score the data again")
    # 0.05 * 20 is a little above 1 in floating point: rounding keeps the ceiling from counting that
    count = int(np.ceil(round(share * len(values), 9)))
    return sorted(values, key=lambda pair_id: (-values[pair_id], pair_id))[:count]


# ---------------------------------------------------------------- metrics of the training data


@probe
def high_ches_share(similarities: Sequence[PairSimilarity], limit: Limit) -> Measurement:
    """Share of pairs with CHES > 0: the rejected response pulls on the chosen one's hidden states more than it does.

    Unit '' (the default): CHES as in definition 2 of the paper, which grows with the length of y⁻; ``per token``:
    length-normalised (definition 3). Examples: the pairs with the highest score. Counts and errors: see the module.
    """
    field = "ches_normalised" if unit_of(limit, "", PER_TOKEN) else "ches"
    pairs = _finite(similarities, (*SCORES, *_LM_HEAD))
    score = _values(pairs, field)
    return _share(pairs, limit, score > 0, size=score, unit=limit.unit, counts=_alike_counts(pairs))


@probe
def chosen_falls_share(similarities: Sequence[PairSimilarity], limit: Limit) -> Measurement:
    """Share of pairs with ⟨G⁺, G⁻⟩ > ‖G⁺‖²: to first order, one DPO step on the pair lowers its own chosen response.

    As far as the LM head's weights go; see ``Entanglement``. Examples: where it falls most, by ⟨G⁺, G⁻⟩ − ‖G⁺‖².
    Counts and errors: see the module.
    """
    unit_of(limit, "")
    pairs = _finite(similarities, (*SCORES, *_LM_HEAD))
    fall = _values(pairs, "gradient_inner") - _values(pairs, "gradient_chosen")
    return _share(pairs, limit, fall > 0, size=fall, counts=_alike_counts(pairs))


@probe
def both_fall_share(similarities: Sequence[PairSimilarity], limit: Limit) -> Measurement:
    """Share of pairs with ‖G⁺‖² < ⟨G⁺, G⁻⟩ < ‖G⁻‖²: to first order one DPO step lowers both responses of the pair.

    Gradient entanglement (Yuan et al., 2410.13828), for the LM head's weights. Examples: the pairs whose chosen
    response falls most. Counts and errors: see the module.
    """
    unit_of(limit, "")
    pairs = _finite(similarities, (*SCORES, *_LM_HEAD))
    both = np.array([entanglement(pair) is Entanglement.BOTH_FALL for pair in pairs])
    fall = _values(pairs, "gradient_inner") - _values(pairs, "gradient_chosen")
    return _share(pairs, limit, both, size=fall, counts=_alike_counts(pairs))


@probe
def full_both_fall_share(gradients: Sequence[PairGradient], limit: Limit) -> Measurement:
    """Share of pairs with ‖g⁺‖² < ⟨g⁺, g⁻⟩ < ‖g⁻‖², the gradients of log π(y⁺|x) and log π(y⁻|x) over all weights.

    Gradient entanglement as Yuan et al. (2410.13828) define it; ``both_fall_share`` is its LM-head part, which needs no
    backward pass. Computed on the policy's ``gradient_pairs``, so n is that. ``counts`` also holds the median cosine of
    the two gradients. Examples: the pairs whose chosen response falls most. Errors: see the module.
    """
    unit_of(limit, "")
    pairs = _finite(gradients, ("chosen", "inner", "rejected"))
    chosen, inner, rejected = (_values(pairs, name) for name in ("chosen", "inner", "rejected"))
    cases = [_case(*numbers) for numbers in zip(chosen, inner, rejected, strict=True)]
    norms = np.sqrt(chosen) * np.sqrt(rejected)
    cosine = float(np.median(inner / norms)) if norms.all() else math.nan
    both = np.array([case is Entanglement.BOTH_FALL for case in cases])
    return _share(pairs, limit, both, size=inner - chosen, counts=_case_counts(cases) | {"median_cosine": cosine})


@probe
def ches_rank_correlation(
    similarities: Sequence[PairSimilarity],
    reference: Sequence[PairScore],
    candidate: Sequence[PairScore],
    limit: Limit,
) -> Measurement:
    """Spearman's ρ over pairs between CHES under the reference and Δ⁺, the change of log π(y⁺|x) that training brought.

    Clearly below 0: pairs that looked more alike before training lost more, as in the paper, so dropping those with the
    highest scores is worth trying on these data. Around 0 the score says nothing about this candidate, above 0 the
    opposite. It is an association over pairs that were trained on together: not what dropping a pair would do.

    Unit '' (the default): CHES; ``per token``: length-normalised CHES. Δ⁺ is nats per response in both. ``counts`` has
    ρ of each score (``rho_ches`` and so on; NaN where all pairs have the same). Examples: the pairs that speak most for
    the bound being broken. Bounds: ``harness.stats.rank_correlation``. Neither model has a value of its own.

    Raises ``MeasurementError`` for similarities and scores of different pairs. Other errors: see the module.
    """
    unit = unit_of(limit, "", PER_TOKEN)
    pairs, rows = _matched(_finite(similarities, SCORES), table(reference, candidate))
    change = np.array([row.delta_chosen for row in rows])
    score = _values(pairs, "ches_normalised" if unit else "ches")

    def of(at: Positions, clusters: Clusters) -> tuple[Estimate, float, float]:
        return rank_correlation(score[at], change[at], clusters), math.nan, math.nan

    return measured_items(
        [pair.pair_id for pair in pairs],
        [pair.category for pair in pairs],
        [pair.prompt_id for pair in pairs],
        limit,
        of,
        size=_centred_ranks(score) * _centred_ranks(change),
        unit=unit,
        counts={f"rho_{name}": rank_correlation(_values(pairs, name), change).value for name in SCORES},
    )


# ---------------------------------------------------------------- a row per pair, for the report


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One preference pair: how alike the reference found its responses, and what training did to them.

    Similarities are the reference's, in the units of ``PairSimilarity``; changes are candidate - reference.
    """

    pair_id: str
    category: str
    pair_type: str
    """``both refuse``, ``both comply``, ``mixed`` (one refuses, the other complies), ``other`` (degenerate or
    unreadable in it), or ``""`` without a judge."""
    chosen_tokens: int
    rejected_tokens: int
    ches: float
    ches_normalised: float
    last_hidden: float
    alpha_ches: float
    edit: float
    entanglement: str
    """A value of ``Entanglement``."""
    delta_chosen: float
    """Δ⁺, nats per response."""
    delta_rejected: float
    """Δ⁻, nats per response."""


def training_rows(
    pairs: Sequence[PreferencePair],
    similarities: Sequence[PairSimilarity],
    response_labels: Sequence[tuple[Label, Label]] | None,
    reference_scores: Sequence[PairScore],
    candidate_scores: Sequence[PairScore],
) -> list[TrainingRow]:
    """A row per pair, in the order of ``pairs``: similarity, what kind of pair it is, and what training did to it.

    ``response_labels`` are what the judge reads in each pair's (chosen, rejected), in the order of ``pairs``; None
    without a judge. Together they show which kinds of pair a score finds (figure 4 of Razin et al.: two refusals, two
    answers, or one of each).

    Raises ``MeasurementError`` where the four lists are not about the same pairs, or a number is not finite.
    """
    if response_labels is not None and len(response_labels) != len(pairs):
        raise MeasurementError(f"{len(response_labels)} labels of responses for {len(pairs)} pairs: judge them again")
    similar, rows = _matched(_finite(similarities, (*SCORES, *_LM_HEAD)), table(reference_scores, candidate_scores))
    found = {pair.pair_id: (pair, row) for pair, row in zip(similar, rows, strict=True)}
    _same_pairs("corpus", {pair.id for pair in pairs}, "similarities", found.keys())
    labels = [None] * len(pairs) if response_labels is None else response_labels
    return [
        TrainingRow(
            pair_id=pair.id,
            category=pair.category,
            pair_type=_pair_type(both),
            chosen_tokens=found[pair.id][0].chosen_tokens,
            rejected_tokens=found[pair.id][0].rejected_tokens,
            **{name: float(getattr(found[pair.id][0], name)) for name in SCORES},
            entanglement=entanglement(found[pair.id][0]).value,
            delta_chosen=found[pair.id][1].delta_chosen,
            delta_rejected=found[pair.id][1].delta_rejected,
        )
        for pair, both in zip(pairs, labels, strict=True)
    ]


def _pair_type(labels: tuple[Label, Label] | None) -> str:
    if labels is None:
        return ""
    if not set(labels) <= {Label.REFUSAL, Label.COMPLIANCE}:
        return "other"
    if labels[0] is not labels[1]:
        return "mixed"
    return "both refuse" if labels[0] is Label.REFUSAL else "both comply"


# ---------------------------------------------------------------- shared

_LM_HEAD = ("gradient_chosen", "gradient_inner", "gradient_rejected")

Pair = TypeVar("Pair", PairSimilarity, PairGradient)

_CASE_NAMES = {
    Entanglement.BOTH_FALL: "both_fall",
    Entanglement.SWAPPED: "only_chosen_falls",
    Entanglement.APART: "only_rejected_falls",
    Entanglement.BOTH_RISE: "neither_falls",
}


def _finite(pairs: Sequence[Pair], fields: Sequence[str]) -> list[Pair]:
    """The pairs by id. Raises ``MeasurementError`` for none, for a double id, and where a field is not finite."""
    if not pairs:
        raise MeasurementError("there are no pairs to look at")
    seen: set[str] = set()
    for pair in pairs:
        if pair.pair_id in seen:
            raise MeasurementError(f"pair {pair.pair_id!r} is there twice")
        seen.add(pair.pair_id)
        for name in fields:
            if not math.isfinite(value := getattr(pair, name)):
                raise MeasurementError(
                    f"pair {pair.pair_id!r} has the {name} {value}: look for NaN or infinite hidden states in the "
                    "reference"
                )
    return sorted(pairs, key=lambda pair: pair.pair_id)


def _values(pairs: Sequence[Pair], name: str) -> Floats:
    return np.array([getattr(pair, name) for pair in pairs], dtype=np.float64)


def _matched(similar: list[PairSimilarity], rows: Sequence[PairRow]) -> tuple[list[PairSimilarity], list[PairRow]]:
    """Both by id, the same pairs in each."""
    _same_pairs("similarities", {pair.pair_id for pair in similar}, "scores", {row.pair_id for row in rows})
    return similar, sorted(rows, key=lambda row: row.pair_id)


def _same_pairs(one: str, ids: AbstractSet[str], other: str, theirs: AbstractSet[str]) -> None:
    for name, missing in ((one, theirs - ids), (other, ids - theirs)):
        if missing:
            raise MeasurementError(
                f"{len(missing)} pairs are missing in the {name}, first {min(missing)!r}: take all from the same corpus"
            )


def _share(
    pairs: Sequence[Pair], limit: Limit, hits: Flags, *, size: Floats, counts: Mapping[str, float], unit: str = ""
) -> Measurement:
    """Share of ``hits`` [pairs]: a fact about the reference, so the candidate has no value."""

    def of(at: Positions, clusters: Clusters) -> tuple[Estimate, float, float]:
        estimate = share(hits[at], clusters)
        return estimate, estimate.value, math.nan

    return measured_items(
        [pair.pair_id for pair in pairs],
        [pair.category for pair in pairs],
        [pair.prompt_id for pair in pairs],
        limit,
        of,
        size=size,
        hits=hits,
        unit=unit,
        counts=counts,
    )


def _alike_counts(pairs: Sequence[PairSimilarity]) -> dict[str, float]:
    return {
        **_case_counts([entanglement(pair) for pair in pairs]),
        "high_ches": sum(pair.ches > 0 for pair in pairs),
        "high_ches_normalised": sum(pair.ches_normalised > 0 for pair in pairs),
        "tokenised_apart_share": sum(pair.tokenised_apart for pair in pairs) / len(pairs),
    }


def _case_counts(cases: Sequence[Entanglement]) -> dict[str, float]:
    return {name: cases.count(case) for case, name in _CASE_NAMES.items()}


def _centred_ranks(values: Floats) -> Floats:
    from scipy.stats import rankdata  # here, so that importing the probes stays quick

    return np.asarray(rankdata(values) - (values.size + 1) / 2, dtype=np.float64)


MEASURES: Mapping[str, Callable[[Sequence[PairSimilarity], Limit], Measurement]] = {
    "high_ches_share": high_ches_share,
    "chosen_falls_share": chosen_falls_share,
    "both_fall_share": both_fall_share,
}
"""What needs the similarities only."""


def measure(similarities: Sequence[PairSimilarity], limit: Limit) -> Measurement:
    """The metric that the limit is on. Raises ``PolicyError`` where it is none of ``MEASURES``; else see the module."""
    return metric_of(MEASURES, limit)(similarities, limit)
