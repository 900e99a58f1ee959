"""What columns of a comparison said to the same prompts, and what they think of the same pairs.

Only items that were asked alike are put beside each other: a column whose corpus, judge or decoding is another one is
shown, and does not count as a flip. Where a run did not keep its tables, that column says so.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from harness.comparing import Column, Pivot
from harness.conditions import Kind
from harness.domain import FinishReason, Label
from harness.errors import RecordError
from harness.record import TableFile
from harness.tables import read_frame

LETTERS: Mapping[str, str] = {
    Label.REFUSAL: "R",
    Label.COMPLIANCE: "C",
    Label.DEGENERATE: "D",
    Label.UNREADABLE: "U",
}
NOTHING = "·"
"""Stands for an answer that is not there."""
TOP = 25
"""Pairs that are kept for each two columns: those whose chosen log-probability differs most."""

_OF_ANSWERS = (Kind.CORPUS, Kind.JUDGE, Kind.DECODING, Kind.ENGINE, Kind.VERSION)
_OF_SCORES = (Kind.CORPUS, Kind.ENGINE, Kind.VERSION)


@dataclass(frozen=True, slots=True)
class Side:
    """One column beside others, on one corpus."""

    key: str
    column: int | None
    """Index among the comparison's columns; None for the reference, which all runs share."""
    apart: tuple[str, ...] = ()
    """Why what it says is not to be held against the basis."""
    missing: str = ""
    """Why it has nothing to show."""
    sources: tuple[str, ...] = ()
    """Its tables."""

    @property
    def counts(self) -> bool:
        """Whether a difference in it is one of the models."""
        return not self.apart and not self.missing


@dataclass(frozen=True, slots=True)
class Said:
    """One answer and how the judge read it."""

    label: str
    reason: str
    text: str
    cut_off: bool


