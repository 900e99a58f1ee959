"""How alike a pair's responses look to the model: what predicts likelihood displacement before any training.

h_k is what the LM head reads (the final hidden state, after the last norm) at the position that *predicts* response
token k: the prompt's last token is in, the end-of-turn token is out. With S = Σ_k h_k over a response's n tokens and
G = Σ_k (e_{y_k} − π(·|x, y_<k)) h_kᵀ:

    CHES                   ⟨S⁺, S⁻⟩ − ‖S⁺‖²                      (Razin et al., arXiv 2410.08847, definition 2)
    length-normalised      ⟨S⁺, S⁻⟩ / (n⁺ n⁻) − ‖S⁺‖² / (n⁺)²    (definition 3)
    last hidden            ⟨h⁺_last, h⁻_last⟩
    α-weighted             ⟨G⁺, G⁻⟩ − ‖G⁺‖²

G is the gradient of log π(y|x) with respect to the LM head's weights W [V, D], from a forward pass alone, because
⟨G, G'⟩ = Σ_kl ⟨e_{y_k} − π_k, e_{y'_l} − π'_l⟩ ⟨h_k, h'_l⟩; CHES has every such coefficient set to one. (Where a model
scales or caps its logits, the gradient has that factor besides.) ‖G⁺‖², ⟨G⁺, G⁻⟩ and ‖G⁻‖² are the LM-head block of
gradient entanglement (Yuan et al., arXiv 2410.13828). Shapes: n tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.engines import scoring
from harness.engines.batching import plan
from harness.engines.tokens import TokenisedPair
from harness.errors import MeasurementError


@dataclass(frozen=True, slots=True)
class Likeness:
    """The inner products that a pair's scores are made of; in the units of the model's hidden state, squared."""

    sum_inner: float
    """⟨S⁺, S⁻⟩."""
    sum_norm: float
    """‖S⁺‖²."""
    last_inner: float
    """⟨h⁺_last, h⁻_last⟩."""
    gradient_chosen: float
    """‖G⁺‖²."""
    gradient_inner: float
    """⟨G⁺, G⁻⟩."""
    gradient_rejected: float
    """‖G⁻‖²."""


@torch.inference_mode()
def likenesses(
    model: Any,
    pairs: Sequence[TokenisedPair],
    *,
    pad: int,
    batch_tokens: int,
    on_batch: Callable[[int], None] = lambda _: None,
) -> list[Likeness]:
    """The inner products of each pair, in the order of ``pairs``; inner products are summed in float64.

    Both responses of a pair go through the model in one batch. Raises ``MeasurementError`` for a model whose LM head
    does not read one hidden state per token.
    """
    rows = [
        (
            scoring.Row(pair.chosen_prompt + pair.chosen, len(pair.chosen_prompt)),
            scoring.Row(pair.rejected_prompt + pair.rejected, len(pair.rejected_prompt)),
        )
        for pair in pairs
    ]
    scored = [len(pair.chosen) + len(pair.rejected) for pair in pairs]
    heaviest = max(1, scoring.LOGITS_PER_BATCH // scoring.vocabulary_size(model))
    results: list[Likeness | None] = [None] * len(pairs)
    lengths = [2 * max(len(row.ids) for row in both) for both in rows]
    for batch in plan(lengths, batch_tokens, scored, heaviest):
        together = [row for number in batch for row in rows[number]]
        line, position = scoring.predicting(together)
        hidden, logits = scoring.read_at(model, [row.ids for row in together], line, position, pad=pad)
        if hidden is None:
            raise MeasurementError("this model's LM head does not read one hidden state per token: no similarities")
        begin = 0
        for number in batch:
            pair = pairs[number]
            middle, end = begin + len(pair.chosen), begin + scored[number]
            results[number] = _likeness(
                _Response(hidden[begin:middle], logits[begin:middle], pair.chosen),
                _Response(hidden[middle:end], logits[middle:end], pair.rejected),
            )
            begin = end
        on_batch(len(batch))
    assert all(item is not None for item in results)
    return [item for item in results if item is not None]


class _Response:
    """One response: hidden states [n, D] float64, probabilities [n, V] float32, tokens [n]."""

    def __init__(self, hidden: Tensor, logits: Tensor, tokens: Sequence[int]) -> None:
        self.hidden = hidden.double()
        self.probabilities = logits.softmax(dim=-1)
        self.tokens = torch.tensor(tokens, device=logits.device)


def _likeness(chosen: _Response, rejected: _Response) -> Likeness:
    sum_chosen, sum_rejected = chosen.hidden.sum(0), rejected.hidden.sum(0)
    return Likeness(
        sum_inner=float(sum_chosen @ sum_rejected),
        sum_norm=float(sum_chosen @ sum_chosen),
        last_inner=float(chosen.hidden[-1] @ rejected.hidden[-1]),
        gradient_chosen=_gradient_inner(chosen, chosen),
        gradient_inner=_gradient_inner(chosen, rejected),
        gradient_rejected=_gradient_inner(rejected, rejected),
    )


def _gradient_inner(one: _Response, other: _Response) -> float:
    """⟨G, G'⟩ by its coefficients [n, n']: ⟨e_y − π, e_y' − π'⟩ = [y = y'] − π'(y) − π(y') + ⟨π, π'⟩."""
    same = (one.tokens[:, None] == other.tokens[None, :]).double()
    theirs = other.probabilities[:, one.tokens].T.double()
    ours = one.probabilities[:, other.tokens].double()
    both = (one.probabilities @ other.probabilities.T).double()
    return float(((same - theirs - ours + both) * (one.hidden @ other.hidden.T)).sum())
