"""What to say when a device runs out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.errors import MeasurementError


@contextmanager
def explained(name: str, batch_tokens: int) -> Iterator[None]:
    """Inside, running out of memory is a ``MeasurementError`` that names the model and the cure."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MeasurementError(
            f"{name} ran out of memory with --batch-tokens {batch_tokens}; use fewer, for example "
            f"{max(1, batch_tokens // 4)}"
        ) from error
