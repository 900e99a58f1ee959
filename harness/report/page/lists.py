"""Cards of a page: the first few stand in its HTML, all that fit are packed for the list that scripts draw.

A card is HTML that the page's templates made and escaped, with an id and the values it can be filtered by. What a page
holds is decided by size: the worst cards first, until the page is full (``Shares``). What does not fit is counted, and
its table named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from harness.domain import printable
from harness.report.page import pack
from harness.report.text import counted, shorten, visible

_UNQUOTED = "!~*'()"
"""What ``encodeURIComponent`` leaves, beside letters, digits and ``_.-``."""


_LONGEST_KEY = 200


def link(name: str, values: Mapping[str, str]) -> str:
    """``name?key=value&key=value``: the fragment of a URL as ``Page.state.link`` makes it, without the ``#``."""
    pairs = [[quote(printable(part), safe=_UNQUOTED) for part in item] for item in values.items() if item[1]]
    said = ["=".join(pair) for pair in pairs]
    return f"{name}?{'&'.join(said)}" if said else name


def key_of(text: str) -> str:
    """A name as links and filters have it: any length and any character in the data, not in a URL."""
    return shorten(printable(text), _LONGEST_KEY)


@dataclass(frozen=True, slots=True)
class Card:
    """One item to look at."""

    id: str
    """As ``key_of``."""
    values: tuple[str, ...]
    """In the order of the list's keys; each as ``key_of``."""
    html: Callable[[], Markup]
    """Draws it; called for those that are shown."""


@dataclass(frozen=True, slots=True)
class CardList:
    """The cards of one kind and candidate."""

    name: str
    """In URLs: ``flips``."""
    place: int
    """Of the candidate."""
    noun: str
    """One of them: ``flipped answer``."""
    keys: tuple[str, ...]
    cards: Sequence[Card]
    """Worst first."""
    total: int
    """All that the run has."""
    sources: tuple[str, ...]
    """Table files with all of them, relative to the run directory."""
    fixed: Mapping[str, str]
    """What tells this list from others of its name: the candidate, where there are several."""
    first: int
    """How many stand in the HTML."""
    weight: float = 1.0
    """Share of the room, among the lists of a page."""

    @property
    def pack_id(self) -> str:
        return f"cards-{self.name}-{self.place}"

    @property
    def fixed_text(self) -> str:
        """For the element's ``data-fixed``."""
        return pack.dumps(dict(self.fixed))

    def opening(self) -> list[Markup]:
        """The first cards, drawn."""
        return [card.html() for card in self.cards[: self.first]]

    def filtered(self, **values: str) -> str:
        """Link to the list with filters set."""
        return link(self.name, {**self.fixed, **values})

    def fill(self, room: int) -> Markup:
        """Its pack, with as many cards as fit into ``room`` bytes."""
        kept = pack.fitting(self._entries(), room) or list(islice(self._entries(), self.first))
        left = self.total - len(kept)
        files = ", ".join(map(visible, self.sources))
        return pack.pack(
            self.pack_id,
            {
                "name": self.name,
                "noun": self.noun,
                "keys": list(self.keys),
                "fixed": dict(self.fixed),
                "cards": kept,
                "more": f"{counted(left, f'more {self.noun}')} not in this page: see {files}." if left else "",
            },
        )

    def _entries(self) -> Iterator[list[Any]]:
        for card in self.cards:
            yield [card.id, str(card.html()), *card.values]


def fill(lists: Sequence[CardList], room: int) -> Markup:
    """Packs of all lists, together at most about ``room`` bytes: by weight, and what a list leaves is the others'."""
    parts, left = [], room
    waiting = sorted(lists, key=lambda item: len(item.cards) / item.weight)
    for index, item in enumerate(waiting):
        share = item.weight / sum(other.weight for other in waiting[index:])
        part = item.fill(max(int(left * share), 0))
        left -= pack.bytes_of(part)
        parts.append(part)
    return Markup("").join(parts)
