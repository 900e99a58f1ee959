"""Did training move probability away from the very answers it preferred?"""

import pytest

from harness.probes import displacement


@pytest.mark.limits("chosen_logprob_change", "rejected_logprob_change")
def test_logprob_change(limit, comparison, check):
    """Mean change of log π(y|x) of the chosen (or rejected) answers."""
    reference, candidate = comparison.scores(limit.corpus)
    check(displacement.measure(reference, candidate, limit))


@pytest.mark.limits("chosen_decrease_share", "both_decrease_share")
def test_share_of_pairs_that_fell(limit, comparison, check):
    """How many pairs lost chosen probability; in how many chosen and rejected fell together."""
    reference, candidate = comparison.scores(limit.corpus)
    check(displacement.measure(reference, candidate, limit))


@pytest.mark.limits("reward_accuracy", "reward_margin", "ranking_accuracy", "ranking_accuracy_drop")
def test_preference(limit, comparison, check):
    """What DPO itself optimises: these look fine in a model whose refusals are gone."""
    reference, candidate = comparison.scores(limit.corpus)
    check(displacement.measure(reference, candidate, limit))


@pytest.mark.limits("degradation")
def test_degradation(limit, comparison, check):
    """Whether the rejected answers fall faster than the chosen ones (3D-properties)."""
    reference, candidate = comparison.scores(limit.corpus)
    check(displacement.measure(reference, candidate, limit))
