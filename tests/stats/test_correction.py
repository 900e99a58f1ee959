"""Rogan and Gladen's correction: by hand, back and forth, and its bounds against simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yardsticks import corrected_coverage

from harness.stats import (
    corrected_difference,
    corrected_rate,
    corrected_share,
    correction,
    paired_difference,
    proportion,
)

SURE = (10**7, 10**7, 10**7, 10**7)
"""A judge that is always right, by so many answers that nothing is uncertain."""
GOOD = (180, 200, 190, 200)
"""Sensitivity 0.90, specificity 0.95."""


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setattr(correction, "DRAWS", 1_999)


def test_by_hand():
    # (0.60 + 0.95 - 1)/(0.90 + 0.95 - 1) = 0.55/0.85
    assert corrected_share(proportion(120, 200), GOOD).value == pytest.approx(0.55 / 0.85)
    found = corrected_difference(0.7, 0.6, paired_difference(5, 25, 200), GOOD, 0.05)
    assert found.value == pytest.approx(-0.1 / 0.85)
    assert (found.reference, found.candidate) == pytest.approx((0.65 / 0.85, 0.55 / 0.85))
    assert found.candidate - found.reference == pytest.approx(found.value)
    assert found.low < found.value < found.high < 0
    assert "Rogan and Gladen" in found.method


def test_a_judge_that_is_never_wrong_changes_nothing():
    raw = proportion(37, 60)
    assert corrected_share(raw, SURE).bounds(0.05) == pytest.approx(raw.bounds(0.05), abs=0.005)
    raw = paired_difference(3, 12, 60)
    found = corrected_difference(0.5, 0.35, raw, SURE, 0.05)
    assert (found.low, found.high) == pytest.approx(raw.bounds(0.05), abs=0.008)


@given(st.floats(0, 1), st.floats(0.6, 1), st.floats(0.6, 1))
@settings(max_examples=60, deadline=None)
def test_the_formula_undoes_the_judges_error(share, se, sp):
    seen = share * se + (1 - share) * (1 - sp)
    back = correction._share(np.array(seen), np.array(se), np.array(sp))
    assert float(back) == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize("k,expected", [(8, 0.0), (184, 1.0)])
def test_shares_that_no_true_share_gives_are_clipped(k, expected):
    # with these errors no refusals at all show as 0.05 of the answers, and nothing else than refusals as 0.90
    estimate = corrected_share(proportion(k, 200), GOOD)
    low, high = estimate.bounds(0.05)
    assert estimate.value == expected
    assert 0 <= low <= expected <= high <= 1
    assert high - low > 0.01


@pytest.mark.parametrize(
    "k,reason", [(0, "gives 0.0% this label, fewer than"), (200, "gives 100.0% this label, more than")]
)
def test_labels_that_the_calibration_rules_out_are_not_corrected(k, reason):
    estimate = corrected_share(proportion(k, 200), GOOD)
    assert reason in estimate.problem
    assert all(map(math.isnan, (estimate.value, *estimate.bounds(0.05))))
    assert reason in corrected_rate(0.5, proportion(k, 200), GOOD, 0.05).method


def test_the_calibrations_own_uncertainty_is_in_the_bounds():
    raw = paired_difference(10, 60, 200)
    few, many = ((9 * m, 10 * m, 9 * m, 10 * m) for m in (3, 300))
    wide, narrow = (corrected_difference(0.7, 0.45, raw, hits, 0.05) for hits in (few, many))
    assert wide.value == pytest.approx(narrow.value)
    assert wide.low < narrow.low - 0.02
    # and a wider raw interval comes out wider by 1/(se + sp - 1) = 1.25
    low, high = raw.bounds(0.05)
    assert narrow.high - narrow.low == pytest.approx(1.25 * (high - low), rel=0.05)


def test_bounds_narrow_as_alpha_grows():
    bounds = [corrected_share(proportion(30, 60), GOOD).bounds(alpha) for alpha in (0.001, 0.01, 0.05, 0.25)]
    assert all(a[0] <= b[0] and b[1] <= a[1] for a, b in itertools.pairwise(bounds))


def test_swapping_the_models_negates_the_difference():
    one = corrected_difference(0.7, 0.6, paired_difference(5, 25, 200), GOOD, 0.05)
    other = corrected_difference(0.6, 0.7, paired_difference(25, 5, 200), GOOD, 0.05)
    assert (other.value, other.low, other.high) == pytest.approx((-one.value, -one.high, -one.low), abs=0.01)


@pytest.mark.parametrize(
    "hits,reason",
    [
        ((50, 100, 50, 100), "not clearly better than chance"),
        ((55, 100, 52, 100), "55 of 100 found, 52 of 100 rejected"),
        ((2, 2, 2, 4), "not clearly better than chance"),
        ((90, 100, 0, 0), "100 answers with the label and 0 without it"),
        ((0, 0, 90, 100), "0 answers with the label and 100 without it"),
    ],
)
def test_a_judge_not_clearly_better_than_chance_is_not_corrected_for(hits, reason):
    estimate = corrected_share(proportion(30, 60), hits)
    assert reason in estimate.problem
    assert all(map(math.isnan, (estimate.value, *estimate.bounds(0.05))))
    for found in (
        corrected_difference(0.5, 0.4, paired_difference(5, 11, 60), hits, 0.05),
        corrected_rate(0.5, proportion(30, 60), hits, 0.05),
    ):
        assert reason in found.method
        assert all(map(math.isnan, (found.reference, found.candidate, found.value, found.low, found.high)))


def test_a_difference_is_not_corrected_where_one_side_cannot_be():
    """None of 240 labelled, by a judge that gives 1 in 20 the label wrongly: it errs otherwise on these answers."""
    calibrated = (180, 200, 950, 1000)
    kept = corrected_difference(0.75, 0.30, paired_difference(0, 108, 240), calibrated, 0.05)
    assert kept.value == pytest.approx(-0.45 / 0.85)
    for reference, candidate, whose in ((0.75, 0.0, "candidate"), (0.0, 0.75, "reference")):
        lost, gained = round(240 * reference), round(240 * candidate)
        found = corrected_difference(reference, candidate, paired_difference(gained, lost, 240), calibrated, 0.05)
        assert math.isnan(found.value)
        assert math.isnan(found.high)
        assert "gives 0.0% this label, fewer than its calibrated error leaves possible" in found.method
        assert found.method.endswith(f"(the {whose}'s)")


def test_nothing_measured_is_not_corrected():
    found = corrected_difference(math.nan, math.nan, paired_difference(0, 0, 0), GOOD, 0.05)
    assert "0 items" in found.method
    assert math.isnan(found.low)


@pytest.mark.parametrize("hits", [(11, 10, 5, 10), (-1, 10, 5, 10), (5, 10, 11, 10)])
def test_impossible_counts(hits):
    with pytest.raises(ValueError, match="cannot be those of"):
        corrected_share(proportion(1, 2), hits)


def test_a_rate_has_the_references_beside_it():
    found = corrected_rate(0.8, proportion(120, 200), GOOD, 0.05)
    assert (found.reference, found.candidate) == pytest.approx((0.75 / 0.85, 0.55 / 0.85))
    assert found.value == found.candidate
    assert found.low < found.value < found.high


@pytest.mark.parametrize("share,change,se,sp,answers", [(0.3, -0.1, 0.8, 0.9, 100), (0.95, 0.0, 0.95, 0.99, 200)])
def test_corrected_numbers_err_at_most_alpha(share, change, se, sp, answers, monkeypatch):
    monkeypatch.setattr(correction, "DRAWS", 499)
    monkeypatch.setattr(correction, "LEVELS", 9)
    # 120 runs at a nominal 95 %: standard error 2 points, so 0.89 is three below
    one, other = corrected_coverage(share, change, se, sp, n=200, answers=answers, runs=120)
    assert min(*one, *other) > 0.89
