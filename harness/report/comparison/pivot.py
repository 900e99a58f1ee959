"""Runs beside each other, in words. Nothing here decides: ``harness.comparing`` did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.comparing import Cell, Column, Line, Mark, Pivot
from harness.conditions import Kind
from harness.domain import Decision, Measurement
from harness.policy import headline
from harness.report.rows import Answer, answer_of, number, verdict_of, verdict_word
from harness.stats.decisions import SMALLEST_P

WORDS = {
    Mark.FIRST: "basis",
    Mark.BETTER: "better",
    Mark.WORSE: "worse",
    Mark.NOISE: "noise",
    Mark.INCOMPARABLE: "incomparable",
}
LEGEND = "+ better   - worse   ~ no difference shown   x not comparable"

_MOST_NAMES = 4
"""Columns that a sentence names."""


@dataclass(frozen=True, slots=True)
class Worse:
    """One limit that got worse."""

    title: str
    """The limit, and how it stood in the first column."""
    rows: tuple[tuple[str, str], ...]
    """Column -> how it stands there, and by how much it changed."""


def sentence(pivot: Pivot) -> str:
    """What a reader must know first: what got worse, else what could not be compared, else that nothing did."""
    basis = pivot.columns[0].key
    known = {(line.limit.id, column.key) for line, column in pivot.worse}
    unknown = [(line, column) for line, column in pivot.unknown if (line.limit.id, column.key) not in known]
    if known:
        rest = f" Not comparable: {_limits_in(unknown)}." if unknown else ""
        return f"Worse than {basis}: {_limits_in(pivot.worse)}.{rest}"
    if unknown:
        told = _limits_in(unknown)
        return f"No blocking limit is known to be worse than in {basis}, but not all are comparable: {told}."
    return f"No blocking limit got worse than in {basis}."


def _limits_in(found: Sequence[tuple[Line, Column]]) -> str:
    """``refusal-drop in a; gibberish, yes-for-no in b, c``."""
    by_column: dict[str, list[str]] = {}
    for line, column in found:
        by_column.setdefault(column.key, []).append(line.limit.id)
    alike: dict[tuple[str, ...], list[str]] = {}
    for key, ids in by_column.items():
        alike.setdefault(tuple(ids), []).append(key)
    return "; ".join(f"{', '.join(ids)} in {_some(keys)}" for ids, keys in alike.items())


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _MOST_NAMES
    return ", ".join(names) if more < 2 else f"{', '.join(names[:_MOST_NAMES])} and {more} more"


def basis_line(pivot: Pivot) -> str:
    """What all columns are held against."""
    first = pivot.columns[0]
    siblings = len(first.record.candidates)
    one_of = f", one of {siblings} candidates of that run; --basis takes another" if siblings > 1 else ""
    decision = verdict_of(first.record, first.candidate.name).decision
    own = {Decision.BLOCK: " It is blocked itself.", Decision.NONE: " It has no verdict itself."}.get(decision, "")
    return f"Held against {first.key} ({first.candidate.short}) of run {first.run}{one_of}.{own}"


def state(column: Column) -> str:
    """RELEASE, BLOCK or no verdict; and whether the run came to its end."""
    word = verdict_word(verdict_of(column.record, column.candidate.name))
    return word if column.record.status == "complete" else f"{word}, {column.record.status}"


def worse(pivot: Pivot) -> list[Worse]:
    """The limits that got worse, those that block first."""
    found = []
    for line in sorted(pivot.lines, key=lambda item: warns_only(pivot, item)):
        cells = zip(pivot.columns, line.cells, strict=True)
        if rows := tuple((column.key, _row_of(line, cell)) for column, cell in cells if cell.got_worse):
            warns = " (warns only)" if warns_only(pivot, line) else ""
            before = ", ".join(filter(None, (_measured(line.cells[0]), answer(line.cells[0]).value)))
            found.append(Worse(f"{line.limit.id}{warns}: was {before}", rows))
    return found


def _row_of(line: Line, cell: Cell) -> str:
    same = answer(cell) is answer(line.cells[0])
    said = [f"{'still' if same else 'now'} {answer(cell).value}"]
    if cell.mark is Mark.INCOMPARABLE:
        said.append("its number cannot be compared")
    elif cell.change is not None:
        p = cell.change.p_broken
        shown = f"<= {p:.0e}" if p <= SMALLEST_P else f"= {p:.2g}"
        name = "change" if cell.change.metric == line.limit.metric else cell.change.metric
        proof = f", p {shown}" if cell.mark is Mark.WORSE else ", which shows no difference"
        said.append(f"{name} {_numeric(cell.change)}{proof}")
    else:
        said.append(_measured(cell))
    return "; ".join(filter(None, (*said, cell.note)))


def _measured(cell: Cell) -> str:
    """``0.042 [0.018, 0.071] (n=240)``; '' where nothing was measured."""
    measured = cell.finding.measurement if cell.finding else None
    return f"{_numeric(measured)} (n={measured.n})".strip() if measured else ""


def _numeric(measured: Measurement) -> str:
    """``0.042 [0.018, 0.071]``, with its unit."""
    return headline(measured).removeprefix(measured.metric).removesuffix(f"(n={measured.n})").strip()


def unknown_lines(pivot: Pivot) -> list[str]:
    """What could not be compared and why, a line for each column and kind of reason, with its limits."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for at, line, cell in _cells(pivot):
        if cell.mark is not Mark.INCOMPARABLE:
            continue
        reasons = [(item.kind.value, item.text) for item in cell.unlike] or [("", cell.note)]
        for kind, text in reasons:
            found.setdefault((pivot.columns[at].key, kind), {}).setdefault(text, []).append(line.limit.id)
    lines = []
    for (key, kind), texts in found.items():
        same: dict[tuple[str, ...], list[str]] = {}
        for text, ids in texts.items():
            same.setdefault(tuple(ids), []).append(text)
        told = "; ".join(f"{'; '.join(what)} ({_limits(pivot, ids)})" for ids, what in same.items())
        lines.append(f"{key}: {f'{kind}: ' if kind else ''}{told}")
    return lines


