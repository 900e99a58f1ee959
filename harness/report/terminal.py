"""The closing table in the terminal: verdict, limits, reasons. Plain text without colour; ASCII but for names."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from textwrap import wrap

from rich.box import Box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.domain import Decision
from harness.record import RunRecord
from harness.report.console import printed, text_console
from harness.report.rows import (
    Answer,
    LimitRow,
    describe_peak,
    is_same,
    limit_rows,
    number,
    order_of_fall,
    overall,
    own_value,
    peaks,
    short_bound,
    tally,
    verdict_of,
    verdict_word,
    warned,
)
from harness.report.text import shorten, visible
from harness.report.trust import candidate_lines, run_lines

_BOX = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
_STYLE = {
    Answer.KEPT: "green",
    Answer.BROKEN: "bold red",
    Answer.UNDECIDED: "yellow",
    Answer.UNMEASURED: "magenta",
    Answer.UNANSWERED: "bold magenta",
}
_DECISION = {Decision.RELEASE: "bold green", Decision.BLOCK: "bold red", Decision.NONE: "bold yellow"}
_NOT_MEASURED = (Answer.UNMEASURED, Answer.UNANSWERED)
_LONGEST_REASON = 600
_NARROW = 74
"""Below this many columns an interval stands under its value."""
_LEAST = 60
"""Columns that the table needs; in a narrower terminal its lines are broken by the terminal, and nothing is lost."""


def closing_table(record: RunRecord, width: int, color: bool) -> str:
    """What a run found, for the end of the terminal output.

    Args:
        record: the run.
        width: columns of the terminal; 60 at least, made for 80 and more.
        color: use ANSI colours; without them the text is plain.
    """
    console = text_console(max(width, _LEAST), color)
    if record.status != "complete":
        console.print(_text(f"The run is {record.status}: what was not answered blocks.", "bold yellow"))
    for position, candidate in enumerate(record.candidates):
        if position:
            console.print()
        _candidate(console, record, candidate.name)
    if len(record.candidates) > 1:
        console.print()
        console.print(_text(overall(record), "bold"))
        for peak in peaks(record):
            console.print(_text(describe_peak(peak)))
        for line in order_of_fall(record):
            console.print(_text(line))
    for line in run_lines(record):
        console.print(_text(line))
    for warning in record.warnings:
        console.print(_text(f"warning: {warning}", "yellow"))
    return _inert(printed(console))


def _inert(text: str) -> str:
    """Nothing that a GitHub runner obeys: ``::command::`` at the start of a line, where wrapping may put any text, and
    ``##[command]`` anywhere."""
    return re.sub(r"(?m)^(\s*):(?=:)", r"\1: ", text).replace("##[", "## [")


def _candidate(console: Console, record: RunRecord, name: str) -> None:
    """Verdict, table, reasons."""
    rows, verdict = limit_rows(record, name), verdict_of(record, name)
    checkpoint = record.checkpoint(name)
    head = _text(verdict_word(verdict), _DECISION[verdict.decision])
    compared = "itself (A/A run)" if is_same(record, name) else f"{record.reference.name} ({record.reference.short})"
    head.append(visible(f"  {name} ({checkpoint.short}) against {compared}"))
    console.print(head)
    if said := tally([row for row in rows if not row.warns_only]):
        console.print(Padding(_text(said), (0, 0, 0, 2)))
    console.print(_table(rows, console.width))
    if verdict.decision is Decision.NONE:
        console.print(Padding(_text("only part of the policy was asked for (--partial)"), (0, 0, 0, 2)))
    if verdict.reasons:
        console.print(_bullets(verdict.reasons))
    if found := warned(record, name):
        console.print(Padding(_text(found), (0, 0, 0, 2)))
        if why := [f"{row.limit.id}: {row.reason}" for row in rows if row.warns_only and row.answer in _NOT_MEASURED]:
            console.print(_bullets(why))
    for line in candidate_lines(record, name):
        console.print(Padding(_text(line), (0, 0, 0, 2)))


