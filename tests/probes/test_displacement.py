"""Displacement probes on four pairs whose numbers are worked out in the comments."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.domain import Limit, PairScore, ResponseScore
from harness.errors import MeasurementError, PolicyError
from harness.probes import displacement
from harness.stats import mean, paired_difference, proportion, ratio


def limit(metric: str, maximum: float | None = None, minimum: float | None = None, **rest) -> Limit:
    if maximum is None and minimum is None:
        minimum = 0.0
    return Limit(id="l", metric=metric, corpus="preferences", maximum=maximum, minimum=minimum, **rest)


def response(total: float, tokens: int) -> ResponseScore:
    return ResponseScore((total / tokens,) * tokens)


def score(pair: str, chosen: tuple[float, int], rejected: tuple[float, int], **rest) -> PairScore:
    return PairScore(pair, response(*chosen), response(*rejected), **rest)


# pair   tokens   reference      candidate        Δ⁺   Δ⁻   Δ⁺-Δ⁻   ranked right (raw)    y⁺, y⁻ per token
#        y⁺ y⁻    y⁺    y⁻       y⁺    y⁻                           reference candidate   reference / candidate
#  a      2  4   -4    -8       -6   -16          -2   -8    6       right     right     -2, -2 tie / -3, -4 right
#  b      4  4   -8    -4       -12   -5          -4   -1   -3       wrong     wrong     -2, -1 wrong / -3, -1.25 wrong
#  c      5  2   -10   -9       -5   -9           5    0     5       wrong     right     -2, -4.5 right / -1, -4.5 right
#  d      1  2   -3    -6       -4   -4           -1    2   -3       right     tie       -3, -3 tie / -4, -2 wrong
REFERENCE = [
    score("a", (-4, 2), (-8, 4), category="x"),
    score("b", (-8, 4), (-4, 4), category="x", tokenised_apart=True),
    score("c", (-10, 5), (-9, 2), category="y"),
    score("d", (-3, 1), (-6, 2), category="y"),
]
CANDIDATE = [
    score("a", (-6, 2), (-16, 4), category="x"),
    score("b", (-12, 4), (-5, 4), category="x"),
    score("c", (-5, 5), (-9, 2), category="y"),
    score("d", (-4, 1), (-4, 2), category="y"),
]
CHANGES = {
    "chosen_logprob_change": ([-2, -4, 5, -1], -25 / 4, -27 / 4),
    "rejected_logprob_change": ([-8, -1, 0, 2], -27 / 4, -34 / 4),
}
CHANGES_PER_TOKEN = {
    # Δ⁺/n⁺: -1, -1, 1, -1; log π/n⁺: -2, -2, -2, -3 and -3, -3, -1, -4
    "chosen_logprob_change": ([-1, -1, 1, -1], -9 / 4, -11 / 4),
    # Δ⁻/n⁻: -2, -0.25, 0, 1; log π/n⁻: -2, -1, -4.5, -3 and -4, -1.25, -4.5, -2
    "rejected_logprob_change": ([-2, -0.25, 0, 1], -10.5 / 4, -11.75 / 4),
}


@pytest.mark.parametrize("metric", list(CHANGES))
@pytest.mark.parametrize(
    "unit,named,expected",
    [("", "nats", CHANGES), ("nats", "nats", CHANGES), ("nats/token", "nats/token", CHANGES_PER_TOKEN)],
)
def test_logprob_changes_by_hand(metric, unit, named, expected):
    m = displacement.measure(REFERENCE, CANDIDATE, limit(metric, unit=unit))
    deltas, reference, candidate = expected[metric]
    assert m.value == pytest.approx(sum(deltas) / 4)
    assert (m.reference, m.candidate) == pytest.approx((reference, candidate))
    assert (m.low, m.high) == pytest.approx(mean(deltas).bounds(0.05))
    assert (m.n, m.unit, m.metric, m.problem) == (4, named, metric, "")


@pytest.mark.parametrize(
    "metric,k",
    [
        ("chosen_decrease_share", 3),  # a, b, d
        ("both_decrease_share", 2),  # a, b
        ("reward_accuracy", 2),  # a, c
    ],
)
def test_shares_by_hand(metric, k):
    m = displacement.measure(REFERENCE, CANDIDATE, limit(metric, maximum=0.9))
    assert m.value == k / 4
    assert (m.low, m.high) == proportion(k, 4).bounds(0.05)
    assert math.isnan(m.reference)
    assert math.isnan(m.candidate)


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
    m = displacement.ranking_accuracy(REFERENCE, CANDIDATE, limit("ranking_accuracy", unit=unit))
    assert (m.value, m.candidate, m.reference) == (candidate, candidate, reference)
    assert (m.low, m.high) == proportion(2, 4).bounds(0.05)
    assert {key: m.counts[key] for key in flips} == flips
    assert m.unit == unit
    drop = displacement.ranking_accuracy_drop(
        REFERENCE, CANDIDATE, limit("ranking_accuracy_drop", maximum=0.1, unit=unit)
    )
    assert drop.value == reference - candidate
    lost, won = flips["right->wrong"], flips["wrong->right"]
    assert (drop.low, drop.high) == paired_difference(lost, won, 4).bounds(0.05)
    assert (drop.reference, drop.candidate, drop.unit) == (reference, candidate, unit)


def test_ranking_ties_are_wrong_and_counted():
    raw = displacement.ranking_accuracy(REFERENCE, CANDIDATE, limit("ranking_accuracy"))
    assert (raw.counts["reference_ranking_ties"], raw.counts["candidate_ranking_ties"]) == (0, 1)
    per_token = displacement.ranking_accuracy(REFERENCE, CANDIDATE, limit("ranking_accuracy", unit="per token"))
    assert (per_token.counts["reference_ranking_ties"], per_token.counts["candidate_ranking_ties"]) == (2, 0)


def test_reward_margin_by_hand():
    # margins 6, -3, 5, -3: mean 1.25; with β = 0.1, 0.125
    m = displacement.reward_margin(REFERENCE, CANDIDATE, limit("reward_margin"))
    assert (m.value, m.unit) == (1.25, "nats")
    assert (m.low, m.high) == pytest.approx(mean([6, -3, 5, -3]).bounds(0.05))
    scaled = displacement.reward_margin(REFERENCE, CANDIDATE, limit("reward_margin"), beta=0.1)
    assert (scaled.value, scaled.low, scaled.high) == pytest.approx((0.125, m.low / 10, m.high / 10))
    # per token: (-1 + 2) + (-1 + 0.25) + (1 - 0) + (-1 - 1) = -0.75
    per_token = displacement.reward_margin(REFERENCE, CANDIDATE, limit("reward_margin", unit="nats/token"))
    assert per_token.value == pytest.approx(-0.75 / 4)


def test_companions_stand_beside_every_metric():
    for metric in displacement.MEASURES:
        counts = displacement.measure(REFERENCE, CANDIDATE, limit(metric)).counts
        expected = {
            "mean_delta_chosen": -0.5,
            "mean_delta_rejected": -1.75,
            "mean_margin": 1.25,
            "chosen_decrease_share": 0.75,
            "both_decrease_share": 0.5,
            "both_fell": 2,
            "only_chosen_fell": 1,
            "only_rejected_fell": 0,
            "neither_fell": 1,
            "chosen_unchanged": 0,
            "margin_ties": 0,
            "tokenised_apart_share": 0.25,
        }
        assert {key: counts[key] for key in expected} == pytest.approx(expected)


# ---------------------------------------------------------------- degradation


def fallen(chosen: list[float], rejected: list[float]) -> tuple[list[PairScore], list[PairScore]]:
    """Pairs with these Δ⁺ and Δ⁻."""
    before = [score(f"p{i}", (-50, 5), (-50, 5)) for i in range(len(chosen))]
    after = [score(f"p{i}", (-50 + c, 5), (-50 + r, 5)) for i, (c, r) in enumerate(zip(chosen, rejected, strict=True))]
    return before, after


def test_degradation_by_hand():
    # mean Δ⁺ = -3, mean Δ⁻ = -12: the chosen lost a quarter of a nat for each nat of the rejected
    chosen, rejected = [-2.0, -4.0, -3.0, -3.0], [-10.0, -14.0, -11.0, -13.0]
    m = displacement.degradation(*fallen(chosen, rejected), limit("degradation", maximum=0.5))
    assert m.value == pytest.approx(0.25)
    assert m.counts["mean_delta_rejected_over_chosen"] == pytest.approx(4.0)
    assert m.counts["mean_delta_chosen"] == pytest.approx(-3)
    assert m.counts["mean_delta_rejected"] == pytest.approx(-12)
    assert (m.low, m.high) == pytest.approx(ratio(chosen, rejected).bounds(0.05))
    assert m.low < 0.25 < m.high
    assert m.problem == ""


def test_degradation_where_the_chosen_did_not_move_is_zero():
    m = displacement.degradation(
        *fallen([-1.0, 1.0, -2.0, 2.0], [-10.0, -14.0, -11.0, -13.0]), limit("degradation", maximum=0.5)
    )
    assert m.value == pytest.approx(0)
    assert m.low < 0 < m.high
    assert math.isnan(m.counts["mean_delta_rejected_over_chosen"])


@pytest.mark.parametrize(
    "rejected", [[10.0, 14.0, 11.0, 13.0], [-10.0, 9.0, -8.0, 8.0], [-5.0] * 4], ids=["rose", "unclear", "constant"]
)
def test_degradation_has_no_meaning_unless_the_rejected_fell(rejected):
    m = displacement.degradation(*fallen([-2.0, -4.0, -3.0, -3.0], rejected), limit("degradation", maximum=0.5))
    assert m.problem
    assert all(map(math.isnan, (m.value, m.low, m.high, m.p_broken)))
    assert m.counts["mean_delta_chosen"] == pytest.approx(-3)


# ---------------------------------------------------------------- what every metric shares


def test_examples_are_the_pairs_that_fell_most():
    m = displacement.chosen_logprob_change(REFERENCE, CANDIDATE, limit("chosen_logprob_change", minimum=-5))
    assert m.examples == ("b", "a", "d")  # Δ⁺ = -4, -2, -1; c rose
    m = displacement.chosen_logprob_change(REFERENCE, CANDIDATE, limit("chosen_logprob_change", maximum=5))
    assert m.examples == ("c",)
    m = displacement.both_decrease_share(REFERENCE, CANDIDATE, limit("both_decrease_share", maximum=0.5))
    assert m.examples == ("b", "a")
    m = displacement.reward_accuracy(REFERENCE, CANDIDATE, limit("reward_accuracy", minimum=0.5))
    assert m.examples == ("b", "d")  # both at -3, by id
    m = displacement.ranking_accuracy(REFERENCE, CANDIDATE, limit("ranking_accuracy", minimum=0.5))
    assert m.examples == ("b", "d")  # -7 and the tie
    m = displacement.ranking_accuracy_drop(REFERENCE, CANDIDATE, limit("ranking_accuracy_drop", maximum=0.5))
    assert m.examples == ("d",)
    before, after = fallen([-float(i) for i in range(1, 81)], [0.0] * 80)
    m = displacement.chosen_logprob_change(before, after, limit("chosen_logprob_change"))
    assert len(m.examples) == 50
    assert m.examples[0] == "p79"


def test_slices_by_category():
    m = displacement.chosen_logprob_change(REFERENCE, CANDIDATE, limit("chosen_logprob_change"))
    x, y = m.slices
    assert (x.category, x.n, x.value, x.reference, x.candidate) == ("x", 2, -3, -6, -9)  # Δ⁺ = -2, -4
    assert (y.category, y.n, y.value) == ("y", 2, 2)  # 5, -1
    assert (x.low, x.high) == mean([-2, -4]).bounds(0.05)


@pytest.mark.parametrize("metric", list(displacement.MEASURES))
def test_order_does_not_matter(metric):
    rng = random.Random(3)
    expected = displacement.measure(REFERENCE, CANDIDATE, limit(metric))
    shuffled = displacement.measure(rng.sample(REFERENCE, 4), rng.sample(CANDIDATE, 4), limit(metric))
    assert repr(shuffled) == repr(expected)  # repr: NaN is not equal to itself


def test_swapping_the_models_negates_a_change():
    there = displacement.chosen_logprob_change(REFERENCE, CANDIDATE, limit("chosen_logprob_change"))
    back = displacement.chosen_logprob_change(CANDIDATE, REFERENCE, limit("chosen_logprob_change"))
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))


def test_a_model_against_itself():
    m = displacement.chosen_logprob_change(REFERENCE, REFERENCE, limit("chosen_logprob_change"))
    assert m.value == 0
    assert "vary" in m.problem  # no spread, no interval
    m = displacement.chosen_decrease_share(REFERENCE, REFERENCE, limit("chosen_decrease_share", maximum=0.5))
    assert (m.value, m.low, m.problem) == (0, 0, "")
    assert m.counts["chosen_unchanged"] == m.counts["margin_ties"] == 4
    assert displacement.reward_accuracy(REFERENCE, REFERENCE, limit("reward_accuracy")).value == 0


def test_one_pair_has_no_spread():
    m = displacement.chosen_logprob_change(REFERENCE[:1], CANDIDATE[:1], limit("chosen_logprob_change"))
    assert m.value == -2
    assert "one value" in m.problem
    assert displacement.reward_accuracy(REFERENCE[:1], CANDIDATE[:1], limit("reward_accuracy")).high == 1


def test_the_interval_of_a_large_sample_is_students():
    rng = np.random.default_rng(0)
    deltas = rng.normal(-30, 12, 300).tolist()
    m = displacement.chosen_logprob_change(*fallen(deltas, [0.0] * 300), limit("chosen_logprob_change", minimum=-35))
    t = scipy_stats.ttest_1samp(deltas, 0).confidence_interval(0.90)
    assert (m.low, m.high) == pytest.approx((t.low, t.high), abs=0.05)


def test_table():
    rows = displacement.table(REFERENCE, CANDIDATE[::-1])
    assert [row.pair_id for row in rows] == ["a", "b", "c", "d"]
    assert rows[1] == displacement.PairRow(
        pair_id="b",
        category="x",
        chosen_tokens=4,
        rejected_tokens=4,
        reference_chosen=-8,
        candidate_chosen=-12,
        reference_rejected=-4,
        candidate_rejected=-5,
        delta_chosen=-4,
        delta_rejected=-1,
        tokenised_apart=True,
    )


# ---------------------------------------------------------------- scores that mean nothing


def broken(value: float, side: str = "chosen") -> list[PairScore]:
    bad = ResponseScore((-1.0, value)) if side == "chosen" else ResponseScore((-1.0, value, -1.0, -1.0))
    return [replace(CANDIDATE[0], **{side: bad}), *CANDIDATE[1:]]


@pytest.mark.parametrize("metric", list(displacement.MEASURES))
@pytest.mark.parametrize(
    "before,after,message",
    [
        (REFERENCE, broken(math.nan), "candidate's log-probability of the chosen response of pair 'a' is nan"),
        (REFERENCE, broken(-math.inf, "rejected"), "rejected response of pair 'a' is -inf"),
        (broken(math.nan), CANDIDATE, "reference's log-probability of the chosen response of pair 'a' is nan"),
        (REFERENCE, CANDIDATE[1:], "the candidate has no score for 1 .* 'a'"),
        (REFERENCE[1:], CANDIDATE, "the reference has no score for 1 .* 'a'"),
        (REFERENCE, [*CANDIDATE, CANDIDATE[2]], "the candidate has two scores for pair 'c'"),
        ([*REFERENCE, REFERENCE[2]], CANDIDATE, "the reference has two scores for pair 'c'"),
        (
            REFERENCE,
            [score("a", (-6, 3), (-16, 4), category="x"), *CANDIDATE[1:]],
            "'a' has 2 tokens .* 3 for the cand",
        ),
        (REFERENCE, [replace(CANDIDATE[0], category="z"), *CANDIDATE[1:]], "pair 'a' has the category 'x' .* 'z'"),
        (REFERENCE, [replace(CANDIDATE[0], chosen=ResponseScore(())), *CANDIDATE[1:]], "pair 'a' has no tokens"),
        ([], [], "no scored pairs"),
    ],
)
def test_scores_that_do_not_pair_up_are_an_error(metric, before, after, message):
    with pytest.raises(MeasurementError, match=message):
        displacement.measure(before, after, limit(metric))


@pytest.mark.parametrize(
    "metric,unit,message",
    [
        ("chosen_logprob_change", "bits", "no unit 'bits'; it is measured in 'nats' or 'nats/token'"),
        ("reward_accuracy", "nats", "no unit 'nats'"),
        ("ranking_accuracy", "nats/token", "measured in 'per token'"),
    ],
)
def test_a_unit_that_the_metric_does_not_have_is_a_wrong_policy(metric, unit, message):
    with pytest.raises(PolicyError, match=message):
        displacement.measure(REFERENCE, CANDIDATE, limit(metric, unit=unit))


def test_another_probes_metric_is_a_wrong_policy():
    with pytest.raises(PolicyError, match="'refusal_rate' is not measured here; this probe has chosen_logprob_change"):
        displacement.measure(REFERENCE, CANDIDATE, limit("refusal_rate"))
