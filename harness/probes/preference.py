"""How well the candidate prefers y⁺ to y⁻: what DPO optimises, what its losses say, and how good they could get.

With Δ⁺ and Δ⁻ the changes of the chosen and the rejected response's log-probability (candidate - reference, nats; see
``harness.probes.scored_pairs``), the margin m = Δ⁺ - Δ⁻, DPO's β, the sigmoid σ, and l(m) = -log σ(β m):

    reward_accuracy, reward_margin            share with m > 0; mean β m
    ranking_accuracy, ranking_accuracy_drop   share with log π(y⁺|x) > log π(y⁻|x)        (Chen et al., 2405.19534)
    idealised_ranking_accuracy                the ranking accuracy of DPO's perfect optimum           (Chen et al.)
    alignment_gap                             idealised ranking accuracy - the candidate's            (Chen et al.)
    dpo_loss                                  mean l(m)                               (Rafailov et al., 2305.18290)
    rdpo_loss                                 mean [(1 - ε) l(m) - ε l(-m)] / (1 - 2ε) (Chowdhury et al., 2403.00409)
    npo_weight                                mean 2 π^β/(π^β + π_ref^β) on y⁻          (NPO, Zhang et al., 2404.05868)

These look fine in a model whose refusals are gone: they compare y⁺ with y⁻, and do not see where the rest went.

β is the one the candidate was trained with. Without one ``reward_margin`` takes 1; the others raise ``PolicyError``.
``counts["beta"]`` says which it was. Inequalities are strict: a tie is not ranked right, and ties are counted. All is
computed from log-probabilities, so that no probability of a long response underflows.

Shares have Clopper-Pearson bounds, differences of shares and means of bounded values Gaffke's, other means those
of ``harness.stats.mean`` for unbounded values. Pairing, per-token units, companions, examples, slices and errors: see
``harness.probes.scored_pairs``. All raise ``PolicyError`` for a unit the metric does not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from harness.domain import Limit, Measurement, PairScore, PreferencePair
from harness.errors import MeasurementError, PolicyError
from harness.probes.common import Clusters, Positions, metric_of, probe, unit_of
from harness.probes.scored_pairs import (
    NATS,
    NATS_PER_TOKEN,
    PER_TOKEN,
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
from harness.stats import Estimate, mean, paired_change
from harness.stats import share as share_of

CLIP = 1e-3
"""A rater share is taken to be at least this far from 0 and from 1 (Chen et al.): else its odds are infinite."""

AT_START = math.log(2)
"""l(0), nats: DPO's loss, and rDPO's, of a model that is still the reference."""


# ---------------------------------------------------------------- what DPO optimises


@probe
def reward_accuracy(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """Share of pairs with Δ⁺ > Δ⁻: DPO's implicit reward ranks them right. Ties count as wrong.

    It can be 1 while both log-probabilities fall. Counts and errors: see the module.
    """
    pairs = read(reference, candidate, unit_of(limit, ""))
    return share(pairs, limit, pairs.margin > 0, size=pairs.margin)


@probe
def reward_margin(
    reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit, *, beta: float | None = None
) -> Measurement:
    """Mean β (Δ⁺ - Δ⁻) over pairs, nats: TRL's ``rewards/margins``; without a β, of 1 (``counts["beta"]``).

    Unit ``nats`` (the default), or ``nats/token``: β (Δ⁺/n⁺ - Δ⁻/n⁻). Counts and errors: see the module.
    """
    pairs = read(reference, candidate, unit_of(limit, NATS, NATS_PER_TOKEN))
    used = 1.0 if beta is None else _needed_beta(limit, beta)
    margin = used * pairs.margin

    def of(at: Positions, clusters: Clusters) -> tuple[Estimate, float, float]:
        return mean(margin[at], clusters=clusters), math.nan, math.nan

    return measured(pairs, limit, of, size=margin, counts={"beta": used})


# ---------------------------------------------------------------- rankings


@probe
def ranking_accuracy(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """Share of pairs with log π(y⁺|x) > log π(y⁻|x) under the candidate; the reference's stands beside it.

    Unit '' (the default): sums over the response, which favour the shorter one; ``per token``: means over its tokens
    (Chen et al., 2405.19534, definition 2.3; they count ties as right, here they are wrong and counted). ``counts``
    also holds the flip matrix reference -> candidate: ``"right->wrong"`` and so on. Errors: see the module.
    """
    pairs = read(reference, candidate, unit_of(limit, "", PER_TOKEN))
    before, after = pairs.rankings()

    def of(at: Positions, clusters: Clusters) -> tuple[Estimate, float, float]:
        estimate = share_of(after[at] > 0, clusters)
        return estimate, float(np.mean(before[at] > 0)), estimate.value

    return measured(pairs, limit, of, size=after, hits=after > 0, counts=_flips(before, after))


@probe
def ranking_accuracy_drop(reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit) -> Measurement:
    """``ranking_accuracy``, reference - candidate, paired: positive where the candidate ranks fewer pairs right.

    Unit '' (the default) or ``per token``. Counts (with the flip matrix) and errors: see ``ranking_accuracy``.
    """
    pairs = read(reference, candidate, unit_of(limit, "", PER_TOKEN))
    before, after = pairs.rankings()
    lost, won = (before > 0) & (after <= 0), (before <= 0) & (after > 0)
    step = lost.astype(np.float64) - won

    def of(at: Positions, clusters: Clusters) -> tuple[Estimate, float, float]:
        estimate = paired_change(step[at], clusters)
        return estimate, float(np.mean(before[at] > 0)), float(np.mean(after[at] > 0))

    size = np.where(lost | won, before - after, 0.0)
    return measured(pairs, limit, of, size=size, counts=_flips(before, after))


@probe
def idealised_ranking_accuracy(
    reference: Sequence[PairScore],
    candidate: Sequence[PairScore],
    limit: Limit,
    *,
    pairs: Sequence[PreferencePair],
    beta: float | None,
) -> Measurement:
    """Share of pairs that the perfect optimum of DPO's objective would rank right: even it need not reach 1.

    A pair counts where log π_ref(y⁺|x)/π_ref(y⁻|x) + (1/β) log(a/(1 - a)) > 0, with a the share of raters who preferred
    y⁺, kept ``CLIP`` away from 0 and 1 (Chen et al., 2405.19534, corollary 3.3). A large β, or raters who do not agree,
    leaves the reference's own errors standing. It is a fact about reference and data: only the reference has a value.

    Unit '' (the default), or ``per token``: both log π_ref are divided by their response's tokens, the raters' term is
    not. So do Chen et al. in their length-normalised accuracy: it is the optimum of DPO on per-token log-probabilities.

    ``pairs`` give the rater shares. Pairs without one are left out (``pairs_without_rater_share`` in ``counts``); where
    no pair has one the measurement has a problem. Raises ``PolicyError`` without β, ``MeasurementError`` for a scored
    pair that is not among ``pairs``. Other errors: see the module.
    """
    scored = read(reference, candidate, unit_of(limit, "", PER_TOKEN))
    used = _needed_beta(limit, beta)
    ideal = _ideal(scored, pairs, used)

    def of(at: Positions, clusters: Clusters) -> tuple[Estimate, float, float]:
        at, clusters = kept(at, clusters, ideal)
        estimate = or_problem(share_of(ideal[at] > 0, clusters), _NO_RATERS)
        return estimate, estimate.value, math.nan

    return measured(scored, limit, of, size=ideal, hits=ideal > 0, counts=_ideal_counts(scored, ideal, used))


@probe
def alignment_gap(
    reference: Sequence[PairScore],
    candidate: Sequence[PairScore],
    limit: Limit,
    *,
    pairs: Sequence[PreferencePair],
    beta: float | None,
) -> Measurement:
    """``idealised_ranking_accuracy`` - the candidate's ranking accuracy, paired: how far training fell short of it.

    On the pairs with a rater share only. Reference: the idealised accuracy; candidate: its own on the same pairs. Unit
    '' (the default) or ``per token``, for both. Counts and errors: see ``idealised_ranking_accuracy``.
    """
    scored = read(reference, candidate, unit_of(limit, "", PER_TOKEN))
    used = _needed_beta(limit, beta)
    ideal = _ideal(scored, pairs, used)
    _, ranking = scored.rankings()
    short, beyond = (ideal > 0) & (ranking <= 0), (ideal <= 0) & (ranking > 0)
    step = short.astype(np.float64) - beyond

    def of(at: Positions, clusters: Clusters) -> tuple[Estimate, float, float]:
        at, clusters = kept(at, clusters, ideal)
        estimate = or_problem(paired_change(step[at], clusters), _NO_RATERS)
        return estimate, average((ideal[at] > 0).astype(np.float64)), average((ranking[at] > 0).astype(np.float64))

    size = np.where(short | beyond, -ranking, np.where(np.isnan(ideal), math.nan, 0.0))
    return measured(scored, limit, of, size=size, counts=_ideal_counts(scored, ideal, used))


# ---------------------------------------------------------------- losses


@probe
def dpo_loss(
    reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit, *, beta: float | None
) -> Measurement:
    """Mean -log σ(β (Δ⁺ - Δ⁻)), nats (Rafailov et al., 2305.18290, equation 7). Reference: log 2, where it starts.

    A low loss is not a right ranking: a pair is ranked right exactly where its loss is at most -log σ(β c), with
    c = log π_ref(y⁻|x)/π_ref(y⁺|x) (Chen et al., 2405.19534, theorem 4.1): pairs that the reference ranks wrong need a
    tiny loss. ``counts`` holds the mean of that threshold (``mean_loss_threshold``) and the share of pairs at or
    below theirs (``at_threshold_share``): ranking accuracy, with ties as right. Compared are β m and β c themselves,
    where the losses of long responses would underflow to 0.

    Bounds: see ``nonnegative_mean``; a pair not seen is taken to lose at most as much as the worst one seen, and at
    least log 2. Raises ``PolicyError`` without β. Other counts and errors: see the module.
    """
    pairs = read(reference, candidate, unit_of(limit, NATS))
    used = _needed_beta(limit, beta)
    loss = _loss(used * pairs.margin)
    needed = pairs.reference_rejected - pairs.reference_chosen  # c
    reach = max(float(loss.max()), AT_START)

    def of(at: Positions, clusters: Clusters) -> tuple[Estimate, float, float]:
        estimate = nonnegative_mean(loss[at], reach, clusters)
        return estimate, AT_START, estimate.value

    counts = {
        "beta": used,
        "mean_loss_threshold": float(_loss(used * needed).mean()),
        "at_threshold_share": float(np.mean(pairs.margin >= needed)),
    }
    return measured(pairs, limit, of, size=loss - AT_START, counts=counts)


@probe
def rdpo_loss(
    reference: Sequence[PairScore],
    candidate: Sequence[PairScore],
    limit: Limit,
    *,
    beta: float | None,
    label_flip_rate: float | None,
) -> Measurement:
    """Mean [(1 - ε) l(m) - ε l(-m)] / (1 - 2ε), nats: DPO's loss with the swapped labels taken out on average.

    With a share ε of the pairs swapped at random its expectation is ``dpo_loss`` on the pairs as they should be
    (Chowdhury et al., 2403.00409, rDPO); it can be negative. ε = 0 is ``dpo_loss``, which ``counts`` holds too
    (``mean_dpo_loss``), beside ``label_flip_rate``. Reference: log 2, where training starts.

    Raises ``PolicyError`` without β, or without an ε in [0, 0.5). Other counts and errors: see the module.
    """
    pairs = read(reference, candidate, unit_of(limit, NATS))
    used = _needed_beta(limit, beta)
    if label_flip_rate is None or not 0 <= label_flip_rate < 0.5:
        raise PolicyError(
            f"limit {limit.id!r}: rdpo_loss needs the share of swapped labels, at least 0 and below 0.5, not "
            f"{label_flip_rate}: write e.g. 'label_flip_rate: 0.1' at the top of the policy"
        )
    right, swapped = _loss(used * pairs.margin), _loss(-used * pairs.margin)
    loss = ((1 - label_flip_rate) * right - label_flip_rate * swapped) / (1 - 2 * label_flip_rate)

    def of(at: Positions, clusters: Clusters) -> tuple[Estimate, float, float]:
        estimate = mean(loss[at], clusters=clusters)
        return estimate, AT_START, estimate.value

    counts = {"beta": used, "label_flip_rate": label_flip_rate, "mean_dpo_loss": float(right.mean())}
    return measured(pairs, limit, of, size=loss - AT_START, counts=counts)


@probe
def npo_weight(
    reference: Sequence[PairScore], candidate: Sequence[PairScore], limit: Limit, *, beta: float | None
) -> Measurement:
    """Mean 2 π(y⁻|x)^β / (π(y⁻|x)^β + π_ref(y⁻|x)^β) = 2 σ(β Δ⁻) over the rejected responses; between 0 and 2.

    The weight that NPO's gradient gives a response, relative to plain gradient ascent on its loss (Zhang et al.,
    2404.05868): 1 where nothing changed (the reference's value), near 0 where the response is unlearned already. Far
    below 1 on rejected responses that one would still want said, training went on for too long.

    Bounds: Gaffke's on [0, 2]. Raises ``PolicyError`` without β. Counts and errors: see the module.
    """
    pairs = read(reference, candidate, unit_of(limit, ""))
    used = _needed_beta(limit, beta)
    weight = 2 * np.exp(-_loss(used * pairs.delta_rejected))

    def of(at: Positions, clusters: Clusters) -> tuple[Estimate, float, float]:
        estimate = mean(weight[at], support=(0.0, 2.0), clusters=clusters)
        return estimate, 1.0, estimate.value

    return measured(pairs, limit, of, size=weight - 1, counts={"beta": used})


# ---------------------------------------------------------------- shared

_NO_RATERS = (
    "no pair has a rater share: give the corpus a column 'rater_share' (the share of raters who preferred the chosen "
    "response, 0 to 1), or name yours with 'columns: {rater_share: NAME}'"
)


def _needed_beta(limit: Limit, beta: float | None) -> float:
    if beta is None:
        raise PolicyError(
            f"limit {limit.id!r}: {limit.metric} needs DPO's β, and the candidate's training recorded none: write e.g. "
            "'beta: 0.1' at the top of the policy"
        )
    if not (math.isfinite(beta) and beta > 0):
        raise PolicyError(
            f"limit {limit.id!r}: {limit.metric} needs a β above 0, not {beta}: write e.g. 'beta: 0.1' at the top of "
            "the policy"
        )
    return beta


def _loss(logits: Floats) -> Floats:
    """-log σ(logits) [pairs] = log(1 + exp(-logits)), exact at both ends."""
    return np.asarray(np.logaddexp(0.0, -logits), dtype=np.float64)


def _ideal(scored: Pairs, pairs: Sequence[PreferencePair], beta: float) -> Floats:
    """[pairs] log π*(y⁺|x)/π*(y⁻|x) under DPO's perfect optimum π*, nats; NaN for pairs without a rater share."""
    shares = {pair.id: pair.rater_share for pair in pairs}
    if unknown := [row.pair_id for row in scored.rows if row.pair_id not in shares]:
        raise MeasurementError(
            f"{len(unknown)} scored pairs are not in the corpus, first {unknown[0]!r}: give the pairs of limit.corpus"
        )
    given = [shares[row.pair_id] for row in scored.rows]
    raters = np.clip(np.array([math.nan if item is None else item for item in given]), CLIP, 1 - CLIP)
    before, _ = scored.rankings()
    return np.asarray(before + (np.log(raters) - np.log1p(-raters)) / beta, dtype=np.float64)


def _ideal_counts(scored: Pairs, ideal: Floats, beta: float) -> dict[str, float]:
    """The three accuracies on the pairs with a rater share, and how many have none."""
    before, after = scored.rankings()
    there = ~np.isnan(ideal)
    return {
        "beta": beta,
        "pairs_without_rater_share": int((~there).sum()),
        "idealised_ties": int((ideal == 0).sum()),
        "idealised_ranking_accuracy": average((ideal[there] > 0).astype(np.float64)),
        "reference_ranking_accuracy": average((before[there] > 0).astype(np.float64)),
        "candidate_ranking_accuracy": average((after[there] > 0).astype(np.float64)),
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


MEASURES: Mapping[str, tuple[Callable[..., Measurement], tuple[str, ...]]] = {
    # metric: (function, what it needs beside the scores)
    "reward_accuracy": (reward_accuracy, ()),
    "reward_margin": (reward_margin, ("beta",)),
    "ranking_accuracy": (ranking_accuracy, ()),
    "ranking_accuracy_drop": (ranking_accuracy_drop, ()),
    "idealised_ranking_accuracy": (idealised_ranking_accuracy, ("pairs", "beta")),
    "alignment_gap": (alignment_gap, ("pairs", "beta")),
    "dpo_loss": (dpo_loss, ("beta",)),
    "rdpo_loss": (rdpo_loss, ("beta", "label_flip_rate")),
    "npo_weight": (npo_weight, ("beta",)),
}


def measure(
    reference: Sequence[PairScore],
    candidate: Sequence[PairScore],
    limit: Limit,
    *,
    pairs: Sequence[PreferencePair] = (),
    beta: float | None = None,
    label_flip_rate: float | None = None,
) -> Measurement:
    """The metric that the limit is on; it is given what it needs of ``pairs``, ``beta`` and ``label_flip_rate``.

    Raises ``PolicyError`` where it is none of ``MEASURES``, or needs something that is None; else see the module.
    """
    function, needs = metric_of(MEASURES, limit)
    given = {"pairs": pairs, "beta": beta, "label_flip_rate": label_flip_rate}
    return function(reference, candidate, limit, **{name: given[name] for name in needs})
