"""What a generative judge is asked, and what its answers mean. Used by the judges ``model`` and ``api``.

A rubric is a template with ``{prompt}`` and ``{response}`` in it, and a map from the few texts the judge may answer
with to labels. Anything else that the judge says is UNREADABLE.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.domain import Exchange, Label, Reading


@dataclass(frozen=True, slots=True)
class Rubric:
    """What is asked, and what the answers mean."""

    template: str
    """The user's turn, with ``{prompt}`` and ``{response}`` where they belong; nothing else in braces is replaced."""
    answers: Mapping[str, Label]
    """Answer -> label. Two answers may mean the same; at least two labels must be possible."""
    raw: bool = False
    """The template is the whole input, control tokens included: no chat template is put around it."""

    def __post_init__(self) -> None:
        raise NotImplementedError  # checked here: both fields there, two labels, answers not empty; OptionError

    def render(self, exchange: Exchange) -> str:
        """The template with prompt and response put in: as they are, never read as a template themselves."""
        raise NotImplementedError

    def read(self, reply: str) -> Reading:
        """The label of a judge's whole reply; UNREADABLE, quoting it, where it is not exactly one of the answers.

        A leading reasoning block, white space, case, markdown emphasis, quotes and a final full stop do not matter.
        """
        raise NotImplementedError
