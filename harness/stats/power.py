"""What a number of prompts can prove, before any is asked: ``power``, ``detectable``, ``prompts_needed``, ``describe``.

For the difference of a share between two models asked the same n prompts, one sample each. On a prompt the share is
gained (no to yes), lost (yes to no) or unchanged, with probabilities that stay the same from prompt to prompt:

    change      = P(gained) - P(lost)       what the limit is on: positive is harm, as in ``refusal_rate_drop``
    discordance = P(gained) + P(lost)       how often the two models disagree at all, in whichever direction

The numbers of gained and lost prompts are then trinomial, and the probability of a claim is the sum over all outcomes
whose interval proves it. The interval is the gate's own (``paired_difference``), not the normal formula, which promises
too much: n = discordance ((z_alpha + z_power)/change)² (Connor, Biometrics 43, 1987, in its simplest form).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np

from harness.domain import Limit
from harness.stats.intervals import Floats, _paired_tail, paired_difference

PAIRED_SHARES = (
    "refusal_rate_drop",
    "compliance_rate_rise",
    "over_refusal_rise",
    "degenerate_rate_rise",
    "ranking_accuracy_drop",
)
"""Metrics that are a difference of paired shares."""
LEFT_OUT = 1e-9
"""Numbers of lost prompts at either end that are less probable than this together are left out."""
MOST_PROMPTS = 20_000
"""``prompts_needed`` looks no further."""

Claim = Literal["pass", "fail"]
"""``pass``: the upper bound is at most the margin. ``fail``: the lower bound is above it."""


def power(n: int, margin: float, change: float, discordance: float, alpha: float, *, claim: Claim) -> float:
    """Probability that n prompts prove the claim about a maximum of ``margin``, at one-sided error ``alpha``.

    Exact for every n: it takes in time what about 30 sqrt(n discordance) intervals take. Raises ``ValueError`` unless n
    is at least 1, alpha lies between 0 and 0.5 and ``abs(change) <= discordance <= 1``.
    """
    _check(n, discordance, alpha)
    if not abs(change) <= discordance:
        raise ValueError(f"a change of {change} needs a discordance of at least {abs(change)}, not {discordance}")
    gained, lost = (discordance + change) / 2, (discordance - change) / 2
    first, last = _likely(n, lost)
    return _chance(_edges(n, margin, alpha, claim, first, last), first, n, gained, lost, claim)


def detectable(n: int, discordance: float, alpha: float, power: float = 0.8) -> float:
    """The smallest change that n prompts tell from none (lower bound above 0) with this power.

    Where it is larger than ``discordance``, all prompts that differ do so in one direction. NaN where no change is
    detectable (fewer than five prompts at an alpha of 0.05). Raises ``ValueError`` as the function ``power``.
    """
    from scipy.optimize import brentq

    _check(n, discordance, alpha)
    _check_power(power)
    last = _likely(n, discordance / 2)[1]
    edges = _edges(n, 0.0, alpha, "fail", 0, last)

    def missing(change: float) -> float:
        gained, lost = (change + max(discordance, change)) / 2, max(discordance - change, 0.0) / 2
        return _chance(edges, 0, n, gained, lost, "fail") - power

    return float(brentq(missing, 0.0, 1.0, xtol=1e-6)) if missing(1.0) >= 0 > missing(0.0) else math.nan


def prompts_needed(margin: float, discordance: float, alpha: float, power: float = 0.8) -> int | None:
    """About how many prompts prove, with this power, that a candidate without any change keeps a maximum of ``margin``.

    That many do; the fewest may be half a percent less (and power is not quite monotone in n, since counts are whole).
    None where even ``MOST_PROMPTS`` would not do, as with a margin of 0. Raises ``ValueError`` as the function
    ``power``.
    """
    from scipy.special import ndtri

    _check(1, discordance, alpha)
    _check_power(power)

    def enough(n: int) -> bool:
        first, last = _likely(n, discordance / 2)
        edges = _edges(n, margin, alpha, "pass", first, last)
        return _chance(edges, first, n, discordance / 2, discordance / 2, "pass") >= power

    if not margin > 0:
        return None
    too_few, many = 0, math.ceil(max(discordance * ((ndtri(power) - ndtri(alpha)) / margin) ** 2, 4))
    while many <= MOST_PROMPTS and not enough(many):
        too_few, many = many, math.ceil(1.05 * many)
    if many > MOST_PROMPTS:
        return None
    while many - too_few > 1 + too_few // 200:
        middle = (too_few + many) // 2
        too_few, many = (too_few, middle) if enough(middle) else (middle, many)
    return many


def describe(
    limit: Limit, n: int, discordance: float, *, spent_early: tuple[float, float] | None = None, target: float = 0.8
) -> str:
    """The line printed before a run for one limit, or "" where this module says nothing of it.

    ``discordance`` is a guess, or what an earlier run showed. It says something of maximum-limits on ``PAIRED_SHARES``
    whose independent items are prompts, each answered once. Where generation may stop early, ``spent_early`` is
    ``sequential_mean``'s, and the line adds the least share of candidates that then still pass.
    Raises ``ValueError`` as the function ``power``.
    """
    if limit.metric not in PAIRED_SHARES or not limit.is_maximum or limit.cluster:
        return ""
    _check(n, discordance, limit.alpha)
    harm = "rise" if limit.metric.endswith("_rise") else "drop"
    items = "pairs" if limit.metric == "ranking_accuracy_drop" else "prompts"
    least = detectable(n, discordance, limit.alpha, target)
    found = f"detect a {100 * least:.1f}-point {harm}" if math.isfinite(least) else f"cannot detect any {harm}"
    passes = power(n, limit.bound, 0.0, discordance, limit.alpha, claim="pass")
    text = (
        f"{limit.id}: {n:,} {items} {found} with {_percent(target)} power at {_percent(discordance)} discordance; "
        f"a candidate without any {harm} passes max {limit.bound:g} with {_percent(passes)}"
    )
    if spent_early is not None and spent_early[1] > 0:
        kept = (1 - spent_early[1]) * limit.alpha
        still = power(n, limit.bound, 0.0, discordance, kept, claim="pass") if kept > 0 else 0.0
        text += f" ({_percent(still)} or more where generation may stop early)"
    if passes < 0.5:
        needed = prompts_needed(limit.bound, discordance, limit.alpha, target)
        cure = (
            f"{needed:,} {items} would give {_percent(target)}"
            if needed is not None
            else f"no number up to {MOST_PROMPTS:,} would give {_percent(target)}: the limit needs a larger max"
        )
        text += f". TOO FEW {items.upper()}: most healthy candidates will be blocked as undecided; {cure}"
    return text


def _percent(share: float) -> str:
    """``79 %``; rounded down, so that nothing is promised that is not there."""
    return f"{math.floor(100 * share + 1e-9)} %"


# ---------------------------------------------------------------- sums over outcomes


def _likely(n: int, lost: float) -> tuple[int, int]:
    """The first and last number of lost prompts that count."""
    from scipy.stats import binom

    return int(binom.ppf(LEFT_OUT, n, lost)), int(binom.isf(LEFT_OUT, n, lost))


@lru_cache(maxsize=128)  # limits with the same bound ask the same
def _edges(n: int, margin: float, alpha: float, claim: Claim, first: int, last: int) -> Floats:
    """[last + 1 - first] for each number of lost prompts: the fewest gained ones that put the bound above the margin.

    The bound is the upper one for ``pass``, which is proven below the edge, and the lower one for ``fail``, proven from
    it on. More than ``n - lost`` where no number does. Bounds rise with gained and fall with lost prompts, so the edges
    rise with the lost ones, and each is looked for from the one before.
    """

    def above(gained: int, lost: int) -> bool:
        """What ``paired_difference(gained, lost, n)`` says, by one tail probability and not by its quantile."""
        agree = n - gained - lost
        if claim == "pass":
            if lost == 0:
                return paired_difference(gained, lost, n).high(alpha) > margin
            return _paired_tail(gained, lost, agree)(margin) > alpha
        if gained == 0:
            return paired_difference(gained, lost, n).low(alpha) > margin
        return _paired_tail(lost, gained, agree)(-margin) < alpha

    edges = np.empty(last + 1 - first)
    below, edge = -1, n - first + 1
    while edge - below > 1:
        middle = (below + edge) // 2
        below, edge = (below, middle) if above(middle, first) else (middle, edge)
    for lost in range(first, last + 1):
        while edge <= n - lost and not above(edge, lost):
            edge += 1
        edges[lost - first] = edge
    return edges


def _chance(edges: Floats, first: int, n: int, gained: float, lost: float, claim: Claim) -> float:
    """Probability of the outcomes below the edges (``pass``) or from them on (``fail``)."""
    from scipy.stats import binom

    losses = np.arange(first, first + edges.size)
    given = min(gained / (1 - lost), 1.0) if lost < 1 else 0.0
    tail = (binom.cdf if claim == "pass" else binom.sf)(edges - 1, n - losses, given)
    return float(binom.pmf(losses, n, lost) @ tail)


def _check(n: int, discordance: float, alpha: float) -> None:
    if n < 1:
        raise ValueError(f"power needs at least 1 prompt, not {n}")
    if not 0 <= discordance <= 1:
        raise ValueError(f"a discordance is a share from 0 to 1, not {discordance}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie between 0 and 0.5, not {alpha}")


def _check_power(power: float) -> None:
    if not 0 < power < 1:
        raise ValueError(f"a power must lie between 0 and 1, not {power}")
