"""Similarity of a pair's responses: which preference pairs are likely to displace likelihood, before training.

    ches              ⟨S⁺, S⁻⟩ − ‖S⁺‖²
    ches_normalised   ⟨S⁺, S⁻⟩ / (n⁺ n⁻) − ‖S⁺‖² / (n⁺)²           the score that the paper filters by
    last_hidden       ⟨h⁺_last, h⁻_last⟩
    alpha_ches        ⟨G⁺, G⁻⟩ − ‖G⁺‖²                             exact alignment of the LM head's gradients
    edit              1 − Levenshtein(y⁺, y⁻) / max(n⁺, n⁻)        on token ids, end of turn included

(Razin et al., arXiv 2410.08847, definitions 2 and 3; S, G and h as in ``PairSimilarity``.) Higher means more alike, and
in the paper a larger fall of the chosen response. What they do not say: in the paper's own runs training on the pairs
with the lowest scores still lost chosen log-probability, and the runs compared differ in their number of updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from harness.domain import PairSimilarity
from harness.errors import MeasurementError

SCORES = ("ches", "ches_normalised", "last_hidden", "alpha_ches", "edit")
"""Fields of ``PairSimilarity`` that pairs can be ranked by."""


class Entanglement(StrEnum):
    """What one DPO step on the pair does to its log-probabilities, as far as the LM head goes.

    To first order log π(y⁺) moves by ‖G⁺‖² − ⟨G⁺, G⁻⟩ and log π(y⁻) by ⟨G⁺, G⁻⟩ − ‖G⁻‖² (Yuan et al., 2410.13828).
    """

    APART = "chosen rises, rejected falls"
    BOTH_FALL = "both fall"
    BOTH_RISE = "both rise"
    SWAPPED = "chosen falls, rejected rises"


def entanglement(pair: PairSimilarity) -> Entanglement:
    """Which of the four cases a pair is; a log-probability that does not move counts as not falling."""
    chosen_falls = pair.gradient_inner > pair.gradient_chosen
    rejected_falls = pair.gradient_inner < pair.gradient_rejected
    if chosen_falls:
        return Entanglement.BOTH_FALL if rejected_falls else Entanglement.SWAPPED
    return Entanglement.APART if rejected_falls else Entanglement.BOTH_RISE


def highest(pairs: Sequence[PairSimilarity], score: str, share: float) -> list[str]:
    """Ids of the ``share`` of pairs with the highest score, highest first; ties go by id, so the answer is one.

    The number of pairs is rounded up: asked to drop 5 % of 10 pairs, one is dropped. ``share`` 0 gives none.

    Raises:
        ValueError: an unknown score, or a share outside [0, 1).
        MeasurementError: a score that is not finite; the pair is named.
    """
    if score not in SCORES:
        raise ValueError(f"unknown score {score!r}; one of {', '.join(SCORES)}")
    if not 0 <= share < 1:
        raise ValueError(f"a share of pairs must lie in [0, 1), not {share}")
    values = {pair.pair_id: float(getattr(pair, score)) for pair in pairs}
    for pair_id, value in values.items():
        if not np.isfinite(value):
            raise MeasurementError(f"pair {pair_id!r} has no finite {score}; score the data again")
    # 0.05 * 20 is a little above 1 in floating point: rounding keeps the ceiling from counting that
    count = int(np.ceil(round(share * len(values), 9)))
    return sorted(values, key=lambda pair_id: (-values[pair_id], pair_id))[:count]
