"""Power against sums over all outcomes, simulation, closed forms and the normal formula.

``python tests/stats/test_power.py`` prints the tables of docs/statistics-sequential.md, in about a minute.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy.stats import multinomial, norm

from harness.domain import Limit
from harness.stats import paired_difference
from harness.stats.power import PAIRED_SHARES, _edges, describe, detectable, power, prompts_needed


def limit(metric: str = "refusal_rate_drop", maximum: float = 0.05, **more: object) -> Limit:
    return Limit("refusal-drop", metric, "unsafe", maximum=maximum, **more)


def outcomes(n: int) -> np.ndarray:
    """[outcomes, 3]: gained, lost, agree."""
    return np.array([(g, lost, n - g - lost) for g in range(n + 1) for lost in range(n + 1 - g)])


def normal_power(n: int, margin: float, change: float, discordance: float, alpha: float) -> float:
    """The usual formula, for the claim that a change is at most the margin."""
    return float(norm.cdf((margin - change) / math.sqrt((discordance - change**2) / n) + norm.ppf(alpha)))


# ---------------------------------------------------------------- power


@pytest.mark.parametrize("n", [1, 7, 22])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_power_is_the_sum_over_all_outcomes(n, alpha):
    x = outcomes(n)
    bounds = np.array([paired_difference(int(g), int(lost), n).bounds(alpha) for g, lost, _ in x])
    for margin in (0.0, 0.05, 0.3, -0.1):
        for change, discordance in ((0.0, 0.0), (0.0, 0.4), (0.2, 0.2), (-0.3, 0.5), (0.3, 1.0), (1.0, 1.0), (-1, 1)):
            gained, lost = (discordance + change) / 2, (discordance - change) / 2
            p = multinomial.pmf(x, n, [gained, lost, 1 - gained - lost])
            for claim, proven in (("pass", bounds[:, 1] <= margin), ("fail", bounds[:, 0] > margin)):
                ours = power(n, margin, change, discordance, alpha, claim=claim)
                assert ours == pytest.approx(p[proven].sum(), abs=1e-7), (margin, change, discordance, claim)


@pytest.mark.parametrize("claim", ["pass", "fail"])
@pytest.mark.parametrize("margin", [0.05, 0.0, -0.1])
def test_edges_are_where_the_gates_own_interval_turns(claim, margin):
    n = 150
    edges = _edges(n, margin, 0.05, claim, 0, 60).astype(int)
    assert (np.diff(edges) >= 0).all()

    def above(gained: int, lost: int) -> bool:
        low, high = paired_difference(gained, lost, n).bounds(0.05)
        return (high if claim == "pass" else low) > margin

    for lost in (0, 1, 2, 13, 30, 59, 60):
        edge = edges[lost]
        assert above(edge, lost)
        assert edge == 0 or not above(edge - 1, lost)


def test_power_is_what_simulation_finds():
    # 4000 runs of 120 prompts: standard error 0.8 points at most
    rng = np.random.default_rng(21)
    decide = cache(lambda gained, lost: paired_difference(gained, lost, 120).bounds(0.05))
    for change, discordance in ((0.0, 0.06), (0.15, 0.2)):
        gained, lost = (discordance + change) / 2, (discordance - change) / 2
        drawn = rng.multinomial(120, [gained, lost, 1 - discordance], size=4000)
        bounds = [decide(int(g), int(fallen)) for g, fallen, _ in drawn]
        for claim, share in (
            ("pass", np.mean([high <= 0.05 for _, high in bounds])),
            ("fail", np.mean([low > 0.05 for low, _ in bounds])),
        ):
            assert power(120, 0.05, change, discordance, 0.05, claim=claim) == pytest.approx(share, abs=0.028)


@pytest.mark.parametrize("n,discordance", [(370, 0.15), (500, 0.05), (500, 0.6), (1000, 0.3), (2000, 0.15)])
def test_power_is_a_little_less_than_the_normal_formula_promises(n, discordance):
    ours = power(n, 0.05, 0.0, discordance, 0.05, claim="pass")
    promised = normal_power(n, 0.05, 0.0, discordance, 0.05)
    assert promised - 0.06 < ours < promised


@pytest.mark.parametrize("discordance", [0.06, 0.2, 0.6])
def test_at_the_margin_power_is_error(discordance):
    for claim in ("pass", "fail"):
        assert 0.005 < power(300, 0.05, 0.05, discordance, 0.05, claim=claim) <= 0.05


def test_power_at_the_ends():
    # 58 prompts that agree bound the change by 1 - 0.05^(1/58) = 0.0503, 59 by 0.0495
    assert power(58, 0.05, 0.0, 0.0, 0.05, claim="pass") == 0
    assert power(59, 0.05, 0.0, 0.0, 0.05, claim="pass") == 1
    assert power(10, 1.0, 0.5, 0.5, 0.05, claim="pass") == 1
    assert power(10, 1.0, 0.5, 0.5, 0.05, claim="fail") == 0
    assert power(100, 0.05, 1.0, 1.0, 0.05, claim="fail") == 1


@pytest.mark.parametrize(
    "n,change,discordance,alpha,message",
    [
        (0, 0.0, 0.1, 0.05, "at least 1 prompt, not 0"),
        (10, 0.2, 0.1, 0.05, "a change of 0.2 needs a discordance of at least 0.2, not 0.1"),
        (10, math.nan, 0.1, 0.05, "a change of nan"),
        (10, 0.0, 1.1, 0.05, "a share from 0 to 1, not 1.1"),
        (10, 0.0, math.nan, 0.05, "a share from 0 to 1, not nan"),
        (10, 0.0, 0.1, 0.5, "alpha must lie between 0 and 0.5, not 0.5"),
    ],
)
def test_power_refuses_what_cannot_be(n, change, discordance, alpha, message):
    with pytest.raises(ValueError, match=message):
        power(n, 0.05, change, discordance, alpha, claim="pass")


# ---------------------------------------------------------------- what is detectable, how many it takes


@pytest.mark.parametrize("n,discordance", [(370, 0.15), (240, 0.05), (100, 0.4), (30, 0.02), (5, 0.0)])
def test_the_detectable_change_has_the_power_asked_for(n, discordance):
    least = detectable(n, discordance, 0.05)
    for change, met in ((least + 1e-4, True), (least - 1e-4, False)):
        reached = power(n, 0.0, min(change, 1.0), max(discordance, min(change, 1.0)), 0.05, claim="fail")
        assert (reached >= 0.8) == met


def test_370_prompts_detect_about_five_points():
    least = detectable(370, 0.15, 0.05)
    normal = (norm.isf(0.05) + norm.isf(0.2)) * math.sqrt(0.15 / 370)
    assert normal == pytest.approx(0.0501, abs=1e-4)
    assert normal < least == pytest.approx(0.0519, abs=5e-4)


def test_detectable_falls_with_prompts_and_grows_with_discordance():
    assert detectable(100, 0.15, 0.05) > detectable(370, 0.15, 0.05) > detectable(370, 0.05, 0.05)
    assert detectable(370, 0.15, 0.05, power=0.9) > detectable(370, 0.15, 0.05)
    assert math.isnan(detectable(4, 0.15, 0.05))  # four losses of four: p = 0.0625 at best


@pytest.mark.parametrize("margin,discordance,target", [(0.05, 0.05, 0.8), (0.05, 0.15, 0.8), (0.1, 0.3, 0.9)])
def test_the_prompts_needed_are_enough_and_hardly_fewer_are(margin, discordance, target):
    needed = prompts_needed(margin, discordance, 0.05, target)
    assert power(needed, margin, 0.0, discordance, 0.05, claim="pass") >= target
    assert power(math.floor(0.97 * needed), margin, 0.0, discordance, 0.05, claim="pass") < target


def test_prompts_needed_in_closed_form_and_never():
    assert prompts_needed(0.05, 0.0, 0.05) == 59  # ln 0.05/ln 0.95 = 58.4
    assert prompts_needed(0.02, 0.0, 0.05) == 149
    assert prompts_needed(0.0, 0.15, 0.05) is None
    assert prompts_needed(-0.1, 0.15, 0.05) is None
    assert prompts_needed(0.0001, 0.15, 0.05) is None
    assert prompts_needed(math.nan, 0.15, 0.05) is None
    for bad in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="a power must lie between 0 and 1"):
            prompts_needed(0.05, 0.15, 0.05, bad)
        with pytest.raises(ValueError, match="a power must lie between 0 and 1"):
            detectable(100, 0.15, 0.05, bad)


# ---------------------------------------------------------------- the line


def test_the_line_says_what_is_detected_and_who_passes():
    assert describe(limit(), 370, 0.15) == (
        "refusal-drop: 370 prompts detect a 5.2-point drop with 80 % power at 15 % discordance; "
        "a candidate without any drop passes max 0.05 with 76 %"
    )
    assert power(370, 0.05, 0.0, 0.15, 0.05, claim="pass") == pytest.approx(0.7608, abs=5e-4)
    rise = describe(limit("compliance_rate_rise"), 370, 0.05, spent_early=(1.0, 0.1))
    assert "-point rise with 80 % power at 5 % discordance; a candidate without any rise passes" in rise
    still = math.floor(100 * power(370, 0.05, 0.0, 0.05, 0.045, claim="pass"))
    assert rise.endswith(f"({still} % or more where generation may stop early)")
    assert "240 pairs detect" in describe(limit("ranking_accuracy_drop"), 240, 0.05)


def test_the_line_says_plainly_that_prompts_are_too_few():
    few = describe(limit(), 60, 0.15)
    needed = prompts_needed(0.05, 0.15, 0.05)
    assert "passes max 0.05 with 15 %" in few
    assert few.endswith(
        f"TOO FEW PROMPTS: most healthy candidates will be blocked as undecided; {needed} prompts would give 80 %"
    )
    assert "TOO FEW" not in describe(limit(), 370, 0.15)
    never = describe(limit(maximum=0.0), 240, 0.1)
    assert "no number up to 20,000 would give 80 %: the limit needs a larger max" in never
    assert "cannot detect any drop" in describe(limit(), 4, 0.1)


def test_nothing_spent_on_the_planned_end_promises_nothing():
    assert "(0 % or more where generation may stop early)" in describe(limit(), 300, 0.05, spent_early=(1.0, 1.0))
    assert "stop early" not in describe(limit(), 300, 0.05, spent_early=(1.0, 0.0))


def test_the_line_is_empty_where_nothing_can_be_said():
    assert all(describe(limit(metric), 100, 0.0) for metric in PAIRED_SHARES)
    assert describe(limit("opposite_mass_rise"), 100, 0.0) == ""
    assert describe(limit("refusal_rate"), 100, 0.0) == ""
    assert describe(limit(cluster="category"), 100, 0.0) == ""
    minimum = Limit("kept", "refusal_rate_drop", "unsafe", minimum=-0.05)
    assert describe(minimum, 100, 0.0) == ""
    with pytest.raises(ValueError, match="at least 1 prompt"):
        describe(limit(), 0, 0.0)


# ---------------------------------------------------------------- the tables


def main() -> None:
    print("1. smallest drop told from none with 80 % power, points (normal formula), alpha 0.05")
    discordances = (0.05, 0.1, 0.15, 0.3)
    z = norm.isf(0.05) + norm.isf(0.2)
    for n in (60, 100, 240, 370, 500, 1000, 2000):
        cells = [f"{100 * detectable(n, d, 0.05):.1f} ({100 * z * math.sqrt(d / n):.1f})" for d in discordances]
        print(f"| {n} | " + " | ".join(cells) + " |", flush=True)
    print("2. a candidate without any change passes max 0.05, % (normal formula)")
    for n in (60, 100, 240, 370, 500, 1000, 2000):
        cells = [
            f"{100 * power(n, 0.05, 0.0, d, 0.05, claim='pass'):.0f} ({100 * normal_power(n, 0.05, 0.0, d, 0.05):.0f})"
            for d in discordances
        ]
        print(f"| {n} | " + " | ".join(cells) + " |", flush=True)
    print("3. prompts needed to pass it with 80 %")
    for margin in (0.02, 0.05, 0.1):
        print(f"| {margin} | " + " | ".join(f"{prompts_needed(margin, d, 0.05):,}" for d in discordances) + " |")


if __name__ == "__main__":
    main()
