"""Batches hold every item once; running out of memory costs speed and nothing else."""

from __future__ import annotations

import random

import pytest
import torch

from harness.engines import memory
from harness.engines.batching import Countdown, plan, run
from harness.errors import MeasurementError


def test_plan_keeps_every_item_once_within_the_budget() -> None:
    generator = random.Random(0)
    lengths = [generator.randint(1, 50) for _ in range(200)]
    widths = [generator.randint(1, 3) for _ in range(200)]
    batches = plan(lengths, 120, widths)
    assert sorted(item for batch in batches for item in batch) == list(range(200))
    for batch in batches:
        tokens = max(lengths[item] for item in batch) * sum(widths[item] for item in batch)
        assert len(batch) == 1 or tokens <= 120
    assert [len(batch) for batch in plan([500, 3, 3], 100)] == [1, 2], "an item that is too large goes alone"
    assert plan([], 100) == []


class Device:
    """Takes at most so many tokens."""

    def __init__(self, lengths: list[int], most: int, error: Exception) -> None:
        self.lengths, self.most, self.error = lengths, most, error
        self.done: list[int] = []
        self.refused = 0

    def process(self, batch: list[int]) -> None:
        if max(self.lengths[item] for item in batch) * len(batch) > self.most:
            self.refused += 1
            raise self.error
        self.done += batch


OUT_OF_MEMORY = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory"),
    "cpu": RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    "python": MemoryError(),
}


@pytest.mark.parametrize("error", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_out_of_memory_halves_the_budget_and_goes_on(error: Exception) -> None:
    generator = random.Random(0)
    lengths = [generator.randint(1, 50) for _ in range(300)]
    device, told = Device(lengths, 100, error), []
    run(lengths, 1000, device.process, on_smaller=told.append)
    assert sorted(device.done) == list(range(300)), "every item once"
    assert told == [500, 250, 125, 62], "each new budget is told"
    assert device.refused == len(told), "it does not try the same again"


def test_an_item_that_does_not_fit_alone_is_an_error_that_says_so() -> None:
    device = Device([10, 200], 100, torch.OutOfMemoryError("CUDA out of memory"))
    with (
        pytest.raises(MeasurementError, match=r"ref ran out of memory with a single pair"),
        memory.explained("ref", "with a single pair"),
    ):
        run([10, 200], 1000, device.process)


def test_other_errors_are_not_swallowed() -> None:
    device = Device([10, 200], 1, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"), memory.explained("ref", ""):
        run([10, 200], 1000, device.process)


def test_countdown_reports_an_item_when_its_last_row_is_done() -> None:
    told: list[int] = []
    countdown = Countdown([0, 0, 1, 1], told.append)
    countdown.finished([0, 2])
    countdown.finished([3])
    countdown.finished([1])
    assert told == [1, 1]