@dataclass(frozen=True, slots=True)
class Changed:
    """A prompt (one sample of it) whose label is not the same in all columns."""

    id: str
    sample: int
    category: str
    prompt: str
    """'' where the run did not keep what was asked."""
    letters: str
    """[sides]: R, C, D, U or · for no answer."""
    first: int | None
    """The first side whose label is not that of the first one; None: only columns that do not count differ."""
    said: tuple[Said | None, ...]
    """[sides]"""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Labels on one corpus of prompts."""

    corpus: str
    benign: bool
    """Its prompts are to be answered: a refusal is the harm."""
    sides: tuple[Side, ...]
    changed: tuple[Changed, ...]
    """By first flip, then by letters, then by id; those without one come last."""
    same: int
    """Prompts (samples of them) with the same label everywhere."""

    @property
    def flipped(self) -> tuple[Changed, ...]:
        """Those that differ between columns that can be compared."""
        return tuple(item for item in self.changed if item.first is not None)


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference pair, with log-probabilities (nats per response) of both answers."""

    id: str
    category: str
    prompt: str
    chosen_text: str
    rejected_text: str
    chosen: tuple[float, ...]
    """[sides]; NaN where it was not scored."""
    rejected: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Log-probabilities on one corpus of pairs."""

    corpus: str
    sides: tuple[Side, ...]
    differ: tuple[Pair, ...]
    """Those among the ``TOP`` of some two sides, the largest difference first."""
    lower: Mapping[tuple[int, int], tuple[int, int]]
    """Two sides (a < b) -> pairs whose chosen answer is less likely in b than in a, of pairs that both scored."""
    total: int


# ---------------------------------------------------------------- prompts


def prompts(pivot: Pivot, order: Sequence[int]) -> tuple[Prompts, ...]:
    """Every corpus that some column has labels on.

    Args:
        pivot: the comparison.
        order: its columns as they are shown.
    """
    return tuple(_prompts(pivot, order, corpus) for corpus in _corpora(pivot, "labels"))


def _prompts(pivot: Pivot, order: Sequence[int], corpus: str) -> Prompts:
    sides, tables = _sides(pivot, order, corpus, ("labels", "completions"), _OF_ANSWERS)
    asked = _asked(pivot, corpus, "prompts")
    answers = [_answers(*table) if table else {} for table in tables]
    keys = list(dict.fromkeys(key for mine in answers for key in mine))
    changed = []
    for key in keys:
        said = tuple(mine.get(key) for mine in answers)
        letters = "".join(LETTERS.get(item.label, "U") if item else NOTHING for item in said)
        if len(set(letters) - {NOTHING}) > 1:
            text, category = asked.get(key[0], ("", ""))
            changed.append(Changed(*key, category, text, letters, _first(letters, sides), said))
    changed.sort(
        key=lambda item: (len(sides) if item.first is None else item.first, item.letters, item.id, item.sample)
    )
    benign = any(line.limit.corpus == corpus and line.limit.metric.startswith("over_refusal") for line in pivot.lines)
    return Prompts(corpus, benign, sides, tuple(changed), len(keys) - len(changed))


def _first(letters: str, sides: Sequence[Side]) -> int | None:
    """The first side that counts whose label is not that of the first one that has a label."""
    have = [index for index, side in enumerate(sides) if side.counts and letters[index] != NOTHING]
    return next((index for index in have if letters[index] != letters[have[0]]), None)


def _answers(labels: Any, completions: Any) -> dict[tuple[str, int], Said]:
    """(prompt id, sample) -> answer. Raises ``RecordError`` where the tables are not of the same answers."""
    names = ("prompt_id", "sample", "label", "reason")
    read = list(zip(*(labels[name].tolist() for name in names), strict=True))
    texts = list(zip(*(completions[name].tolist() for name in ("prompt_id", "sample", "text", "finish")), strict=True))
    if [item[:2] for item in read] != [item[:2] for item in texts]:
        raise RecordError("labels of other answers than the completions beside them")
    return {
        (str(name), int(sample)): Said(str(label), str(reason), str(text[2]), text[3] == FinishReason.LENGTH)
        for (name, sample, label, reason), text in zip(read, texts, strict=True)
    }


# ---------------------------------------------------------------- pairs


def pairs(pivot: Pivot, order: Sequence[int], top: int = TOP) -> tuple[Pairs, ...]:
    """Every corpus that some column has scores on."""
    return tuple(_pairs(pivot, order, corpus, top) for corpus in _corpora(pivot, "scores"))


def _pairs(pivot: Pivot, order: Sequence[int], corpus: str, top: int) -> Pairs:
    sides, tables = _sides(pivot, order, corpus, ("scores",), _OF_SCORES)
    asked = {str(row["id"]): row for row in _rows(pivot, corpus, "pairs")}
    ids = list(dict.fromkeys(str(name) for table in tables if table for name in table[0]["pair_id"]))
    place = {name: index for index, name in enumerate(ids)}
    chosen, rejected = (np.full((len(sides), len(ids)), math.nan) for _ in range(2))
    categories = [""] * len(ids)
    for side, table in enumerate(tables):
        if table is None:
            continue
        rows = [place[str(name)] for name in table[0]["pair_id"]]
        chosen[side, rows] = [float(np.sum(item)) for item in table[0]["chosen_logprobs"]]
        rejected[side, rows] = [float(np.sum(item)) for item in table[0]["rejected_logprobs"]]
        for row, category in zip(rows, table[0]["category"], strict=True):
            categories[row] = str(category)
    picked, lower = _most(chosen, top)
    found = []
    for index in picked:
        item = asked.get(ids[index], {})
        found.append(
            Pair(
                id=ids[index],
                category=categories[index],
                prompt=str(item.get("prompt", "")),
                chosen_text=str(item.get("chosen", "")),
                rejected_text=str(item.get("rejected", "")),
                chosen=tuple(map(float, chosen[:, index])),
                rejected=tuple(map(float, rejected[:, index])),
            )
        )
    return Pairs(corpus, sides, tuple(found), lower, len(ids))


def _most(values: np.ndarray[Any, Any], top: int) -> tuple[list[int], dict[tuple[int, int], tuple[int, int]]]:
    """Items with the largest differences between some two sides, largest first; and how many are lower, of how many.

    Args:
        values: [sides, items], nats; what is not finite is left out.
    """
    largest: dict[int, float] = {}
    lower = {}
    values = np.where(np.isfinite(values), values, np.nan)
    for a, b in combinations(range(len(values)), 2):
        change = values[b] - values[a]
        (known,) = np.nonzero(np.isfinite(change))
        if not len(known):
            continue
        lower[a, b] = (int((change[known] < 0).sum()), len(known))
        for index in known[np.argsort(-np.abs(change[known]), kind="stable")[:top]]:
            if change[index]:
                largest[int(index)] = max(largest.get(int(index), 0.0), abs(float(change[index])))
    return sorted(largest, key=lambda index: (-largest[index], index)), lower


# ---------------------------------------------------------------- tables


def _corpora(pivot: Pivot, kind: str) -> tuple[str, ...]:
    return tuple(
        dict.fromkeys(table.corpus for column in pivot.columns for table in column.record.tables if table.kind == kind)
    )


def _sides(
    pivot: Pivot, order: Sequence[int], corpus: str, kinds: Sequence[str], differ_in: Collection[Kind]
) -> tuple[tuple[Side, ...], list[tuple[Any, ...] | None]]:
    """The reference where all runs share it, then the columns; and each one's tables, None where it has none."""
    basis = pivot.columns[0]
    wanted: list[tuple[str, int | None, Column, str]] = []
    if len({column.record.reference.identity for column in pivot.columns}) == 1:
        name = basis.record.reference.name
        wanted.append((name if name == "reference" else f"{name} (reference)", None, basis, name))
    wanted += [(pivot.columns[at].key, at, pivot.columns[at], pivot.columns[at].candidate.name) for at in order]
    sides, tables = [], []
    for key, index, column, checkpoint in wanted:
        reasons = apart(pivot, index, corpus, differ_in) if index else ()
        if another := next((reason for reason in reasons if reason.startswith(Kind.CORPUS)), ""):
            found, missing = None, another  # the same ids would be other items
        else:
            found, missing = _tables(column, checkpoint, corpus, kinds)
        files = tuple(f"{column.directory.name}/{table.path}" for table in _files(column, checkpoint, corpus, kinds))
        sides.append(Side(key, index, reasons, missing, files))
        tables.append(found)
    return tuple(sides), tables


