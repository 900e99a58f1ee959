"""Intervals, p-values and corrections. Pure: no models, no files.

One idea runs through it. A limit is decided on the bound of a one-sided interval, so what counts is that each bound
errs with probability at most alpha, also where counts are small and where both models agree everywhere. A share uses
Clopper-Pearson; a paired difference of shares and the mean of bounded values use its generalisation to more than two
values (Gaffke's bound, ``intervals.py``); only unbounded values (log-probabilities) need asymptotics.

Beside it: intervals that hold when one may stop early (``sequential.py``), how many prompts a claim takes
(``power.py``), agreement of judges (``agreement.py``), correction for a judge's error (``correction.py``) and where the
variance comes from (``components.py``). ``docs/statistics.md`` shows how often each of them errs.
"""

from harness.stats.agreement import kappa, sensitivity_specificity
from harness.stats.components import VarianceParts, variance_parts
from harness.stats.correction import corrected_difference, corrected_rate, corrected_share
from harness.stats.decisions import holm, items_needed, measurement, p_broken
from harness.stats.intervals import (
    Estimate,
    Labels,
    mean,
    paired_change,
    paired_difference,
    proportion,
    rank_correlation,
    ratio,
    share,
    unusable,
)

__all__ = [
    "Estimate",
    "Labels",
    "VarianceParts",
    "corrected_difference",
    "corrected_rate",
    "corrected_share",
    "holm",
    "items_needed",
    "kappa",
    "mean",
    "measurement",
    "p_broken",
    "paired_change",
    "paired_difference",
    "proportion",
    "rank_correlation",
    "ratio",
    "sensitivity_specificity",
    "share",
    "unusable",
    "variance_parts",
]
