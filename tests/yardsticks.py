"""Other intervals to measure ours against, and the table in docs/decisions/0003-intervals.md.

``python tests/yardsticks.py`` prints the table, in a few minutes: exact sums for paired shares, simulation for means.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.stats
from scipy.stats import multinomial

from harness.stats import mean, paired_difference

SHARES = (0.0, 0.002, 0.01, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0)
"""Rates of gained and lost items that coverage is computed at."""


def tango(gained: int, lost: int, n: int, alpha: float) -> tuple[float, float]:
    """Tango's score interval (Stat. Med. 17, 1998, equations 7 to 10), by bisection of the score z(d)."""

    def z(d: float) -> float:
        b = -gained - lost + (2 * n - gained + lost) * d
        q = (math.sqrt(max(0.0, b * b + 8 * n * lost * d * (1 - d))) - b) / (4 * n)
        return (gained - lost - n * d) / math.sqrt(max(n * (2 * q + d * (1 - d)), 1e-300))

    def solve(target: float) -> float:
        low, high = -1.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if z(middle) > target else (low, middle)
        return low

    quantile = scipy.stats.norm.isf(alpha)
    return solve(quantile), solve(-quantile)


def bca(values: np.ndarray, alpha: float, rng: np.random.Generator) -> tuple[float, float]:
    """The usual bootstrap interval of a mean: bias-corrected and accelerated, 999 resamples."""
    found = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=1 - 2 * alpha, n_resamples=999, method="BCa", rng=rng
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def outcomes(n: int) -> np.ndarray:
    """[outcomes, 3]: gained, lost, agree."""
    return np.array([(g, lost, n - g - lost) for g in range(n + 1) for lost in range(n + 1 - g)])


def least_coverage(high: Callable[[int, int, int], float], n: int) -> float:
    """Smallest exact coverage of an upper bound for a paired difference, over the grid of rates."""
    x = outcomes(n)
    bounds = np.array([high(int(g), int(lost), n) for g, lost, _ in x])
    rates = [(g, lost) for g in SHARES for lost in SHARES if g + lost <= 1 + 1e-9]
    return min(
        float(multinomial.pmf(x, n, [g, lost, max(0.0, 1 - g - lost)])[bounds >= g - lost - 1e-9].sum())
        for g, lost in rates
    )


def worse_side(
    interval: Callable[[np.ndarray], tuple[float, float]],
    draw: Callable[[np.random.Generator, int], np.ndarray],
    truth: float,
    n: int,
    runs: int,
) -> float:
    """Simulated one-sided coverage of a mean's bounds, the worse of the two sides."""
    rng = np.random.default_rng(n)
    bounds = [interval(draw(rng, n)) for _ in range(runs)]
    return min(np.mean([low <= truth for low, _ in bounds]), np.mean([high >= truth for _, high in bounds]))


def main() -> None:
    print("paired shares: exact one-sided coverage, worst case over the grid")
    for n in (5, 20, 60):
        for alpha in (0.01, 0.05, 0.1):
            ours = least_coverage(lambda g, lost, n, a=alpha: paired_difference(g, lost, n).high(a), n)
            his = least_coverage(lambda g, lost, n, a=alpha: tango(g, lost, n, a)[1], n)
            print(f"  n = {n:3d}, nominal {1 - alpha:.2f}: Gaffke {ours:.4f}, Tango {his:.4f}", flush=True)
    print("unbounded means: simulated one-sided coverage at a nominal 0.95, the worse side")
    kinds: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], float]] = {
        "normal": (lambda rng, n: rng.normal(size=n), 0.0),
        "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
        "lognormal": (lambda rng, n: rng.lognormal(size=n), math.exp(0.5)),
    }
    rng = np.random.default_rng(0)
    for kind, (draw, truth) in kinds.items():
        for n in (10, 30, 100):
            ours = worse_side(lambda v: mean(v).bounds(0.05), draw, truth, n, 4000)
            theirs = worse_side(lambda v: bca(v, 0.05, rng), draw, truth, n, 1500)
            print(f"  {kind}, n = {n:3d}: t / Hall {ours:.3f}, BCa {theirs:.3f}", flush=True)


if __name__ == "__main__":
    main()
