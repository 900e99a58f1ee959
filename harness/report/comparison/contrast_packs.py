"""Samples of a comparison as packs of its page: as many as the page has room for, those that differ first.

Every text passes ``visible`` here, so that the page's script has only text to show.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.domain import Label
from harness.report.comparison.contrast_samples import LETTERS, Changed, Pair, Pairs, Prompts, Side
from harness.report.page.pack import bytes_of, encode, fitting
from harness.report.text import counted, shorten, visible

ROOM_LABELS, ROOM_ANSWERS, ROOM_PAIRS = 200_000, 850_000, 450_000
"""Bytes of the page for labels, for answers and for pairs, over all corpora."""
LENGTHS = (1500, 500, 200)
"""Characters of a text: the longest with which everything fits, else the shortest."""
_SHORT = 200
"""Characters of an id, a category or a reason."""

LEGEND = tuple((letter, label.lower()) for label, letter in LETTERS.items())
"""Letter, and the label that it stands for."""


@dataclass(frozen=True, slots=True)
class Packs:
    """What the page carries."""

    elements: tuple[tuple[str, Any], ...]
    """Name -> value of a pack."""
    left: tuple[str, ...]
    """What is not in the page, and where it is."""


def make(prompts: Sequence[Prompts], pairs: Sequence[Pairs]) -> Packs:
    """The packs ``labels``, ``answers`` and ``pairs``."""
    left: list[str] = []
    labels, answers = [], []
    spare_labels, spare_answers = ROOM_LABELS, ROOM_ANSWERS
    for at, block in enumerate(prompts):
        rest = len(prompts) - at
        rows = fitting((_row(item) for item in block.changed), spare_labels // rest)
        texts, cut = _longest(block.changed[: len(rows)], _answers, spare_answers // rest)
        spare_labels, spare_answers = spare_labels - _size(rows), spare_answers - _size(texts)
        labels.append(
            {
                "corpus": visible(block.corpus),
                "benign": block.benign,
                "sides": _sides(block.sides),
                "same": block.same,
                "rows": rows,
                "cut": cut,
            }
        )
        answers.append(texts)
        left += _left(block.changed, rows, texts, block)
    scored = []
    spare = ROOM_PAIRS
    for at, item in enumerate(pairs):
        rows, cut = _longest(item.differ, _pair, spare // (len(pairs) - at))
        spare -= _size(rows)
        scored.append(
            {
                "corpus": visible(item.corpus),
                "sides": _sides(item.sides),
                "lower": [[a, b, *numbers] for (a, b), numbers in item.lower.items()],
                "rows": rows,
                "total": item.total,
                "cut": cut,
            }
        )
        if len(rows) < len(item.differ):
            left.append(
                f"{counted(len(item.differ) - len(rows), 'pair')} on {item.corpus} that differ much are not in the "
                f"page; all are in {_where(item.sides)}"
            )
    return Packs((("labels", labels), ("answers", answers), ("pairs", scored)), tuple(left))


def _sides(sides: Sequence[Side]) -> list[dict[str, Any]]:
    return [
        {
            "key": visible(side.key),
            "apart": [visible(shorten(text, _SHORT)) for text in side.apart],
            "missing": visible(shorten(side.missing, _SHORT)),
            "counts": side.counts,
        }
        for side in sides
    ]


def _row(item: Changed) -> list[Any]:
    return [_name(item.id), item.sample, _name(item.category), item.letters, -1 if item.first is None else item.first]


def _name(text: str) -> str:
    return visible(shorten(text, _SHORT))


def _answers(item: Changed, length: int) -> list[Any]:
    """The prompt, the different answers (label, reason, text, characters left out, cut off), and whose each is."""
    different = list(dict.fromkeys(said for said in item.said if said is not None))
    texts = [
        [
            LETTERS.get(said.label, LETTERS[Label.UNREADABLE]),
            _name(said.reason),
            *_text(said.text, length),
            said.cut_off,
        ]
        for said in different
    ]
    return [*_text(item.prompt, length), texts, [-1 if said is None else different.index(said) for said in item.said]]


def _pair(item: Pair, length: int) -> list[Any]:
    texts = [part for text in (item.prompt, item.chosen_text, item.rejected_text) for part in _text(text, length)]
    numbers = [[round(value, 3) for value in side] for side in (item.chosen, item.rejected)]
    return [_name(item.id), _name(item.category), *numbers, *texts]


def _text(text: str, length: int) -> tuple[str, int]:
    """What is shown of a text, and how many characters are not."""
    return visible(text[:length], lines=True), max(len(text) - length, 0)


def _longest(items: Sequence[Any], row: Any, room: int) -> tuple[list[Any], int]:
    """As many rows as fit, with texts as long as let all of them fit; and that length."""
    rows: list[Any] = []
    length = LENGTHS[0]
    for length in LENGTHS:
        rows = fitting(_each(items, row, length), room)
        if len(rows) == len(items):
            break
    return rows, length


def _each(items: Iterable[Any], row: Any, length: int) -> Iterator[Any]:
    return (row(item, length) for item in items)


def _size(rows: Sequence[Any]) -> int:
    return bytes_of(encode(rows))


def _left(changed: Sequence[Changed], rows: Sequence[Any], texts: Sequence[Any], block: Prompts) -> list[str]:
    """What of a corpus' prompts did not fit."""
    found = []
    if len(rows) < len(changed):
        found.append(f"labels of {counted(len(changed) - len(rows), 'prompt')} on {block.corpus}")
    if len(texts) < len(rows):
        found.append(f"answers to {counted(len(rows) - len(texts), 'prompt')} on {block.corpus}")
    where = _where(block.sides)
    return [f"{text} are not in the page; all are in {where}" for text in found]


def _where(sides: Sequence[Side]) -> str:
    """Tables, one side's named and the others by their number."""
    have = [side for side in sides if side.sources]
    if not have:
        return "no table"
    more = f" and those of {counted(len(have) - 1, 'other column')}" if len(have) > 1 else ""
    return " and ".join(have[0].sources) + more
