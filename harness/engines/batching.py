"""Which rows go through the model together."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def plan(
    lengths: Sequence[int], budget: int, weights: Sequence[int] | None = None, heaviest: int = 0
) -> list[list[int]]:
    """Batches of row numbers, longest rows first (so that what does not fit in memory fails at once).

    A batch holds at most ``budget`` tokens, padding included, and, where ``weights`` are given, at most ``heaviest`` of
    their sum; a row that is larger alone has a batch of its own. Depends on the lengths only, so two checkpoints with
    one tokenizer get the same batches.
    """
    batches: list[list[int]] = []
    longest = load = 0
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        weight = weights[row] if weights else 0
        full = bool(batches) and (
            longest * (len(batches[-1]) + 1) > budget or (weights is not None and load + weight > heaviest)
        )
        if not batches or full:
            batches.append([])
            longest, load = lengths[row], 0
        batches[-1].append(row)
        load += weight
    return batches


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
