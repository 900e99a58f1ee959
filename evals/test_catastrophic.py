"""Did the probability go to tokens that mean the opposite of the preferred one?"""

import pytest

from harness.probes import catastrophic


@pytest.mark.limits("opposite_mass_rise", "opposite_mass", "catastrophic_share")
def test_opposite_meaning(limit, comparison, lexicon, check):
    """First response token: the mass on opposites of y+, and whether the top riser is one."""
    if limit.baseline:  # of a stored run the masses are kept, not the whole distributions
        check(catastrophic.mass_rise(*comparison.masses(limit.corpus), limit))
        return
    reference, candidate = comparison.first_tokens(limit.corpus)
    pairs = comparison.pairs(limit.corpus)
    comparison.keep("risers", limit.corpus, catastrophic.risers(reference, candidate, pairs, lexicon).rows())
    comparison.keep("masses", limit.corpus, catastrophic.masses(reference, candidate, pairs, lexicon))
    check(catastrophic.measure(reference, candidate, pairs, lexicon, limit))
