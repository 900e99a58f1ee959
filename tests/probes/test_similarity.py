"""Which pairs are the highest, and what the LM head's gradients would do: worked by hand."""

import math

import pytest

from harness.domain import PairSimilarity
from harness.errors import MeasurementError
from harness.probes.similarity import Entanglement, entanglement, highest


def pair(
    name: str, ches: float = 0.0, chosen: float = 1.0, inner: float = 0.0, rejected: float = 1.0
) -> PairSimilarity:
    return PairSimilarity(name, "", 3, 3, ches, ches, 0.0, inner - chosen, 0.5, chosen, inner, rejected)


@pytest.mark.parametrize(
    ("chosen", "inner", "rejected", "case"),
    [
        (4.0, 1.0, 9.0, Entanglement.APART),  # +3 and -8
        (4.0, 6.0, 9.0, Entanglement.BOTH_FALL),  # -2 and -3
        (9.0, 6.0, 4.0, Entanglement.BOTH_RISE),  # +3 and +2
        (4.0, -1.0, 9.0, Entanglement.APART),  # +5 and -10
        (4.0, 4.0, 9.0, Entanglement.APART),  # 0 and -5: a chosen that does not move has not fallen
    ],
)
def test_the_cases_of_gradient_entanglement(chosen, inner, rejected, case):
    assert entanglement(pair("a", chosen=chosen, inner=inner, rejected=rejected)) is case


def test_highest_takes_the_top_share_and_breaks_ties_by_id():
    pairs = [pair("c", 1.0), pair("a", 3.0), pair("d", 3.0), pair("b", -2.0)]
    assert highest(pairs, "ches", 0.25) == ["a"]
    assert highest(pairs, "ches", 0.5) == ["a", "d"]
    assert highest(pairs, "ches", 0.0) == []
    assert highest(list(reversed(pairs)), "ches", 0.75) == ["a", "d", "c"]


@pytest.mark.parametrize(
    ("n", "share", "count"), [(20, 0.05, 1), (10, 0.05, 1), (370, 0.05, 19), (7, 0.999, 7), (3, 1 / 3, 1)]
)
def test_the_number_of_pairs_is_rounded_up(n, share, count):
    assert len(highest([pair(f"p{i}", i) for i in range(n)], "ches", share)) == count


def test_misuse_is_explained():
    with pytest.raises(ValueError, match="unknown score 'chess'; one of ches, ches_normalised"):
        highest([pair("a")], "chess", 0.1)
    for share in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="must lie in"):
            highest([pair("a")], "ches", share)
    with pytest.raises(MeasurementError, match="pair 'b' has no finite ches"):
        highest([pair("a"), pair("b", math.nan)], "ches", 0.1)
