"""Variance parts: by hand, and unbiased in simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.stats import variance_parts


def test_by_hand():
    # means 0.5, 1, 0: variance 0.25, over 3 prompts 0.0833; within: (0.5 + 0 + 0)/3 = 0.1667, sampling
    # 0.1667 * (3 * 1/2)/9 = 0.02778, so prompts 0.0556
    parts = variance_parts([[0, 1], [1, 1], [0, 0]])
    assert parts == pytest.approx((1 / 12 - 1 / 36, 1 / 36))
    assert parts.sampling_share == pytest.approx(1 / 3)


def test_unequal_numbers_of_samples_by_hand():
    # within: ((1 - 0.5)² * 2 + 0 + 0)/(1 + 0 + 2) = 1/6; sampling (1/6)(1/2 + 1 + 1/3)/9
    parts = variance_parts([[0, 1], [1], [0, 0, 0]])
    sampling = 1 / 6 * (1 / 2 + 1 + 1 / 3) / 9
    assert parts == pytest.approx((0.25 / 3 - sampling, sampling))


def test_both_parts_are_the_variance_of_the_mean():
    rng = np.random.default_rng(2)
    samples = [(rng.normal(rng.normal(), 0.3, 4)).tolist() for _ in range(30)]
    means = np.mean(samples, axis=1)
    parts = variance_parts(samples)
    assert parts.prompts + parts.sampling == pytest.approx(means.var(ddof=1) / 30)


def test_prompts_that_vary_less_than_their_samples_would_make_them():
    parts = variance_parts([[0, 1], [1, 0], [0, 1]])  # all means are 0.5
    assert parts == (0, pytest.approx(0.5 * 1.5 / 9))
    assert parts.sampling_share == 1


@pytest.mark.parametrize("samples", [[], [[0, 1]], [[0.0], [1.0], [0.0]]])
def test_nothing_to_split(samples):
    parts = variance_parts(samples)
    assert all(map(math.isnan, (*parts, parts.sampling_share)))


def test_nothing_varies():
    parts = variance_parts([[1, 1], [1, 1]])
    assert parts == (0, 0)
    assert math.isnan(parts.sampling_share)


def test_a_prompt_without_samples_is_an_error():
    with pytest.raises(ValueError, match="without samples"):
        variance_parts([[0.0, 1.0], []])


@pytest.mark.parametrize("binary", [False, True])
def test_unbiased(binary):
    # truth: prompts' spread and sampling spread over 40 prompts with 2 to 5 samples; 1500 runs
    rng = np.random.default_rng(4)
    counts = np.array([2, 3, 4, 5] * 10)
    found = []
    for _ in range(1500):
        if binary:
            shares = rng.beta(2, 1, 40)
            samples = [(rng.random(k) < p).astype(float).tolist() for k, p in zip(counts, shares, strict=True)]
        else:
            centres = rng.normal(0, 0.5, 40)
            samples = [rng.normal(c, 0.8, k).tolist() for k, c in zip(counts, centres, strict=True)]
        found.append(variance_parts(samples))
    # beta(2, 1): variance 1/18, mean of p (1 - p) = 1/6
    between, within = (1 / 18, 1 / 6) if binary else (0.25, 0.64)
    prompts, sampling = np.mean(found, axis=0)
    assert sampling == pytest.approx(within * np.mean(1 / counts) / 40, rel=0.03)
    assert prompts == pytest.approx(between / 40, rel=0.05)
