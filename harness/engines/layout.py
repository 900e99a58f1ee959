"""How the responses to one prompt are laid out so that what their sequences share is computed once.

A group of sequences becomes ``[prefix][branch 0][branch 1]...``: the prefix is the longest common *token* prefix of the
whole sequences, so it is exact wherever the tokenizer puts the boundary between prompt and response, and openings that
the responses share stand in it too. A branch's positions go on where the prefix ends. A sequence's last token is only
ever predicted, so it is not laid out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class Unsupported(Exception):
    """A model cannot be run in a certain way; another one serves."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence, and the part of it that is scored."""

    ids: tuple[int, ...]
    start: int
    """Index of the first scored token; at least 1."""

    def __post_init__(self) -> None:
        assert 1 <= self.start < len(self.ids), "a scored token is predicted by one before it"

    @property
    def scored(self) -> tuple[int, ...]:
        """The tokens whose log-probabilities are wanted."""
        return self.ids[self.start :]


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences that are scored together; see the module. Indices count the group's laid-out tokens from 0."""

    rows: tuple[Row, ...]
    prefix: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]
    """One per row; empty where a row lies wholly in the prefix."""
    needed: tuple[int, ...]
    """Laid-out tokens whose hidden states are read: those that predict a scored token of any row."""
    reads: tuple[tuple[int, ...], ...]
    """For each row and scored token, its place in ``needed``."""

    @property
    def ids(self) -> tuple[int, ...]:
        """[tokens] laid out."""
        return sum(self.branches, self.prefix)

    @property
    def positions(self) -> tuple[int, ...]:
        """[tokens] each token's position in its own sequence."""
        start = len(self.prefix)
        return sum((tuple(range(start, start + len(branch))) for branch in self.branches), tuple(range(start)))

    @property
    def tokens(self) -> int:
        return len(self.prefix) + sum(map(len, self.branches))

    @property
    def longest(self) -> int:
        """Tokens of the longest single sequence, its last one included."""
        return max(len(row.ids) for row in self.rows)

    def places(self) -> list[tuple[int, int]]:
        """(row, position in its sequence) of each needed token."""
        starts = self.starts()
        found = []
        for index in self.needed:
            if index < len(self.prefix):
                found.append((0, index))
            else:
                branch = max(number for number, start in enumerate(starts) if start <= index and self.branches[number])
                found.append((branch, len(self.prefix) + index - starts[branch]))
        return found

    def starts(self) -> list[int]:
        """Where each branch begins."""
        starts, start = [], len(self.prefix)
        for branch in self.branches:
            starts.append(start)
            start += len(branch)
        return starts


def share(rows: Sequence[Row], *, apart: bool = False) -> Group:
    """Lay out rows of one prompt; ``apart``: with nothing shared, each row whole."""
    inputs = [row.ids[:-1] for row in rows]
    prefix = () if apart else _common_prefix(inputs)
    branches = tuple(ids[len(prefix) :] for ids in inputs)
    predicting: list[list[int]] = []
    start = len(prefix)
    for row, branch in zip(rows, branches, strict=True):
        positions = range(row.start - 1, len(row.ids) - 1)
        predicting.append([at if at < len(prefix) else start + at - len(prefix) for at in positions])
        start += len(branch)
    needed = sorted({index for indices in predicting for index in indices})
    place = {index: number for number, index in enumerate(needed)}
    return Group(
        rows=tuple(rows),
        prefix=prefix,
        branches=branches,
        needed=tuple(needed),
        reads=tuple(tuple(place[index] for index in indices) for indices in predicting),
    )


def _common_prefix(sequences: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """In dictionary order every sequence lies between the first and the last: what these share, all do."""
    first, last = min(sequences), max(sequences)
    differs = (index for index, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return first[: next(differs, len(first))]
