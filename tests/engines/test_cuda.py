"""The same numbers on a CUDA device, and with half-precision weights nearly the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ask
import numpy as np
import pytest
import torch

from harness.domain import Decoding, EngineOptions, PreferencePair, Prompt
from harness.engines import scoring
from harness.engines.hf import HfEngine
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
    ours = scoring.logits_at(model._module, [ids], [0] * len(ids), range(len(ids)), pad=0)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, exact.float(), rtol=1e-4, atol=1e-3)
    assert len(ask.scores(model, pairs)) == len(pairs)


def test_describe_names_the_device() -> None:
    told = HfEngine(EngineOptions()).describe()
    assert told["device"].startswith("cuda")
    assert told["dtype"] == "bfloat16"
