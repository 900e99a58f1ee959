"""Running out of a device's memory: how it shows, and what to say."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.errors import MeasurementError


def is_exhausted(error: BaseException) -> bool:
    """Whether an error means that memory ran out; on the CPU torch raises a plain ``RuntimeError``."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def release() -> None:
    """Give back what is not used any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def explained(name: str, cure: str) -> Iterator[None]:
    """Inside, running out of memory is a ``MeasurementError``: ``name`` "ran out of memory" ``cure``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            raise
        raise MeasurementError(f"{name} ran out of memory {cure}") from error
