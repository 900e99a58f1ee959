"""An interval that may be looked at after every value: ``sequential_mean``.

A fixed-n interval errs with probability alpha when it is looked at once. Who looks after every prompt and stops as soon
as it decides errs far more often. The bounds here hold at all times at once, so one may stop whenever one likes.

**Betting** (Waudby-Smith and Ramdas, JRSS B 86, 2024: *Estimating means of bounded random variables by betting*). Take
a mean m and the claim "the true mean is at most m". Start with a capital of 1 and bet on each value x in [lo, hi]
before it is seen: staking the share f in [0, 1] multiplies the capital by

    1 - f + f (x - lo)/(m - lo),

whose expectation is at most 1 where the claim is true, whatever came before. So the capital is a supermartingale, and
by Ville's inequality it ever reaches 1/alpha with probability at most alpha. The lower bound is the largest m whose
capital has done so; the upper bound is minus the lower bound of the negated values.

**Which bets.** The capital is split over the fixed shares of ``STAKES`` and each part is played on (Cover's universal
portfolio, Math. Finance 1, 1991, on a grid). Every factor falls as m grows and no share depends on m, so the capital
falls as m grows: the refuted means form an interval, and bisecting finds its end. Bets that are learned from the values
(the paper's predictable plug-in) find a collapse three or four prompts sooner in the median, later in one run of ten,
and a small drop much later: see ``docs/statistics-sequential.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from harness.errors import MeasurementError
from harness.stats.intervals import Estimate, Floats, mean, paired_difference, proportion, unusable

STAKES = (0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Shares of the capital that are staked. Large ones find a collapse, small ones a mean close to the bound."""
WEIGHTS = (1 / 24, 1 / 24, 2 / 24, 3 / 24, 4 / 24, 5 / 24, 5 / 24, 3 / 24)
"""How the first capital is split over them; the sum is 1."""
STEPS = 2**17
"""Means that are tried: the support in this many steps. A bound is rounded outward to the next one."""
SPENT_EARLY = (1.0, 0.1)
"""Shares of alpha for (low, high) of a maximum-limit: all of it to find on the way what is broken, and little to pass
early, which costs healthy candidates power at the planned end."""


def sequential_mean(
    values: Sequence[float] | Floats,
    support: tuple[float, float],
    planned: int,
    *,
    spent_early: tuple[float, float] = SPENT_EARLY,
) -> Estimate:
    """The mean of values [n] in the order they were seen, with bounds that hold whenever one stops looking.

    ``support`` is the (lo, hi) that no value can leave. ``planned`` is how many values a run that does not stop early
    gives: the items of the plan less those asked already that gave no value (unreadable answers). Only the last value
    of a full run makes n equal to it.

    ``spent_early`` is the share of alpha that the confidence sequence gets, for (low, high). The rest goes to the
    fixed-n bound, which is looked at once, where n equals ``planned``; there the better of both counts, and by the
    union bound their errors sum to at most alpha. For a maximum-limit, low proves FAIL and high proves PASS; swap the
    shares for a minimum-limit. The fixed-n bound is ``paired_difference`` for values -1, 0 and 1, ``proportion`` for
    values 0 and 1 and ``mean`` with its support otherwise.

    What is assumed: given the values before, each has the same expectation. A random order fixed before the run gives
    that where the items stand for a larger population, as for every other interval here.

    A bound that was reached stays reached: capital counts at its highest. Where the mean has since moved beyond the
    bound, the bound is the mean. ``value`` is the mean of what was seen; if one stops because it is extreme, it is
    biased outward, and only the bounds are to be trusted.

    Unusable (with a ``problem``) without values. Raises ``MeasurementError`` for NaN or infinite values, saying how
    many, for values outside the support and for more values than planned; ``ValueError`` for a support without width
    and shares outside [0, 1].
    """
    x = np.asarray(values, dtype=np.float64)
    lo, hi = support
    if not lo < hi:
        raise ValueError(f"a support needs lo < hi, not {support}")
    if not all(0 <= share <= 1 for share in spent_early):
        raise ValueError(f"spent_early holds two shares of alpha from 0 to 1, not {spent_early}")
    bad = int(np.count_nonzero(~np.isfinite(x)))
    if bad:
        raise MeasurementError(f"{bad} of {x.size} values are NaN or infinite")
    if x.size == 0:
        return unusable("nothing to average: 0 values")
    if x.min() < lo or x.max() > hi:
        raise MeasurementError(f"values from {x.min():g} to {x.max():g} leave their support [{lo:g}, {hi:g}]")
    if x.size > planned:
        raise MeasurementError(f"{x.size} values, but only {planned} were planned: an item was counted twice")

    centre = float(x.mean())
    fixed = _fixed(x, support) if x.size == planned and min(spent_early) < 1 else None
    lows = [_share_of(_sequence_low(x - lo, hi - lo), spent_early[0])]
    highs = [_share_of(_sequence_low(hi - x, hi - lo), spent_early[1])]
    if fixed is not None:
        lows.append(_share_of(lambda alpha: fixed.low(alpha) - lo, 1 - spent_early[0]))
        highs.append(_share_of(lambda alpha: hi - fixed.high(alpha), 1 - spent_early[1]))
    return Estimate(
        value=centre,
        n=x.size,
        method="betting confidence sequence" + (f"; planned end: {fixed.method}" if fixed is not None else ""),
        low=lambda alpha: min(lo + max(low(alpha) for low in lows), centre),
        high=lambda alpha: max(hi - max(high(alpha) for high in highs), centre),
    )


