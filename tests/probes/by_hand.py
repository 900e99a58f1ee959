"""Four pairs whose numbers are worked out below, and limits and scores to go with them."""

from __future__ import annotations

from harness.domain import Limit, PairScore, ResponseScore


def limit(metric: str, maximum: float | None = None, minimum: float | None = None, **rest) -> Limit:
    if maximum is None and minimum is None:
        minimum = 0.0
    return Limit(id="l", metric=metric, corpus="preferences", maximum=maximum, minimum=minimum, **rest)


def response(total: float, tokens: int) -> ResponseScore:
    return ResponseScore((total / tokens,) * tokens)


def score(pair: str, chosen: tuple[float, int], rejected: tuple[float, int], **rest) -> PairScore:
    return PairScore(pair, response(*chosen), response(*rejected), **rest)


# pair   tokens   reference      candidate        Δ⁺   Δ⁻   Δ⁺-Δ⁻   ranked right (raw)    y⁺, y⁻ per token
#        y⁺ y⁻    y⁺    y⁻       y⁺    y⁻                           reference candidate   reference / candidate
#  a      2  4   -4    -8       -6   -16          -2   -8    6       right     right     -2, -2 tie / -3, -4 right
#  b      4  4   -8    -4       -12   -5          -4   -1   -3       wrong     wrong     -2, -1 wrong / -3, -1.25 wrong
#  c      5  2   -10   -9       -5   -9           5    0     5       wrong     right     -2, -4.5 right / -1, -4.5 right
#  d      1  2   -3    -6       -4   -4           -1    2   -3       right     tie       -3, -3 tie / -4, -2 wrong
REFERENCE = [
    score("a", (-4, 2), (-8, 4), category="x"),
    score("b", (-8, 4), (-4, 4), category="x", tokenised_apart=True),
    score("c", (-10, 5), (-9, 2), category="y"),
    score("d", (-3, 1), (-6, 2), category="y"),
]
CANDIDATE = [
    score("a", (-6, 2), (-16, 4), category="x"),
    score("b", (-12, 4), (-5, 4), category="x"),
    score("c", (-5, 5), (-9, 2), category="y"),
    score("d", (-4, 1), (-4, 2), category="y"),
]


def fallen(chosen: list[float], rejected: list[float]) -> tuple[list[PairScore], list[PairScore]]:
    """Pairs p0, p1, ... with these Δ⁺ and Δ⁻."""
    before = [score(f"p{i}", (-50, 5), (-50, 5)) for i in range(len(chosen))]
    after = [score(f"p{i}", (-50 + c, 5), (-50 + r, 5)) for i, (c, r) in enumerate(zip(chosen, rejected, strict=True))]
    return before, after
