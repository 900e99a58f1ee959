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
gradient entanglement (Yuan et al., arXiv 2410.13828). Shapes: U tokens of a group whose hidden states are read,
n tokens of a response, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.engines.layout import Group


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


def likeness(group: Group, read: Tensor, gram: Tensor, picked: Tensor) -> Tensor:
    """[6] float64: the fields of ``Likeness`` for the group's first two rows, chosen and rejected.

    Args:
        group: which of the needed tokens predict which response.
        read: [U, D] what the LM head reads, any dtype; summed in float64.
        gram: [U, U] ⟨π, π'⟩.
        picked: [U, n⁺ + n⁻] every π at the tokens of the chosen, then of the rejected response.
    """
    hidden = read.double()
    inner = hidden @ hidden.T
    chosen, rejected = (torch.tensor(rows, device=read.device) for rows in group.reads[:2])
    tokens = torch.tensor(group.rows[0].scored + group.rows[1].scored, device=read.device)
    at = {0: slice(0, len(chosen)), 1: slice(len(chosen), None)}
    rows = {0: chosen, 1: rejected}

    def gradient(one: int, other: int) -> Tensor:
        """⟨G, G'⟩ by its coefficients [n, n']: ⟨e_y − π, e_y' − π'⟩ = [y = y'] − π'(y) − π(y') + ⟨π, π'⟩."""
        across = (rows[one][:, None], rows[other][None, :])
        same = (tokens[at[one]][:, None] == tokens[at[other]][None, :]).double()
        theirs = picked[rows[other]][:, at[one]].T.double()
        ours = picked[rows[one]][:, at[other]].double()
        return ((same - theirs - ours + gram[across].double()) * inner[across]).sum()

    sum_chosen, sum_rejected = hidden[chosen].sum(0), hidden[rejected].sum(0)
    return torch.stack(
        [
            sum_chosen @ sum_rejected,
            sum_chosen @ sum_chosen,
            inner[chosen[-1], rejected[-1]],
            gradient(0, 0),
            gradient(0, 1),
            gradient(1, 1),
        ]
    )


def products(group: Group, probabilities: Tensor) -> tuple[Tensor, Tensor]:
    """(gram [U, U], picked [U, n⁺ + n⁻]) from all probabilities [U, V] of a group; see ``likeness``."""
    half = len(probabilities) // 2
    top = probabilities[:half] @ probabilities.T
    low = probabilities[half:] @ probabilities[half:].T
    gram = torch.cat([top, torch.cat([top[:, half:].T, low], dim=1)])
    return gram, probabilities[:, _tokens(group, probabilities.device)]


def products_by_tiles(
    group: Group, probabilities: Callable[[slice], Tensor], tiles: Sequence[slice]
) -> tuple[Tensor, Tensor]:
    """The same where all probabilities of a group would not fit: two tiles [u, V] are held at a time."""
    size = len(group.needed)
    gram = picked = torch.empty(0)
    for number, tile in enumerate(tiles):
        ours = probabilities(tile)
        if not number:
            tokens = _tokens(group, ours.device)
            gram, picked = ours.new_empty(size, size), ours.new_empty(size, len(tokens))
        picked[tile] = ours[:, tokens]
        gram[tile, tile] = ours @ ours.T
        for other in tiles[number + 1 :]:
            gram[tile, other] = ours @ probabilities(other).T
            gram[other, tile] = gram[tile, other].T
    return gram, picked


def _tokens(group: Group, device: torch.device) -> Tensor:
    return torch.tensor(group.rows[0].scored + group.rows[1].scored, device=device)
