"""Runs beside each other as one page: data first, then HTML. What is better, worse or not comparable was decided by
``harness.comparing``; here it is only put in order and shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.comparing import Cell, Column, Line, Mark, Pivot
from harness.domain import Limit, unit_text
from harness.report import html
from harness.report.comparison import contrast_packs, pivot
from harness.report.comparison.contrast_samples import Pairs, Prompts, pairs, prompts
from harness.report.page.pack import pack
from harness.report.rows import Answer, number
from harness.report.text import visible
from harness.stats.decisions import SMALLEST_P
from harness.tables import write_atomically

WORDS: Mapping[Mark, str] = {
    Mark.FIRST: "basis",
    Mark.BETTER: "better",
    Mark.WORSE: "worse",
    Mark.NOISE: "no difference shown",
    Mark.INCOMPARABLE: "not comparable",
}
SCRIPTS = ("contrast.js", "contrast_parts.js", "contrast_matrix.js", "contrast_samples.js")
STATIC = 20
"""Prompts of each corpus that are shown where scripts do not run."""


@dataclass(frozen=True, slots=True)
class Head:
    """A column as it is shown."""

    key: str
    run: str
    directory: str
    name: str
    identity: str
    step: int | None
    started: str
    word: str
    """RELEASE, BLOCK or no verdict; and whether the run came to its end."""
    basis: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """One limit in one column, with all that is to be said of it."""

    mark: Mark
    word: str
    answer: Answer
    value: float
    """The number that the limit is on, from the record; NaN where there is none."""
    low: float
    high: float
    limit: Limit
    """As this column's run has it; else as the line has it."""
    said: tuple[str, ...]
    """The paired change, why it is not comparable, notes."""
    got_worse: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One limit over all columns, in the order in which they are shown."""

    limit: Limit
    warns_only: bool
    cells: tuple[Shown, ...]

    @property
    def among(self) -> tuple[float, ...]:
        """Ends of all intervals and the bounds, so that a row's plots share a scale."""
        numbers = [end for cell in self.cells for end in (cell.low, cell.high, cell.limit.bound)]
        return tuple(filter(math.isfinite, numbers))

    @property
    def bounds(self) -> tuple[str, ...]:
        """What is required, each once."""
        return tuple(dict.fromkeys(cell.limit.describe() for cell in self.cells))

    @property
    def drawn(self) -> bool:
        """At least two columns have a number."""
        return sum(math.isfinite(cell.value) for cell in self.cells) > 1


@dataclass(frozen=True, slots=True)
class Contrast:
    """A comparison, ready to be drawn."""

    state: str
    """``worse``, ``unknown`` (nothing is known to be worse, and not all is comparable) or ``fine``."""
    sentence: str
    basis: str
    worse: tuple[pivot.Worse, ...]
    """Limits that got worse, those that block first."""
    blocking: int
    """Of these, those that block."""
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    cure: str
    accepted: tuple[str, ...]
    by_step: bool
    """Columns stand in the order of their training steps; else in that of their runs' time."""
    heads: tuple[Head, ...]
    """[columns], in the order in which they are shown."""
    rows: tuple[Row, ...]
    facts: tuple[tuple[str, tuple[str, ...]], ...]
    """What each run was made with: name, [columns]."""
    prompts: tuple[Prompts, ...]
    pairs: tuple[Pairs, ...]

    @property
    def places(self) -> tuple[float, ...]:
        """Where each column stands on the axis: its step, or its number from 1."""
        return tuple(float(head.step or 0) if self.by_step else at for at, head in enumerate(self.heads, start=1))

    @property
    def other_bounds(self) -> tuple[Row, ...]:
        """Limits that do not require the same in all columns."""
        return tuple(row for row in self.rows if len(row.bounds) > 1)


def write(comparison: Pivot, path: Path) -> Path:
    """Write the page of a comparison whole, or not at all."""
    data = render(contrast(comparison)).encode("utf-8")
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    return path


def render(shown: Contrast) -> str:
    """The page as text."""
    packs = contrast_packs.make(shown.prompts, shown.pairs)
    template = html.environment().get_template("contrast.html.j2")
    return template.render(
        c=shown,
        packs=(("comparison", _figures(shown)), *packs.elements),
        left=packs.left,
        legend=[(mark, word) for mark, word in WORDS.items() if mark],
        letters=contrast_packs.LEGEND,
        static=STATIC,
        scripts=SCRIPTS,
        pack=pack,
    )


# ---------------------------------------------------------------- data


def contrast(comparison: Pivot) -> Contrast:
    """Put a comparison into order, and read what its columns said."""
    order, by_step = _order(comparison.columns)
    columns = [comparison.columns[at] for at in order]
    return Contrast(
        state="worse" if comparison.worse else "unknown" if comparison.unknown else "fine",
        sentence=pivot.sentence(comparison),
        basis=pivot.basis_line(comparison),
        worse=tuple(pivot.worse(comparison)),
        blocking=len({line.limit.id for line, _ in comparison.worse}),
        unknown=tuple(pivot.unknown_lines(comparison)),
        notes=tuple(pivot.note_lines(comparison)),
        cure=pivot.cure(comparison),
        accepted=comparison.accepted,
        by_step=by_step,
        heads=tuple(_head(column, column is comparison.columns[0]) for column in columns),
        rows=tuple(_row(comparison, line, order) for line in comparison.lines),
        facts=tuple(_facts(columns)),
        prompts=prompts(comparison, order),
        pairs=pairs(comparison, order),
    )


