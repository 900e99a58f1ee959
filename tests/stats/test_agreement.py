"""Cohen's kappa against statsmodels and a published table, its bounds against simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.inter_rater import cohens_kappa
from yardsticks import kappa_coverage, labels_of

from harness.calibration import Hits
from harness.stats import agreement, kappa, proportion, sensitivity_specificity


def test_kappa_by_hand():
    counts = [[88, 14, 18], [10, 40, 10], [2, 6, 12]]
    # by hand: agree 140/200 = 0.70; chance (120 * 100 + 60 * 60 + 20 * 40)/200² = 0.41; kappa = 0.29/0.59
    assert kappa(labels_of(counts)).value == pytest.approx(0.29 / 0.59)


@given(st.lists(st.integers(0, 30), min_size=9, max_size=9))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # its z value, where its variance is 0
def test_kappa_is_statsmodels(counts):
    table = np.array(counts, dtype=float).reshape(3, 3)
    ours = kappa(labels_of(table))
    if ours.problem:
        assert np.count_nonzero(table) <= 1
        return
    assert ours.value == pytest.approx(cohens_kappa(table).kappa, abs=1e-9)
    assert ours.n == sum(counts)


@pytest.mark.parametrize("counts", [[[40, 5], [4, 11]], [[150, 20, 3], [10, 90, 8], [2, 7, 60]]])
def test_many_answers_give_the_large_sample_interval(counts):
    table = 5 * np.array(counts)
    ours, theirs = kappa(labels_of(table)), cohens_kappa(table)
    low, high = ours.bounds(0.05)
    assert low == pytest.approx(theirs.kappa - 1.645 * theirs.std_kappa, abs=0.35 * theirs.std_kappa)
    assert high == pytest.approx(theirs.kappa + 1.645 * theirs.std_kappa, abs=0.35 * theirs.std_kappa)


def test_complete_agreement_has_width():
    # 50 and 50: chance agrees on half, so kappa is 1 - 2 * (share that disagrees); Clopper-Pearson's bound on that
    # share, 0 of 100, is 0.0295
    estimate = kappa([("refusal", "refusal")] * 50 + [("compliance", "compliance")] * 50)
    low, high = estimate.bounds(0.05)
    assert estimate.value == high == 1
    assert low == pytest.approx(1 - 2 * proportion(0, 100).high(0.05), abs=0.005)


def test_bounds_enclose_and_narrow():
    for table in (
        [[8, 1], [0, 3]],
        [[1, 0], [0, 1]],
        [[0, 5], [5, 0]],
        [[9, 1], [0, 0]],
        [[20, 2, 0], [1, 5, 0], [1, 0, 0]],
    ):
        estimate = kappa(labels_of(table))
        bounds = [estimate.bounds(alpha) for alpha in (1e-5, 0.01, 0.05, 0.25)]
        assert all(-1 <= low <= estimate.value + 1e-9 and estimate.value - 1e-9 <= high <= 1 for low, high in bounds)
        assert all(a[0] <= b[0] and b[1] <= a[1] for a, b in itertools.pairwise(bounds))


def test_order_and_names_of_labels_do_not_matter():
    pairs = labels_of([[8, 1], [2, 3]])
    assert kappa(pairs[::-1]).bounds(0.05) == kappa(pairs).bounds(0.05)
    assert kappa([(second, first) for first, second in pairs]).value == pytest.approx(kappa(pairs).value)


@pytest.mark.parametrize(
    "pairs,n,problem",
    [([], 0, "no answers"), ([("refusal", "refusal")] * 30, 30, "both judges gave all 30 answers the same label")],
)
def test_where_kappa_has_no_meaning(pairs, n, problem):
    estimate = kappa(pairs)
    assert problem in estimate.problem
    assert estimate.n == n
    assert math.isnan(estimate.value)
    assert all(map(math.isnan, estimate.bounds(0.05)))


@pytest.mark.parametrize("margins,n,truth", [((0.5, 0.5), 60, 0.9), ((0.9, 0.1), 60, 0.4), ((0.97, 0.03), 200, 0.7)])
def test_kappa_errs_at_most_alpha(margins, n, truth, monkeypatch):
    monkeypatch.setattr(agreement, "DRAWS", 999)
    # 200 runs at a nominal 95 %: standard error 1.5 points, so 0.90 is three below. The large-sample interval covers
    # 84, 90 and 88 % on its worse side (docs/statistics.md)
    low, high = kappa_coverage(margins, n, truth, runs=200)
    assert min(low, high) > 0.90


def test_sensitivity_and_specificity_are_shares():
    sensitivity, specificity = sensitivity_specificity(Hits(found=90, positives=100, rejected=45, negatives=50))
    assert sensitivity.bounds(0.05) == proportion(90, 100).bounds(0.05)
    assert specificity.bounds(0.05) == proportion(45, 50).bounds(0.05)
    assert "0 items" in sensitivity_specificity((3, 4, 0, 0))[1].problem
