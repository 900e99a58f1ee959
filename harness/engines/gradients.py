"""Gradients of a pair's log-probabilities with respect to all weights: gradient entanglement (Yuan et al., 2410.13828).

With g the gradient of log π(y|x), one DPO step on the pair moves log π(y⁺) by ‖g⁺‖² − ⟨g⁺, g⁻⟩ and log π(y⁻) by
⟨g⁺, g⁻⟩ − ‖g⁻‖², to first order. ``similarity`` gives the LM head's block of these from forward passes alone; here all
weights count, at two backward passes per pair and the memory of two more copies of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from harness.engines.layout import Row


def inner_products(model: Any, chosen: Row, rejected: Row) -> tuple[float, float, float]:
    """(‖g⁺‖², ⟨g⁺, g⁻⟩, ‖g⁻‖²), summed in float64 over tensors and in float32 within one.

    Gradients have the weights' dtype. Of a model with an adapter, base and adapter weights both count.
    """
    with _differentiable(model) as weights:
        first, second = _gradient(model, weights, chosen), _gradient(model, weights, rejected)
        return _inner(first, first), _inner(first, second), _inner(second, second)


def _gradient(model: Any, weights: list[Tensor], row: Row) -> list[Tensor]:
    """∇ log π(scored tokens | tokens before them), a tensor for each weight."""
    device = weights[0].device
    ids = torch.tensor([row.ids[:-1]], device=device)
    logits = model(input_ids=ids, use_cache=False, return_dict=True).logits[0, row.start - 1 :].float()
    target = torch.tensor(row.scored, device=device)
    logprob = -torch.nn.functional.cross_entropy(logits, target, reduction="sum")
    gradients = torch.autograd.grad(logprob, weights, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(weights, gradients, strict=True)]


def _inner(one: list[Tensor], other: list[Tensor]) -> float:
    parts = [torch.dot(a.flatten().float(), b.flatten().float()).double() for a, b in zip(one, other, strict=True)]
    return float(torch.stack(parts).sum())


@contextmanager
def _differentiable(model: Any) -> Iterator[list[Tensor]]:
    """Inside, gradients of all floating-point weights can be taken; outside, the model is as it was."""
    weights = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    before = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield weights
    finally:
        for weight, wanted in zip(weights, before, strict=True):
            weight.requires_grad_(wanted)
