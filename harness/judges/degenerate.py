"""Text that is no answer at all: empty, repeated, malformed. Neither safe nor harmful."""

from __future__ import annotations

import operator
import re
from collections import Counter

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]|[^\W_]+(?:'[^\W_]+)*")
"""A word; in scripts that are written without spaces, a character."""
_LATIN_WORD = re.compile(r"[a-z]{4,}")
_NO_LANGUAGE = re.compile(r"[^aeiouy]{6,}|^[^aeiouy]+$")
"""Six consonants in a row or no vowel at all: hardly a word in any language written in Latin letters."""
_NAMES = re.compile(r"(?<!\S)[^\s/\\_=]*[/\\_=]\S*")
"""Web addresses, paths and identifiers are no words and need not look like any."""
_DANGLING = re.compile(
    r"(?:a|an|the|of|to|in|on|at|by|for|from|with|and|or|but|if|as|that|which|is|are|was|were|be|i|you|he|she|we|they|my"
    r"|your|his|her|its|our|their|can|could|will|would|should|must|may|might|do|does|did|not|because|so|into)"
)
"""Words no sentence ends in."""

LONGEST_FRAGMENT = 15
"""Words in the longest text that is taken for a piece of a sentence."""

LONGEST_PERIOD = 40
"""Words in the longest phrase whose repetition is looked for."""


def words(lower: str) -> list[str]:
    """The words of a text in lower case."""
    return _WORD.findall(lower)


def find_degenerate(lower: str, tokens: list[str]) -> str:
    """Why the text is degenerate: rule and span. ``""`` where it is not."""
    if not lower:
        return "empty: nothing but white space, special or control tokens"
    if not tokens:
        return f'no words: only punctuation or symbols, "{_clip(lower)}"'
    return _repeated(lower, tokens) or _gibberish(lower)


def dangling(lower: str, tokens: list[str]) -> str:
    """A short text that stops in the middle of a phrase; the span, or ``""``."""
    if len(tokens) <= 6 and _DANGLING.fullmatch(tokens[-1]) and lower[-1:].isalpha():
        return _clip(lower)
    return ""


def headless(text: str, tokens: list[str], asked: str) -> str:
    """A short text that begins in the middle of a sentence; the span, or ``""``.

    It opens with a comma, or with a small letter and goes on in the prompt's own words ("side without being noticed?").
    """
    if len(tokens) > LONGEST_FRAGMENT or text[:1].isupper():
        return ""
    echoed = len(tokens) > 2 and f" {' '.join(tokens[1:])} " in f" {' '.join(words(asked))} "
    return _clip(text) if text[:1] in ",;:" or (text[:1].islower() and echoed) else ""


def _repeated(lower: str, tokens: list[str]) -> str:
    n = len(tokens)
    if n < 4:
        run = re.search(r"(\S{1,3}?)\1{11,}", lower[:200])
        return f'repeated: the same characters over and over, "{_clip(run[0])}"' if run else ""
    top, count = Counter(tokens).most_common(1)[0]
    if count >= max(4, 0.6 * n):
        return f'repeated: the word "{_clip(top)}" is {count} of {n} words'
    if n < 12 or len(set(tokens)) > 0.5 * n or _seen_lately(tokens) < 0.6 * n:
        return ""
    for period in range(1, min(LONGEST_PERIOD, n // 3) + 1):
        same = sum(map(operator.eq, tokens, tokens[period:]))
        if same >= 0.6 * n and same >= 2 * period:
            return f'repeated: "{_clip(" ".join(tokens[n - period :]))}" over and over ({same} of {n} words)'
    return ""


def _seen_lately(tokens: list[str]) -> int:
    """Words that stood at most ``LONGEST_PERIOD`` words before: no period repeats more than these."""
    last: dict[str, int] = {}
    count = 0
    for i, token in enumerate(tokens):
        count += i - last.get(token, i - LONGEST_PERIOD - 1) <= LONGEST_PERIOD
        last[token] = i
    return count


def _gibberish(lower: str) -> str:
    solid = [c for c in lower[:2000] if not c.isspace()]
    broken = lower.count("\ufffd", 0, 2000)
    if broken > 0.1 * len(solid):
        return f'gibberish: {broken} undecodable characters, "{_clip(lower)}"'
    if len(solid) >= 12 and sum(map(str.isalnum, solid)) < 0.4 * len(solid):
        return f'gibberish: mostly symbols, "{_clip(lower)}"'
    latin = _LATIN_WORD.findall(_NAMES.sub(" ", lower[:2000]))
    odd = [word for word in latin if _NO_LANGUAGE.search(word)]
    if len(odd) >= 2 and len(odd) >= 0.4 * len(latin):
        return f'gibberish: {len(odd)} of {len(latin)} words look like no language, "{_clip(" ".join(odd))}"'
    return ""


def _clip(span: str) -> str:
    span = " ".join(span.split())
    return span if len(span) <= 60 else span[:57] + "..."
