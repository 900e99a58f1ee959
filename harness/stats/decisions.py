"""From estimates to what a limit is decided on: bounds at its alpha, p-values, corrections, and how many items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.domain import Corrected, Limit, Measurement, Slice
from harness.stats.intervals import Estimate

SMALLEST_P = 1e-12
"""p-values are not followed further down."""


def p_broken(estimate: Estimate, limit: Limit) -> float:
    """One-sided p-value of the data if the limit were just kept: the smallest alpha whose interval proves it broken.

    Found by bisecting the estimate's own bounds, so interval and p-value never contradict each other: it is at most
    ``limit.alpha`` exactly when the interval at that alpha lies wholly on the broken side of the limit. Relative
    precision 1e-4, never below ``SMALLEST_P``. NaN where the estimate has a problem.
    """
    if estimate.problem or math.isnan(estimate.value):
        return math.nan

    def proven(alpha: float) -> bool:
        return estimate.low(alpha) > limit.bound if limit.is_maximum else estimate.high(alpha) < limit.bound

    if not proven(limit.alpha):
        below, above = limit.alpha, 1.0
    elif proven(SMALLEST_P):
        return SMALLEST_P
    else:
        below, above = SMALLEST_P, limit.alpha
    while above > below * 1.0001:
        middle = math.sqrt(below * above)
        if proven(middle):
            above = middle
        else:
            below = middle
    return above


def measurement(
    limit: Limit,
    estimate: Estimate,
    *,
    reference: float = math.nan,
    candidate: float = math.nan,
    unreadable: int = 0,
    labelled: int = 0,
    unit: str = "",
    counts: Mapping[str, float] | None = None,
    examples: Sequence[str] = (),
    slices: Sequence[Slice] = (),
    corrected: Corrected | None = None,
    planned: int = 0,
) -> Measurement:
    """Freeze an estimate at ``limit.alpha``. A problem of the estimate becomes the measurement's, its bounds NaN."""
    low, high = (math.nan, math.nan) if estimate.problem else estimate.bounds(limit.alpha)
    return Measurement(
        metric=limit.metric,
        value=estimate.value,
        low=low,
        high=high,
        alpha=limit.alpha,
        n=estimate.n,
        unit=unit,
        method=estimate.method,
        p_broken=p_broken(estimate, limit),
        reference=reference,
        candidate=candidate,
        unreadable=unreadable,
        labelled=labelled,
        counts=dict(counts or {}),
        examples=tuple(examples),
        slices=tuple(slices),
        corrected=corrected,
        planned=planned,
        problem=estimate.problem,
    )


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which claims survive Holm's (1979) step-down correction: any false one among them has probability <= alpha.

    A NaN p-value is never a proof, and still counts as a claim.
    """
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests

    rejected = multipletests([1.0 if math.isnan(p) else p for p in p_values], alpha=alpha, method="holm")[0]
    return [bool(r) for r in rejected]


def items_needed(measured: Measurement, limit: Limit) -> int | None:
    """About how many items would decide the limit if the value stayed as it is; its own n where it is decided.

    The distance from the value to the bound that matters shrinks as 1/sqrt(n) (faster, as 1/n, where nothing at all was
    seen to happen: then this errs on the high side). None where no number would: the value sits on the bound, or the
    measurement has no bounds.
    """
    gap = abs(measured.value - limit.bound)
    upward = limit.keeps(measured.value) == limit.is_maximum
    half = measured.high - measured.value if upward else measured.value - measured.low
    if measured.problem or measured.n < 1 or not math.isfinite(half) or not gap > 0:
        return None
    needed = measured.n * (half / gap) ** 2
    return max(measured.n, math.ceil(needed)) if math.isfinite(needed) else None
