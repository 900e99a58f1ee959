"""Which of the ``bodies`` is right for a model: the fastest one that agrees with one row at a time.

Three synthetic groups are scored both ways, in one batch and one row at a time: two answers that share their opening, a
one-token answer beside a longer one, and one that is as long as the longest sequence of the data, so longer than any
attention window that matters. Every unknown architecture is covered by what it computes, not by its name: also one
whose short sequences change when a long one stands in their batch, as rotary positions with a factor for long texts do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.engines import bodies, memory, scoring
from harness.engines.layout import Group, Row, Unsupported, share
from harness.errors import MeasurementError

TOLERANCE = {torch.float32: (2e-4, 5e-5), torch.float64: (2e-4, 5e-5)}
"""Largest and mean difference per token, nats, at which two ways to run a model still agree."""

ROUGH = (0.5, 0.03)
"""The same in half precision, where two right ways differ by rounding; a prompt or window that is lost whole costs far
more, one that is off by a token may not."""

SHORTEST = 96
"""Tokens that the long group has at least."""

_TEXTS = (
    ("What should I do?", "Sorry, I cannot help with that.", "Sorry, I can: first, get ready."),
    ("Tell me something about the sea.", "No", "Sure. The sea is salty, deep and 3.5 billion years old!"),
)
_LONG = "First, get ready. Then, go on, and do not look back. "


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and why not something faster."""

    body: str
    refused: tuple[str, ...] = ()
    """One line for each faster body."""

    @property
    def note(self) -> str:
        """For readers of the run; '' where a prefix is shared."""
        if self.body in ("packed", "shared-rows"):
            return ""
        return f"scored with {self.body.replace('-', ' ')}, prompts not shared: {'; '.join(self.refused)}"


def choose(model: Any, chat: Any, *, longest: int, wanted: str = "auto", context: int | None = None) -> Choice:
    """The fastest body that is right for sequences up to ``longest`` tokens.

    Args:
        model: a transformers causal LM in eval mode.
        chat: a ``ChatTokenizer``.
        longest: tokens of the longest sequence that will be scored.
        wanted: a key of ``bodies.BODIES`` to take that one, ``auto`` to choose.
        context: most positions of the model, None where it has no limit.

    Raises ``MeasurementError`` where the one that is wanted is not right.
    """
    groups = synthetic(chat, longest, context)
    reference = _logprobs(model, groups, "whole-rows", chat.pad)
    refused: list[str] = []
    for body in bodies.BODIES if wanted == "auto" else (wanted,):
        why = "" if body == "whole-rows" else _disagrees(model, groups, body, chat.pad, reference)
        if not why:
            return Choice(body, tuple(refused))
        refused.append(f"{body}: {why}")
    raise MeasurementError(f"this model cannot be scored with {refused[0]}; leave the choice to the engine")


def synthetic(chat: Any, longest: int, context: int | None) -> list[Group]:
    """The groups that paths are compared on; the last is as long as ``longest``, and none longer than ``context``."""
    rows = []
    for prompt, *answers in _TEXTS:
        rows.append([chat.response_ids(prompt, answer)[:2] for answer in answers])
    size = min(max(longest, SHORTEST), context or longest + SHORTEST)
    prompt, answer, _ = chat.response_ids(_LONG, _LONG)
    repeated = answer[:-1] * (size // len(answer[:-1]) + 1)
    room = max(1, size - len(prompt) - 20)
    rows.append([(prompt + repeated[:room], answer[:12]), (prompt + repeated[:room], answer[4:24])])
    limit = context or (1 << 62)
    return [share([Row((p + a)[:limit], min(len(p), limit - 1)) for p, a in group]) for group in rows]


def _disagrees(model: Any, groups: Sequence[Group], body: str, pad: int, reference: torch.Tensor) -> str:
    """Why a body must not be used, '' where it agrees."""
    try:
        if body in ("packed", "shared-rows") and (obstacle := bodies.obstacle(model)):
            return obstacle
        found = _logprobs(model, groups, body, pad)
    except Unsupported as error:
        return str(error)
    except Exception as error:  # models raise many kinds where they do not take a mask or positions
        if memory.is_exhausted(error):
            raise
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0][:120] if lines else ''}"
    largest, mean = TOLERANCE.get(model.get_input_embeddings().weight.dtype, ROUGH)
    apart = (found - reference).abs()
    if bool((apart.max() <= largest) & (apart.mean() <= mean)):  # NaN agrees with nothing
        return ""
    return f"differs by up to {float(apart.max()):.2g} nats per token"


def _logprobs(model: Any, groups: Sequence[Group], body: str, pad: int) -> torch.Tensor:
    found = scoring.score(model, groups, body=body, pad=pad, batch_tokens=1 << 20)
    return torch.tensor([value for rows in found.logprobs for row in rows for value in row], dtype=torch.float64)
