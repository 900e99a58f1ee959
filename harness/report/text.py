"""Text that models wrote is hostile: what could hide, reorder or command is made visible before anyone sees it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Controls (ANSI, null), format characters (bidi, zero width), lone surrogates, private, unassigned, U+2028, U+2029."""

HEAD = 500
"""Characters of a text shown at once."""
REST = 5000
"""Further characters behind a click; more than that stays in the tables."""

_PLAIN = re.compile(r"[\x20-\x7e]*")
_LINES = re.compile(r"[\x20-\x7e\n\t]*")


def escape(character: str) -> str:
    r"""``\x1b``, ``\u202e`` or ``\U000e0041``; ``\n``, ``\r`` and ``\t`` by their short names."""
    short = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}.get(character)
    code = ord(character)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def is_unseen(character: str) -> bool:
    """Whether a character has no shape of its own, or changes how others are shown."""
    return unicodedata.category(character) in _UNSEEN


def visible(text: str, *, lines: bool = False) -> str:
    r"""The text with everything invisible or active escaped, e.g. U+202E as ``\u202e``.

    Args:
        text: anything; lone surrogates too.
        lines: keep line feeds and tabs as they are, for text that is shown on several lines.
    """
    if (_LINES if lines else _PLAIN).fullmatch(text):
        return text
    kept = "\n\t" if lines else ""
    return "".join(escape(char) if char not in kept and is_unseen(char) else char for char in text)


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters, the cut marked."""
    return text if len(text) <= length else text[: max(length - 3, 0)] + "..."


def counted(number: int, noun: str) -> str:
    """``1 pair``, ``2,000 pairs``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# ---------------------------------------------------------------- long texts


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The beginning of a text, what may be unfolded, and how much more there is."""

    head: str
    rest: str
    left_out: int
    """Characters that are in neither."""
    total: int
    marks: tuple[tuple[int, int], ...] = ()
    """Spans of ``head + rest``, in order, that differ from the text beside it."""

    @property
    def shown(self) -> str:
        """All that the page holds."""
        return self.head + self.rest


def excerpt(text: str) -> Excerpt:
    """The part of a text that a page can hold."""
    head, rest = text[:HEAD], text[HEAD : HEAD + REST]
    if len(text) < HEAD * 1.2:
        head, rest = text, ""
    return Excerpt(head, rest, len(text) - len(head) - len(rest), len(text))


@dataclass(frozen=True, slots=True)
class PairTexts:
    """What a preference pair says."""

    prompt: Excerpt
    chosen: Excerpt
    rejected: Excerpt


def pair_texts(row: Mapping[str, Any] | None) -> PairTexts | None:
    """From a row of a corpus' table of pairs; None where the row or one of its texts is not kept."""
    names = ("prompt", "chosen", "rejected")
    if row is None or not all(name in row for name in names):
        return None
    return PairTexts(*(excerpt(str(row[name])) for name in names))
