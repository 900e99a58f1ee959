"""From texts to token rows that fit a classifier: special tokens around them, long ones in overlapping windows.

A row is what the tokenizer itself would make of a text (or of two): its special tokens stand around each window, so a
window is read as a text of its own. Imports no model library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import CheckpointError

OVERLAP = 4
"""Neighbouring windows share one OVERLAPth of a window, so that no sentence is seen only in two halves."""

LEAST = 8
"""Tokens of text that a window must have room for, beside special ones."""

_SAMPLES = ("nothing", "everything")


@dataclass(frozen=True, slots=True)
class Frame:
    """What a tokenizer puts around one text, or around two."""

    before: tuple[int, ...]
    """Token ids before the first text."""
    between: tuple[int, ...]
    """Between the two; () where the frame holds one text."""
    after: tuple[int, ...]
    types: tuple[int, ...]
    """Token type of each of before, first text, between, second text, after, one after the other: a text has one
    entry. () where the tokenizer makes no token types."""

    @property
    def special(self) -> int:
        """Number of special tokens."""
        return len(self.before) + len(self.between) + len(self.after)

    def around(self, first: Sequence[int], second: Sequence[int] = ()) -> Row:
        """One row. ``second`` is empty where the frame holds one text."""
        parts = ((self.before, False), (first, True), (self.between, False), (second, True), (self.after, False))
        ids = [token for part, _ in parts for token in part]
        if not self.types:
            return Row(ids, [])
        given = iter(self.types)
        types: list[int] = []
        for part, is_text in parts:
            types += [next(given)] * len(part) if is_text else [next(given) for _ in part]
        return Row(ids, types)


@dataclass(frozen=True, slots=True)
class Row:
    """What goes through the model as one sequence."""

    ids: list[int]
    types: list[int]
    """Token types; [] where the tokenizer makes none."""


class Framer:
    """Makes rows of at most ``window`` tokens (None: of any length)."""

    def __init__(self, tokenizer: Any, window: int | None, where: str) -> None:
        """``tokenizer`` is a transformers tokenizer; ``where`` names its checkpoint.

        Raises:
            CheckpointError: it does not put its special tokens around texts as other tokenizers do, or the window
                leaves no room for text.
        """
        self._tokenizer = tokenizer
        self._window = window
        self._single = _frame(tokenizer, _SAMPLES[:1], where)
        self._pair = _frame(tokenizer, _SAMPLES, where)
        if window is not None and window - max(self._single.special, self._pair.special) < LEAST:
            raise CheckpointError(
                f"{where}: a window of {window} tokens leaves no room for text beside {self._pair.special} special "
                f"tokens; let it have at least {self._pair.special + LEAST}"
            )

    def rows(self, texts: Sequence[tuple[str, str]]) -> list[tuple[list[Row], int]]:
        """For each (first, second) text: its windows, and how many tokens of the first text were left out of them.

        Without a second text the windows are of the first. With one they are of the second, and the first stands in
        each: whole where both fit into a window, else its beginning, at least half a window of it. A text without
        tokens has one row without any: special tokens alone say nothing of it.
        """
        firsts = self._encode([first for first, _ in texts])
        seconds = self._encode([second for _, second in texts])
        return [
            self._windows_of_second(first, second) if text else (self._windows_of_first(first), 0)
            for first, second, (_, text) in zip(firsts, seconds, texts, strict=True)
        ]

    def _windows_of_first(self, ids: list[int]) -> list[Row]:
        ids = _without(ids, self._single)
        if not ids:
            return [Row([], [])]
        room = len(ids) if self._window is None else self._window - self._single.special
        return [self._single.around(ids[begin:end]) for begin, end in spans(len(ids), room)]

    def _windows_of_second(self, first: list[int], second: list[int]) -> tuple[list[Row], int]:
        first, second = _without(first, self._pair), _without(second, self._pair)
        if not second:
            return [Row([], [])], 0
        room = len(first) + len(second) if self._window is None else self._window - self._pair.special
        kept = first[: max(room // 2, room - len(second))]
        return (
            [self._pair.around(kept, second[begin:end]) for begin, end in spans(len(second), room - len(kept))],
            len(first) - len(kept),
        )

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids without special tokens around them; half a surrogate pair, which is no text, is replaced."""
        whole = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
        return [list(ids) for ids in _ids(self._tokenizer, whole)] if whole else []


def spans(length: int, size: int) -> list[tuple[int, int]]:
    """(begin, end) of windows of ``size`` over ``length`` tokens: in steps of three quarters of a window, the last one
    set back so that it is full and ends with the text. One window where all fits."""
    if length <= size:
        return [(0, length)]
    starts = [*range(0, length - size, size - size // OVERLAP), length - size]
    return [(start, start + size) for start in starts]


def _without(ids: list[int], frame: Frame) -> list[int]:
    """A text that spells the frame's own tokens (``[SEP]``, a second BOS) is read without them: else it could end its
    part of the row and begin another."""
    own = {*frame.before, *frame.between, *frame.after}
    return [token for token in ids if token not in own] if own else ids


def _frame(tokenizer: Any, samples: Sequence[str], where: str) -> Frame:
    """Found by what the tokenizer makes of samples."""
    whole = tokenizer(*samples)
    ids, types = list(whole["input_ids"]), list(whole.get("token_type_ids", ()))
    pieces: list[tuple[int, ...]] = []
    kinds: list[int] = []
    at = 0
    for text in _ids(tokenizer, list(samples)):
        found = next((i for i in range(at, len(ids)) if ids[i : i + len(text)] == list(text)), None)
        if found is None or not text:
            raise CheckpointError(
                f"{where}: its tokenizer makes other tokens of a text when it puts special tokens around it, so long "
                "texts cannot be cut into windows; use a checkpoint with a fast tokenizer (tokenizer.json)"
            )
        pieces.append(tuple(ids[at:found]))
        kinds += types[at : found + 1]
        at = found + len(text)
    pieces.append(tuple(ids[at:]))
    kinds += types[at:]
    if len(samples) == 1 and types:  # the place of the second text, which is empty here
        kinds.insert(len(pieces[0]) + 1, 0)
    between = pieces[1] if len(samples) == 2 else ()
    return Frame(before=pieces[0], between=between, after=pieces[-1], types=tuple(kinds))


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    encoded = tokenizer(texts, add_special_tokens=False, padding=False, truncation=False, verbose=False)["input_ids"]
    return [list(ids) for ids in encoded]
