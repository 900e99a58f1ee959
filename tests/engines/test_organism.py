"""The engine on the checkpoints that ship with the project."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ask
import pytest
import torch
from peers import lm_eval_logprobs, trl_rows
from transformers import AutoModelForCausalLM

from harness.domain import PreferencePair
from harness.engines.model import HfModel

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(scope="module")
def shipped() -> Path:
    path = FIXTURES / "organism" / "reference"
    if not (path / "model.safetensors").is_file():
        pytest.skip("needs fixtures/organism/reference; make it with: make organism")
    return path


@pytest.fixture(scope="module")
def preferences(shipped: Path) -> list[PreferencePair]:
    lines = (FIXTURES / "preferences" / "refusals.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    rows = [json.loads(line) for line in lines]
    return [PreferencePair(str(n), row["prompt"], row["chosen"], row["rejected"]) for n, row in enumerate(rows)]


def test_equals_the_naive_loop(
    shipped: Path,
    preferences: list[PreferencePair],
    opened: Callable[..., HfModel],
    record_property: Callable[[str, object], None],
) -> None:
    model = opened(shipped)
    module = AutoModelForCausalLM.from_pretrained(shipped, dtype=torch.float32)
    worst = 0.0
    for score, pair in zip(ask.scores(model, preferences), preferences, strict=True):
        ids = model._chat.pair_ids(pair)
        for prompt, response, ours in (
            (ids.chosen_prompt, ids.chosen, score.chosen),
            (ids.rejected_prompt, ids.rejected, score.rejected),
        ):
            with torch.no_grad():
                logprobs = module(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
            for k, (token, value) in enumerate(zip(response, ours.token_logprobs, strict=True)):
                worst = max(worst, abs(value - float(logprobs[len(prompt) + k - 1, token])))
    record_property("largest_difference_to_naive_nats", worst)
    assert worst < 1e-5


def test_equals_lm_eval(
    shipped: Path,
    preferences: list[PreferencePair],
    opened: Callable[..., HfModel],
    record_property: Callable[[str, object], None],
) -> None:
    model = opened(shipped)
    worst = 0.0
    for score, (chosen, rejected) in zip(
        ask.scores(model, preferences), lm_eval_logprobs(shipped, model, preferences, batch=8), strict=True
    ):
        for ours, theirs in ((score.chosen, chosen), (score.rejected, rejected)):
            worst = max(worst, abs(ours.logprob - theirs) / ours.tokens)
    record_property("largest_difference_to_lm_eval_nats_per_token", worst)
    assert worst < 1e-5


def test_equals_trl(
    shipped: Path,
    preferences: list[PreferencePair],
    opened: Callable[..., HfModel],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    model = opened(shipped)
    rows = trl_rows(shipped, model._chat.tokenizer, preferences, tmp_path, batch=8)
    worst = 0.0
    for score, row in zip(ask.scores(model, preferences), rows, strict=True):
        for ours, theirs in ((score.chosen, row["ref_chosen_logps"]), (score.rejected, row["ref_rejected_logps"])):
            worst = max(worst, abs(ours.logprob - theirs) / ours.tokens)
    record_property("largest_difference_to_trl_nats_per_token", worst)
    assert worst < 1e-5


def test_the_adapter_equals_the_merged_checkpoint(
    shipped: Path, preferences: list[PreferencePair], opened: Callable[..., HfModel]
) -> None:
    adapter, merged = (shipped.parent / name for name in ("adapter-displaced", "dpo-displaced"))
    if not (adapter.is_dir() and merged.is_dir()):
        pytest.skip("needs fixtures/organism/adapter-displaced and dpo-displaced; make them with: make organism")
    for ours, theirs in zip(
        ask.scores(opened(adapter), preferences), ask.scores(opened(merged), preferences), strict=True
    ):
        assert ours.chosen.logprob == pytest.approx(theirs.chosen.logprob, abs=1e-3)
        assert ours.rejected.logprob == pytest.approx(theirs.rejected.logprob, abs=1e-3)
