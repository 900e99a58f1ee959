"""Displacement of one corpus of pairs: Δ⁺ and Δ⁻, which answer each model ranks higher, and the pairs that fell most.

Δ = candidate − reference, nats per response. Of a fallen pair each token has its log-ratio, log π_c − log π_r of that
token; over all tokens of a response they sum to its Δ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from harness.report.evidence.blocks import Rates
from harness.report.evidence.shelf import Shelf
from harness.report.text import PairTexts, pair_texts

if TYPE_CHECKING:
    import pandas as pd

MOST_TOKENS = 300
"""Tokens of a response that are shown; of the others their number and sum."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a response, and what training did to it."""

    text: str
    ratio: float
    """log π_c − log π_r, nats."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """A response, token by token."""

    shown: tuple[Token, ...]
    hidden: int
    """Tokens after those."""
    hidden_ratio: float
    """Their sum."""
    change: float
    """Sum over all tokens: Δ of the response."""


@dataclass(frozen=True, slots=True)
class FallenPair:
    """A pair whose chosen answer lost log-probability."""

    corpus: str
    pair_id: str
    category: str
    chosen_change: float
    rejected_change: float
    reference_chosen: float
    candidate_chosen: float
    tokens: int
    texts: PairTexts | None
    chosen_tokens: Tokens | None
    """None where the texts of the tokens are not known, or the two checkpoints have other tokens."""
    rejected_tokens: Tokens | None

    @property
    def quadrant(self) -> str:
        """What fell."""
        return "both fell" if self.rejected_change < 0 else "only chosen fell"


@dataclass(frozen=True, slots=True)
class Ranking:
    """Which answer each model gives the higher log-probability, over pairs."""

    unit: str
    """``''`` for the sum over tokens, ``per token`` for the mean."""
    kept: int
    """Both rank chosen higher."""
    lost: int
    """The reference does, the candidate does not."""
    gained: int
    never: int
    """Neither does."""


@dataclass(frozen=True, slots=True)
class Displacement:
    """Δ⁺ and Δ⁻ of each pair on one corpus, nats per response."""

    corpus: str
    missing: str = ""
    ids: tuple[str, ...] = ()
    chosen: tuple[float, ...] = ()
    """Δ⁺ = candidate - reference, chosen answers."""
    rejected: tuple[float, ...] = ()
    """Δ⁻, in the same order."""
    both_fell: int = 0
    only_chosen_fell: int = 0
    only_rejected_fell: int = 0
    none_fell: int = 0
    rankings: tuple[Ranking, ...] = ()
    fell: tuple[FallenPair, ...] = ()
    """Those that fell most."""
    unusable: int = 0
    """Pairs that only one checkpoint scored, or that have a value that is not finite."""
    apart: int = 0
    """Pairs whose prompt and response were tokenised apart."""
    rates: tuple[Rates, ...] = ()
    sources: tuple[str, ...] = ()

    @property
    def fallen(self) -> int:
        return self.both_fell + self.only_chosen_fell

    @property
    def coloured(self) -> bool:
        """The texts of tokens are known for some pair."""
        return any(pair.chosen_tokens for pair in self.fell)


def displacement(corpus: str, shelf: Shelf, candidate: str, most: int) -> Displacement:
    """At most ``most`` fallen pairs, the largest fall first. Raises ``Absent`` where a table is not there."""
    frames = [shelf.scores(name, corpus) for name in (shelf.reference, candidate)]
    at = [{str(name): row for row, name in enumerate(frame["pair_id"])} for frame in frames]
    for frame, places in zip(frames, at, strict=True):
        if len(places) != len(frame):
            raise ValueError("a pair is there twice")
    shared = [name for name in at[0] if name in at[1]]
    rows = [np.array([places[name] for name in shared], dtype=np.intp) for places in at]
    both = [_logprobs(frame, mine) for frame, mine in zip(frames, rows, strict=True)]
    sums, lengths = np.stack([item[0] for item in both]), np.stack([item[1] for item in both])
    changes = sums[1] - sums[0]
    usable = np.flatnonzero(np.isfinite(changes).all(axis=0))
    chosen, rejected = changes[:, usable]
    fallen = usable[chosen < 0]
    worst = fallen[np.argsort(changes[0, fallen], kind="stable")][:most]
    quadrants = Counter(zip((chosen < 0).tolist(), (rejected < 0).tolist(), strict=True))
    return Displacement(
        corpus,
        ids=tuple(shared[index] for index in usable),
        chosen=tuple(chosen.tolist()),
        rejected=tuple(rejected.tolist()),
        both_fell=quadrants[True, True],
        only_chosen_fell=quadrants[True, False],
        only_rejected_fell=quadrants[False, True],
        none_fell=quadrants[False, False],
        rankings=tuple(_ranking(unit, sums, lengths, usable) for unit in ("", "per token")),
        fell=tuple(_fallen(corpus, shelf, candidate, frames, [mine[worst] for mine in rows], sums[:, :, worst])),
        unusable=len(at[0].keys() | at[1].keys()) - usable.size,
        apart=int(frames[1]["tokenised_apart"].astype(bool).sum()),
        sources=tuple(shelf.file("scores", name, corpus).path for name in (candidate, shelf.reference)),
    )


def _logprobs(frame: pd.DataFrame, rows: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
    """[chosen and rejected, rows]: log π(y|x), and the number of tokens."""
    columns = [frame[name].to_numpy()[rows] for name in ("chosen_logprobs", "rejected_logprobs")]
    sums = [[float(np.asarray(values, dtype=np.float64).sum()) for values in column] for column in columns]
    return np.array(sums), np.array([[len(values) for values in column] for column in columns], dtype=np.float64)


def _ranking(unit: str, sums: Floats, lengths: Floats, usable: npt.NDArray[np.intp]) -> Ranking:
    """``sums`` and ``lengths``: [reference and candidate, chosen and rejected, pairs]."""
    scores = [each[:, usable] / (size[:, usable] if unit else 1.0) for each, size in zip(sums, lengths, strict=True)]
    before, after = (each[0] > each[1] for each in scores)
    counted = [int(mask.sum()) for mask in (before & after, before & ~after, ~before & after, ~before & ~after)]
    return Ranking(unit, *counted)


def _fallen(
    corpus: str,
    shelf: Shelf,
    candidate: str,
    frames: Sequence[pd.DataFrame],
    rows: Sequence[npt.NDArray[np.intp]],
    sums: Floats,
) -> list[FallenPair]:
    """``rows`` [reference and candidate][pairs]: where a pair is; ``sums`` [both, chosen and rejected, pairs]."""
    texts = shelf.items("pairs", corpus)
    names = (shelf.reference, candidate)
    pieces = [shelf.pieces(name, corpus, mine.tolist()) for name, mine in zip(names, rows, strict=True)]
    found = []
    for index, places in enumerate(zip(*rows, strict=True)):
        before, after = (frame.iloc[int(row)] for frame, row in zip(frames, places, strict=True))
        pair_id = str(after["pair_id"])
        known = [side[index] for side in pieces]
        said = [
            _tokens(before[name], after[name], *(side[answer] for side in known))
            for answer, name in enumerate(("chosen_logprobs", "rejected_logprobs"))
        ]
        found.append(
            FallenPair(
                corpus=corpus,
                pair_id=pair_id,
                category=str(after["category"]),
                chosen_change=float(sums[1, 0, index] - sums[0, 0, index]),
                rejected_change=float(sums[1, 1, index] - sums[0, 1, index]),
                reference_chosen=float(sums[0, 0, index]),
                candidate_chosen=float(sums[1, 0, index]),
                tokens=len(after["chosen_logprobs"]),
                texts=pair_texts(texts.get(pair_id)),
                chosen_tokens=said[0],
                rejected_tokens=said[1],
            )
        )
    return found


def _tokens(before: Floats, after: Floats, pieces: Sequence[str], theirs: Sequence[str]) -> Tokens | None:
    if not pieces or list(pieces) != list(theirs) or not len(pieces) == len(before) == len(after):
        return None
    ratios = [float(value) for value in np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)]
    shown = tuple(Token(str(text), ratio) for text, ratio in zip(pieces, ratios, strict=True))[:MOST_TOKENS]
    rest = ratios[len(shown) :]
    return Tokens(shown, len(rest), math.fsum(rest), math.fsum(ratios))


def quadrant_names(block: Displacement) -> Mapping[str, int]:
    """Quadrants of the plot by name, with the pairs in them."""
    return {
        "both fell": block.both_fell,
        "only chosen fell": block.only_chosen_fell,
        "only rejected fell": block.only_rejected_fell,
        "neither fell": block.none_fell,
    }
