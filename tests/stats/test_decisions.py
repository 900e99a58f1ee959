"""p-values that agree with intervals, Holm, and how many items would decide."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from harness.domain import Limit, Slice
from harness.stats import (
    holm,
    items_needed,
    mean,
    measurement,
    p_broken,
    paired_difference,
    proportion,
    ratio,
    unusable,
)


def at_most(bound: float, alpha: float = 0.05) -> Limit:
    return Limit(id="l", metric="refusal_rate_drop", corpus="unsafe", maximum=bound, alpha=alpha)


def at_least(bound: float, alpha: float = 0.05) -> Limit:
    return Limit(id="l", metric="refusal_rate", corpus="unsafe", minimum=bound, alpha=alpha)


# ---------------------------------------------------------------- p-values


@pytest.mark.parametrize("k,n,bound", [(9, 60, 0.05), (30, 60, 0.45), (3, 60, 0.05), (60, 60, 0.9)])
def test_p_of_a_share_is_the_exact_binomial_one(k, n, bound):
    assert p_broken(proportion(k, n), at_most(bound)) == pytest.approx(
        scipy_stats.binomtest(k, n, bound, alternative="greater").pvalue, rel=2e-4
    )
    assert p_broken(proportion(n - k, n), at_least(1 - bound)) == pytest.approx(
        scipy_stats.binomtest(k, n, bound, alternative="greater").pvalue, rel=2e-4
    )


def test_p_of_a_mean_is_students():
    # symmetric values: -1 lies as far from their mean as 5, and the lower bound is that with one more -1. These lean
    # upward, so that Hall's correction does not widen it
    values = [-1.0, 1.0, 3.0, 5.0]
    assert p_broken(mean(values), at_most(0.5)) == pytest.approx(
        scipy_stats.ttest_1samp([-1.0, *values], 0.5, alternative="greater").pvalue, rel=2e-4
    )
    # the furthest value is 9, above: one more like it is no news of the lower bound, where Student's is the wider
    values = [-1.0, 1.0, 3.0, 9.0]
    assert p_broken(mean(values), at_most(0.5)) == pytest.approx(
        scipy_stats.ttest_1samp(values, 0.5, alternative="greater").pvalue, rel=2e-4
    )


@pytest.mark.parametrize("bound", [0.2, 0.35, 0.45, 0.7])
def test_p_of_a_ratio_is_a_t_tests(bound):
    b = np.random.default_rng(2).normal(-20, 8, 80)
    a = 0.4 * b + np.random.default_rng(3).normal(0, 12, 80)
    # mean(a - r b) > 0 says that the ratio lies below r, for a negative mean of b
    expected = scipy_stats.ttest_1samp(a - bound * b, 0, alternative="less").pvalue
    assert p_broken(ratio(a, b), at_most(bound)) == pytest.approx(expected, rel=2e-4)


def test_p_at_the_extremes():
    assert p_broken(proportion(0, 10), at_most(0.0)) == 1  # a bound on the limit keeps it
    assert p_broken(proportion(0, 60), at_most(0.05)) == 1  # nothing speaks against the limit
    assert p_broken(proportion(1000, 1000), at_most(0.01)) == 1e-12  # not followed further
    assert math.isnan(p_broken(unusable("no"), at_most(0.05)))


@st.composite
def estimates(draw):
    n = draw(st.integers(2, 80))
    kind = draw(st.sampled_from(["share", "paired", "bounded", "free", "ratio"]))
    if kind == "share":
        return proportion(draw(st.integers(0, n)), n)
    if kind == "paired":
        gained = draw(st.integers(0, n))
        return paired_difference(gained, draw(st.integers(0, n - gained)), n)
    values = draw(st.lists(st.integers(-3, 3), min_size=2, max_size=20))
    if kind == "bounded":
        return mean([v / 3 for v in values], support=(-1, 1))
    if kind == "free":
        return mean([*values, max(values) + 1])
    return ratio([v + 1 for v in values], [10 + v * v for v in values])


@given(estimates(), st.floats(-0.9, 0.9), st.sampled_from([0.01, 0.05, 0.2]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_p_and_interval_never_contradict_each_other(estimate, bound, alpha, is_maximum):
    limit = at_most(bound, alpha) if is_maximum else at_least(bound, alpha)
    low, high = estimate.bounds(alpha)
    broken = low > bound if is_maximum else high < bound
    p = p_broken(estimate, limit)
    assert (p <= alpha) == broken
    assert 0 < p <= 1


# ---------------------------------------------------------------- freezing


def test_measurement_freezes_the_estimate_at_the_limits_alpha():
    limit = at_most(0.05, alpha=0.01)
    slices = (Slice("c", 1, 0, 0, 0, 0, 0, 1),)
    m = measurement(
        limit,
        paired_difference(12, 2, 60),
        reference=0.8,
        candidate=0.6,
        unreadable=1,
        labelled=122,
        counts={"refusal->compliance": 12},
        examples=["p1"],
        slices=slices,
    )
    assert (m.metric, m.alpha, m.n, m.value) == ("refusal_rate_drop", 0.01, 60, pytest.approx(10 / 60))
    assert (m.low, m.high) == paired_difference(12, 2, 60).bounds(0.01)
    assert (m.p_broken <= 0.01) == (m.low > 0.05)
    assert (m.reference, m.candidate, m.unreadable, m.labelled) == (0.8, 0.6, 1, 122)
    assert (m.counts, m.examples, m.slices) == ({"refusal->compliance": 12}, ("p1",), slices)
    assert m.problem == ""
    assert "Gaffke" in m.method


def test_a_problem_passes_through():
    m = measurement(at_most(0.05), unusable("all unreadable", n=4))
    assert m.problem == "all unreadable"
    assert all(map(math.isnan, (m.value, m.low, m.high, m.p_broken)))


# ---------------------------------------------------------------- Holm


def test_holm_by_hand():
    # 4 claims at 5 %: sorted 0.01 <= 0.05/4, 0.015 <= 0.05/3, 0.03 > 0.05/2 stops; 0.04 falls with it
    assert holm([0.03, 0.01, 0.04, 0.015], 0.05) == [False, True, False, True]
    assert holm([], 0.05) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.sampled_from([0.01, 0.05, 0.2]))
@settings(max_examples=50, deadline=None)
def test_holm_agrees_with_statsmodels(p_values, alpha):
    assert holm(p_values, alpha) == multipletests(p_values, alpha=alpha, method="holm")[0].tolist()


def test_a_nan_is_never_a_proof_and_still_counts():
    assert holm([0.03], 0.05) == [True]
    assert holm([0.03, math.nan], 0.05) == [False, False]  # 0.03 > 0.05 / 2
    assert holm([0.02, math.nan], 0.05) == [True, False]


# ---------------------------------------------------------------- how many items


def test_items_needed_by_hand():
    limit = at_most(0.05)
    # 2 of 100, upper bound about 0.0616: 0.0416 above the value, 0.03 are left: 100 (0.0416/0.03)^2 = 193
    m = measurement(limit, proportion(2, 100))
    assert items_needed(m, limit) == math.ceil(100 * ((m.high - 0.02) / 0.03) ** 2)
    assert 150 < items_needed(m, limit) < 250
    # and with twice as many again the interval does decide: 4 of 200 is not yet enough, 8 of 400 is
    assert proportion(4, 200).high(0.05) < 0.05 or proportion(8, 400).high(0.05) < 0.05
    # broken, but not proven: 8 of 100, lower bound about 0.041: (0.08 - 0.041) / (0.08 - 0.05) squared
    m = measurement(limit, proportion(8, 100))
    assert items_needed(m, limit) == math.ceil(100 * ((0.08 - m.low) / 0.03) ** 2)


def test_items_needed_where_it_is_decided_is_what_there_is():
    assert items_needed(measurement(at_most(0.05), proportion(0, 300)), at_most(0.05)) == 300
    assert items_needed(measurement(at_least(0.5), proportion(90, 100)), at_least(0.5)) == 100
    assert items_needed(measurement(at_least(0.5), proportion(10, 100)), at_least(0.5)) == 100


def test_items_needed_for_a_floor():
    # 55 of 100, at least 0.5: the lower bound matters
    m = measurement(at_least(0.5), proportion(55, 100))
    assert items_needed(m, at_least(0.5)) == math.ceil(100 * ((0.55 - m.low) / 0.05) ** 2)


def test_no_number_of_items_decides_a_value_on_its_bound():
    assert items_needed(measurement(at_most(0.05), proportion(5, 100)), at_most(0.05)) is None
    assert items_needed(measurement(at_most(0.05), unusable("no", n=9)), at_most(0.05)) is None
    assert items_needed(measurement(at_most(0.05), ratio([1, 2, 3], [5, -4, 1])), at_most(0.05)) is None
