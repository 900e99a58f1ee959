"""Which items go through the model together, and what to do when they do not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.engines import memory


def plan(lengths: Sequence[int], budget: int, widths: Sequence[int] | None = None) -> list[list[int]]:
    """Batches of item numbers, longest first (so that what does not fit in memory fails at once).

    A batch holds at most ``budget`` tokens, padding included; an item that is larger alone has a batch of its own.
    ``widths``: rows of each item (one where not given). Depends on the sizes only, so two checkpoints with one
    tokenizer get the same batches.
    """
    batches: list[list[int]] = []
    longest = rows = 0
    for item in sorted(range(len(lengths)), key=lambda item: (-lengths[item], item)):
        width = widths[item] if widths else 1
        if not batches or longest * (rows + width) > budget:
            batches.append([])
            longest, rows = lengths[item], 0
        batches[-1].append(item)
        rows += width
    return batches


def run(
    lengths: Sequence[int],
    budget: int,
    process: Callable[[list[int]], None],
    widths: Sequence[int] | None = None,
    on_smaller: Callable[[int], None] = lambda _: None,
) -> None:
    """Process all items in planned batches; after running out of memory go on with half the budget.

    ``process`` keeps a batch's results only when it is finished. ``on_smaller`` is told each new budget.

    Raises:
        Exception: out of memory with a single item; it cannot be made smaller.
    """
    waiting = plan(lengths, budget, widths)
    while waiting:
        try:
            process(waiting[0])
        except Exception as error:
            if not memory.is_exhausted(error) or len(waiting[0]) == 1:
                raise
        else:
            del waiting[0]
            continue
        memory.release()  # only now: until here the error's traceback held the batch's tensors
        items = [item for batch in waiting for item in batch]
        while budget > 1 and len(waiting[0]) > 1:
            budget //= 2
            smaller = plan(
                [lengths[item] for item in items], budget, [widths[item] for item in items] if widths else None
            )
            if len(smaller[0]) < len(waiting[0]):
                waiting = [[items[number] for number in batch] for batch in smaller]
                break
        on_smaller(budget)


class Countdown:
    """Tells how many items are finished when items consist of several rows."""

    def __init__(self, owners: Sequence[int], on_progress: Callable[[int], None]) -> None:
        """``owners``: the item each row belongs to."""
        self._owners = owners
        self._on_progress = on_progress
        self._open: dict[int, int] = {}
        for owner in owners:
            self._open[owner] = self._open.get(owner, 0) + 1

    def finished(self, rows: Sequence[int]) -> None:
        """These rows are done; reports the items of which nothing is left."""
        done = 0
        for row in rows:
            owner = self._owners[row]
            self._open[owner] -= 1
            done += self._open[owner] == 0
        if done:
            self._on_progress(done)
