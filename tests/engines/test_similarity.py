"""Similarities against the definitions written naively, against autograd, and against what must not matter."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ask
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.domain import PairSimilarity, PreferencePair
from harness.engines import scoring
from harness.engines.model import HfModel
from harness.errors import MeasurementError

FIELDS = (
    "ches",
    "ches_normalised",
    "last_hidden",
    "alpha_ches",
    "gradient_chosen",
    "gradient_inner",
    "gradient_rejected",
)


def states(module: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
    """[n, D] float64: the last hidden state where response tokens are predicted, one row, no padding."""
    with torch.no_grad():
        output = module(torch.tensor([prompt + response]), output_hidden_states=True)
    return output.hidden_states[-1][0, len(prompt) - 1 : -1].double()


def gradient(module: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> torch.Tensor:
    """[V, D] float64: autograd's gradient of log π(y|x) with respect to the LM head's weights."""
    module.zero_grad()
    logits = module(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    logits.log_softmax(-1)[torch.arange(len(response)), torch.tensor(response)].sum().backward()
    return module.lm_head.weight.grad.double().clone()


def naive(model: HfModel, module: Any, pair: PreferencePair) -> dict[str, float]:
    """Definitions 2 and 3 of arXiv 2410.08847, and the gradients themselves."""
    ids = model._chat.pair_ids(pair)
    chosen, rejected = states(module, ids.chosen_prompt, ids.chosen), states(module, ids.rejected_prompt, ids.rejected)
    assert (len(chosen), len(rejected)) == (len(ids.chosen), len(ids.rejected))
    s, t = chosen.sum(0), rejected.sum(0)
    g, f = gradient(module, ids.chosen_prompt, ids.chosen), gradient(module, ids.rejected_prompt, ids.rejected)
    return {
        "ches": float(s @ t - s @ s),
        "ches_normalised": float(s @ t / (len(chosen) * len(rejected)) - s @ s / len(chosen) ** 2),
        "last_hidden": float(chosen[-1] @ rejected[-1]),
        "alpha_ches": float((g * f).sum() - (g * g).sum()),
        "gradient_chosen": float((g * g).sum()),
        "gradient_inner": float((g * f).sum()),
        "gradient_rejected": float((f * f).sum()),
    }


def test_equals_the_definitions_and_autograd(model: HfModel, reference: Path, pairs: list[PreferencePair]) -> None:
    module = AutoModelForCausalLM.from_pretrained(reference)
    for pair, found in zip(pairs, ask.similarities(model, pairs), strict=True):
        for field, expected in naive(model, module, pair).items():
            assert getattr(found, field) == pytest.approx(expected, rel=1e-4, abs=1e-3), (pair.id, field)


def test_the_end_of_turn_is_predicted_and_not_read(model: HfModel, pairs: list[PreferencePair]) -> None:
    """A one-token answer has two rows: the one that predicts it and the one that predicts the end of turn."""
    assert ask.similarities(model, pairs)[1].chosen_tokens == len(model._chat.pair_ids(pairs[1]).chosen)


@pytest.mark.parametrize("batch_tokens", [1, 64, 100_000])
def test_batch_order_and_padding_do_not_matter(
    opened: Callable[..., HfModel], reference: Path, model: HfModel, pairs: list[PreferencePair], batch_tokens: int
) -> None:
    expected = {item.pair_id: item for item in ask.similarities(model, pairs)}
    shuffled = random.Random(batch_tokens).sample(pairs, len(pairs))
    found = ask.similarities(opened(reference, batch_tokens=batch_tokens), shuffled)
    assert [item.pair_id for item in found] == [pair.id for pair in shuffled]
    for item in found:
        for field in FIELDS:
            assert getattr(item, field) == pytest.approx(getattr(expected[item.pair_id], field), rel=1e-4, abs=1e-3)


def test_swapping_the_responses_swaps_the_parts(model: HfModel, pairs: list[PreferencePair]) -> None:
    swapped = [PreferencePair(pair.id, pair.prompt, pair.rejected, pair.chosen) for pair in pairs]
    for one, other in zip(ask.similarities(model, pairs), ask.similarities(model, swapped), strict=True):
        assert one.gradient_inner == pytest.approx(other.gradient_inner, rel=1e-4, abs=1e-3)
        assert one.gradient_chosen == pytest.approx(other.gradient_rejected, rel=1e-4, abs=1e-3)
        assert one.last_hidden == pytest.approx(other.last_hidden, rel=1e-4, abs=1e-3)
        assert (one.chosen_tokens, one.edit) == (other.rejected_tokens, other.edit)


def test_edit_similarity_is_on_tokens(model: HfModel) -> None:
    pair = PreferencePair("a", "Hi", "b c d", "b c e")
    ids = model._chat.pair_ids(pair)
    assert len(ids.chosen) == len(ids.rejected)
    same = sum(a == b for a, b in zip(ids.chosen, ids.rejected, strict=True))
    assert ask.similarities(model, [pair])[0].edit == pytest.approx(same / len(ids.chosen))


def test_half_precision_sums_in_float64(
    opened: Callable[..., HfModel], reference: Path, model: HfModel, pairs: list[PreferencePair]
) -> None:
    """What half precision costs comes from the model's own rounding, not from summing."""
    exact, rounded = ask.similarities(model, pairs), ask.similarities(opened(reference, dtype="bfloat16"), pairs)
    ours = np.array([item.gradient_chosen for item in rounded]) / [item.gradient_chosen for item in exact]
    assert np.abs(ours - 1).max() < 0.1


def test_a_pair_longer_than_the_context_is_named(model: HfModel) -> None:
    with pytest.raises(MeasurementError, match=r"pair 'long' has \d+ tokens with its prompt, more than the 192"):
        ask.similarities(model, [PreferencePair("long", "Hi", "word " * 300, "no")])


def test_nan_is_refused(model: HfModel, pairs: list[PreferencePair], monkeypatch: pytest.MonkeyPatch) -> None:
    likeness = scoring.likeness

    def broken(*arguments: Any) -> torch.Tensor:
        values = likeness(*arguments)
        values[0] = float("nan")
        return values

    monkeypatch.setattr(scoring, "likeness", broken)
    with pytest.raises(MeasurementError, match="a similarity that is not finite on pair 'pair-0'"):
        ask.similarities(model, pairs)


def test_results_are_domain_objects(model: HfModel, pairs: list[PreferencePair]) -> None:
    found = ask.similarities(model, pairs)
    assert all(isinstance(item, PairSimilarity) for item in found)
    assert {item.category for item in found} == {"c"}
