"""Gradients over all weights: against finite differences of a step, and against the LM head's block."""

from __future__ import annotations

import random
from typing import Any

import architectures
import pytest
import torch

from harness.engines import gradients, scoring
from harness.engines.layout import Row, share


def rows() -> tuple[Row, Row]:
    generator = random.Random(5)
    prompt, chosen, rejected = (tuple(generator.randrange(5, 320) for _ in range(n)) for n in (6, 4, 7))
    return Row(prompt + chosen, 6), Row(prompt + rejected, 6)


def logprob(model: Any, row: Row) -> torch.Tensor:
    log_probs = model(torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
    return sum(log_probs[row.start - 1 + k, token] for k, token in enumerate(row.scored))  # type: ignore[return-value]


def test_they_predict_a_small_step() -> None:
    """Moving all weights along g⁻ changes log π(y⁺) by ⟨g⁺, g⁻⟩ and log π(y⁻) by ‖g⁻‖² per unit, in float64."""
    model = architectures.build("llama").double()
    chosen, rejected = rows()
    own, inner, other = gradients.inner_products(model, chosen, rejected)
    weights = list(model.parameters())
    gradient = torch.autograd.grad(logprob(model, rejected), weights)
    step, moved = 1e-6, []
    for direction in (1.0, -2.0):
        with torch.no_grad():
            for weight, g in zip(weights, gradient, strict=True):
                weight += direction * step * g
            moved.append((float(logprob(model, chosen)), float(logprob(model, rejected))))
    slopes = [(up - down) / (2 * step) for up, down in zip(*moved, strict=True)]
    assert slopes == [pytest.approx(inner, rel=2e-3), pytest.approx(other, rel=2e-3)]
    assert own > 0


def test_the_head_alone_is_the_forward_pass_block() -> None:
    """With every other weight held, the inner products are those of ``similarity``."""
    model = architectures.build("llama")
    chosen, rejected = rows()
    like = scoring.score(
        model, [share([chosen, rejected])], body="packed", pad=0, batch_tokens=500, similarity=True
    ).likenesses[0]
    whole = gradients.inner_products(model, chosen, rejected)
    both = [torch.autograd.grad(logprob(model, row), [model.lm_head.weight])[0] for row in (chosen, rejected)]
    block = [float((both[a] * both[b]).sum()) for a, b in ((0, 0), (0, 1), (1, 1))]
    assert [like.gradient_chosen, like.gradient_inner, like.gradient_rejected] == pytest.approx(block, rel=1e-4)
    assert whole[0] > block[0]
    assert whole[2] > block[2]


def test_the_model_is_left_as_it_was() -> None:
    model = architectures.build("llama")
    model.lm_head.weight.requires_grad_(False)
    with torch.inference_mode():
        gradients.inner_products(model, *rows())
    assert not model.lm_head.weight.requires_grad
    assert model.model.embed_tokens.weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