def cure(pivot: Pivot) -> str:
    """What to do about columns that are not comparable; '' where all are."""
    kinds = {item.kind for _, _, cell in _cells(pivot) for item in cell.unlike}
    if not kinds:
        return ""
    light = [kind.value for kind in (Kind.VERSION, Kind.ENGINE) if kind in kinds]
    accept = " ".join(f"--accept {kind}" for kind in light)
    said = [f"Where such a difference may be overlooked: {accept}."] if light else []
    if kinds - {Kind.VERSION, Kind.ENGINE}:
        said.append("Run one of the evaluations again as the other was run, or make their policies the same.")
    return " ".join(said)


def note_lines(pivot: Pivot) -> list[str]:
    """Bounds that differ, differences overlooked, claims that correction withdrew; and where intervals decided."""
    found: dict[tuple[str, str], list[str]] = {}
    for at, line, cell in _cells(pivot):
        told = cell.got_worse or (cell.mark is Mark.INCOMPARABLE and not cell.unlike)
        if cell.note and not told:
            found.setdefault((pivot.columns[at].key, cell.note), []).append(line.limit.id)
    lines = [f"{key}: {note} ({_limits(pivot, ids)})" for (key, note), ids in found.items()]
    if plain := list(dict.fromkeys(line.limit.id for _, line, cell in _cells(pivot) if cell.by_intervals)):
        lines.append(
            "not compared item by item, but by whether two intervals overlap, which takes a larger difference: "
            + ", ".join(plain)
        )
    return lines


def _limits(pivot: Pivot, ids: Sequence[str]) -> str:
    return "all limits" if len(pivot.lines) > 1 and len(ids) == len(pivot.lines) else ", ".join(ids)


def _cells(pivot: Pivot) -> list[tuple[int, Line, Cell]]:
    """All but the first column's, column by column."""
    return [(at, line, line.cells[at]) for at in range(1, len(pivot.columns)) for line in pivot.lines]


def answer(cell: Cell) -> Answer:
    """How the limit stands in this column."""
    return answer_of(cell.finding) if cell.finding is not None else Answer.UNANSWERED


def warns_only(pivot: Pivot, line: Line) -> bool:
    """The limit blocks in no run."""
    return not any(column.blocks(line.limit.id) for column in pivot.columns)


def value_text(cell: Cell) -> str:
    """The number that the limit is on; '' where there is no answer."""
    if cell.finding is None:
        return ""
    return number(cell.finding.measurement.value) if cell.finding.measurement else "n/a"
