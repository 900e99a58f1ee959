"""The same log-probabilities as other projects compute them. A test that needs one of them is skipped without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from harness.domain import PreferencePair
from harness.engines.model import HfModel


def trl_rows(
    checkpoint: Path, tokenizer: Any, pairs: Sequence[PreferencePair], work: Path, batch: int = 3
) -> list[Mapping[str, Any]]:
    """TRL's train data, a row per pair: it tokenises the conversations itself and precomputes reference log-probs.

    Keys used: ``ref_chosen_logps``, ``ref_rejected_logps`` (nats, sums), ``chosen_ids``, ``rejected_ids``.
    """
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    rows = [
        {
            "prompt": [{"role": "user", "content": pair.prompt}],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
        }
        for pair in pairs
    ]
    arguments = trl.DPOConfig(
        output_dir=str(work),
        precompute_ref_log_probs=True,
        per_device_train_batch_size=batch,
        max_length=None,
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32),
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    return list(trainer.train_dataset)


def lm_eval_logprobs(
    checkpoint: Path, model: HfModel, pairs: Sequence[PreferencePair], batch: int = 3
) -> list[tuple[float, float]]:
    """(chosen, rejected) per pair, nats, by lm-evaluation-harness' ``loglikelihood``."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    instance = pytest.importorskip("lm_eval.api.instance").Instance
    chat = model._chat
    judge = huggingface.HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32),
        tokenizer=chat.tokenizer,
        batch_size=batch,
        device="cpu",
        softmax_dtype="float32",
    )
    requests = [
        instance(
            request_type="loglikelihood",
            doc={},
            arguments=(chat.prompt_text(pair.prompt), text + chat.end.text),
            idx=0,
        )
        for pair in pairs
        for text in (pair.chosen, pair.rejected)
    ]
    values = [logprob for logprob, _ in judge.loglikelihood(requests, disable_tqdm=True)]
    return list(zip(values[::2], values[1::2], strict=True))