def _table(rows: Sequence[LimitRow], width: int) -> Table:
    """One line per limit where the width allows it; else names break at hyphens, and intervals get their own line."""
    cells = [_cells(row) for row in rows]
    narrow = width < _NARROW
    between = "\n" if narrow else " "
    differences = [f"{value}{between}{interval}".rstrip() for _, _, value, interval, _ in cells]
    bounds = [cell[4] for cell in cells]
    heads = ["difference or value", "bound", "outcome"]
    outcomes = [row.answer.word + (" (warn)" if row.warns_only else "") for row in rows]
    fixed = [_widest([*differences, *([] if narrow else heads[:1])]), _widest(bounds), _widest(outcomes)]
    numbers = [max(_widest([cell[index] for cell in cells]), 5) for index in (0, 1)]
    names = _widest(["limit", *(visible(row.limit.id) for row in rows)])
    full = [max(size, len(head)) for size, head in zip(numbers, ("reference", "candidate"), strict=True)]
    roomy = names + sum(full) + sum(fixed) + 2 * 5 <= width
    if not roomy:  # units, and the mark of warnings, go below
        bounds = [" ".join(text.split(" ")[:2]) + "\n" + " ".join(text.split(" ")[2:]).strip("()") for text in bounds]
        bounds = [text.rstrip() for text in bounds]
        outcomes = [text.replace(" ", "\n") if narrow else text for text in outcomes]
        fixed[1:] = [_widest(bounds), _widest(outcomes)]
    gap = 2 if roomy else 1
    room = max(width - sum(full if roomy else numbers) - sum(fixed) - gap * 5 - 1, 8)

    table = Table(box=_BOX, pad_edge=False, show_edge=False, padding=(0, gap - 1, 0, 0), header_style="bold")
    table.add_column("limit", width=min(names, room), overflow="fold")
    for head, short, size in zip(("reference", "candidate"), ("ref.", "cand."), numbers, strict=True):
        table.add_column(head if roomy else short, justify="right", overflow="fold", min_width=size)
    table.add_column(heads[0], overflow="fold", min_width=fixed[0])
    table.add_column(heads[1], overflow="fold")
    table.add_column(heads[2], overflow="fold", min_width=fixed[2])
    for row, cell, difference, bound, outcome in zip(rows, cells, differences, bounds, outcomes, strict=True):
        texts = (_name(visible(row.limit.id), room), cell[0], cell[1], difference, bound)
        table.add_row(*map(Text, texts), Text(outcome, style=_STYLE[row.answer]))
    return table


def _name(text: str, room: int) -> str:
    """A limit's id in so many columns: broken before its ``@NAME``, then at hyphens."""
    parts = [text] if len(text) <= room else re.split("(?=@)", text)
    return "\n".join(line for part in parts for line in wrap(part, room))


def _cells(row: LimitRow) -> tuple[str, str, str, str, str]:
    """Reference, candidate, value, interval, bound."""
    bound = visible(short_bound(row.limit))
    m = row.measurement
    if m is None:
        return "", "", "", "", bound
    interval = f"[{number(m.low)}, {number(m.high)}]" if math.isfinite(m.low) or math.isfinite(m.high) else ""
    return own_value(m, m.reference), own_value(m, m.candidate), number(m.value), interval, bound


def _widest(texts: Sequence[str]) -> int:
    return max((len(line) for text in texts for line in text.split("\n")), default=0)


def _bullets(texts: Sequence[str]) -> Padding:
    table = Table.grid(padding=(0, 1, 0, 0))
    for text in texts:
        table.add_row("-", Text(shorten(visible(text), _LONGEST_REASON)))
    return Padding(table, (0, 0, 0, 2))


def _text(text: str, style: str = "") -> Text:
    return Text(visible(text), style=style)