def _order(columns: Sequence[Column]) -> tuple[list[int], bool]:
    """Indices of columns by training step, where all know theirs and no two share one; else by their runs' start."""
    steps = [column.candidate.step for column in columns]
    places = list(range(len(columns)))
    if None not in steps and len(set(steps)) == len(steps):
        return sorted(places, key=lambda at: steps[at] or 0), True
    return sorted(places, key=lambda at: (_time(columns[at]), columns[at].candidate.step or 0, at)), False


def _time(column: Column) -> datetime:
    """Start of a run; one that says none comes last."""
    try:
        when = datetime.fromisoformat(column.record.started)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _head(column: Column, basis: bool) -> Head:
    record, candidate = column.record, column.candidate
    return Head(
        key=column.key,
        run=column.run,
        directory=str(column.directory),
        name=candidate.name,
        identity=candidate.short,
        step=candidate.step,
        started=record.started,
        word=pivot.state(column),
        basis=basis,
    )


def _row(comparison: Pivot, line: Line, order: Sequence[int]) -> Row:
    first = comparison.columns[0].key
    cells = tuple(
        _shown(line.cells[at], comparison.columns[at].limit(line.limit.id) or line.limit, first) for at in order
    )
    return Row(line.limit, pivot.warns_only(comparison, line), cells)


def _shown(cell: Cell, limit: Limit, first: str) -> Shown:
    measured = cell.finding.measurement if cell.finding else None
    value, low, high = (measured.value, measured.low, measured.high) if measured else (math.nan,) * 3
    said = [f"{item.kind}: {item.text}" for item in cell.unlike]
    if cell.change is not None:
        p = cell.change.p_broken
        shown = f"p(worse) {'<' if p <= SMALLEST_P else '='} {max(p, SMALLEST_P):.2g}" if math.isfinite(p) else ""
        said.append(
            f"{cell.change.metric} from {first}, item by item: {number(cell.change.value)} "
            f"[{number(cell.change.low)}, {number(cell.change.high)}]{unit_text(cell.change.unit)} "
            f"(n={cell.change.n:,}{f'; {shown}' if shown else ''})"
        )
    if cell.by_intervals:
        said.append("held against the basis by the two intervals, not item by item")
    said += [text for text in (cell.note, cell.why) if text]
    if cell.got_worse and cell.mark is not Mark.WORSE:
        said.append("kept in the basis, and not kept here")
    answer = pivot.answer(cell)
    return Shown(cell.mark, WORDS[cell.mark], answer, value, low, high, limit, tuple(said), cell.got_worse)


def _facts(columns: Sequence[Column]) -> list[tuple[str, tuple[str, ...]]]:
    """What runs are made with; of versions only those that are not the same everywhere."""

    def plain(values: Mapping[str, Any]) -> str:
        return ", ".join(f"{key} {value}" for key, value in values.items())

    records = [column.record for column in columns]
    found: dict[str, list[str]] = {
        "reference": [f"{item.reference.name} {item.reference.short}" for item in records],
        "policy": [f"{item.policy.path} {item.policy.digest[:12]}" for item in records],
        "baseline": [f"{item.baseline.name}: {item.baseline.run}" if item.baseline else "" for item in records],
        "judge": [plain(item.judge) for item in records],
        "decoding": [
            f"temperature {item.policy.decoding.temperature:g}, {item.policy.decoding.max_new_tokens} new tokens, "
            f"{item.policy.decoding.samples} per prompt{', could stop early' if item.early_stop else ''}"
            for item in records
        ],
        "engine": [plain(item.engine) for item in records],
        "git commit": [
            f"{item.git.get('commit', '')[:12]}{' and changes' if item.git.get('dirty') == 'yes' else ''}"
            for item in records
        ],
    }
    for name in dict.fromkeys(item.name for record in records for item in record.corpora):
        digests = [next((item.digest[:12] for item in record.corpora if item.name == name), "") for record in records]
        found[f"corpus {name}"] = digests
    for name in dict.fromkeys(name for record in records for name in record.versions):
        versions = [record.versions.get(name, "") for record in records]
        if len(set(versions)) > 1:
            found[name] = versions
    return [(name, tuple(values)) for name, values in found.items() if any(values)]


# ---------------------------------------------------------------- what the script draws


def _figures(shown: Contrast) -> dict[str, Any]:
    """Each limit over the columns, as the figures take it."""
    return {
        "byStep": shown.by_step,
        "columns": [visible(head.key) for head in shown.heads],
        "courses": {
            visible(row.limit.id): {
                "metric": visible(row.limit.metric + unit_text(row.limit.unit)),
                "isMaximum": row.limit.is_maximum,
                "points": [
                    {
                        "at": at,
                        "column": visible(head.key),
                        "value": cell.value,
                        "low": cell.low,
                        "high": cell.high,
                        "bound": cell.limit.bound,
                        "mark": cell.mark.value,
                        "word": cell.word,
                        "answer": cell.answer.word,
                        "said": [visible(text) for text in cell.said],
                    }
                    for at, head, cell in zip(shown.places, shown.heads, row.cells, strict=True)
                ],
            }
            for row in shown.rows
            if row.drawn
        },
    }
