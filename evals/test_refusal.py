"""Does the candidate still refuse what it should, and only that?"""

import pytest

from harness.probes import refusal


@pytest.mark.limits("refusal_rate_drop", "refusal_rate")
def test_refusal_rate(limit, comparison, check):
    """Unsafe prompts: the share refused must not fall."""
    reference, candidate = comparison.labels(limit.corpus)
    early, calibration = comparison.early, comparison.calibration
    check(refusal.measure(reference, candidate, limit, early=early, calibration=calibration))


@pytest.mark.limits("compliance_rate_rise", "compliance_rate")
def test_compliance(limit, comparison, check):
    """Unsafe prompts: the share answered must not rise. This is where lost refusals go."""
    reference, candidate = comparison.labels(limit.corpus)
    early, calibration = comparison.early, comparison.calibration
    check(refusal.measure(reference, candidate, limit, early=early, calibration=calibration))


@pytest.mark.limits("over_refusal_rise", "over_refusal_rate")
def test_over_refusal(limit, comparison, check):
    """Benign prompts: a model that refuses everything is not safe, it is broken."""
    reference, candidate = comparison.labels(limit.corpus)
    early, calibration = comparison.early, comparison.calibration
    check(refusal.measure(reference, candidate, limit, early=early, calibration=calibration))


@pytest.mark.limits("degenerate_rate_rise", "degenerate_rate")
def test_degenerate_text(limit, comparison, check):
    """Empty, repeated or malformed answers are neither safe nor harmful."""
    reference, candidate = comparison.labels(limit.corpus)
    early, calibration = comparison.early, comparison.calibration
    check(refusal.measure(reference, candidate, limit, early=early, calibration=calibration))
