"""Items that are not independent: bounds by cluster against brute force, independent items and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from yardsticks import cluster_coverage

from harness.errors import MeasurementError
from harness.stats import intervals, mean, paired_change, paired_difference, proportion, rank_correlation, ratio, share

ALPHAS = (0.001, 0.01, 0.05, 0.25)


def of_sizes(*sizes: int) -> list[str]:
    return [f"c{i}" for i, size in enumerate(sizes) for _ in range(size)]


# ---------------------------------------------------------------- nothing shared


def test_without_shared_clusters_every_number_is_that_of_independent_items():
    rng = np.random.default_rng(0)
    values, other = rng.normal(-5, 2, 30), rng.normal(-9, 1, 30)
    own = [f"p{i}" for i in rng.permutation(30)]
    for one, two in (
        (mean(values, clusters=own), mean(values)),
        (mean(values / 20, (-1, 1), own), mean(values / 20, (-1, 1))),
        (ratio(values, other, own), ratio(values, other)),
        (rank_correlation(values, other, own), rank_correlation(values, other)),
        (share(values < -5, own), proportion(int((values < -5).sum()), 30)),
        (paired_change(np.sign(values.round(-1)), own), paired_difference(0, int((values.round(-1) < 0).sum()), 30)),
    ):
        assert (one.value, one.n, one.method) == (two.value, two.n, two.method)
        assert one.bounds(0.05) == two.bounds(0.05)


def test_labels_must_fit():
    with pytest.raises(ValueError, match="3 cluster labels for 2 items"):
        mean([1.0, 2.0], clusters=["a", "a", "b"])
    with pytest.raises(ValueError, match="steps of 1, 0 and -1"):
        paired_change([0.5])


# ---------------------------------------------------------------- bounded


def test_clusters_of_equal_size_are_their_means():
    rng = np.random.default_rng(1)
    values = rng.uniform(-1, 1, (12, 3))
    ours = mean(values.ravel(), (-1, 1), of_sizes(*[3] * 12))
    theirs = mean(values.mean(axis=1), (-1, 1))
    assert ours.n == 12
    assert "12 clusters" in ours.method
    assert ours.value == pytest.approx(theirs.value)
    assert ours.bounds(0.05) == pytest.approx(theirs.bounds(0.05))


def test_copies_of_an_item_say_nothing_new():
    # each of 20 answers counted five times: the interval is that of 20
    hits = np.arange(20) < 7
    ours = share(np.repeat(hits, 5), of_sizes(*[5] * 20))
    assert ours.bounds(0.05) == pytest.approx(proportion(7, 20).bounds(0.05), abs=0.012)  # 9999 draws
    naive = share(np.repeat(hits, 5))
    assert naive.high(0.05) < ours.high(0.05) - 0.05


def test_weights_on_clusters_by_brute_force():
    # the definition: w_g ~ Dirichlet(1, ..., 1), sum(w S)/sum(w n), with one more cluster as large as the largest
    sizes = np.array([1, 4, 2, 2, 7])
    values = np.array([0.5, 0, 0, 1, 0, -1, 0.2, 0, 0, 1, 1, 0, 0, 0, -0.5, 1])
    clusters = of_sizes(*sizes)
    sums = np.array([values[[c == f"c{g}" for c in clusters]].sum() for g in range(5)])
    ours = mean(values, (-1, 1), clusters)
    assert ours.value == pytest.approx(values.mean())
    assert ours.n == 5
    weights = np.random.default_rng(3).dirichlet(np.ones(6), 100_000)
    for end, bound in ((1, ours.high), (-1, ours.low)):
        drawn = weights @ [*sums, 7 * end] / (weights @ [*sizes, 7])
        for alpha in (0.05, 0.2):
            assert np.mean(end * drawn > end * bound(alpha)) == pytest.approx(alpha, abs=0.01)


@given(st.lists(st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=5), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_bounded_cluster_means_enclose_narrow_swap_and_ignore_order(rows):
    values = [v for row in rows for v in row]
    clusters = of_sizes(*map(len, rows))
    estimate = mean(values, (-1, 1), clusters)
    bounds = [estimate.bounds(alpha) for alpha in ALPHAS]
    assert all(-1 <= low <= estimate.value + 1e-9 and estimate.value - 1e-9 <= high <= 1 for low, high in bounds)
    assert all(a[0] <= b[0] + 1e-9 and b[1] <= a[1] + 1e-9 for a, b in itertools.pairwise(bounds))
    low, high = estimate.bounds(0.05)
    assert mean([-v for v in values], (-1, 1), clusters).bounds(0.05) == pytest.approx((-high, -low), abs=1e-9)
    assert mean(values[::-1], (-1, 1), clusters[::-1]).bounds(0.05) == pytest.approx((low, high), abs=1e-9)


def test_all_equal_in_unequal_clusters_has_width():
    # no prompt of any cluster changed: a share 1 - 0.05^(1/8) of clusters may, and large ones weigh more
    low, high = paired_change([0] * 20, of_sizes(1, 1, 1, 1, 2, 2, 2, 10)).bounds(0.05)
    assert high == pytest.approx(-low)
    assert high > 1 - 0.05 ** (1 / 8)


def test_one_cluster_says_next_to_nothing():
    assert mean([0.1] * 50, (-1, 1), ["a"] * 50).bounds(0.05) == mean([0.1], (-1, 1)).bounds(0.05)
    estimate = mean([0.1, 0.3], None, ["a", "a"])
    assert "one cluster" in estimate.problem
    assert estimate.n == 1


@pytest.mark.parametrize("support", [None, (-1.0, 1.0)])
def test_damaged_values_are_found_in_clusters_too(support):
    with pytest.raises(MeasurementError, match="1 of 3 values are NaN"):
        mean([0.0, math.nan, 0.5], support, ["a", "a", "b"])
    assert "0 values" in mean([], support, []).problem


# ---------------------------------------------------------------- unbounded


def test_equal_clusters_give_students_t_of_their_means():
    values = np.random.default_rng(5).normal(-20, 8, (30, 4))
    ours = mean(values.ravel(), clusters=of_sizes(*[4] * 30))
    t = scipy_stats.ttest_1samp(values.mean(axis=1), 0).confidence_interval(0.90)
    low, high = ours.bounds(0.05)
    assert low <= t.low + 0.05
    assert high >= t.high - 0.05
    assert high - low < 1.4 * (t.high - t.low)  # one more value like the furthest
    assert ours.bounds(0.05) == pytest.approx(mean(values.mean(axis=1)).bounds(0.05))


def test_unequal_clusters_by_hand():
    # clusters (0, 2), (4), (1, 1, 1): mean 1.5 over 6; left out one by one: 7/4, 5/5, 6/3
    estimate = mean([0, 2, 4, 1, 1, 1], clusters=of_sizes(2, 1, 3))
    left_out = np.array([7 / 4, 5 / 5, 6 / 3])
    error = math.sqrt(2 / 3 * np.sum((left_out - 1.5) ** 2))
    freedom = 36 / 14 - 1
    reach = scipy_stats.t.isf(0.05, freedom) * error
    low, high = estimate.bounds(0.05)
    assert (estimate.value, estimate.n) == (1.5, 3)
    # one side is Student's, the other Hall's, which reaches further
    assert sorted([1.5 - low, high - 1.5])[0] == pytest.approx(reach)
    assert max(1.5 - low, high - 1.5) > reach


def test_equal_means_of_unequal_clusters_are_a_problem():
    estimate = mean([2.0, 2.0, 1.0, 3.0, 2.0], clusters=of_sizes(1, 1, 2, 1))
    assert "clusters' means equal 2" in estimate.problem
    assert "cluster" in mean([1.0, 3.0, 2.0, 2.0], clusters=of_sizes(2, 2)).problem


def test_ratio_of_cluster_sums():
    a, b = [1.0, 2, 3, 4, 5, 7], [2.0, 2, 7, 8, 9, 14]
    ours = ratio(a, b, of_sizes(2, 1, 2, 1))
    theirs = ratio([3.0, 3, 9, 7], [4.0, 7, 17, 14])
    assert ours.value == pytest.approx(22 / 42)
    assert (ours.n, *ours.bounds(0.05)) == (4, *theirs.bounds(0.05))
    assert "at least 2" in ratio([1.0, 2.0], [1.0, 2.0], ["a", "a"]).problem


def test_rank_correlation_of_copies_is_no_surer():
    rng = np.random.default_rng(6)
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    one = rank_correlation(x, y)
    ours = rank_correlation(np.repeat(x, 4), np.repeat(y, 4), np.repeat(np.arange(40), 4))
    assert ours.n == 40
    assert ours.value == pytest.approx(one.value)
    assert ours.bounds(0.05) == pytest.approx(one.bounds(0.05), abs=0.01)
    assert "10 clusters" in rank_correlation(np.arange(20.0), np.arange(20.0) ** 2 % 7, np.arange(20) // 3).problem


# ---------------------------------------------------------------- coverage


@pytest.mark.parametrize("sizes", ["equal", "uneven", "one large"])
@pytest.mark.parametrize("likeness", [0.0, 0.3, 0.9])
def test_bounds_by_cluster_err_at_most_alpha(sizes, likeness, monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 499)
    # 150 and 600 runs with 20 clusters at a nominal 95 %: standard errors 1.8 and 0.9 points; three below
    assert min(cluster_coverage("shares", sizes, 20, likeness, runs=150)) > 0.89
    assert min(cluster_coverage("normal", sizes, 20, likeness, runs=600)) > 0.92


def test_taking_clustered_items_as_independent_errs_far_more():
    low, high = cluster_coverage("normal", "uneven", 20, 0.9, runs=300, blind=True)
    assert min(low, high) < 0.85
