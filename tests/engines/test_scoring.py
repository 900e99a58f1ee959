"""Log-probabilities against a naive loop, TRL and lm-eval, and against everything that must not matter."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ask
import numpy as np
import pytest
import torch
from peers import lm_eval_logprobs, trl_rows
from transformers import AutoModelForCausalLM

from harness.domain import PreferencePair
from harness.engines import paths
from harness.engines.model import HfModel
from harness.errors import MeasurementError

TOLERANCE = 1e-5  # nats per token


def naive(module: Any, prompt: tuple[int, ...], response: tuple[int, ...]) -> list[float]:
    """One row, no padding, all logits, log-softmax at every position: nothing to get wrong."""
    ids = torch.tensor([prompt + response])
    with torch.no_grad():
        logprobs = module(ids).logits.float().log_softmax(-1)[0]
    return [float(logprobs[len(prompt) + k - 1, token]) for k, token in enumerate(response)]


def naive_scores(model: HfModel, module: Any, pairs: list[PreferencePair]) -> list[tuple[list[float], list[float]]]:
    tokenised = [model._chat.pair_ids(pair) for pair in pairs]
    return [
        (naive(module, ids.chosen_prompt, ids.chosen), naive(module, ids.rejected_prompt, ids.rejected))
        for ids in tokenised
    ]


def largest_difference(model: HfModel, module: Any, pairs: list[PreferencePair]) -> float:
    worst = 0.0
    for score, (chosen, rejected) in zip(ask.scores(model, pairs), naive_scores(model, module, pairs), strict=True):
        assert len(score.chosen.token_logprobs) == len(chosen)
        assert len(score.rejected.token_logprobs) == len(rejected)
        ours = np.array(score.chosen.token_logprobs + score.rejected.token_logprobs)
        worst = max(worst, float(np.abs(ours - np.array(chosen + rejected)).max()))
    return worst


def test_equals_the_naive_loop(
    model: HfModel, reference: Path, pairs: list[PreferencePair], record_property: Callable[[str, object], None]
) -> None:
    worst = largest_difference(model, AutoModelForCausalLM.from_pretrained(reference), pairs)
    record_property("largest_difference_to_naive_nats", worst)
    assert worst < TOLERANCE


@pytest.mark.parametrize("batch_tokens", [1, 64, 200, 100_000])
def test_batch_size_and_order_do_not_matter(
    opened: Callable[..., HfModel], reference: Path, model: HfModel, pairs: list[PreferencePair], batch_tokens: int
) -> None:
    expected = {score.pair_id: score for score in ask.scores(model, pairs)}
    shuffled = random.Random(batch_tokens).sample(pairs, len(pairs))
    scores = ask.scores(opened(reference, batch_tokens=batch_tokens), shuffled)
    assert [score.pair_id for score in scores] == [pair.id for pair in shuffled]
    for score in scores:
        for ours, theirs in (
            (score.chosen, expected[score.pair_id].chosen),
            (score.rejected, expected[score.pair_id].rejected),
        ):
            np.testing.assert_allclose(ours.token_logprobs, theirs.token_logprobs, rtol=0, atol=TOLERANCE)


def test_half_precision_weights_get_a_float32_head(
    opened: Callable[..., HfModel], reference: Path, pairs: list[PreferencePair]
) -> None:
    """With bfloat16 weights, the only rounding left is inside the body: the head's products are exact."""
    model = opened(reference, dtype="bfloat16")
    module = model._module
    ids = model._chat.pair_ids(pairs[0])
    row = ids.chosen_prompt + ids.chosen
    with torch.no_grad():
        hidden = module.model(torch.tensor([row]), use_cache=False).last_hidden_state[0]
        exact = (hidden.double() @ module.lm_head.weight.double().T).log_softmax(-1)
        rounded = module(torch.tensor([row])).logits[0].float().log_softmax(-1)
    targets = torch.tensor(row[1:])
    exact, rounded = (
        values[:-1].gather(1, targets[:, None])[:, 0][len(ids.chosen_prompt) - 1 :] for values in (exact, rounded)
    )
    ours = torch.tensor(ask.scores(model, pairs[:1])[0].chosen.token_logprobs)
    assert (ours - exact).abs().max() < 0.1 * (rounded - exact).abs().max()
    assert (ours - exact).abs().max() < 1e-3
    assert module(torch.tensor([row])).logits.dtype == torch.bfloat16, "outside scoring the head is as it was"


