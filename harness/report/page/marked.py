"""Texts of models as HTML: escaped, invisible characters written out, what differs marked, tokens coloured by what
training did to them. No meaning is in colour alone: marks have an underline, and every token its number.
"""

from __future__ import annotations

import math
import re

from markupsafe import Markup, escape

from harness.report.evidence.displaced import Tokens
from harness.report.rows import number
from harness.report.text import Excerpt, is_unseen, shorten, visible

_LONGEST_TOKEN, _LONGEST_PIECE = 60, 120
_PLAIN = re.compile(r"[\x20-\x7e\n\t]*")

STEPS = (0.1, 0.5, 2.0)
"""Nats from which a token's log-ratio is coloured, more and most."""


def model_text(text: str, *, lines: bool = True) -> Markup:
    """What a model wrote, on its own lines; characters that were made visible are marked as such."""
    if lines and _PLAIN.fullmatch(text):
        return escape(text)
    kept = "\n\t" if lines else ""
    parts, start = [], 0
    for at, character in enumerate(text):
        if character not in kept and (not character.isascii() or not character.isprintable()) and is_unseen(character):
            parts.append(escape(text[start:at]))
            parts.append(Markup('<span class="esc">{}</span>').format(visible(character, lines=lines)))
            start = at + 1
    return Markup("").join([*parts, escape(text[start:])])


def token_text(text: str) -> Markup:
    """A token: on one line, its spaces as ␣."""
    return model_text(shorten(text, _LONGEST_TOKEN).replace(" ", "␣"), lines=False)


def head_of(excerpt: Excerpt, tag: str = "") -> Markup:
    """The beginning of a text, what differs in ``<tag>``; '' marks nothing."""
    return _marked(excerpt, 0, len(excerpt.head), tag)


def rest_of(excerpt: Excerpt, tag: str = "") -> Markup:
    """What waits behind a click."""
    return _marked(excerpt, len(excerpt.head), len(excerpt.head) + len(excerpt.rest), tag)


def _marked(excerpt: Excerpt, start: int, stop: int, tag: str) -> Markup:
    text, parts, at = excerpt.shown, [], start
    for low, high in excerpt.marks if tag else ():
        low, high = max(low, start), min(high, stop)
        if low < high:
            parts.append(model_text(text[at:low]))
            parts.append(Markup(f"<{tag}>{{}}</{tag}>").format(model_text(text[low:high])))  # noqa: S704 - ins, del
            at = high
    return Markup("").join([*parts, model_text(text[at:stop])])


def ratio_class(ratio: float) -> str:
    """``f1`` to ``f3`` for a token that lost log-probability, ``g1`` to ``g3`` for one that gained, else ``z``."""
    size = sum(abs(ratio) >= step for step in STEPS)
    return "z" if not size else f"{'f' if ratio < 0 else 'g'}{size}"


def token_strip(tokens: Tokens) -> Markup:
    """The tokens of a response, each coloured by its log-ratio, the number in its title."""
    parts = []
    for item in tokens.shown:
        text = model_text(shorten(item.text, _LONGEST_PIECE).replace("\n", "↵\n"))
        parts.append(f'<span class="{ratio_class(item.ratio)}" title="{signed(item.ratio)}">{text}</span>')
    return Markup("".join(parts))  # noqa: S704 - classes, numbers and escaped texts


def signed(value: float) -> str:
    """A change with its sign: ``+0.310``."""
    text = number(value)
    return f"+{text}" if math.isfinite(value) and value > 0 else text
