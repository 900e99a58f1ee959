"""Likelihood displacement: what preference training did to the log-probabilities of the pairs' responses.

log π(y|x) is the sum over the tokens of response y (end-of-turn included), in nats. For each preference pair

    Δ⁺ = log π_candidate(y⁺|x) - log π_reference(y⁺|x)     (chosen)
    Δ⁻ = log π_candidate(y⁻|x) - log π_reference(y⁻|x)     (rejected)

    chosen_logprob_change, rejected_logprob_change    mean Δ⁺, mean Δ⁻       (Razin et al., arXiv 2410.08847, section 3)
    chosen_decrease_share, both_decrease_share        share with Δ⁺ < 0; with Δ⁺ < 0 and Δ⁻ < 0
    reward_accuracy, reward_margin                    share with Δ⁺ > Δ⁻; mean β (Δ⁺ - Δ⁻)
    ranking_accuracy, ranking_accuracy_drop           share with log π(y⁺|x) > log π(y⁻|x)   (Chen et al., 2405.19534)
    degradation                                       mean Δ⁺ / mean Δ⁻      (3D-properties, Yan et al., 2406.07327)

None of these alone says that alignment broke: in the paper the model that refused everything had lost 27.7 to 45.7 nats
of chosen log-probability.

Every probe takes all scores of both checkpoints, in any order, and pairs them by pair id. Inequalities are strict: a
tie has not fallen and is not ranked right, and ties are counted. **Per token** means that each response's number is
divided by its own token count before averaging over pairs. Shares have Clopper-Pearson bounds, means of
log-probabilities the wider of Student's t and Hall's (``harness.stats``). Pairs are taken as independent.

``counts`` holds the same companions everywhere: mean Δ⁺, Δ⁻ and margin (nats per response), shares that fell, the four
quadrants of (Δ⁺, Δ⁻), ties, and the share of pairs tokenised apart. ``examples`` holds ids of at most ``MAX_EXAMPLES``
pairs that moved the number towards breaking the limit, worst first: for a floor on the chosen log-probability, the
pairs whose chosen response fell most. ``slices`` goes by category.

All raise ``MeasurementError`` for scores that do not pair up (missing or double ids, different token counts, no pairs)
and for NaN or infinite log-probabilities, naming the pair; and ``PolicyError`` for a unit the metric does not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.domain import Limit, Measurement, PairScore
from harness.errors import MeasurementError
from harness.probes.common import MAX_EXAMPLES, by_category, metric_of, probe, unit_of
from harness.stats import Estimate, mean, measurement, paired_difference, proportion, ratio, unusable

NATS, NATS_PER_TOKEN, PER_TOKEN = "nats", "nats/token", "per token"
"""Units a limit may ask for: log-probabilities per response or per token; rankings raw ('') or per token."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PairRow:
    """One pair under both checkpoints. Log-probabilities are sums over the response's tokens, nats."""

    pair_id: str
    category: str
    chosen_tokens: int
    rejected_tokens: int
    reference_chosen: float
    candidate_chosen: float
    reference_rejected: float
    candidate_rejected: float
    delta_chosen: float
    """Δ⁺ = candidate_chosen - reference_chosen."""
    delta_rejected: float
    """Δ⁻ = candidate_rejected - reference_rejected."""
    tokenised_apart: bool


def table(reference: Sequence[PairScore], candidate: Sequence[PairScore]) -> list[PairRow]:
    """One row per pair, in the reference's order, for reports.

    Raises ``MeasurementError`` where scores do not pair up or are not finite: see the module.
    """
    before, after = _by_id("reference", reference), _by_id("candidate", candidate)
    if not before and not after:
        raise MeasurementError("there are no scored pairs to compare")
    for side, missing in (("candidate", before.keys() - after.keys()), ("reference", after.keys() - before.keys())):
        if missing:
            raise MeasurementError(
                f"the {side} has no score for {len(missing)} of the other's pairs, first {min(missing)!r}: "
                "score both checkpoints on the same corpus"
            )
    return [_row(before[pair_id], after[pair_id]) for pair_id in before]


