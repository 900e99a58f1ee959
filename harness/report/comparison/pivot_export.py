"""Runs beside each other as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from harness.comparing import Cell, Line, Mark, Pivot
from harness.domain import Measurement, Outcome, unit_text
from harness.report.comparison.pivot import (
    WORDS,
    Worse,
    answer,
    basis_line,
    cure,
    note_lines,
    sentence,
    state,
    unknown_lines,
    value_text,
    warns_only,
    worse,
)
from harness.report.markdown import escaped
from harness.report.rows import verdict_of
from harness.report.text import counted, visible

SCHEMA = 1
"""Raised when the meaning or shape of the JSON changes."""

MOST_BYTES = 60_000
"""GitHub refuses comments above 65,536 characters."""

_MOST_LINES, _LONGEST = 40, 600


# ---------------------------------------------------------------- for machines


def as_json(pivot: Pivot) -> str:
    """The whole comparison; numbers that are none are null."""
    first = pivot.columns[0]
    data = {
        "schema_number": SCHEMA,
        "basis": first.key,
        "accepted": list(pivot.accepted),
        "summary": sentence(pivot),
        "columns": [
            {
                "key": column.key,
                "run": column.run,
                "candidate": column.candidate.name,
                "identity": column.candidate.identity,
                "step": column.candidate.step,
                "started": column.record.started,
                "decision": verdict_of(column.record, column.candidate.name).decision.value,
                "status": column.record.status,
            }
            for column in pivot.columns
        ],
        "lines": [
            {
                "limit": line.limit.id,
                "metric": line.limit.metric,
                "corpus": line.limit.corpus,
                "unit": line.limit.unit,
                "bound": line.limit.describe(),
                "blocks": not warns_only(pivot, line),
                "cells": [
                    {"column": column.key, **_cell(cell)}
                    for column, cell in zip(pivot.columns, line.cells, strict=True)
                ],
            }
            for line in pivot.lines
        ],
        "worse": [{"limit": line.limit.id, "column": column.key} for line, column in pivot.worse],
        "unknown": [{"limit": line.limit.id, "column": column.key} for line, column in pivot.unknown],
    }
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def _cell(cell: Cell) -> dict[str, Any]:
    measured = cell.finding.measurement if cell.finding else None
    return {
        "outcome": _outcome(cell),
        "why": cell.why,
        **(_numbers(measured) if measured else {"value": None, "low": None, "high": None, "n": None}),
        "mark": cell.mark.value,
        "got_worse": cell.got_worse,
        "change": {"metric": cell.change.metric, **_numbers(cell.change), "p_worse": _finite(cell.change.p_broken)}
        if cell.change
        else None,
        "by_intervals": cell.by_intervals,
        "unlike": [{"kind": item.kind.value, "text": item.text} for item in cell.unlike],
        "note": cell.note,
    }


def _numbers(measured: Measurement) -> dict[str, float | int | None]:
    numbers = {name: _finite(getattr(measured, name)) for name in ("value", "low", "high")}
    return {**numbers, "n": measured.n}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _outcome(cell: Cell) -> str:
    return cell.finding.outcome.value if cell.finding else "unanswered"


def as_csv(pivot: Pivot) -> str:
    """A row per limit and column. Text that a spreadsheet would take for a formula begins with an apostrophe."""
    file = io.StringIO()
    rows = [_row(pivot, line, at) for line in pivot.lines for at in range(len(pivot.columns))]
    writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["limit"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _row(pivot: Pivot, line: Line, at: int) -> dict[str, str | float | int | None]:
    column, cell = pivot.columns[at], line.cells[at]
    measured, change = (cell.finding.measurement if cell.finding else None), cell.change
    texts = {
        "limit": line.limit.id,
        "metric": line.limit.metric,
        "corpus": line.limit.corpus,
        "unit": line.limit.unit,
        "blocks": "no" if warns_only(pivot, line) else "yes",
        "column": column.key,
        "run": column.run,
        "candidate": column.candidate.name,
        "identity": column.candidate.identity,
        "outcome": _outcome(cell),
        "mark": WORDS[cell.mark],
        "got_worse": "yes" if cell.got_worse else "no",
        "change_metric": change.metric if change else "",
        "unlike": "; ".join(f"{item.kind}: {item.text}" for item in cell.unlike),
        "note": "; ".join(filter(None, (cell.why, cell.note))),
    }
    numbers: dict[str, float | int | None] = {"step": column.candidate.step}
    numbers |= _numbers(measured) if measured else dict.fromkeys(("value", "low", "high", "n"))
    moved = _numbers(change) if change else dict.fromkeys(("value", "low", "high", "n"))
    numbers |= {f"change_{name}": value for name, value in moved.items()}
    numbers["p_worse"] = _finite(change.p_broken) if change else None
    return {**{name: _harmless(text) for name, text in texts.items()}, **numbers}


def _harmless(text: str) -> str:
    shown = visible(text)
    return f"'{shown}" if shown.lstrip()[:1] in tuple("=+-@＝＋－＠") and shown.strip() else shown


# ---------------------------------------------------------------- for a pull request


def as_markdown(pivot: Pivot) -> str:
    """For a comment on a pull request: what got worse first, then the table; at most ``MOST_BYTES``."""
    head = [f"## {escaped(sentence(pivot))}", escaped(basis_line(pivot), _LONGEST)]
    table = "\n".join([_head(pivot), *(_line(pivot, line) for line in pivot.lines)])
    tail = [f"`+` better, `-` worse, `{Mark.NOISE}` no difference shown, `x` not comparable; bold: blocks"]
    tail += _section("Worse", [_listed(item) for item in worse(pivot)]) + _section(
        "Not comparable", unknown_lines(pivot)
    )
    tail += [escaped(cure(pivot))] if cure(pivot) else []
    tail += _section("Notes", note_lines(pivot))
    whole = "\n\n".join([*head, table, *tail]) + "\n"
    if len(whole.encode()) <= MOST_BYTES:
        return whole
    short = "The table is too large for a comment: see `compare --format table`, or `--html`."
    cut = "\n\n".join([*head, short, *tail]).encode()[: MOST_BYTES - 1]
    return cut.decode("utf-8", "ignore") + "\n"


def _head(pivot: Pivot) -> str:
    names = [f"{escaped(column.key, 100)}<br>{escaped(state(column), 100)}" for column in pivot.columns]
    return f"| limit | {' | '.join(names)} |\n|---|{'---:|' * len(names)}"


def _line(pivot: Pivot, line: Line) -> str:
    name = escaped(line.limit.id, 200) if warns_only(pivot, line) else f"**{escaped(line.limit.id, 200)}**"
    cells = []
    for cell in line.cells:
        mark = f" `{cell.mark}`" if cell.mark is not Mark.FIRST else ""
        word = answer(cell).word
        outcome = word if cell.finding and cell.finding.outcome is Outcome.PASS else f"**{word}**"
        cells.append(f"{value_text(cell)} {outcome}{mark}".strip())
    return f"| {name}{escaped(unit_text(line.limit.unit))} | {' | '.join(cells)} |"


def _listed(found: Worse) -> str:
    return f"{found.title}; {'; '.join(f'{key}: {text}' for key, text in found.rows)}"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return []
    shown = [f"- {escaped(text, _LONGEST)}" for text in lines[:_MOST_LINES]]
    if more := len(lines) - len(shown):
        shown.append(f"- and {counted(more, 'line')} more")
    return [f"**{title}**", "\n".join(shown)]
