"""One thing at a time of an opened model: what tests compare is mostly one column of a pass."""

from __future__ import annotations

from collections.abc import Sequence

from harness.domain import PairScore, PairSimilarity, PreferencePair
from harness.protocols import FirstTokens, Model


def scores(model: Model, pairs: Sequence[PreferencePair]) -> list[PairScore]:
    return model.score(pairs).scores


def similarities(model: Model, pairs: Sequence[PreferencePair]) -> list[PairSimilarity]:
    found = model.score(pairs, similarity=True).similarities
    assert found is not None
    return found


def first_tokens(model: Model, pairs: Sequence[PreferencePair]) -> FirstTokens:
    found = model.score(pairs, first_tokens=True).first_tokens
    assert found is not None
    return found
