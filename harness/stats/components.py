"""Where the variance of a mean over prompts comes from, when each prompt was asked several times."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class VarianceParts(NamedTuple):
    """Components of the variance of a mean over prompts of per-prompt means."""

    prompts: float
    """From asking these prompts and not others: it falls with more prompts only."""
    sampling: float
    """From the answers drawn to each prompt: it falls with more prompts and with more samples per prompt."""

    @property
    def sampling_share(self) -> float:
        """Sampling's share of both, in [0, 1]; NaN where nothing varies."""
        total = self.prompts + self.sampling
        return self.sampling / total if total > 0 else math.nan


def variance_parts(samples: Sequence[Sequence[float]]) -> VarianceParts:
    """Variance of mean_i(mean_j samples[i][j]) over m prompts i with k_i samples j each, split into its two parts.

    One-way random effects, y_ij = mean + prompt_i + error_ij, by the method of moments on unweighted prompt means
    (Searle, Casella and McCulloch, *Variance Components*, 1992, section 3.6): the within-prompt mean square w is pooled
    over prompts; sampling = w mean(1/k_i)/m; prompts = (variance of the prompt means)/m - sampling, and 0 where that is
    below 0. Before this truncation both are unbiased, also for unequal k_i (where w varies between prompts, as it does
    for shares, if k_i has nothing to do with it).

    Both NaN with fewer than two prompts, or where no prompt has two samples. Raises ``ValueError`` for a prompt without
    samples.
    """
    if not all(len(row) for row in samples):
        raise ValueError("a prompt without samples has no mean: leave it out")
    m, spare = len(samples), sum(len(row) - 1 for row in samples)
    if m < 2 or spare < 1:
        return VarianceParts(math.nan, math.nan)
    means = [math.fsum(row) / len(row) for row in samples]
    within = math.fsum((y - mean) ** 2 for row, mean in zip(samples, means, strict=True) for y in row) / spare
    sampling = within * math.fsum(1 / len(row) for row in samples) / m**2
    total = float(np.var(means, ddof=1)) / m
    return VarianceParts(max(0.0, total - sampling), sampling)
