"""The lists of cards of one candidate: flipped answers, fallen pairs, prompts by their top riser, pairs to look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup, escape

from harness.report.page.lists import Card, CardList, key_of, link
from harness.report.summarize import CandidateSummary

_FIRST = {"flips": 6, "fallen": 3, "tops": 5, "suspects": 3}
"""Cards that stand in the HTML, of one candidate; of several half as many."""


def card_lists(
    item: CandidateSummary, place: int, several: bool, reference: str, macros: Mapping[str, Any]
) -> dict[str, CardList | None]:
    """Name -> list; None where there is not one card.

    Args:
        item: the candidate.
        place: its place on the page, for ids.
        several: there are other candidates, so links name this one.
        reference: the reference's name.
        macros: ``cards.html.j2``: ``flip``, ``fallen``, ``top`` and ``suspect`` draw one card.
    """
    name = item.checkpoint.name
    fixed = {"candidate": key_of(name)} if several else {}

    def make(
        of: str, noun: str, keys: tuple[str, ...], rows: Iterable[tuple[str, tuple[str, ...], Any]], **more: Any
    ) -> CardList:
        """``rows``: id, values of ``keys`` (``corpus`` is the first of them), and what draws the card at an address."""
        cards = []
        for own, values, draw in rows:
            short = tuple(map(key_of, values))
            address = link(of, {**fixed, "corpus": short[0], "id": key_of(own)})
            cards.append(Card(key_of(own), short, _drawer(draw, address)))
        first = max(_FIRST[of] // 2, 2) if several else _FIRST[of]
        return CardList(of, place, noun, keys, tuple(cards), fixed=fixed, first=first, **more)

    flips = [flip for block in item.labels for flip in block.flips]
    fell = [pair for block in item.displacement for pair in block.fell]
    tops = [prompt for block in item.risers for prompt in block.tops]
    suspects = [pair for block in item.training for pair in block.highest]
    found = [
        make(
            "flips",
            "flipped answer",
            ("corpus", "move", "category"),
            (
                (
                    f"{flip.prompt_id}/{flip.sample + 1}" if flip.sample else flip.prompt_id,
                    (flip.corpus, flip.move, flip.category),
                    (macros["flip"], flip, reference, name),
                )
                for flip in flips
            ),
            total=sum(block.flipped for block in item.labels),
            sources=_files(item.labels),
            weight=4.0,
        ),
        make(
            "fallen",
            "fallen pair",
            ("corpus", "quadrant", "category"),
            ((pair.pair_id, (pair.corpus, pair.quadrant, pair.category), (macros["fallen"], pair)) for pair in fell),
            total=sum(block.fallen for block in item.displacement),
            sources=_files(item.displacement),
            weight=4.0,
        ),
        make(
            "tops",
            "prompt",
            ("corpus", "top riser", "category"),
            ((row.pair_id, (row.corpus, row.top.relation, row.category), (macros["top"], row)) for row in tops),
            total=sum(block.risen for block in item.risers),
            sources=_files(item.risers),
            weight=1.5,
        ),
        make(
            "suspects",
            "pair",
            ("corpus", "type", "one step", "category"),
            (
                (
                    pair.pair_id,
                    (pair.corpus, pair.pair_type, pair.entanglement, pair.category),
                    (macros["suspect"], pair),
                )
                for pair in suspects
            ),
            total=sum(block.n for block in item.training),
            sources=tuple(block.source for block in item.training if block.source),
        ),
    ]
    return {each.name: each if each.cards else None for each in found}


def _drawer(draw: Any, address: str) -> Any:
    macro, about, *others = draw
    quoted = escape(address)  # Markup, so that it is not cut as texts are
    return lambda: Markup(macro(about, quoted, *others))  # noqa: S704 - a macro of an environment that escapes


def _files(blocks: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(source for block in blocks for source in block.sources))