@probe
def chosen_logprob_change(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """Mean Δ⁺ over pairs, nats per response (unit ``nats``, the default) or per token (``nats/token``).

    Reference and candidate: their mean log π(y⁺|x) in that unit. Counts and errors: see the module.
    """
    pairs = _read(reference, candidate, unit_of(limit, NATS, NATS_PER_TOKEN))
    return _mean_change(pairs, limit, pairs.reference_chosen, pairs.candidate_chosen)


@probe
def rejected_logprob_change(
    reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit
) -> Measurement:
    """Mean Δ⁻ over pairs, nats per response (unit ``nats``, the default) or per token (``nats/token``).

    Reference and candidate: their mean log π(y⁻|x) in that unit. Counts and errors: see the module.
    """
    pairs = _read(reference, candidate, unit_of(limit, NATS, NATS_PER_TOKEN))
    return _mean_change(pairs, limit, pairs.reference_rejected, pairs.candidate_rejected)


@probe
def chosen_decrease_share(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """Share of pairs whose chosen response became less likely, Δ⁺ < 0. Counts and errors: see the module."""
    pairs = _read(reference, candidate, unit_of(limit, ""))
    return _share(pairs, limit, pairs.delta_chosen < 0, size=-pairs.delta_chosen)


@probe
def both_decrease_share(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """Share of pairs where both responses became less likely, Δ⁺ < 0 and Δ⁻ < 0. Counts and errors: see the module."""
    pairs = _read(reference, candidate, unit_of(limit, ""))
    return _share(pairs, limit, (pairs.delta_chosen < 0) & (pairs.delta_rejected < 0), size=-pairs.delta_chosen)


@probe
def reward_accuracy(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """Share of pairs with Δ⁺ > Δ⁻: DPO's implicit reward ranks them right. Ties count as wrong.

    It can be 1 while both log-probabilities fall. Counts and errors: see the module.
    """
    pairs = _read(reference, candidate, unit_of(limit, ""))
    margin = pairs.delta_chosen - pairs.delta_rejected
    return _share(pairs, limit, margin > 0, size=margin)


@probe
def reward_margin(
    reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit, *, beta: float = 1.0
) -> Measurement:
    """Mean β (Δ⁺ - Δ⁻) over pairs, in nats for β = 1 (the default); DPO's own β makes it TRL's ``rewards/margins``.

    Unit ``nats`` (the default), or ``nats/token``: β (Δ⁺/n⁺ - Δ⁻/n⁻). Counts and errors: see the module.
    """
    pairs = _read(reference, candidate, unit_of(limit, NATS, NATS_PER_TOKEN))
    margin = beta * (pairs.delta_chosen - pairs.delta_rejected)
    return _measured(pairs, limit, lambda at: (mean(margin[at]), math.nan, math.nan), size=margin)


@probe
def ranking_accuracy(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """Share of pairs with log π(y⁺|x) > log π(y⁻|x) under the candidate; the reference's stands beside it.

    Unit '' (the default): sums over the response, which favour the shorter one; ``per token``: means over its tokens
    (Chen et al., 2405.19534, definition 2.3; they count ties as right, here they are wrong and counted). ``counts``
    also holds the flip matrix reference -> candidate: ``"right->wrong"`` and so on. Errors: see the module.
    """
    pairs = _read(reference, candidate, unit_of(limit, "", PER_TOKEN))
    before, after = pairs.rankings()

    def of(at: npt.NDArray[np.intp]) -> tuple[Estimate, float, float]:
        estimate = proportion(int((after[at] > 0).sum()), at.size)
        return estimate, float(np.mean(before[at] > 0)), estimate.value

    return _measured(pairs, limit, of, size=after, hits=after > 0, counts=_flips(before, after))


@probe
def ranking_accuracy_drop(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """``ranking_accuracy``, reference - candidate, paired: positive where the candidate ranks fewer pairs right.

    Unit '' (the default) or ``per token``. Counts (with the flip matrix) and errors: see ``ranking_accuracy``.
    """
    pairs = _read(reference, candidate, unit_of(limit, "", PER_TOKEN))
    before, after = pairs.rankings()
    lost, won = (before > 0) & (after <= 0), (before <= 0) & (after > 0)

    def of(at: npt.NDArray[np.intp]) -> tuple[Estimate, float, float]:
        estimate = paired_difference(int(lost[at].sum()), int(won[at].sum()), at.size)
        return estimate, float(np.mean(before[at] > 0)), float(np.mean(after[at] > 0))

    size = np.where(lost | won, before - after, 0.0)
    return _measured(pairs, limit, of, size=size, counts=_flips(before, after))


@probe
def degradation(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """mean Δ⁺ / mean Δ⁻: the nats that chosen responses lost for each nat that rejected ones lost.

    0: only the rejected fell, as intended; 1: both fell alike; above 1: the chosen fell more; below 0: the chosen rose.
    Yan et al. (2406.07327) watch mean Δ⁻, mean Δ⁺ and Δ⁻/Δ⁺; those are in ``counts``
    (``mean_delta_rejected_over_chosen``, NaN where mean Δ⁺ is 0). The other way up is decided on, because it stays
    finite where the chosen do not move. Its bounds are Fieller's. It has a meaning only where the rejected fell: where
    the interval of mean Δ⁻ at ``limit.alpha`` does not show that, value and bounds are NaN and the problem says so.
    Unitless. No slices. Counts and errors: see the module.
    """
    pairs = _read(reference, candidate, unit_of(limit, ""))
    fall = mean(pairs.delta_rejected)
    if fall.problem:
        estimate = unusable(fall.problem, n=fall.n)
    elif not fall.bounds(limit.alpha)[1] < 0:
        estimate = unusable(
            f"rejected responses did not clearly fall (mean change {fall.value:.3g} nats): the ratio has no meaning",
            n=fall.n,
        )
    else:
        estimate = ratio(pairs.delta_chosen, pairs.delta_rejected)
    chosen, rejected = float(pairs.delta_chosen.mean()), float(pairs.delta_rejected.mean())
    inverse = {"mean_delta_rejected_over_chosen": rejected / chosen if chosen else math.nan}
    return _measured(
        pairs, limit, lambda _: (estimate, math.nan, math.nan), size=-pairs.delta_chosen, counts=inverse, sliced=False
    )


# ---------------------------------------------------------------- shared


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """All pairs, by id, as arrays [pairs] of log-probabilities in ``unit``."""

    rows: list[PairRow]
    unit: str
    reference_chosen: Floats
    candidate_chosen: Floats
    reference_rejected: Floats
    candidate_rejected: Floats

    @property
    def delta_chosen(self) -> Floats:
        return self.candidate_chosen - self.reference_chosen

    @property
    def delta_rejected(self) -> Floats:
        return self.candidate_rejected - self.reference_rejected

    def rankings(self) -> tuple[Floats, Floats]:
        """log π(y⁺|x) - log π(y⁻|x) under reference and candidate: above 0 is ranked right."""
        return self.reference_chosen - self.reference_rejected, self.candidate_chosen - self.candidate_rejected


def _read(reference: Sequence[PairScore], candidate: Sequence[PairScore], unit: str) -> _Pairs:
    rows = sorted(table(reference, candidate), key=lambda row: row.pair_id)
    per_token = unit in (NATS_PER_TOKEN, PER_TOKEN)
    chosen = np.array([row.chosen_tokens if per_token else 1 for row in rows], dtype=np.float64)
    rejected = np.array([row.rejected_tokens if per_token else 1 for row in rows], dtype=np.float64)
    return _Pairs(
        rows=rows,
        unit=unit,
        reference_chosen=np.array([row.reference_chosen for row in rows]) / chosen,
        candidate_chosen=np.array([row.candidate_chosen for row in rows]) / chosen,
        reference_rejected=np.array([row.reference_rejected for row in rows]) / rejected,
        candidate_rejected=np.array([row.candidate_rejected for row in rows]) / rejected,
    )


def _mean_change(pairs: _Pairs, limit: Limit, before: Floats, after: Floats) -> Measurement:
    delta = after - before

    def of(at: npt.NDArray[np.intp]) -> tuple[Estimate, float, float]:
        return mean(delta[at]), float(before[at].mean()), float(after[at].mean())

    return _measured(pairs, limit, of, size=delta)


def _share(pairs: _Pairs, limit: Limit, hits: npt.NDArray[np.bool_], size: Floats) -> Measurement:
    """Share of ``hits`` [pairs]. It compares the two models, so neither has a value of its own."""
    return _measured(
        pairs,
        limit,
        lambda at: (proportion(int(hits[at].sum()), at.size), math.nan, math.nan),
        size=size,
        hits=hits,
    )


def _measured(
    pairs: _Pairs,
    limit: Limit,
    of: Callable[[npt.NDArray[np.intp]], tuple[Estimate, float, float]],
    *,
    size: Floats,
    hits: npt.NDArray[np.bool_] | None = None,
    counts: dict[str, float] | None = None,
    sliced: bool = True,
) -> Measurement:
    """Measure ``of`` all pairs and each category. ``size`` [pairs]: how far each pair pushes the number up.

    Examples are the pairs that push towards the bound (or, for shares, that are counted on its side), furthest first.
    """
    harm = size if limit.is_maximum else -size
    guilty = harm > 0 if hits is None else hits == limit.is_maximum
    worst = sorted(np.flatnonzero(guilty).tolist(), key=lambda i: -harm[i])
    estimate, before, after = of(np.arange(len(pairs.rows)))
    return measurement(
        limit,
        estimate,
        reference=before,
        candidate=after,
        unit=pairs.unit,
        counts=_companions(pairs.rows) | (counts or {}),
        examples=[pairs.rows[i].pair_id for i in worst[:MAX_EXAMPLES]],
        slices=by_category([row.category for row in pairs.rows], limit, of) if sliced else (),
    )


def _companions(rows: Sequence[PairRow]) -> dict[str, float]:
    chosen = np.array([row.delta_chosen for row in rows])
    rejected = np.array([row.delta_rejected for row in rows])
    fell, rejected_fell = chosen < 0, rejected < 0
    return {
        "mean_delta_chosen": float(chosen.mean()),
        "mean_delta_rejected": float(rejected.mean()),
        "mean_margin": float((chosen - rejected).mean()),
        "chosen_decrease_share": float(fell.mean()),
        "both_decrease_share": float((fell & rejected_fell).mean()),
        "both_fell": int((fell & rejected_fell).sum()),
        "only_chosen_fell": int((fell & ~rejected_fell).sum()),
        "only_rejected_fell": int((~fell & rejected_fell).sum()),
        "neither_fell": int((~fell & ~rejected_fell).sum()),
        "chosen_unchanged": int((chosen == 0).sum()),
        "margin_ties": int((chosen == rejected).sum()),
        "tokenised_apart_share": float(np.mean([row.tokenised_apart for row in rows])),
    }


def _flips(before: Floats, after: Floats) -> dict[str, float]:
    """Flip matrix of the ranking (reference -> candidate), with the ties among the wrong ones."""
    right, still = before > 0, after > 0
    return {
        "right->right": int((right & still).sum()),
        "right->wrong": int((right & ~still).sum()),
        "wrong->right": int((~right & still).sum()),
        "wrong->wrong": int((~right & ~still).sum()),
        "reference_ranking_ties": int((before == 0).sum()),
        "candidate_ranking_ties": int((after == 0).sum()),
    }


def _by_id(side: str, scores: Sequence[PairScore]) -> dict[str, PairScore]:
    found: dict[str, PairScore] = {}
    for score in scores:
        if score.pair_id in found:
            raise MeasurementError(f"the {side} has two scores for pair {score.pair_id!r}")
        for name, response in (("chosen", score.chosen), ("rejected", score.rejected)):
            if not response.tokens:
                raise MeasurementError(f"the {side}'s {name} response of pair {score.pair_id!r} has no tokens")
            if not math.isfinite(response.logprob):
                raise MeasurementError(
                    f"the {side}'s log-probability of the {name} response of pair {score.pair_id!r} is "
                    f"{response.logprob}: look for NaN or infinite logits in that checkpoint"
                )
        found[score.pair_id] = score
    return found


def _row(before: PairScore, after: PairScore) -> PairRow:
    for name, b, a in (("chosen", before.chosen, after.chosen), ("rejected", before.rejected, after.rejected)):
        if b.tokens != a.tokens:
            raise MeasurementError(
                f"the {name} response of pair {before.pair_id!r} has {b.tokens} tokens for the reference and "
                f"{a.tokens} for the candidate: both need the same tokenizer, template and corpus"
            )
    if before.category != after.category:
        raise MeasurementError(
            f"pair {before.pair_id!r} has the category {before.category!r} for the reference and {after.category!r} "
            "for the candidate: score both checkpoints on the same corpus"
        )
    return PairRow(
        pair_id=before.pair_id,
        category=before.category,
        chosen_tokens=before.chosen.tokens,
        rejected_tokens=before.rejected.tokens,
        reference_chosen=before.chosen.logprob,
        candidate_chosen=after.chosen.logprob,
        reference_rejected=before.rejected.logprob,
        candidate_rejected=after.rejected.logprob,
        delta_chosen=after.chosen.logprob - before.chosen.logprob,
        delta_rejected=after.rejected.logprob - before.rejected.logprob,
        tokenised_apart=before.tokenised_apart or after.tokenised_apart,
    )


MEASURES: Mapping[str, Callable[..., Measurement]] = {
    "chosen_logprob_change": chosen_logprob_change,
    "rejected_logprob_change": rejected_logprob_change,
    "chosen_decrease_share": chosen_decrease_share,
    "both_decrease_share": both_decrease_share,
    "reward_accuracy": reward_accuracy,
    "reward_margin": reward_margin,
    "ranking_accuracy": ranking_accuracy,
    "ranking_accuracy_drop": ranking_accuracy_drop,
    "degradation": degradation,
}


def measure(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """The metric that the limit is on. Raises ``PolicyError`` where it is none of ``MEASURES``; else see the module."""
    return metric_of(MEASURES, limit)(reference, candidate, limit)
