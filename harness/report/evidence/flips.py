"""What became of the answers on one corpus: moves between labels, and the prompts whose label changed, worst first.

The words in which two answers differ are marked (``difflib``, by words). Where the answers share little, nothing is
marked: every word would be.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

from harness.domain import Label
from harness.report.evidence.blocks import Rates
from harness.report.evidence.shelf import Shelf
from harness.report.text import Excerpt, excerpt

_MOST_WORDS = 400
"""Words of an answer that are compared; what comes after is not marked."""
_LEAST_SHARED = 0.25
"""Share of words in common below which nothing is marked."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One checkpoint's answer and how the judge read it."""

    label: str
    reason: str
    text: Excerpt
    cut_off: bool
    """Generation ended by length."""
    covered: bool = False
    """A prompt that should be refused was answered: people see that only if they ask for it."""


@dataclass(frozen=True, slots=True)
class Flip:
    """A prompt to which the two checkpoints' answers got different labels."""

    corpus: str
    prompt_id: str
    sample: int
    category: str
    prompt: Excerpt
    reference: Answered
    candidate: Answered

    @property
    def move(self) -> str:
        """``refusal → compliance``."""
        return f"{self.reference.label} → {self.candidate.label}"

    @property
    def marked(self) -> bool:
        """What differs is marked."""
        return bool(self.reference.text.marks or self.candidate.text.marks)


@dataclass(frozen=True, slots=True)
class Labels:
    """What became of the answers on one corpus."""

    corpus: str
    missing: str = ""
    """Why there is nothing to show; everything below is empty then."""
    benign: bool = False
    """Its prompts are to be answered: a refusal is the harm."""
    compared: int = 0
    """Answers given by both checkpoints."""
    moves: Mapping[tuple[str, str], int] | None = None
    """(reference's label, candidate's label) -> answers."""
    labels: tuple[str, ...] = ()
    """Labels that occur, in the order of the matrix."""
    flips: tuple[Flip, ...] = ()
    flipped: int = 0
    """All of them, shown or not."""
    rates: tuple[Rates, ...] = ()
    """By category, from the record."""
    sources: tuple[str, ...] = ()
    """Table files, relative to the run directory."""


_WORSE = {
    # unsafe prompts: lost refusals first
    False: [
        ("refusal", "compliance"),
        ("refusal", "degenerate"),
        ("compliance", "degenerate"),
        ("refusal", "unreadable"),
    ],
    # benign prompts: new refusals first
    True: [
        ("compliance", "refusal"),
        ("compliance", "degenerate"),
        ("refusal", "degenerate"),
        ("compliance", "unreadable"),
    ],
}


def labels(corpus: str, shelf: Shelf, candidate: str, most: int) -> Labels:
    """At most ``most`` flips, the worst moves first. Raises ``Absent`` where a table is not there."""
    before, after = (_answers(shelf, name, corpus) for name in (shelf.reference, candidate))
    files = (("completions", candidate), ("labels", candidate), ("completions", shelf.reference))
    keys = [key for key in before if key in after]
    moves = Counter((before[key]["label"], after[key]["label"]) for key in keys)
    benign = shelf.benign(corpus)
    worse = {move: rank for rank, move in enumerate(_WORSE[benign])}
    flipped = [key for key in keys if before[key]["label"] != after[key]["label"]]
    flipped.sort(key=lambda key: worse.get((before[key]["label"], after[key]["label"]), len(worse)))
    prompts = shelf.items("prompts", corpus)
    seen = {label for move in moves for label in move}
    return Labels(
        corpus,
        benign=benign,
        compared=len(keys),
        moves=dict(moves),
        labels=tuple(item.value for item in Label if item.value in seen),
        flips=tuple(_flip(corpus, key, before[key], after[key], prompts, benign) for key in flipped[:most]),
        flipped=len(flipped),
        sources=tuple(shelf.file(kind, name, corpus).path for kind, name in files),
    )


def _answers(shelf: Shelf, checkpoint: str, corpus: str) -> dict[tuple[str, int], dict[str, Any]]:
    """(prompt id, sample) -> completion with label and reason."""
    completions = shelf.frame("completions", checkpoint, corpus)
    readings = shelf.frame("labels", checkpoint, corpus)
    joined = completions.merge(readings, on=["prompt_id", "sample"], how="inner", validate="one_to_one", sort=False)
    rows = ({str(name): value for name, value in row.items()} for row in joined.to_dict(orient="records"))
    return {(str(row["prompt_id"]), int(row["sample"])): row for row in rows}


def _flip(
    corpus: str,
    key: tuple[str, int],
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    prompts: Mapping[str, Mapping[str, Any]],
    benign: bool,
) -> Flip:
    asked = str(prompts.get(key[0], {}).get("prompt", ""))
    sides = [_answered(row, benign) for row in (before, after)]
    spans = differences(sides[0].text.shown, sides[1].text.shown)
    marked = [replace(side, text=replace(side.text, marks=mine)) for side, mine in zip(sides, spans, strict=True)]
    return Flip(corpus, key[0], key[1], str(after["category"]), excerpt(asked), *marked)


def _answered(row: Mapping[str, Any], benign: bool) -> Answered:
    label = str(row["label"])
    covered = label == Label.COMPLIANCE and not benign
    return Answered(label, str(row["reason"]), excerpt(str(row["text"])), row["finish"] == "length", covered)


# ---------------------------------------------------------------- what differs

Spans = tuple[tuple[int, int], ...]
_WORD = re.compile(r"\w+|[^\w\s]")


def differences(before: str, after: str) -> tuple[Spans, Spans]:
    """Spans of characters of each text that the other does not have; none where they share little, or nothing differs.

    Texts are compared word by word. A single word in common between two differences counts as differing.
    """
    words = [list(islice(_WORD.finditer(text), _MOST_WORDS)) for text in (before, after)]
    ours, theirs = ([match[0] for match in side] for side in words)
    matcher = SequenceMatcher(None, ours, theirs, autojunk=False)
    blocks = [block for block in matcher.get_matching_blocks() if block.size]
    if sum(block.size for block in blocks) < _LEAST_SHARED * max(map(len, words), default=0):
        return (), ()
    last = tuple(map(len, words))
    kept = [
        block
        for block in blocks
        if block.size > 1 or (block.a, block.b) == (0, 0) or (block.a + 1, block.b + 1) == last
    ]
    return (
        _gaps(words[0], [(block.a, block.a + block.size) for block in kept]),
        _gaps(words[1], [(block.b, block.b + block.size) for block in kept]),
    )


def _gaps(words: list[re.Match[str]], same: list[tuple[int, int]]) -> Spans:
    """Character spans of the words that are in none of ``same``."""
    spans, at = [], 0
    for start, stop in [*same, (len(words), len(words))]:
        if at < start:
            spans.append((words[at].start(), words[start - 1].end()))
        at = stop
    return tuple(spans)
