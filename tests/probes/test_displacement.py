"""Displacement probes on the four pairs of ``by_hand.py``, and on others made for one question."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from probes.by_hand import CANDIDATE, REFERENCE, fallen, limit, response, score
from scipy import stats as scipy_stats

from harness.domain import PairScore, ResponseScore
from harness.errors import MeasurementError, PolicyError
from harness.probes import displacement
from harness.probes.scored_pairs import PairRow, table
from harness.stats import mean, proportion, ratio

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
        ("rejected_faster_share", 1),  # a; b's chosen moved more, c's rejected did not fall, d's rose
    ],
)
def test_shares_by_hand(metric, k):
    m = displacement.measure(REFERENCE, CANDIDATE, limit(metric, maximum=0.9))
    assert m.value == k / 4
    assert (m.low, m.high) == proportion(k, 4).bounds(0.05)
    assert math.isnan(m.reference)
    assert math.isnan(m.candidate)


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


# ---------------------------------------------------------------- what the chosen lost


def test_shortfall_by_hand():
    # lost: 2, 4, 0 (c gained 5), 1
    m = displacement.chosen_shortfall(REFERENCE, CANDIDATE, limit("chosen_shortfall", maximum=3))
    assert (m.value, m.unit, m.problem) == (7 / 4, "nats", "")
    assert 0 <= m.low < m.value < m.high
    assert m.examples == ("b", "a", "d")
    # per token: 2/2, 4/4, 0, 1/1
    per_token = displacement.chosen_shortfall(
        REFERENCE, CANDIDATE, limit("chosen_shortfall", maximum=3, unit="nats/token")
    )
    assert (per_token.value, per_token.unit) == (0.75, "nats/token")


def test_where_no_chosen_response_fell_the_shortfall_is_bounded_by_what_was_seen_to_move():
    rises = [float(1 + i % 5) for i in range(60)]  # at most 5 nats
    m = displacement.chosen_shortfall(*fallen(rises, [0.0] * 60), limit("chosen_shortfall", maximum=1))
    # at most a share 1 - 0.05^(1/60) of pairs can have fallen unseen, each by 5 nats
    assert (m.value, m.low, m.problem) == (0, 0, "")
    assert m.high == pytest.approx((1 - 0.05 ** (1 / 60)) * 5)
    fewer = displacement.chosen_shortfall(*fallen(rises[:10], [0.0] * 10), limit("chosen_shortfall", maximum=1))
    assert fewer.high > m.high
    one_fell = displacement.chosen_shortfall(*fallen([-0.1, *rises[1:]], [0.0] * 60), limit("chosen_shortfall"))
    assert one_fell.high >= m.high, "one that fell a little proves nothing that none falling does not"


def test_the_shortfall_has_no_interval_where_nothing_shows_how_much_values_vary():
    alike = displacement.chosen_shortfall(*fallen([-2.0] * 4, [0.0] * 4), limit("chosen_shortfall"))
    assert (alike.value, "vary" in alike.problem) == (2, True)
    still = displacement.chosen_shortfall(REFERENCE, REFERENCE, limit("chosen_shortfall"))
    assert (still.value, "vary" in still.problem) == (0, True)
    assert "one value" in displacement.chosen_shortfall(*fallen([-2.0], [0.0]), limit("chosen_shortfall")).problem


def test_shortfall_coverage():
    # 300 runs of 30 changes, normal around +1 with deviation 1: E max(0, -Δ) = φ(1) - Q(1). Nominal 95 %, standard
    # error 1.3 points
    rng = np.random.default_rng(4)
    truth = scipy_stats.norm.pdf(1) - scipy_stats.norm.sf(1)
    runs = [
        displacement.chosen_shortfall(*fallen(rng.normal(1, 1, 30).tolist(), [0.0] * 30), limit("chosen_shortfall"))
        for _ in range(300)
    ]
    assert np.mean([m.low <= truth for m in runs]) > 0.91
    assert np.mean([m.high >= truth for m in runs]) > 0.91
    assert np.mean([m.high for m in runs]) < 0.6  # and not by being useless: the truth is 0.083


# ---------------------------------------------------------------- third responses


def with_others(scores: list[PairScore], *others: tuple[tuple[float, int], ...]) -> list[PairScore]:
    return [replace(item, others=tuple(response(*o) for o in mine)) for item, mine in zip(scores, others, strict=True)]


def test_third_responses_by_hand():
    # a: Δ = +2 and +4, per token 2/2 and 4/4; b: none; c: -3 over 3 tokens; d: +6 over 1
    before = with_others(REFERENCE, ((-9, 2), (-8, 4)), (), ((-6, 3),), ((-7, 1),))
    after = with_others(CANDIDATE, ((-7, 2), (-4, 4)), (), ((-9, 3),), ((-1, 1),))
    m = displacement.other_logprob_change(before, after, limit("other_logprob_change", maximum=5))
    assert m.value == pytest.approx((3 - 3 + 6) / 3)  # the pair's mean first: a counts once
    assert (m.reference, m.candidate) == pytest.approx(((-8.5 - 6 - 7) / 3, (-5.5 - 9 - 1) / 3))
    assert (m.low, m.high) == pytest.approx(mean([3, -3, 6]).bounds(0.05))
    assert (m.n, m.unit) == (3, "nats")
    assert m.examples == ("d", "a")
    assert (m.counts["pairs_without_others"], m.counts["pairs_with_others"]) == (1, 3)
    assert [(s.category, s.n) for s in m.slices] == [("x", 1), ("y", 2)]
    per_token = displacement.measure(before, after, limit("other_logprob_change", maximum=5, unit="nats/token"))
    assert per_token.value == pytest.approx((1 - 1 + 6) / 3)
    for metric in displacement.MEASURES:
        assert displacement.measure(before, after, limit(metric)).counts["mean_delta_other"] == pytest.approx(2)
    assert table(before, after)[0].delta_others == pytest.approx((2, 4))


def test_no_third_responses_is_a_problem_that_names_the_column():
    m = displacement.other_logprob_change(REFERENCE, CANDIDATE, limit("other_logprob_change", maximum=5))
    assert "give the corpus a column 'others'" in m.problem
    assert all(map(math.isnan, (m.value, m.low, m.high)))
    assert "mean_delta_other" not in m.counts


@pytest.mark.parametrize(
    "after,message",
    [
        (((-7, 2),), "pair 'a' has 2 third responses for the reference and 1 for the candidate"),
        (((-7, 2), (-4, 3)), r"third \(number 2\) response of pair 'a' has 4 tokens .* 3 for the candidate"),
        (
            ((math.nan, 2), (-4, 4)),
            r"candidate's log-probability of the third \(number 1\) response of pair 'a' is nan",
        ),
    ],
)
def test_third_responses_that_do_not_pair_up_are_an_error(after, message):
    before = with_others(REFERENCE[:1], ((-9, 2), (-8, 4)))
    with pytest.raises(MeasurementError, match=message):
        displacement.measure(before, with_others(CANDIDATE[:1], after), limit("chosen_logprob_change"))


# ---------------------------------------------------------------- how few tokens moved


def moved(*changes: list[float]) -> tuple[list[PairScore], list[PairScore]]:
    """Pairs whose chosen tokens changed so."""
    before = [PairScore(f"p{i}", ResponseScore((-8.0,) * len(c)), response(-4, 2)) for i, c in enumerate(changes)]
    after = [
        replace(pair, chosen=ResponseScore(tuple(-8.0 + x for x in c))) for pair, c in zip(before, changes, strict=True)
    ]
    return before, after


@pytest.mark.parametrize(
    "changes,expected",
    [
        ([1.0] * 10, 0.1),  # every token alike: the top one of ten
        ([1.0] * 11, 2 / 11),  # rounded up
        ([0.5] * 70, 7 / 70),  # 0.1 * 70 is a little above 7 in floating point
        ([0.0] * 19 + [-5.0], 1.0),  # all in one token; falls and rises count alike
        ([-3.0, 1.0, *[0.0] * 18], 1.0),  # two of twenty
        ([-3.0, 1.0, 0.0], 3 / 4),  # fewer than ten tokens: the most moved one
        ([2.0], 1.0),
    ],
)
def test_concentration_by_hand(changes, expected):
    m = displacement.logratio_concentration(*moved(changes), limit("logratio_concentration", maximum=0.9))
    assert m.value == pytest.approx(expected)


def test_concentration_is_a_mean_over_the_pairs_that_moved():
    before, after = moved([1.0] * 10, [0.0] * 5, [0.0, 4.0])
    m = displacement.logratio_concentration(before, after, limit("logratio_concentration", maximum=0.9))
    assert (m.value, m.n) == (pytest.approx((0.1 + 1) / 2), 2)
    assert (m.low, m.high) == mean([0.1, 1.0], support=(0, 1)).bounds(0.05)
    assert (m.counts["pairs_without_change"], m.counts["pairs_up_to_ten_tokens"]) == (1, 3)
    assert m.examples == ("p2", "p0")
    still = displacement.logratio_concentration(before, before, limit("logratio_concentration", maximum=0.9))
    assert still.problem == "no chosen response has a token that moved"


# ---------------------------------------------------------------- what every metric shares


def test_examples_are_the_pairs_that_fell_most():
    m = displacement.chosen_logprob_change(REFERENCE, CANDIDATE, limit("chosen_logprob_change", minimum=-5))
    assert m.examples == ("b", "a", "d")  # Δ⁺ = -4, -2, -1; c rose
    m = displacement.chosen_logprob_change(REFERENCE, CANDIDATE, limit("chosen_logprob_change", maximum=5))
    assert m.examples == ("c",)
    m = displacement.both_decrease_share(REFERENCE, CANDIDATE, limit("both_decrease_share", maximum=0.5))
    assert m.examples == ("b", "a")
    m = displacement.rejected_faster_share(REFERENCE, CANDIDATE, limit("rejected_faster_share", minimum=0.5))
    assert m.examples == ("c", "b", "d")  # |Δ⁻| - |Δ⁺| = -5, -3, 1 (but Δ⁻ rose)
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


def test_one_pair_has_no_spread():
    m = displacement.chosen_logprob_change(REFERENCE[:1], CANDIDATE[:1], limit("chosen_logprob_change"))
    assert m.value == -2
    assert "one value" in m.problem
    assert displacement.chosen_decrease_share(REFERENCE[:1], CANDIDATE[:1], limit("chosen_decrease_share")).high == 1


def test_the_interval_of_a_large_sample_is_students():
    rng = np.random.default_rng(0)
    deltas = rng.normal(-30, 12, 300).tolist()
    m = displacement.chosen_logprob_change(*fallen(deltas, [0.0] * 300), limit("chosen_logprob_change", minimum=-35))
    t = scipy_stats.ttest_1samp(deltas, 0).confidence_interval(0.90)
    # one side reaches further, for one more value like the furthest
    assert t.low - 0.2 < m.low < t.low + 0.05
    assert t.high - 0.05 < m.high < t.high + 0.2


def test_table():
    rows = table(REFERENCE, CANDIDATE[::-1])
    assert [row.pair_id for row in rows] == ["a", "b", "c", "d"]
    assert rows[1] == PairRow(
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
        ("rejected_faster_share", "nats", "no unit 'nats'"),
    ],
)
def test_a_unit_that_the_metric_does_not_have_is_a_wrong_policy(metric, unit, message):
    with pytest.raises(PolicyError, match=message):
        displacement.measure(REFERENCE, CANDIDATE, limit(metric, unit=unit))


def test_another_probes_metric_is_a_wrong_policy():
    with pytest.raises(PolicyError, match="'refusal_rate' is not measured here; this probe has chosen_logprob_change"):
        displacement.measure(REFERENCE, CANDIDATE, limit("refusal_rate"))


# ---------------------------------------------------------------- several pairs on one prompt


def on_prompts(scores: list[PairScore], *prompts: str) -> list[PairScore]:
    return [replace(score, prompt_id=prompt) for score, prompt in zip(scores, prompts, strict=True)]


SHARED = ("one", "one", "two", "three")
METRICS = [(name, "nats" if "logprob" in name or name == "chosen_shortfall" else "") for name in displacement.MEASURES]


@pytest.mark.parametrize("metric,unit", METRICS)
def test_pairs_on_one_prompt_are_one_item(metric, unit):
    which = limit(metric, unit=unit)
    alone = displacement.measure(REFERENCE, CANDIDATE, which)
    own = displacement.measure(on_prompts(REFERENCE, *"abcd"), on_prompts(CANDIDATE, *"abcd"), which)
    assert own == alone or alone.problem == own.problem != ""  # nan is not nan
    shared = displacement.measure(on_prompts(REFERENCE, *SHARED), on_prompts(CANDIDATE, *SHARED), which)
    assert shared.value == pytest.approx(alone.value, nan_ok=True)  # the number is the mean over pairs all the same
    assert shared.n <= 3


def test_copies_of_pairs_on_the_same_prompts_say_nothing_new():
    chosen = np.random.default_rng(0).normal(-5, 4, 20).tolist()
    before, after = fallen(chosen * 3, [-1.0] * 60)
    prompts = [f"q{i % 20}" for i in range(60)]
    which = limit("chosen_logprob_change", minimum=-8, unit="nats")
    m = displacement.measure(on_prompts(before, *prompts), on_prompts(after, *prompts), which)
    one = displacement.measure(*fallen(chosen, [-1.0] * 20), which)
    assert (m.n, m.value) == (20, pytest.approx(one.value))
    assert (m.low, m.high) == pytest.approx((one.low, one.high))
    assert displacement.measure(before, after, which).high < m.high - 0.3


def test_categories_as_clusters():
    which = limit("chosen_decrease_share", maximum=0.5, cluster="category")
    m = displacement.measure(REFERENCE, CANDIDATE, which)  # x: both fell, y: one of two
    assert (m.n, m.value) == (2, 0.75)
    assert (m.low, m.high) == mean([1.0, 0.5], support=(0, 1)).bounds(0.05)


def test_a_prompt_in_two_categories_cannot_be_clustered_by_them():
    before, after = (on_prompts(scores, "a", "b", "b", "c") for scores in (REFERENCE, CANDIDATE))
    which = limit("chosen_decrease_share", maximum=0.5, cluster="category")
    with pytest.raises(
        MeasurementError, match="one prompt of corpus 'preferences' has items in the categories 'x' and"
    ):
        displacement.measure(before, after, which)


def test_a_pair_has_one_prompt():
    with pytest.raises(MeasurementError, match="pair 'b' has another prompt for the reference"):
        table(on_prompts(REFERENCE, *"abcd"), on_prompts(CANDIDATE, *"axcd"))
    assert table(REFERENCE, on_prompts(CANDIDATE, *"abcd"))[1].prompt_id == "b"  # scores kept by an earlier version
