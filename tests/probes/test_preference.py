"""Preference probes on the four pairs of ``by_hand.py``, against naive formulas, and at the ends of floating point."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from probes.by_hand import CANDIDATE, REFERENCE, fallen, limit, score
from scipy.special import expit

from harness.domain import PreferencePair
from harness.errors import MeasurementError, PolicyError
from harness.probes import preference
from harness.probes.displacement import chosen_decrease_share
from harness.stats import mean, paired_difference, proportion

GIVEN = {"beta": 0.5, "label_flip_rate": 0.1}


def rated(**shares: float | None) -> list[PreferencePair]:
    """Pairs with these ids and rater shares."""
    return [PreferencePair(name, "q", "yes", "no", rater_share=share) for name, share in shares.items()]


RATED = rated(a=0.9, b=0.6, c=0.2, d=None)


def measure(metric: str, reference=REFERENCE, candidate=CANDIDATE, *, bound=None, unit="", **given):
    limits = {"maximum": bound} if bound is not None else {}
    everything = {"pairs": RATED, **GIVEN, **given}
    return preference.measure(reference, candidate, limit(metric, unit=unit, **limits), **everything)


# ---------------------------------------------------------------- rewards and rankings


def test_reward_accuracy_by_hand():
    m = measure("reward_accuracy", bound=0.9)
    assert m.value == 2 / 4  # a, c
    assert (m.low, m.high) == proportion(2, 4).bounds(0.05)
    assert math.isnan(m.reference)
    assert math.isnan(m.candidate)
    assert measure("reward_accuracy", candidate=REFERENCE).value == 0
    assert measure("reward_accuracy", REFERENCE[:1], CANDIDATE[:1]).high == 1


@pytest.mark.parametrize(
    "unit,reference,candidate,flips",
    [
        # raw: right, wrong, wrong, right -> right, wrong, right, tie
        ("", 2 / 4, 2 / 4, {"right->right": 1, "right->wrong": 1, "wrong->right": 1, "wrong->wrong": 1}),
        # per token: tie, wrong, right, tie -> right, wrong, right, wrong
        ("per token", 1 / 4, 2 / 4, {"right->right": 1, "right->wrong": 0, "wrong->right": 1, "wrong->wrong": 2}),
    ],
)
def test_ranking_by_hand(unit, reference, candidate, flips):
    m = preference.ranking_accuracy(REFERENCE, CANDIDATE, limit("ranking_accuracy", unit=unit))
    assert (m.value, m.candidate, m.reference) == (candidate, candidate, reference)
    assert (m.low, m.high) == proportion(2, 4).bounds(0.05)
    assert {key: m.counts[key] for key in flips} == flips
    assert m.unit == unit
    drop = preference.ranking_accuracy_drop(
        REFERENCE, CANDIDATE, limit("ranking_accuracy_drop", maximum=0.1, unit=unit)
    )
    assert drop.value == reference - candidate
    lost, won = flips["right->wrong"], flips["wrong->right"]
    assert (drop.low, drop.high) == paired_difference(lost, won, 4).bounds(0.05)
    assert (drop.reference, drop.candidate, drop.unit) == (reference, candidate, unit)


def test_ranking_ties_are_wrong_and_counted():
    raw = preference.ranking_accuracy(REFERENCE, CANDIDATE, limit("ranking_accuracy"))
    assert (raw.counts["reference_ranking_ties"], raw.counts["candidate_ranking_ties"]) == (0, 1)
    per_token = preference.ranking_accuracy(REFERENCE, CANDIDATE, limit("ranking_accuracy", unit="per token"))
    assert (per_token.counts["reference_ranking_ties"], per_token.counts["candidate_ranking_ties"]) == (2, 0)


def test_reward_margin_by_hand():
    # margins 6, -3, 5, -3: mean 1.25; with β = 0.1, 0.125
    m = preference.reward_margin(REFERENCE, CANDIDATE, limit("reward_margin"))
    assert (m.value, m.unit) == (1.25, "nats")
    assert (m.low, m.high) == pytest.approx(mean([6, -3, 5, -3]).bounds(0.05))
    scaled = preference.reward_margin(REFERENCE, CANDIDATE, limit("reward_margin"), beta=0.1)
    assert (scaled.value, scaled.low, scaled.high) == pytest.approx((0.125, m.low / 10, m.high / 10))
    # per token: (-1 + 2) + (-1 + 0.25) + (1 - 0) + (-1 - 1) = -0.75
    per_token = preference.reward_margin(REFERENCE, CANDIDATE, limit("reward_margin", unit="nats/token"))
    assert per_token.value == pytest.approx(-0.75 / 4)


def test_the_margin_says_its_beta():
    m = measure("reward_margin", beta=0.1)
    assert (m.value, m.counts["beta"]) == (pytest.approx(0.125), 0.1)
    assert measure("reward_margin", beta=None).counts["beta"] == 1


def test_examples_are_the_pairs_that_were_ranked_wrong():
    assert measure("reward_accuracy").examples == ("b", "d")  # both at -3, by id
    assert measure("ranking_accuracy").examples == ("b", "d")  # -7 and the tie
    assert measure("ranking_accuracy_drop", bound=0.5).examples == ("d",)


# ---------------------------------------------------------------- how good it could get


def test_idealised_ranking_by_hand():
    # log π_ref(y⁺)/π_ref(y⁻) = 4, -4, -1, and 3 without a rater share; β = 0.5 doubles the log-odds of 0.9, 0.6, 0.2:
    # 2.197, 0.405, -1.386, so 4 + 4.39 > 0, -4 + 0.81 < 0, -1 - 2.77 < 0
    m = measure("idealised_ranking_accuracy")
    assert (m.value, m.reference, m.n) == (1 / 3, 1 / 3, 3)
    assert math.isnan(m.candidate)
    assert (m.low, m.high) == proportion(1, 3).bounds(0.05)
    assert m.examples == ("c", "b"), "furthest from right first; d has no rater share"
    assert m.counts["pairs_without_rater_share"] == 1
    # the reference ranks a right; the candidate a and c
    assert (m.counts["reference_ranking_accuracy"], m.counts["candidate_ranking_accuracy"]) == (1 / 3, 2 / 3)
    assert [(s.category, s.n) for s in m.slices] == [("x", 2), ("y", 1)]
    # β = 0.05: 43.9, 8.1 and -27.7 outweigh the reference: a, b
    assert measure("idealised_ranking_accuracy", beta=0.05).value == 2 / 3


def test_idealised_ranking_per_token_divides_the_log_probabilities_only():
    # per token: 0, -1, 2.5 plus 4.39, 0.81, -2.77
    m = measure("idealised_ranking_accuracy", unit="per token")
    assert (m.value, m.unit) == (1 / 3, "per token")
    assert m.examples == ("c", "b")  # -0.27 and -0.19


def test_all_raters_agreeing_is_not_certainty():
    # 1 becomes 0.999: (1/0.5) log 999 = 13.8
    for ahead, right in ((-13.8, 1), (-13.9, 0)):
        before, after = [score("a", (-20 + ahead, 2), (-20, 2))], [score("a", (-20, 2), (-20, 2))]
        m = preference.idealised_ranking_accuracy(
            before, after, limit("idealised_ranking_accuracy"), pairs=rated(a=1.0), beta=0.5
        )
        assert m.value == right
    nobody = preference.idealised_ranking_accuracy(
        [score("a", (-6.1, 2), (-20, 2))], after, limit("idealised_ranking_accuracy"), pairs=rated(a=0.0), beta=0.5
    )
    assert nobody.value == 1  # 13.9 - 13.8


def test_the_alignment_gap_is_paired():
    # idealised right: a; ranked right by the candidate: a, c; d has no rater share
    m = measure("alignment_gap", bound=0.5)
    assert m.value == pytest.approx(-1 / 3)
    assert (m.reference, m.candidate, m.n) == (1 / 3, 2 / 3, 3)
    assert (m.low, m.high) == paired_difference(0, 1, 3).bounds(0.05)
    assert m.examples == ()
    # β = 0.05: a and b could be right, a and c are
    wide = measure("alignment_gap", bound=0.5, beta=0.05)
    assert (wide.value, wide.examples) == (0, ("b",))
    assert (wide.low, wide.high) == paired_difference(1, 1, 3).bounds(0.05)


@pytest.mark.parametrize("metric", ["idealised_ranking_accuracy", "alignment_gap"])
def test_without_rater_shares_the_problem_names_the_column(metric):
    m = measure(metric, pairs=rated(a=None, b=None, c=None, d=None), bound=0.5 if metric == "alignment_gap" else None)
    assert "give the corpus a column 'rater_share'" in m.problem
    assert m.n == 0
    with pytest.raises(MeasurementError, match="1 scored pairs are not in the corpus, first 'd'"):
        measure(metric, pairs=RATED[:3])


# ---------------------------------------------------------------- losses


def random_scores(seed: int, n: int = 200):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 30, (n, 2))
    totals = -rng.gamma(3, 8, (4, n))
    make = [
        [score(f"p{i:03d}", (a[i], int(tokens[i, 0])), (b[i], int(tokens[i, 1]))) for i in range(n)]
        for a, b in (totals[:2], totals[2:])
    ]
    return *make, totals


def test_losses_are_the_naive_formulas():
    reference, candidate, (ref_chosen, ref_rejected, chosen, rejected) = random_scores(1)
    margin = (chosen - ref_chosen) - (rejected - ref_rejected)
    beta, flips = 0.3, 0.2
    loss, swapped = -np.log(expit(beta * margin)), -np.log(expit(-beta * margin))
    given = {"beta": beta, "label_flip_rate": flips}
    m = measure("dpo_loss", reference, candidate, bound=1, **given)
    assert m.value == pytest.approx(loss.mean())
    assert (m.reference, m.candidate, m.unit) == (math.log(2), m.value, "nats")
    assert m.counts["mean_loss_threshold"] == pytest.approx(-np.log(expit(beta * (ref_rejected - ref_chosen))).mean())
    assert 0 < m.low < m.value < m.high
    robust = measure("rdpo_loss", reference, candidate, bound=1, **given)
    naive = ((1 - flips) * loss - flips * swapped) / (1 - 2 * flips)
    assert robust.value == pytest.approx(naive.mean())
    assert (robust.low, robust.high) == pytest.approx(mean(naive).bounds(0.05))
    assert robust.counts["mean_dpo_loss"] == pytest.approx(loss.mean())
    assert (robust.counts["label_flip_rate"], robust.counts["beta"]) == (flips, beta)
    assert measure("rdpo_loss", reference, candidate, beta=beta, label_flip_rate=0.0).value == pytest.approx(
        loss.mean()
    )
    weight = measure("npo_weight", reference, candidate, **given)
    naive = 2 * np.exp(beta * rejected) / (np.exp(beta * rejected) + np.exp(beta * ref_rejected))
    assert weight.value == pytest.approx(naive.mean())
    assert (weight.low, weight.high) == pytest.approx(mean(naive, support=(0, 2)).bounds(0.05))
    assert weight.reference == 1


def test_the_robust_loss_takes_out_swapped_labels_on_average():
    # every pair once as it is and, in a share ε of copies, swapped: the mean robust loss is the clean mean loss
    chosen, rejected = [1.0, 3.0, -2.0, 0.5], [-1.0, 2.0, 0.0, -4.0]
    clean = measure("dpo_loss", *fallen(chosen, rejected), beta=0.7).value
    noisy = measure("rdpo_loss", *fallen(chosen * 4 + rejected, rejected * 4 + chosen), beta=0.7, label_flip_rate=0.2)
    assert noisy.value == pytest.approx(clean)


@pytest.mark.parametrize("seed", range(5))
def test_a_pair_is_ranked_right_where_its_loss_is_at_most_its_threshold(seed):
    # Chen et al., theorem 4.1; random log-probabilities have no ties
    reference, candidate, _ = random_scores(seed)
    ranking = measure("ranking_accuracy", reference, candidate)
    for beta in (0.01, 0.3, 5.0):
        assert measure("dpo_loss", reference, candidate, beta=beta).counts["at_threshold_share"] == ranking.value
    assert 0 < ranking.value < 1


def test_a_tie_is_at_its_threshold():
    # a, c right, b wrong, d a tie
    m = measure("dpo_loss")
    assert m.counts["at_threshold_share"] == 3 / 4
    assert measure("ranking_accuracy").counts["candidate_ranking_ties"] == 1


def test_losses_of_very_long_responses_neither_overflow_nor_vanish():
    # β m = -4000, 4000 and -2000: the losses are 4000, 0 (e^-4000) and 2000
    scores = fallen([-4000.0, 4000.0, 0.0], [0.0, 0.0, 2000.0])
    m = measure("dpo_loss", *scores, beta=1.0)
    assert m.value == pytest.approx(2000)
    # both losses and thresholds underflow in p1 and the reference ranks all as ties: p1 alone is right
    assert m.counts["at_threshold_share"] == 1 / 3
    weight = measure("npo_weight", *fallen([0.0] * 3, [-4000.0, 4000.0, 0.0]), beta=1.0)
    assert weight.value == pytest.approx((0 + 2 + 1) / 3)
    assert math.isfinite(measure("rdpo_loss", *scores, beta=1.0).value)


def test_a_loss_that_vanishes_everywhere_is_bounded_by_where_training_starts():
    m = measure("dpo_loss", *fallen([4000.0] * 60, [0.0] * 60), bound=0.1, beta=1.0)
    assert (m.value, m.low, m.problem) == (0, 0, "")
    assert m.high == pytest.approx((1 - 0.05 ** (1 / 60)) * math.log(2))


def test_a_model_against_itself():
    loss = measure("dpo_loss", candidate=REFERENCE)
    assert loss.value == pytest.approx(math.log(2))
    assert "vary" in loss.problem
    assert measure("npo_weight", candidate=REFERENCE).value == 1
    assert measure("rdpo_loss", candidate=REFERENCE).value == pytest.approx(math.log(2))


def test_examples_are_the_pairs_that_left_the_start_in_the_wrong_direction():
    assert measure("npo_weight").examples == ("a", "b")  # Δ⁻ = -8, -1, 0, 2
    assert measure("dpo_loss", bound=0.5).examples == ("b", "d")  # margins 6, -3, 5, -3
    assert measure("rdpo_loss", bound=0.5).examples == ("b", "d")


# ---------------------------------------------------------------- what every metric shares


@pytest.mark.parametrize("metric", list(preference.MEASURES))
def test_order_does_not_matter(metric):
    rng = random.Random(3)
    shuffled = measure(metric, rng.sample(REFERENCE, 4), rng.sample(CANDIDATE, 4), pairs=rng.sample(RATED, 4))
    assert repr(shuffled) == repr(measure(metric))  # repr: NaN is not equal to itself


@pytest.mark.parametrize("metric", list(preference.MEASURES))
def test_companions_stand_beside_every_metric(metric):
    counts = measure(metric).counts
    beside = chosen_decrease_share(REFERENCE, CANDIDATE, limit("chosen_decrease_share")).counts
    assert {key: counts[key] for key in beside} == beside
    needs = preference.MEASURES[metric][1]
    assert counts.get("beta") == (0.5 if "beta" in needs else None)


NEED_BETA = ["dpo_loss", "rdpo_loss", "npo_weight", "idealised_ranking_accuracy", "alignment_gap"]


@pytest.mark.parametrize("metric", NEED_BETA)
def test_without_a_beta_the_policy_is_told_what_to_write(metric):
    with pytest.raises(PolicyError, match=f"limit 'l': {metric} needs DPO's β.*'beta: 0.1' at the top of the policy"):
        measure(metric, beta=None)


@pytest.mark.parametrize("metric", [*NEED_BETA, "reward_margin"])
@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan, math.inf])
def test_a_beta_that_is_not_above_zero_is_refused(metric, beta):
    with pytest.raises(PolicyError, match=f"{metric} needs a β above 0, not {beta}"):
        measure(metric, beta=beta)


@pytest.mark.parametrize("rate", [None, -0.1, 0.5, math.nan])
def test_the_robust_loss_needs_a_flip_rate(rate):
    with pytest.raises(PolicyError, match="'label_flip_rate: 0.1' at the top of the policy"):
        measure("rdpo_loss", label_flip_rate=rate)


@pytest.mark.parametrize(
    "metric,unit,message",
    [
        ("reward_accuracy", "nats", "no unit 'nats'"),
        ("ranking_accuracy", "nats/token", "measured in 'per token'"),
        ("dpo_loss", "nats/token", "measured in 'nats'"),
        ("alignment_gap", "nats", "measured in 'per token'"),
    ],
)
def test_a_unit_that_the_metric_does_not_have_is_a_wrong_policy(metric, unit, message):
    with pytest.raises(PolicyError, match=message):
        measure(metric, unit=unit)


def test_another_probes_metric_is_a_wrong_policy():
    with pytest.raises(PolicyError, match="'both_fall_share' is not measured here; this probe has reward_accuracy"):
        measure("both_fall_share")
    with pytest.raises(MeasurementError, match="dpo_loss was measured for limit 'l', which is on rdpo_loss"):
        preference.dpo_loss(REFERENCE, CANDIDATE, limit("rdpo_loss"), beta=0.1)


@pytest.mark.parametrize("metric", ["reward_accuracy", "reward_margin", "ranking_accuracy", "ranking_accuracy_drop"])
def test_pairs_on_one_prompt_are_one_item(metric):
    which = limit(metric, unit="nats" if metric == "reward_margin" else "")
    before, after = (
        [replace(score, prompt_id=prompt) for score, prompt in zip(scores, ("q", "q", "r", "s"), strict=True)]
        for scores in (REFERENCE, CANDIDATE)
    )
    alone, shared = preference.measure(REFERENCE, CANDIDATE, which), preference.measure(before, after, which)
    assert (alone.n, shared.n) == (4, 3)
    assert shared.value == pytest.approx(alone.value)
    assert (shared.low, shared.high) != (alone.low, alone.high)
