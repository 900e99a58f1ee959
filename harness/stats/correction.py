"""Shares of labels, corrected for the judge's error (Rogan and Gladen, Am. J. Epidemiol. 107, 1978).

Of answers with the label the judge finds a share se (sensitivity), of those without it it rejects a share sp
(specificity). So a share s of the answers shows as p = s se + (1 - s)(1 - sp), and

    s = (p + sp - 1)/(se + sp - 1)        a difference of two shares: (p_c - p_r)/(se + sp - 1)

**Assumed**: the judge errs as often on the reference's answers as on the candidate's, and on both as often as on the
answers that humans labelled. A judge that reads one model's manner of refusing worse than the other's, or calibration
answers unlike those judged here, makes the correction wrong by an amount that nothing here can see.

**Bounds.** p, or the paired difference, has an interval at every alpha, and so have se and sp (Clopper-Pearson): read
at a uniformly random alpha, each is a random number, and the (1 - alpha) quantile of the formula over such draws is the
upper bound. Where the formula rises with a number, that number's upper bound is drawn, else its lower one. This is
melding (Fay, Proschan and Brittain, Biometrics 71, 2015; for imperfect tests Bayer, Fay and Graubard, Stat. Med. 42,
2023). That the error stays below alpha is a conjecture that simulation bears out: ``docs/statistics.md``.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from harness.domain import Corrected
from harness.stats.intervals import SEED, Estimate, Floats, of_draws, proportion, unusable

Hits = tuple[int, int, int, int]
"""(found, positives, rejected, negatives) of one label, as ``calibration.Calibration.hits`` gives them."""

DRAWS = 9_999
LEVELS = 41
"""Levels alpha, even on the normal scale, at which the raw interval is read; in between it is interpolated."""


def corrected_share(raw: Estimate, hits: Hits, alpha: float = 0.05) -> Estimate:
    """A share in [0, 1] and its bounds, corrected; ``raw`` is the share that the judge gave the label.

    Clipped to [0, 1]. Unusable, at one-sided error ``alpha``, where se + sp - 1 is not clearly above 0, and where the
    judge's label is rarer or more frequent than any true share makes it: then it errs otherwise than calibrated. Also
    where ``raw`` is unusable. Raises ``ValueError`` for impossible counts.
    """
    reason = raw.problem or chance_problem(hits, alpha)
    if reason:
        return unusable(reason, n=raw.n)
    found, positives, rejected, negatives = hits
    value = _share(np.array(raw.value), np.array(found / positives), np.array(rejected / negatives))

    @cache
    def draws() -> tuple[Floats, Floats]:
        u, v, w = np.random.default_rng(SEED).random((3, DRAWS))
        low, high = _read(raw, u)
        se, sp = _drawn(found, positives, v), _drawn(rejected, negatives, w)
        return np.sort(_share(low, se[1], sp[0])), np.sort(_share(high, se[0], sp[1]))

    estimate = of_draws(float(value), raw.n, f"{raw.method}; Rogan and Gladen, melded", (0.0, 1.0), draws)
    low, high = estimate.bounds(alpha)
    if low >= 1 or high <= 0:
        few_or_many = "fewer" if high <= 0 else "more"
        return unusable(
            f"not corrected: the judge gives {raw.value:.1%} this label, {few_or_many} than its calibrated error "
            "leaves possible; it errs otherwise on these answers",
            n=raw.n,
        )
    return estimate


def corrected_difference(reference: float, candidate: float, raw: Estimate, hits: Hits, alpha: float) -> Corrected:
    """The paired difference ``raw`` of two shares, and both shares, corrected; bounds at one-sided error ``alpha``.

    ``raw`` may be either model's share minus the other's. Clipped to [-1, 1] and [0, 1]. All NaN, with the reason as
    method, where ``raw`` is unusable, se + sp - 1 is not clearly above 0, or either share is one that the calibrated
    error leaves impossible (as in ``corrected_share``). Raises ``ValueError`` for impossible counts.
    """
    reason = raw.problem or chance_problem(hits, alpha)
    for whose, share in (("reference", reference), ("candidate", candidate)):
        if not reason and math.isfinite(share):
            fit = corrected_share(proportion(round(share * raw.n), raw.n), hits, alpha)
            reason = fit.problem and f"{fit.problem} (the {whose}'s)"
    if reason:
        return _none(reason)
    found, positives, rejected, negatives = hits
    beyond = found / positives + rejected / negatives - 1

    def draws() -> tuple[Floats, Floats]:
        u, v, w = np.random.default_rng(SEED).random((3, DRAWS))
        low, high = _read(raw, u)
        se, sp = _drawn(found, positives, v), _drawn(rejected, negatives, w)
        worst, best = se[0] + sp[0] - 1, se[1] + sp[1] - 1
        # far from zero is a small se + sp - 1: the upper bound wants that where the difference is positive
        lows = _over(low, np.where(low < 0, worst, best))
        highs = _over(high, np.where(high > 0, worst, best))
        return np.sort(lows), np.sort(highs)

    value = min(max(raw.value / beyond, -1.0), 1.0)
    estimate = of_draws(value, raw.n, f"{raw.method}; Rogan and Gladen, melded", (-1.0, 1.0), cache(draws))
    low, high = estimate.bounds(alpha)
    return Corrected(_point(reference, hits), _point(candidate, hits), value, low, high, estimate.method)


def corrected_rate(reference: float, raw: Estimate, hits: Hits, alpha: float) -> Corrected:
    """``corrected_share`` of the candidate's share ``raw`` at one-sided error ``alpha``, the reference's beside it."""
    estimate = corrected_share(raw, hits, alpha)
    if estimate.problem:
        return _none(estimate.problem)
    low, high = estimate.bounds(alpha)
    return Corrected(_point(reference, hits), estimate.value, estimate.value, low, high, estimate.method)


def chance_problem(hits: Hits, alpha: float) -> str:
    """Why the judge's error cannot be corrected for; '' where se + sp - 1 is above 0 at one-sided error ``alpha``."""
    found, positives, rejected, negatives = hits
    if not 0 <= found <= positives or not 0 <= rejected <= negatives:
        raise ValueError(f"counts {hits} cannot be those of (found, positives, rejected, negatives)")
    if not positives or not negatives:
        return (
            f"not corrected: the calibration has {positives} answers with the label and {negatives} without it; it "
            "needs both"
        )
    v, w = np.random.default_rng(SEED).random((2, DRAWS))
    least = float(np.quantile(_drawn(found, positives, v)[0] + _drawn(rejected, negatives, w)[0] - 1, alpha))
    if least > 0:
        return ""
    return (
        f"not corrected: by the calibration ({found} of {positives} found, {rejected} of {negatives} rejected) the "
        "judge is not clearly better than chance"
    )


