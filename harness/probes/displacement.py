"""Likelihood displacement: what preference training did to the log-probabilities of the pairs' responses.

With Δ⁺ and Δ⁻ the changes of the chosen and the rejected response's log-probability (candidate - reference, nats; see
``harness.probes.scored_pairs``), and Δ° that of a third response:

    chosen_logprob_change, rejected_logprob_change    mean Δ⁺, mean Δ⁻       (Razin et al., arXiv 2410.08847, section 3)
    chosen_decrease_share, both_decrease_share        share with Δ⁺ < 0; with Δ⁺ < 0 and Δ⁻ < 0
    chosen_shortfall                                  mean max(0, -Δ⁺)       (DPO-Positive, Pal et al., 2402.13228)
    rejected_faster_share                             share with Δ⁻ < 0 and |Δ⁻| > |Δ⁺|     (3D-properties, property 1)
    other_logprob_change                              mean Δ°                (3D-properties, property 3)
    degradation                                       mean Δ⁺ / mean Δ⁻      (3D-properties, Yan et al., 2406.07327)
    logratio_concentration                            share of Σ |log-ratio| in the top tenth of y⁺'s tokens

None of these alone says that alignment broke: in the paper the model that refused everything had lost 27.7 to 45.7 nats
of chosen log-probability. How well the candidate prefers y⁺ to y⁻ is in ``harness.probes.preference``.

Inequalities are strict: a tie has not fallen, and ties are counted. Shares have Clopper-Pearson bounds, means of
log-probabilities those of ``harness.stats.mean`` for unbounded values. Pairing, per-token units, companions,
examples and slices: see ``harness.probes.scored_pairs``.

All raise ``MeasurementError`` for scores that do not pair up or are not finite, naming the pair; and ``PolicyError``
for a unit the metric does not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harness.domain import Limit, Measurement, PairScore
from harness.probes.common import Clusters, Positions, metric_of, probe, unit_of
from harness.probes.scored_pairs import (
    NATS,
    NATS_PER_TOKEN,
    Floats,
    Pairs,
    average,
    kept,
    measured,
    nonnegative_mean,
    or_problem,
    read,
    share,
)
from harness.stats import Estimate, mean, ratio, unusable


@probe
def chosen_logprob_change(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """Mean Δ⁺ over pairs, nats per response (unit ``nats``, the default) or per token (``nats/token``).

    Reference and candidate: their mean log π(y⁺|x) in that unit. Counts and errors: see the module.
    """
    pairs = read(reference, candidate, unit_of(limit, NATS, NATS_PER_TOKEN))
    return _mean_change(pairs, limit, pairs.reference_chosen, pairs.candidate_chosen)


@probe
def rejected_logprob_change(
    reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit
) -> Measurement:
    """Mean Δ⁻ over pairs, nats per response (unit ``nats``, the default) or per token (``nats/token``).

    Reference and candidate: their mean log π(y⁻|x) in that unit. Counts and errors: see the module.
    """
    pairs = read(reference, candidate, unit_of(limit, NATS, NATS_PER_TOKEN))
    return _mean_change(pairs, limit, pairs.reference_rejected, pairs.candidate_rejected)


@probe
def chosen_decrease_share(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """Share of pairs whose chosen response became less likely, Δ⁺ < 0. Counts and errors: see the module."""
    pairs = read(reference, candidate, unit_of(limit, ""))
    return share(pairs, limit, pairs.delta_chosen < 0, size=-pairs.delta_chosen)


@probe
def both_decrease_share(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """Share of pairs where both responses became less likely, Δ⁺ < 0 and Δ⁻ < 0. Counts and errors: see the module."""
    pairs = read(reference, candidate, unit_of(limit, ""))
    return share(pairs, limit, (pairs.delta_chosen < 0) & (pairs.delta_rejected < 0), size=-pairs.delta_chosen)


@probe
def chosen_shortfall(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """Mean max(0, -Δ⁺) over pairs: the nats that chosen responses lost, with nothing set off by those that gained.

    It is DPO-Positive's penalty, max(0, log π_ref(y⁺|x)/π(y⁺|x)) (Pal et al., 2402.13228), without its weight. Unit
    ``nats`` (the default), or ``nats/token``: each pair's by its own tokens.

    Bounds: see ``nonnegative_mean``; a pair not seen is taken to have lost at most as much as the chosen response that
    moved furthest, up or down. With one pair, or where no chosen response moved, there are none. Counts and errors:
    see the module.
    """
    pairs = read(reference, candidate, unit_of(limit, NATS, NATS_PER_TOKEN))
    lost = np.maximum(0.0, -pairs.delta_chosen)
    reach = float(np.abs(pairs.delta_chosen).max())
    return measured(
        pairs, limit, lambda at, clusters: (nonnegative_mean(lost[at], reach, clusters), math.nan, math.nan), size=lost
    )


@probe
def rejected_faster_share(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """Share of pairs whose rejected response fell by more than the chosen one moved: Δ⁻ < 0 and |Δ⁻| > |Δ⁺|.

    Property 1 of Yan et al. (2406.07327): DPO's gradient pushes the rejected response down harder than it pushes the
    chosen one up, by the ratio π(y⁺)/π(y⁻). High is what DPO does when it works, and is how it begins where it hurts;
    near 0 the chosen responses pay. Counts and errors: see the module.
    """
    pairs = read(reference, candidate, unit_of(limit, ""))
    ahead = np.abs(pairs.delta_rejected) - np.abs(pairs.delta_chosen)
    return share(pairs, limit, (pairs.delta_rejected < 0) & (ahead > 0), size=ahead)


@probe
def other_logprob_change(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """Mean over pairs of the mean Δ of the pair's third responses: whether answers that nobody compared gained.

    Property 3 of Yan et al. (2406.07327): where chosen and rejected both fall, the probability goes to responses
    outside the data. Unit ``nats`` (the default) or ``nats/token``. Reference and candidate: their means in that unit.

    Pairs without third responses are left out (``pairs_without_others`` in ``counts``); where no pair has any the
    measurement has a problem. Counts and errors: see the module.
    """
    pairs = read(reference, candidate, unit_of(limit, NATS, NATS_PER_TOKEN))
    before, after = pairs.others()
    delta = after - before

    def of(at: Positions, clusters: Clusters) -> tuple[Estimate, float, float]:
        at, clusters = kept(at, clusters, delta)
        estimate = or_problem(
            mean(delta[at], clusters=clusters),
            "no pair has third responses: give the corpus a column 'others' (a list of responses per pair), "
            "or name yours with 'columns: {others: NAME}'",
        )
        return estimate, average(before[at]), average(after[at])

    without = {"pairs_without_others": int(np.isnan(delta).sum())}
    return measured(pairs, limit, of, size=delta, counts=without)


@probe
def degradation(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """mean Δ⁺ / mean Δ⁻: the nats that chosen responses lost for each nat that rejected ones lost.

    0: only the rejected fell, as intended; 1: both fell alike; above 1: the chosen fell more; below 0: the chosen rose.
    Yan et al. (2406.07327) watch mean Δ⁻, mean Δ⁺ and Δ⁻/Δ⁺; those are in ``counts``
    (``mean_delta_rejected_over_chosen``, NaN where mean Δ⁺ is 0), and where pairs have third responses so is the mean
    change of those (``mean_delta_other``). The other way up is decided on, because it stays finite where the chosen do
    not move. Its bounds are Fieller's. It has a meaning only where the rejected fell: where the interval of mean Δ⁻ at
    ``limit.alpha`` does not show that, value and bounds are NaN and the problem says so.
    Unitless. No slices. Counts and errors: see the module.
    """
    pairs = read(reference, candidate, unit_of(limit, ""))

    def of(at: Positions, clusters: Clusters) -> tuple[Estimate, float, float]:
        fall = mean(pairs.delta_rejected[at], clusters=clusters)
        if fall.problem:
            estimate = unusable(fall.problem, n=fall.n)
        elif not fall.bounds(limit.alpha)[1] < 0:
            estimate = unusable(
                f"rejected responses did not clearly fall (mean change {fall.value:.3g} nats): the ratio has no "
                "meaning",
                n=fall.n,
            )
        else:
            estimate = ratio(pairs.delta_chosen[at], pairs.delta_rejected[at], clusters)
        return estimate, math.nan, math.nan

    chosen, rejected = float(pairs.delta_chosen.mean()), float(pairs.delta_rejected.mean())
    inverse = {"mean_delta_rejected_over_chosen": rejected / chosen if chosen else math.nan}
    return measured(pairs, limit, of, size=-pairs.delta_chosen, counts=inverse, sliced=False)


@probe
def logratio_concentration(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """How few tokens carry the change: the share of Σ_t |log π_c(y_t) - log π_ref(y_t)| in its top tenth of tokens.

    Over the chosen response's tokens (end-of-turn included), the ``ceil(n/10)`` ones that moved most; mean over pairs.
    About a tenth is the least it can be: every token moved alike. Near 1, a handful of tokens did it
    all, such as the first words of a refusal. The idea is SparsePO's (Christopoulou et al., 2410.05102), that
    preference sits in few tokens; there masks are learned, here nothing is.

    A response of ten tokens or fewer is judged by its one most moved token, so its share is at least 1/n
    (``pairs_up_to_ten_tokens`` in ``counts``): compare corpora of like lengths. Pairs where no token moved are left out
    (``pairs_without_change``); where none did the measurement has a problem. Bounds: Gaffke's on [0, 1]. Errors: see
    the module.
    """
    pairs = read(reference, candidate, unit_of(limit, ""))
    before, after = ({score.pair_id: score.chosen for score in scores} for scores in (reference, candidate))
    shares = np.array(
        [_top_tenth(before[row.pair_id].token_logprobs, after[row.pair_id].token_logprobs) for row in pairs.rows]
    )

    def of(at: Positions, clusters: Clusters) -> tuple[Estimate, float, float]:
        at, clusters = kept(at, clusters, shares)
        estimate = mean(shares[at], support=(0.0, 1.0), clusters=clusters)
        return or_problem(estimate, "no chosen response has a token that moved"), math.nan, math.nan

    counts = {
        "pairs_without_change": int(np.isnan(shares).sum()),
        "pairs_up_to_ten_tokens": sum(row.chosen_tokens <= 10 for row in pairs.rows),
    }
    return measured(pairs, limit, of, size=shares, counts=counts)


def _top_tenth(before: Sequence[float], after: Sequence[float]) -> float:
    """Share of Σ |after - before| [tokens] in the tenth of the tokens, rounded up, that moved most; NaN if none did."""
    moved = np.sort(np.abs(np.subtract(after, before)))[::-1]
    total = float(moved.sum())
    count = -(-moved.size // 10)  # in integers: 0.1 * 70 is a little above 7 in floating point
    return min(1.0, float(moved[:count].sum()) / total) if total > 0 else math.nan


def _mean_change(pairs: Pairs, limit: Limit, before: Floats, after: Floats) -> Measurement:
    delta = after - before

    def of(at: Positions, clusters: Clusters) -> tuple[Estimate, float, float]:
        return mean(delta[at], clusters=clusters), float(before[at].mean()), float(after[at].mean())

    return measured(pairs, limit, of, size=delta)


MEASURES: Mapping[str, Callable[..., Measurement]] = {
    "chosen_logprob_change": chosen_logprob_change,
    "rejected_logprob_change": rejected_logprob_change,
    "chosen_decrease_share": chosen_decrease_share,
    "both_decrease_share": both_decrease_share,
    "chosen_shortfall": chosen_shortfall,
    "rejected_faster_share": rejected_faster_share,
    "other_logprob_change": other_logprob_change,
    "degradation": degradation,
    "logratio_concentration": logratio_concentration,
}


def measure(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """The metric that the limit is on. Raises ``PolicyError`` where it is none of ``MEASURES``; else see the module."""
    return metric_of(MEASURES, limit)(reference, candidate, limit)
