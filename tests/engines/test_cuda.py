"""The same numbers on a CUDA device, and with half-precision weights nearly the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import architectures
import ask
import numpy as np
import pytest
import torch

from harness.domain import Decoding, EngineOptions, PreferencePair, Prompt
from harness.engines import attention, bodies, scoring
from harness.engines.hf import HfEngine
from harness.engines.layout import Group, Row, share
from harness.engines.model import HfModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_float32_scores_are_those_of_the_cpu(
    opened: Callable[..., HfModel], reference: Path, model: HfModel, pairs: list[PreferencePair], prompts: list[Prompt]
) -> None:
    cuda = opened(reference, device="cuda", dtype="float32")
    for ours, theirs in zip(ask.scores(cuda, pairs), ask.scores(model, pairs), strict=True):
        np.testing.assert_allclose(ours.chosen.token_logprobs, theirs.chosen.token_logprobs, rtol=0, atol=1e-4)
        np.testing.assert_allclose(ours.rejected.token_logprobs, theirs.rejected.token_logprobs, rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        ask.first_tokens(cuda, pairs).log_probs, ask.first_tokens(model, pairs).log_probs, atol=1e-4
    )
    decoding = Decoding(temperature=0.7, max_new_tokens=8, samples=2)
    assert cuda.generate(prompts, decoding) == cuda.generate(prompts, decoding)


def test_bfloat16_is_the_default_and_its_head_is_exact(
    opened: Callable[..., HfModel], reference: Path, pairs: list[PreferencePair]
) -> None:
    model = opened(reference)
    assert model._module.dtype == torch.bfloat16
    ids = model._chat.prompt_ids("Hi")
    with torch.inference_mode():
        hidden = model._module.model(torch.tensor([ids], device="cuda")).last_hidden_state[0].double()
        exact = hidden @ model._module.lm_head.weight.double().T
    _, ours = bodies.read_row(model._module, ids, range(len(ids)))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, exact.float(), rtol=1e-4, atol=1e-3)
    assert len(ask.scores(model, pairs)) == len(pairs)


def _groups() -> list[Group]:
    generator = random.Random(1)
    made = []
    for prompt, chosen, rejected in ((30, 20, 25), (3, 1, 4), (50, 30, 31), (2, 1, 1)):
        start, *both = (tuple(generator.randrange(5, 320) for _ in range(n)) for n in (prompt, chosen, rejected))
        made.append(share([Row(start + response, prompt) for response in both]))
    return made


def _scored(model: Any, body: str) -> torch.Tensor:
    found = scoring.score(model, _groups(), body=body, pad=0, batch_tokens=150)
    return torch.tensor([value for rows in found.logprobs for row in rows for value in row])


@pytest.mark.parametrize("name", [*architectures.SHARED])
def test_every_body_agrees_with_one_row_at_a_time(name: str) -> None:
    """At float32 to 1e-4 nats per token; in bfloat16 as far as two roundings agree."""
    model = architectures.build(name).cuda()
    expected = _scored(model, "whole-rows")
    for body in bodies.BODIES:
        assert float((_scored(model, body) - expected).abs().max()) < 1e-4, body
    model = model.bfloat16()
    rough = _scored(model, "whole-rows")
    for body in bodies.BODIES:
        assert float((_scored(model, body) - rough).abs().mean()) < 0.05, body


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_half_precision_uses_the_variable_length_kernel(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    real = attention._varlen
    monkeypatch.setattr(attention, "_varlen", lambda *a: used.append(1) or real(*a))
    _scored(architectures.build(name).cuda().bfloat16(), "packed")
    assert used


def test_describe_names_the_device() -> None:
    told = HfEngine(EngineOptions()).describe()
    assert told["device"].startswith("cuda")
    assert told["dtype"] == "bfloat16"
