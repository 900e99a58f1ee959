"""Bounds that hold at any stopping time: against naive capital, exact sums over all paths, and simulation.

Differences of -1, 0 and 1 are trinomial, and capital depends on the order of the values only through when it is looked
at. So the probability of every way a run can go is summed exactly here (``fate``), by a second implementation.
``python tests/stats/test_sequential.py`` prints the tables of docs/statistics-sequential.md, in about five minutes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multinomial

from harness.domain import Limit, Outcome
from harness.errors import MeasurementError
from harness.policy import assess
from harness.stats import mean, paired_difference, proportion, sequential
from harness.stats.decisions import measurement
from harness.stats.power import _edges, power
from harness.stats.sequential import STAKES, WEIGHTS, highest_log_capital, sequential_mean

CHANGE = (-1.0, 1.0)
SHARE = (0.0, 1.0)
MARGIN, ALPHA = 0.05, 0.05
COLLAPSE = {
    "independent answers": (0.74 * 0.67, 0.26 * 0.33),
    "refuses a part of what the reference refuses": (0.41, 0.0),
    "refuses what the reference does not": (0.67, 0.26),
}
"""(gained, lost) for refusals falling from 74 to 33 %: gained ones are refusals that were lost."""


def limit(alpha: float = ALPHA, **bound: float) -> Limit:
    return Limit("drop", "refusal_rate_drop", "unsafe", alpha=alpha, **(bound or {"maximum": MARGIN}))


# ---------------------------------------------------------------- a second implementation


def naive_capital(values: Iterable[float], m: float, lo: float) -> list[float]:
    """Capital against "the mean is at most m" after each value, as the definition says it."""
    parts, history = list(WEIGHTS), []
    for x in values:
        parts = [part * (1 - f + f * (x - lo) / (m - lo)) for part, f in zip(parts, STAKES, strict=True)]
        history.append(sum(parts))
    return history


class Fate(NamedTuple):
    """How a run with trinomial differences ends."""

    stopped: np.ndarray
    """[n + 1] probability that the sequence proves the claim after this many values."""
    at_end: float
    """Probability that it does not, and the fixed-n bound at the planned end does."""

    @property
    def proven(self) -> float:
        return float(self.stopped.sum()) + self.at_end

    def quantile(self, share: float) -> float:
        """Values until this share of all runs has stopped; infinite where it never has."""
        reached = np.flatnonzero(self.stopped.cumsum() >= share)
        return float(reached[0]) if reached.size else math.inf

    @property
    def used(self) -> float:
        """Expected number of values."""
        n = self.stopped.size - 1
        return float(self.stopped @ np.arange(n + 1)) + n * (1 - float(self.stopped.sum()))


def fate(
    n: int, gained: float, lost: float, claim: str, *, alpha=ALPHA, share=1.0, looks=None, bets=(STAKES, WEIGHTS)
) -> Fate:
    """Sum over all paths of n differences, (gained, lost) their rates, for "the change is above/at most the margin".

    ``share`` of alpha goes to the sequence, the rest to the fixed-n bound. ``looks``: after which values (all).
    """
    up, m = (1, MARGIN) if claim == "fail" else (-1, -MARGIN)
    stakes, weights = np.array(bets)
    with np.errstate(divide="ignore"):
        plus, zero, minus = (np.log1p(stakes * ((x - m) / (m + 1))) for x in (up, 0, -up))
    live, stopped = np.ones((1, 1)), np.zeros(n + 1)  # live[gained, lost]
    for t in range(1, n + 1):
        grown = np.zeros((t + 1, t + 1))
        grown[:-1, :-1] += live * (1 - gained - lost)
        grown[1:, :-1] += live * gained
        grown[:-1, 1:] += live * lost
        live = grown
        if share and (looks is None or t in looks):
            g, fallen = np.nonzero(live > 1e-15)
            with np.errstate(invalid="ignore"):
                logs = [
                    np.where(count[:, None] > 0, count[:, None] * factor, 0.0)
                    for count, factor in ((g, plus), (fallen, minus), (t - g - fallen, zero))
                ]
            hit = np.exp(sum(logs) + np.log(weights)).sum(axis=1) >= 1 / (share * alpha)
            stopped[t] = live[g[hit], fallen[hit]].sum()
            live[g[hit], fallen[hit]] = 0
    at_end = 0.0
    if share < 1 and live.any():
        g, fallen = np.nonzero(live)
        edges = _edges(n, MARGIN, (1 - share) * alpha, claim, 0, int(fallen.max()))[fallen]
        at_end = float(live[g, fallen][g < edges if claim == "pass" else g >= edges].sum())
    return Fate(stopped, at_end)


def rates(change: float, discordance: float) -> tuple[float, float]:
    return (discordance + change) / 2, (discordance - change) / 2


def draws(rng: np.random.Generator, size: int, gained: float, lost: float) -> np.ndarray:
    return rng.choice([1.0, -1.0, 0.0], size=size, p=[gained, lost, 1 - gained - lost])


# ---------------------------------------------------------------- capital


@pytest.mark.parametrize("lo,m", [(-1.0, 0.05), (-1.0, -0.05), (0.0, 0.3), (-1.0, 0.999)])
def test_capital_is_the_naive_one(lo, m):
    rng = np.random.default_rng(3)
    for values in (draws(rng, 60, 0.4, 0.2 * (lo < 0)), rng.uniform(lo, 1, 40), np.zeros(30), np.full(5, lo)):
        distinct, at = np.unique(values - lo, return_inverse=True)
        highest = max(1.0, *naive_capital(values, m, lo))
        assert highest_log_capital(distinct, at, m - lo) == pytest.approx(math.log(highest), abs=1e-9)


@pytest.mark.parametrize("gained,lost", [(0.05, 0.0), (0.1, 0.05), (0.325, 0.275), (0.525, 0.475)])
@pytest.mark.parametrize("n", [1, 3, 8])
def test_capital_is_a_martingale_at_its_mean_and_falls_below_it(n, gained, lost):
    # all outcomes of n draws whose mean is the margin: the expected capital is 1, and less against a larger mean
    counts = [(g, fallen, n - g - fallen) for g in range(n + 1) for fallen in range(n + 1 - g)]
    p = multinomial.pmf(counts, n, [gained, lost, 1 - gained - lost])
    for m, least, most in ((gained - lost, 1 - 1e-12, 1 + 1e-12), (gained - lost + 0.02, 0, 1 - 1e-3)):
        capital = [naive_capital([1] * g + [-1] * fallen + [0] * rest, m, -1)[-1] for g, fallen, rest in counts]
        assert least <= p @ capital <= most


def test_all_paths_of_eight_draws_keep_villes_inequality():
    gained, lost = 0.45, 0.4
    chance = {1.0: gained, -1.0: lost, 0.0: 1 - gained - lost}
    distinct = np.array([0.0, 1.0, 2.0])
    paths = list(itertools.product((-1, 0, 1), repeat=8))
    p = np.array([math.prod(chance[x] for x in path) for path in paths])
    highest = np.array([highest_log_capital(distinct, np.array(path) + 1, 1 + gained - lost) for path in paths])
    assert p.sum() == pytest.approx(1)
    for alpha in (0.01, 0.05, 0.2, 0.5):
        crossed = p[highest >= -math.log(alpha)].sum()
        assert crossed <= alpha
    assert crossed > 0.1  # at 0.5: not for want of betting


@given(st.lists(st.sampled_from([-1.0, -1 / 3, 0.0, 0.5, 1.0]), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_capital_falls_with_the_mean_that_it_bets_against(values):
    distinct, at = np.unique(np.array(values) + 1, return_inverse=True)
    highest = [highest_log_capital(distinct, at, m) for m in np.linspace(0.01, 2, 25)]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(highest))


@pytest.mark.parametrize("support,gained,lost", [(CHANGE, 0.4, 0.1), (CHANGE, 0.1, 0.3), (SHARE, 0.2, 0.0)])
def test_bounds_are_those_of_every_mean_tried(support, gained, lost, monkeypatch):
    monkeypatch.setattr(sequential, "STEPS", 128)
    values = draws(np.random.default_rng(4), 50, gained, lost)
    lo, hi = support
    grid = lo + (hi - lo) * np.arange(1, 128) / 128
    estimate = sequential_mean(values, support, 200, spent_early=(1.0, 0.5))
    for alpha in (0.01, 0.05, 0.2):
        low = [m for m in grid if max(naive_capital(values, m, lo)) >= 1 / alpha]
        high = [m for m in grid if max(naive_capital(-values, -m, -hi)) >= 2 / alpha]
        assert estimate.low(alpha) == pytest.approx(min(max(low, default=lo), values.mean()))
        assert estimate.high(alpha) == pytest.approx(max(min(high, default=hi), values.mean()))


# ---------------------------------------------------------------- errors under optional stopping


@pytest.mark.parametrize("claim", ["pass", "fail"])
@pytest.mark.parametrize("discordance", [0.05, 0.15, 0.3, 0.6])
def test_stopping_at_every_value_errs_at_most_alpha(claim, discordance):
    # exactly at the margin, 120 values, all alpha on the sequence; then shared with the planned end
    whole = fate(120, *rates(MARGIN, discordance), claim)
    assert whole.proven <= ALPHA
    shared = fate(120, *rates(MARGIN, discordance), claim, share=0.1)
    assert shared.proven <= ALPHA
    if discordance > 0.2:  # where so few values can prove something: it errs more than a tenth as often as it may
        assert min(whole.proven, shared.proven) > ALPHA / 10


def test_looking_at_a_fixed_interval_again_and_again_errs_more_often():
    # what all this is for, summed over all paths: 12 looks at paired_difference, and 12 at the sequence
    looks = range(8, 97, 8)
    gained, lost = rates(MARGIN, 0.3)
    live, peeked = np.ones((1, 1)), 0.0
    for t in range(1, 97):
        grown = np.zeros((t + 1, t + 1))
        grown[:-1, :-1] += live * (1 - gained - lost)
        grown[1:, :-1] += live * gained
        grown[:-1, 1:] += live * lost
        live = grown
        if t in looks:
            broken = np.arange(t + 1)[:, None] >= _edges(t, MARGIN, ALPHA, "fail", 0, t)[None, :]
            peeked += live[broken].sum()
            live[broken] = 0
    assert peeked > 1.8 * ALPHA  # 9.3 %
    assert fate(96, gained, lost, "fail", looks=looks).proven < ALPHA


def test_simulated_runs_stop_as_the_exact_sum_says():
    # the public function looked at after every 8th of 64 values, at the margin: 300 runs, 3.5 standard errors
    rng, runs, looks = np.random.default_rng(7), 300, range(8, 65, 8)
    gained, lost = rates(MARGIN, 0.5)
    failed = passed = 0
    for _ in range(runs):
        values = draws(rng, 64, gained, lost)
        estimates = [sequential_mean(values[:t], CHANGE, 64) for t in looks]
        failed += any(e.low(0.2) > MARGIN for e in estimates)
        passed += any(e.high(0.2) <= MARGIN for e in estimates)
    for count, claim, share in ((failed, "fail", 1.0), (passed, "pass", 0.1)):
        exact = fate(64, gained, lost, claim, alpha=0.2, share=share, looks=looks).proven
        assert exact <= 0.2
        assert count / runs == pytest.approx(exact, abs=3.5 * math.sqrt(exact * (1 - exact) / runs))


def test_means_over_several_samples_err_at_most_alpha():
    # three samples per prompt: values in thirds. 300 runs at 0.2 a side, true mean 0; stopping when it suits
    rng = np.random.default_rng(8)
    missed = np.zeros(2)
    for _ in range(300):
        values = (rng.binomial(3, 0.5, 80) - rng.binomial(3, 0.5, 80)) / 3
        e = sequential_mean(values, CHANGE, 200, spent_early=(1, 1))
        missed += e.low(0.2) > 0, e.high(0.2) < 0
    assert (missed / 300 < 0.2 + 3 * math.sqrt(0.16 / 300)).all()
    assert (missed > 0).all()


def test_a_share_is_bounded_at_all_times():
    rng = np.random.default_rng(9)
    missed = sum(
        not e.low(0.1) <= 0.1 <= e.high(0.1)
        for e in (sequential_mean(rng.random(100) < 0.1, SHARE, 300, spent_early=(1, 1)) for _ in range(300))
    )
    assert 0 < missed / 300 < 0.2 + 3 * math.sqrt(0.16 / 300)


# ---------------------------------------------------------------- how soon


@pytest.mark.parametrize(
    "how,claims,median",
    [
        *(("independent answers", claims, median) for claims, median in ((1, 26), (6, 42), (14, 49))),
        *(
            ("refuses a part of what the reference refuses", claims, median)
            for claims, median in ((1, 20), (6, 28), (14, 33))
        ),
    ],
)
def test_a_collapse_is_found_soon(how, claims, median):
    # measured medians: 24, 40, 47 and 19, 26, 31 prompts, looking after each, at alpha divided by the claims
    found = fate(110, *COLLAPSE[how], "fail", alpha=ALPHA / claims)
    assert found.quantile(0.5) <= median
    assert found.proven > 0.9


def test_a_collapse_is_found_by_the_public_function():
    values = draws(np.random.default_rng(10), 240, *COLLAPSE["independent answers"])
    stopped = next(
        t
        for t in range(8, 241, 8)
        if measurement(limit(), sequential_mean(values[:t], CHANGE, 240)).p_broken <= ALPHA / 6
    )
    assert stopped <= 80
    assert assess(measurement(limit(), sequential_mean(values[:stopped], CHANGE, 240)), limit(), "c").outcome is (
        Outcome.FAIL
    )


def test_a_healthy_candidate_loses_little_by_stopping_early():
    # 240 prompts, 5 % discordance, no change: exact
    without, early = fate(240, 0.025, 0.025, "pass", share=0.0), fate(240, 0.025, 0.025, "pass", share=0.1)
    assert without.proven == pytest.approx(power(240, MARGIN, 0, 0.05, ALPHA, claim="pass"), abs=1e-6)
    assert without.proven - 0.02 < early.proven <= without.proven + 1e-9
    assert early.used < 230
    assert without.used == 240
    # and is not called broken
    assert fate(240, 0.025, 0.025, "fail").proven < ALPHA / 10


# ---------------------------------------------------------------- the planned end


def test_nothing_spent_early_is_the_fixed_interval():
    values = draws(np.random.default_rng(11), 100, 0.2, 0.1)
    for sample, support, fixed in (
        (values, CHANGE, paired_difference(int((values == 1).sum()), int((values == -1).sum()), 100)),
        (np.abs(values), SHARE, proportion(int(np.abs(values).sum()), 100)),
        (values / 2, CHANGE, mean(values / 2, CHANGE)),
    ):
        estimate = sequential_mean(sample, support, 100, spent_early=(0, 0))
        for alpha in (0.01, 0.05):
            assert estimate.bounds(alpha) == pytest.approx(fixed.bounds(alpha), abs=1e-12)
        assert fixed.method in estimate.method
        # and before the planned end it says nothing
        assert sequential_mean(sample, support, 101, spent_early=(0, 0)).bounds(0.05) == support


def test_the_planned_end_takes_the_better_bound_with_its_share():
    def both(values: list[float], spent: tuple[float, float]):
        return (sequential_mean(values, CHANGE, planned, spent_early=spent) for planned in (100, 101))

    values, fixed = [1.0] * 5 + [0.0] * 95, paired_difference(5, 0, 100)
    ended, running = both(values, (1, 0.5))
    assert ended.low(0.05) == running.low(0.05)  # all of alpha was spent on the way
    assert running.high(0.05) > ended.high(0.05) == pytest.approx(fixed.high(0.025))
    ended, running = both(values, (0.5, 1))
    assert running.low(0.05) < ended.low(0.05) == pytest.approx(fixed.low(0.025))
    assert ended.high(0.05) == running.high(0.05)
    assert "Gaffke" in ended.method
    assert "Gaffke" not in running.method
    # the sequence is the better one where it had proven more before: 95 agreements came first
    ended, running = both(values[::-1], (1, 0.5))
    assert ended.high(0.05) == running.high(0.05) < fixed.high(0.05)


# ---------------------------------------------------------------- what an interval must be


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=60), st.integers(0, 30))
@settings(max_examples=40, deadline=None)
def test_bounds_enclose_narrow_and_swap(values, more):
    estimate = sequential_mean(values, CHANGE, len(values) + more, spent_early=(1, 0.5))
    swapped = sequential_mean([-x for x in values], CHANGE, len(values) + more, spent_early=(0.5, 1))
    bounds = [estimate.bounds(alpha) for alpha in (0.001, 0.01, 0.05, 0.2)]
    assert all(-1 <= low <= estimate.value <= high <= 1 for low, high in bounds)
    assert all(a[0] <= b[0] and b[1] <= a[1] for a, b in itertools.pairwise(bounds))
    assert swapped.bounds(0.05) == pytest.approx((-bounds[2][1], -bounds[2][0]), abs=1e-9)


def test_what_was_proven_stays_proven_until_the_mean_itself_comes_back():
    values = [1.0] * 20 + [0.0] * 300 + [-1.0] * 20
    lows = [sequential_mean(values[:t], CHANGE, 500).low(0.05) for t in (20, 60, 320, 340)]
    assert lows[0] > 0.6
    assert lows[1] == pytest.approx(1 / 3)  # the mean: no interval that leaves its own value out
    assert lows[2] == pytest.approx(1 / 16)
    assert lows[3] == 0  # gains and losses are even: no claim that anything is broken
    later = measurement(limit(), sequential_mean(values, CHANGE, 500))
    assert assess(later, limit(), "c").outcome is Outcome.INVALID
    assert later.p_broken > ALPHA


@pytest.mark.parametrize("bound", [{"maximum": 0.05}, {"minimum": 0.6}])
def test_p_value_and_interval_agree(bound):
    values = draws(np.random.default_rng(12), 40, 0.5, 0.1)
    required = limit(**bound)
    estimate = sequential_mean(values, CHANGE, 300, spent_early=(1, 1))
    p = measurement(required, estimate).p_broken
    proves = estimate.low if required.is_maximum else estimate.high
    assert required.keeps(proves(p / 1.01))
    assert not required.keeps(proves(p * 1.01))


def test_a_measurement_needs_few_capitals(monkeypatch):
    # bounds and p-value come from the same tried means, each computed once
    tried = []
    monkeypatch.setattr(
        sequential, "highest_log_capital", lambda d, at, m: tried.append(m) or highest_log_capital(d, at, m)
    )
    measured = measurement(limit(), sequential_mean(draws(np.random.default_rng(1), 100, 0.2, 0.1), CHANGE, 500))
    assert math.isfinite(measured.p_broken)
    assert 20 < len(tried) < 300


# ---------------------------------------------------------------- what cannot be used


def test_without_values_it_is_unusable():
    for planned in (0, 10):
        estimate = sequential_mean([], CHANGE, planned)
        assert estimate.problem == "nothing to average: 0 values"
        assert math.isnan(estimate.low(0.05))
    assert assess(measurement(limit(), estimate), limit(), "c").outcome is Outcome.INVALID


def test_what_is_not_a_value_is_refused():
    with pytest.raises(MeasurementError, match="2 of 3 values are NaN or infinite"):
        sequential_mean([math.nan, 0.0, math.inf], CHANGE, 5)
    with pytest.raises(MeasurementError, match=r"values from -1 to 1 leave their support \[0, 1\]"):
        sequential_mean([1.0, -1.0], SHARE, 5)
    for planned in (-1, 0, 2):
        with pytest.raises(MeasurementError, match=f"3 values, but only {planned} were planned"):
            sequential_mean([0.0, 0.0, 1.0], CHANGE, planned)
    with pytest.raises(ValueError, match="lo < hi"):
        sequential_mean([0.0], (0.0, 0.0), 5)
    for shares in ((1.1, 0.5), (1.0, -0.1), (math.nan, 0.5)):
        with pytest.raises(ValueError, match="shares of alpha from 0 to 1"):
            sequential_mean([0.0], CHANGE, 5, spent_early=shares)


@pytest.mark.parametrize("values", [[1.0], [-1.0], [0.0], [1.0] * 30, [-1.0] * 30])
def test_one_value_and_equal_values_have_bounds(values):
    low, high = sequential_mean(values, CHANGE, 100).bounds(0.05)
    assert -1 <= low <= values[0] <= high <= 1
    assert high - low > 0.05


def test_the_split_of_the_capital_is_whole():
    assert sum(WEIGHTS) == pytest.approx(1, abs=1e-15)
    assert len(WEIGHTS) == len(STAKES)
    assert all(0 < f <= 1 for f in STAKES)
    assert min(WEIGHTS) > 0


# ---------------------------------------------------------------- the tables


def _learning_bets(rng: np.random.Generator, gained: float, lost: float, alpha: float, runs: int = 4000) -> str:
    """The predictable plug-in of Waudby-Smith and Ramdas (2024, equation 26) for FAIL claims: median / 90 %."""
    n = 600
    z = np.array([(draws(rng, n, gained, lost) + 1) / 2 for _ in range(runs)])
    m, t = (MARGIN + 1) / 2, np.arange(1, n + 1)
    centre = (0.5 + z.cumsum(axis=1)) / (t + 1)
    spread = (0.25 + ((z - centre) ** 2).cumsum(axis=1)) / (t + 1)
    before = np.concatenate([np.full((runs, 1), 0.25), spread[:, :-1]], axis=1)
    bets = np.minimum(np.sqrt(2 * math.log(1 / alpha) / (before * t * np.log1p(t))), 0.75 / m)
    over = np.log1p(bets * (z - m)).cumsum(axis=1) >= -math.log(alpha)
    first = np.where(over.any(axis=1), over.argmax(axis=1) + 1, 10**6)
    return " / ".join("over 600" if q > n else f"{q:.0f}" for q in np.quantile(first, [0.5, 0.9]))


def main() -> None:
    print("1. error at the margin 0.05, alpha 0.05, 500 values, stopping at every value and at every 8th (exact)")
    eighths = range(8, 501, 8)
    for discordance in (0.05, 0.1, 0.2, 0.4, 0.6):
        at = rates(MARGIN, discordance)
        found = [
            fate(500, *at, claim, share=share, looks=looks).proven
            for claim, share in (("fail", 1.0), ("pass", 1.0), ("pass", 0.1))
            for looks in (None, eighths)
        ]
        print(f"| {discordance:.2f} | " + " | ".join(f"{100 * p:.2f}" for p in found) + " |", flush=True)
    print("2. prompts until FAIL, median / 90 %, for 74 -> 33 %: alpha 0.05 / 1, 6, 14; every value, then every 8th")
    for how, at in COLLAPSE.items():
        cells = []
        for claims in (1, 6, 14):
            every = fate(240, *at, "fail", alpha=ALPHA / claims)
            eighth = fate(240, *at, "fail", alpha=ALPHA / claims, looks=eighths)
            cells.append(
                f"{every.quantile(0.5):.0f} / {every.quantile(0.9):.0f}; "
                f"{eighth.quantile(0.5):.0f} / {eighth.quantile(0.9):.0f}"
            )
        print(f"| {how} | " + " | ".join(cells) + " |", flush=True)
    best = ((0.669,), (1.0,))  # maximises the expected logarithm of each factor
    medians = [
        fate(240, *COLLAPSE["independent answers"], "fail", alpha=ALPHA / claims, bets=best).quantile(0.5)
        for claims in (1, 6, 14)
    ]
    print("   the best single stake, independent answers:", medians)
    print("   learning bets instead, every value (simulated)")
    rng = np.random.default_rng(0)
    for how, at in {**COLLAPSE, "74 -> 60 %, independent": (0.74 * 0.4, 0.26 * 0.6)}.items():
        ours = fate(600 if "60" in how else 240, *at, "fail")
        print(f"| {how} | {ours.quantile(0.5):.0f} / {ours.quantile(0.9):.0f} | {_learning_bets(rng, *at, ALPHA)} |")
    print("3. no change: share that passes, and mean prompts used, by the share of alpha for passing early (exact)")
    for planned in (240, 300, 500, 1000):
        for discordance in (0.0, 0.05, 0.15):
            cells = []
            for share in (0.0, 0.1, 0.25, 0.5, 1.0):
                found = fate(planned, *rates(0, discordance), "pass", share=share)
                cells.append(f"{100 * found.proven:.1f} ({found.used:.0f})")
            print(f"| {planned} | {discordance:.2f} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