def apart(pivot: Pivot, index: int, corpus: str, kinds: Collection[Kind]) -> tuple[str, ...]:
    """What makes a column's results on a corpus incomparable with the basis', of these kinds; () where nothing does."""
    basis, column = pivot.columns[0], pivot.columns[index]
    if basis.directory.resolve() == column.directory.resolve():
        return ()
    found = {
        f"{item.kind}: {item.text}": item.kind
        for line in pivot.lines
        if line.limit.corpus == corpus
        for item in line.cells[index].unlike
        if item.kind in kinds
    }
    then, now = (_digest(item, corpus) for item in (basis, column))
    seen = set(found.values())
    if Kind.CORPUS not in seen and (not then or then != now):
        what = f"what is asked of {corpus} {then[:12] or 'not known'}, then {now[:12] or 'not known'}"
        found[f"{Kind.CORPUS}: {what}"] = Kind.CORPUS
    for kind, differs, text in (
        (Kind.JUDGE, basis.record.judge != column.record.judge, "another one, or another version of it"),
        (Kind.DECODING, basis.record.policy.decoding != column.record.policy.decoding, "other settings"),
    ):
        if kind in kinds and kind not in seen and differs:
            found[f"{kind}: {text}"] = kind
    return tuple(found)


def _digest(column: Column, corpus: str) -> str:
    return next((item.digest for item in column.record.corpora if item.name == corpus), "")


def _files(column: Column, checkpoint: str, corpus: str, kinds: Sequence[str]) -> list[TableFile]:
    """The tables of these kinds, in their order, those that there are."""
    has = {(item.kind, item.checkpoint, item.corpus): item for item in column.record.tables}
    return [has[kind, checkpoint, corpus] for kind in kinds if (kind, checkpoint, corpus) in has]


def _tables(column: Column, checkpoint: str, corpus: str, kinds: Sequence[str]) -> tuple[tuple[Any, ...] | None, str]:
    """A column's tables, or why they are not there."""
    files = _files(column, checkpoint, corpus, kinds)
    if len(files) < len(kinds):
        return None, f"the run {column.run} kept no {kinds[0]} of {checkpoint} on {corpus}"
    try:
        return tuple(read_frame(column.directory / item.path) for item in files), ""
    except RecordError as error:
        return None, str(error)


def _rows(pivot: Pivot, corpus: str, kind: str) -> list[dict[str, Any]]:
    """What was asked, as the first run that kept it and asked what the basis asked has it."""
    for column in pivot.columns:
        if _digest(column, corpus) == _digest(pivot.columns[0], corpus):
            frames, _ = _tables(column, "", corpus, (kind,))
            if frames:
                rows: list[dict[str, Any]] = frames[0].to_dict(orient="records")
                return rows
    return []


def _asked(pivot: Pivot, corpus: str, kind: str) -> dict[str, tuple[str, str]]:
    """Prompt id -> its text and category."""
    return {str(row["id"]): (str(row["prompt"]), str(row.get("category", ""))) for row in _rows(pivot, corpus, kind)}
