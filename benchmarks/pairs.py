"""A preference pair as token ids. Standard library only: engines in environments of their own import it too."""

from __future__ import annotations

from dataclasses import dataclass

END = 2
"""Token that ends every response."""

FIRST = 3
"""The smallest id of an ordinary token."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference pair as token ids. Both responses end with ``END``."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    def __post_init__(self) -> None:
        assert self.prompt, "a pair without prompt tokens has no position that predicts its first response token"
        assert self.chosen[-1] == END == self.rejected[-1]

    @property
    def response_tokens(self) -> int:
        """Tokens whose log-probabilities are wanted."""
        return len(self.chosen) + len(self.rejected)

    @property
    def rows(self) -> tuple[tuple[tuple[int, ...], int], ...]:
        """((ids, index of the first scored token) of the chosen, of the rejected sequence)."""
        return (self.prompt + self.chosen, len(self.prompt)), (self.prompt + self.rejected, len(self.prompt))
