"""What is compared: engines with settings. ``CASES`` is the list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Settings = Mapping[str, Any]

BATCHES = (1, 2, 4, 8, 16)
"""Batch sizes that are tried where the best one is looked for."""


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table."""

    name: str
    engine: str
    """A key of ``engines.ENGINES``; what ``--engine`` selects."""
    how: str
    """What the table says about the settings."""
    settings: Settings = field(default_factory=dict)
    sweep: tuple[Settings, ...] = ()
    """Tried once each before the measured rounds; the fastest is taken and said."""
    similarity: bool = False
    """CHES is asked for: compared within a table of its own."""
    group: str = ""
    """On CUDA, cases of one group share a process and so one copy of the weights; '' is the engine's name."""


def _swept(**settings: Any) -> tuple[Settings, ...]:
    return tuple({**settings, "batch": batch} for batch in BATCHES)


CASES = (
    Case("ours", "ours", "as it comes"),
    Case("ours shared-rows", "ours", "path forced", {"path": "shared-rows"}),
    Case("ours packed", "ours", "path forced", {"path": "packed"}),
    Case("ours plain-rows", "ours", "path forced", {"path": "plain-rows"}),
    Case("lm-eval hf", "lm-eval", "defaults: batch 1", {"batch": 1}),
    Case("lm-eval hf, best", "lm-eval", "softmax float32", sweep=_swept(softmax_dtype="float32")),
    Case("TRL", "trl", "defaults: batch 8, unsorted", {"batch": 8}, group="trl"),
    Case("TRL, best", "trl-ref", "sorted, ref_model given", sweep=_swept(sort=True), group="trl-ref"),
    Case("vLLM", "vllm", "prompt_logprobs=1, as lm-eval asks", {"prompt_logprobs": 1}),
    Case("vLLM, best", "vllm", "prompt_logprobs=0, flat", {"prompt_logprobs": 0, "flat": True}),
    Case("transformers loop", "transformers", "batch 8, all logits", {"batch": 8}),
    Case("ours, CHES", "ours", "similarity=True", {"similarity": True}, similarity=True),
    Case("script, CHES", "transformers", "one pair at a time", {"similarity": True}, similarity=True),
)
"""In the order of the table. The first case of each kind is what the others are compared with."""

ENGINES = tuple(dict.fromkeys(case.engine for case in CASES))
"""Names ``--engine`` takes."""