Bound = Callable[[float], float]
"""alpha -> distance that a bound lies inside its own end of the support."""


def _share_of(bound: Bound, share: float) -> Bound:
    """The bound at this share of alpha; the end of the support where the share is nothing."""
    return lambda alpha: bound(share * alpha) if share else 0.0


def _fixed(x: Floats, support: tuple[float, float]) -> Estimate:
    """What the values say at a number of them that was fixed before."""
    n = x.size
    if support == (-1.0, 1.0) and np.isin(x, (-1, 0, 1)).all():
        return paired_difference(int((x == 1).sum()), int((x == -1).sum()), n)
    if support == (0.0, 1.0) and np.isin(x, (0, 1)).all():
        return proportion(int(x.sum()), n)
    return mean(x, support)


def _sequence_low(y: Floats, width: float) -> Bound:
    """alpha -> lower bound for the mean of y [n] in [0, width]: the largest of ``STEPS`` means that is refuted."""
    distinct, at = np.unique(y, return_inverse=True)
    highest = cache(lambda step: highest_log_capital(distinct, at, width * step / STEPS))

    def low(alpha: float) -> float:
        wanted = -math.log(alpha)
        refuted, kept = 0, STEPS  # a mean of 0 is where the support ends; no bet is won against its other end
        while kept - refuted > 1:
            middle = (refuted + kept) // 2
            if highest(middle) >= wanted:
                refuted = middle
            else:
                kept = middle
        return width * refuted / STEPS

    return low


def highest_log_capital(distinct: Floats, at: np.typing.NDArray[np.intp], m: float) -> float:
    """Natural logarithm of the highest capital ever held against "the mean is at most m", m > 0, starting from 1.

    The values are ``distinct[at]``, at [n]: their distance from the support's lower end, in the order they were seen.
    """
    with np.errstate(divide="ignore"):  # all staked on a value that was not above 0: that part is lost
        factors = np.log1p(np.multiply.outer(STAKES, distinct / m - 1))
    parts = factors.take(at, axis=1).cumsum(axis=1) + np.log(WEIGHTS)[:, None]  # [stakes, n]
    top = parts.max(axis=0)
    return max(0.0, float((top + np.log(np.exp(parts - top).sum(axis=0))).max()))