def test_equals_trl(
    reference: Path,
    model: HfModel,
    pairs: list[PreferencePair],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """TRL tokenises the same conversations itself and precomputes reference log-probabilities, as before a training."""
    rows = trl_rows(reference, model._chat.tokenizer, pairs, tmp_path)
    worst = 0.0
    for score, row in zip(ask.scores(model, pairs), rows, strict=True):
        assert score.chosen.tokens == len(row["chosen_ids"])
        assert score.rejected.tokens == len(row["rejected_ids"])
        worst = max(
            worst,
            abs(score.chosen.logprob - row["ref_chosen_logps"]) / score.chosen.tokens,
            abs(score.rejected.logprob - row["ref_rejected_logps"]) / score.rejected.tokens,
        )
    record_property("largest_difference_to_trl_nats_per_token", worst)
    assert worst < TOLERANCE


def test_equals_lm_eval(
    reference: Path, model: HfModel, pairs: list[PreferencePair], record_property: Callable[[str, object], None]
) -> None:
    assert model._chat.end.text == "<|end|>"
    worst = 0.0
    for score, (chosen, rejected) in zip(
        ask.scores(model, pairs), lm_eval_logprobs(reference, model, pairs), strict=True
    ):
        for ours, theirs in ((score.chosen, chosen), (score.rejected, rejected)):
            worst = max(worst, abs(ours.logprob - theirs) / ours.tokens)
    record_property("largest_difference_to_lm_eval_nats_per_token", worst)
    assert worst < TOLERANCE


def test_first_tokens(model: HfModel, pairs: list[PreferencePair]) -> None:
    first = ask.first_tokens(model, pairs)
    tokenised = [model._chat.pair_ids(pair) for pair in pairs]
    assert first.log_probs.shape == (len(pairs), 320)
    assert first.log_probs.dtype == np.float32
    np.testing.assert_allclose(np.exp(first.log_probs).sum(1), 1, atol=1e-5)
    weight = model._module.lm_head.weight.detach()
    for row, ids in enumerate(tokenised):
        with torch.no_grad():
            expected = model._module(torch.tensor([ids.chosen_prompt])).logits[0, -1].log_softmax(-1)
        np.testing.assert_allclose(first.log_probs[row], expected.numpy(), rtol=0, atol=TOLERANCE)
        assert (first.chosen[row], first.rejected[row]) == (ids.chosen[0], ids.rejected[0])
        direction = (weight @ (weight[ids.chosen[0]] - weight[ids.rejected[0]])).numpy()
        np.testing.assert_allclose(first.directions[first.direction_of[row]], direction, atol=1e-4)
    assert len(first.directions) == len({(int(a), int(b)) for a, b in zip(first.chosen, first.rejected, strict=True)})
    assert len(first.vocabulary) == 320
    assert first.vocabulary[model._chat.tokenizer.convert_tokens_to_ids("N")] == "N"
    assert first.vocabulary[-1] == "", "rows of the model that no token has"


def test_first_tokens_agree_with_scores(model: HfModel, pairs: list[PreferencePair]) -> None:
    first = ask.first_tokens(model, pairs)
    for row, score in enumerate(ask.scores(model, pairs)):
        assert first.log_probs[row, first.chosen[row]] == pytest.approx(score.chosen.token_logprobs[0], abs=TOLERANCE)
        assert first.log_probs[row, first.rejected[row]] == pytest.approx(
            score.rejected.token_logprobs[0], abs=TOLERANCE
        )


def test_a_pair_longer_than_the_context_is_named(model: HfModel, pairs: list[PreferencePair]) -> None:
    long = PreferencePair("too-long", "Hi", "no " * 200, "yes")
    with pytest.raises(MeasurementError, match=r"pair 'too-long' has \d+ tokens .* 192 positions of reference"):
        ask.scores(model, [*pairs, long])
    with pytest.raises(MeasurementError, match="too-long"):
        ask.first_tokens(model, [PreferencePair("too-long", "no " * 200, "a", "b")])


def test_longer_sequences_than_it_was_checked_for_are_checked(
    opened: Callable[..., HfModel], reference: Path, pairs: list[PreferencePair], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(reference)
    asked: list[int] = []
    real = paths.choose
    monkeypatch.setattr(paths, "choose", lambda *a, **k: asked.append(k["longest"]) or real(*a, **k))
    long = PreferencePair("long", "Hi", "no " * 50, "yes")
    for some in (pairs[1:2], pairs[:1], [long], pairs[1:2], [long]):
        ask.scores(model, some)
    assert len(asked) == 2, "short ones once, then the long one"
    assert asked[1] > 96 > asked[0]


def test_a_prompt_without_tokens_is_named(
    opened: Callable[..., HfModel], reference: Path, pairs: list[PreferencePair], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(reference)
    real = model._chat.pair_ids
    monkeypatch.setattr(model._chat, "pair_ids", lambda pair: replace(real(pair), rejected_prompt=()))
    with pytest.raises(MeasurementError, match="pair 'pair-0': its prompt has no tokens"):
        ask.scores(model, pairs)


def test_a_score_that_is_not_finite_is_named(
    opened: Callable[..., HfModel], reference: Path, pairs: list[PreferencePair]
) -> None:
    model = opened(reference)
    with torch.no_grad():
        model._module.model.embed_tokens.weight[model._chat.pair_ids(pairs[1]).chosen[0]] = math.nan
    with pytest.raises(MeasurementError, match=r"not finite on pair 'pair-1'.*--model-dtype float32"):
        ask.scores(model, pairs[:2])
    with torch.no_grad():
        model._module.model.embed_tokens.weight[model._chat.pair_ids(pairs[1]).chosen_prompt[2]] = math.nan
    with pytest.raises(MeasurementError, match=r"not finite on pair 'pair-1'"):
        ask.first_tokens(model, pairs[1:2])


def test_progress_counts_every_pair_once(
    opened: Callable[..., HfModel], reference: Path, pairs: list[PreferencePair]
) -> None:
    model = opened(reference, batch_tokens=64)
    told: list[int] = []
    model.score(pairs, similarity=True, first_tokens=True, on_progress=told.append)
    assert sum(told) == len(pairs)
    assert len(told) > 1
    assert min(told) > 0


def test_scoring_leaves_no_hooks(model: HfModel, pairs: list[PreferencePair]) -> None:
    ask.scores(model, pairs)
    head = model._module.get_output_embeddings()
    assert not head._forward_pre_hooks
    assert "forward" not in vars(head)


def test_a_closed_model_says_so(opened: Callable[..., HfModel], reference: Path, pairs: list[PreferencePair]) -> None:
    model = opened(reference)
    model.close()
    with pytest.raises(AssertionError, match="is closed"):
        ask.scores(model, pairs)


def test_identical_texts_score_identically(model: HfModel, pairs: list[PreferencePair]) -> None:
    twice = [pairs[0], replace(pairs[0], id="again")]
    first, second = ask.scores(model, twice)
    assert first.chosen.token_logprobs == pytest.approx(second.chosen.token_logprobs, abs=TOLERANCE)
