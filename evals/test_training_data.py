"""Did the preference pairs themselves ask for displacement? All of it can be known before training."""

import pytest

from harness.probes import similarity


@pytest.mark.limits("high_ches_share", "chosen_falls_share", "both_fall_share")
def test_pairs_alike(limit, comparison, check):
    """How many pairs have answers so alike that training on them pulls the chosen one down."""
    check(similarity.measure(comparison.similarities(limit.corpus), limit))


@pytest.mark.limits("ches_rank_correlation")
def test_scores_predict_the_fall(limit, comparison, check):
    """Whether the chosen answers fell most where the reference found the pair most alike."""
    similarities = comparison.similarities(limit.corpus)
    reference, candidate = comparison.scores(limit.corpus)
    pairs, labels = comparison.pairs(limit.corpus), comparison.response_labels(limit.corpus)
    rows = similarity.training_rows(pairs, similarities, labels, reference, candidate)
    comparison.keep("training", limit.corpus, rows)
    check(similarity.ches_rank_correlation(similarities, reference, candidate, limit))


@pytest.mark.limits("full_both_fall_share")
def test_full_gradients(limit, comparison, check):
    """How many pairs lower both their answers, by the gradients over all weights."""
    check(similarity.full_both_fall_share(comparison.gradients(limit.corpus), limit))
