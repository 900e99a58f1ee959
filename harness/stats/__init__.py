"""Intervals, p-values and corrections. Pure: no models, no files.

One idea runs through it. A limit is decided on the bound of a one-sided interval, so what counts is that each bound
errs with probability at most alpha, also where counts are small and where both models agree everywhere. A share uses
Clopper-Pearson; a paired difference of shares and the mean of bounded values use its generalisation to more than two
values (Gaffke's bound, ``intervals.py``); only unbounded values (log-probabilities) need asymptotics.
"""

from harness.stats.decisions import holm, items_needed, measurement, p_broken
from harness.stats.intervals import Estimate, mean, paired_difference, proportion, rank_correlation, ratio, unusable

__all__ = [
    "Estimate",
    "holm",
    "items_needed",
    "mean",
    "measurement",
    "p_broken",
    "paired_difference",
    "proportion",
    "rank_correlation",
    "ratio",
    "unusable",
]