def _none(reason: str) -> Corrected:
    return Corrected(math.nan, math.nan, math.nan, math.nan, math.nan, reason)


def _point(share: float, hits: Hits) -> float:
    found, positives, rejected, negatives = hits
    return float(_share(np.array(share), np.array(found / positives), np.array(rejected / negatives)))


def _share(p: Floats, se: Floats, sp: Floats) -> Floats:
    """Rogan and Gladen's share, in [0, 1]; NaN only where p is.

    It rises with p and sp and falls with se also where a draw of se + sp - 1 is not above 0: p at or below 1 - sp then
    means 0, any other p means 1.
    """
    above, beyond = p + sp - 1, se + sp - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(beyond > 0, above / beyond, np.where(above > 0, 1.0, 0.0))
    return np.where(np.isnan(p), np.nan, np.clip(share, 0.0, 1.0))


def _over(difference: Floats, beyond: Floats) -> Floats:
    """Differences over se + sp - 1, in [-1, 1]; as far from zero as can be where that is not above 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(beyond > 0, difference / beyond, np.sign(difference))
    return np.clip(found, -1.0, 1.0)


def _drawn(k: int, n: int, levels: Floats) -> tuple[Floats, Floats]:
    """Clopper-Pearson's lower and upper bounds of k/n at each of the ``levels``."""
    from scipy.special import betaincinv  # here, so that importing the probes stays quick

    low = np.zeros_like(levels) if k == 0 else betaincinv(k, n - k + 1, levels)
    high = np.ones_like(levels) if k == n else betaincinv(k + 1, n - k, levels)
    return low, high


def _read(raw: Estimate, levels: Floats) -> tuple[Floats, Floats]:
    """The estimate's lower and upper bounds at each of the ``levels``; an upper one at level u has error 1 - u."""
    from scipy.special import ndtr, ndtri

    z = np.linspace(-3.7, 3.7, LEVELS)  # alpha from 1e-4: Gaffke's draws know no smaller one
    alphas = ndtr(z)
    low, high = (np.array([bound(float(alpha)) for alpha in alphas]) for bound in (raw.low, raw.high))
    at = ndtri(levels)
    return np.interp(at, z, low), np.interp(-at, z, high)
