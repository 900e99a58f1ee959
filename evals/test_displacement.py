"""Did training move probability away from the very answers it preferred?"""

import pytest

from harness.probes import displacement, preference


@pytest.mark.limits("chosen_logprob_change", "rejected_logprob_change", "other_logprob_change", "chosen_shortfall")
def test_logprob_change(limit, comparison, check):
    """Mean change of log π(y|x) of the chosen (rejected, third) answers; what the chosen ones lost."""
    reference, candidate = comparison.scores(limit.corpus)
    check(displacement.measure(reference, candidate, limit))


@pytest.mark.limits("chosen_decrease_share", "both_decrease_share", "rejected_faster_share")
def test_share_of_pairs_that_fell(limit, comparison, check):
    """How many pairs lost chosen probability; in how many chosen and rejected fell together, or the rejected more."""
    reference, candidate = comparison.scores(limit.corpus)
    check(displacement.measure(reference, candidate, limit))


@pytest.mark.limits("degradation")
def test_degradation(limit, comparison, check):
    """Whether the rejected answers fall faster than the chosen ones (3D-properties)."""
    reference, candidate = comparison.scores(limit.corpus)
    check(displacement.measure(reference, candidate, limit))


@pytest.mark.limits("logratio_concentration")
def test_few_tokens_moved(limit, comparison, check):
    """Whether a handful of tokens carries all the change of the chosen answers."""
    reference, candidate = comparison.scores(limit.corpus)
    check(displacement.measure(reference, candidate, limit))


@pytest.mark.limits("reward_accuracy", "reward_margin", "ranking_accuracy", "ranking_accuracy_drop")
def test_preference(limit, comparison, check):
    """What DPO itself optimises: these look fine in a model whose refusals are gone."""
    reference, candidate = comparison.scores(limit.corpus)
    check(preference.measure(reference, candidate, limit, beta=comparison.beta))


@pytest.mark.limits("idealised_ranking_accuracy", "alignment_gap")
def test_room_for_better_rankings(limit, comparison, check):
    """What DPO's perfect optimum would rank right, and how far the candidate is from it; needs rater shares."""
    reference, candidate = comparison.scores(limit.corpus)
    pairs = comparison.pairs(limit.corpus)
    check(preference.measure(reference, candidate, limit, pairs=pairs, beta=comparison.beta))


@pytest.mark.limits("dpo_loss", "rdpo_loss", "npo_weight")
def test_losses(limit, comparison, check):
    """The training objective on these pairs, with swapped labels taken out, and how unlearned the rejected are."""
    reference, candidate = comparison.scores(limit.corpus)
    beta, flips = comparison.beta, comparison.label_flip_rate
    check(preference.measure(reference, candidate, limit, beta=beta, label_flip_rate=flips))
