"""Runs beside each other in a terminal: a row per limit, a column per run. Plain text without colour; ASCII but for
names."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from rich.box import Box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.comparing import Cell, Column, Line, Mark, Pivot
from harness.domain import unit_text
from harness.report.comparison.pivot import (
    LEGEND,
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
from harness.report.console import printed, text_console
from harness.report.text import shorten, visible

_BOX = Box("    \n    \n -- \n    \n -- \n    \n    \n    \n", ascii=True)
_STYLE = {
    Mark.FIRST: "",
    Mark.BETTER: "green",
    Mark.WORSE: "bold red",
    Mark.NOISE: "yellow",
    Mark.INCOMPARABLE: "magenta",
}
_WIDEST_NAME, _WIDEST_HEAD, _LONGEST = 34, 24, 600
_GAP = 2


def table(pivot: Pivot, width: int, color: bool) -> str:
    """The comparison for a terminal.

    Args:
        pivot: runs beside each other.
        width: columns of the terminal; with more runs than fit, the table comes in blocks that each begin with the
            first run.
        color: use ANSI colours; without them the text is plain.
    """
    console = text_console(width, color)
    style = "bold red" if pivot.worse else "bold magenta" if pivot.unknown else "bold green"
    console.print(_text(sentence(pivot), style))
    console.print(_text(basis_line(pivot)))
    for block in _blocks(pivot, console.width):
        console.print()
        console.print(_block(pivot, block, console.width))
    console.print()
    console.print(_text(LEGEND))
    _worse(console, worse(pivot))
    _list(console, "Not comparable", unknown_lines(pivot), Mark.INCOMPARABLE)
    if said := cure(pivot):
        console.print(Padding(_text(said), (0, 0, 0, 2)))
    _list(console, "Notes", note_lines(pivot), Mark.FIRST)
    return printed(console)


def _worse(console: Console, found: Sequence[Worse]) -> None:
    """A title for each limit, and below it a row for each column."""
    if not found:
        return
    console.print()
    console.print(_text("Worse", _STYLE[Mark.WORSE]))
    for item in found:
        console.print(Padding(_rows([("-", item.title)]), (0, 0, 0, 2)))
        console.print(Padding(_rows(item.rows), (0, 0, 0, 6)))


def _rows(rows: Sequence[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    for first, second in rows:
        grid.add_row(_text(first), Text(shorten(visible(second), _LONGEST)))
    return grid


def _list(console: Console, title: str, lines: Sequence[str], mark: Mark) -> None:
    if not lines:
        return
    console.print()
    console.print(_text(title, _STYLE[mark] or "bold"))
    console.print(Padding(_rows([(mark.value or "*", line) for line in lines]), (0, 0, 0, 2)))


# ---------------------------------------------------------------- the table


def _blocks(pivot: Pivot, width: int) -> list[list[int]]:
    """Positions of the columns that stand beside each other; the first column is in every block."""
    others = list(range(1, len(pivot.columns)))
    sizes = [_column_width(pivot, at) for at in range(len(pivot.columns))]
    room = width - _name_width(pivot, width) - _GAP - sizes[0]
    blocks: list[list[int]] = []
    left = -1
    for at in others:
        left -= sizes[at] + _GAP
        if left < 0 or not blocks:
            blocks.append([0])
            left = room - sizes[at] - _GAP
        blocks[-1].append(at)
    return blocks


def _name_width(pivot: Pivot, width: int) -> int:
    longest = max((len(visible(_name(line))) for line in pivot.lines), default=0)
    fixed = len("started (UTC)")
    if len(pivot.columns) == 2 and longest + 2 * _GAP + sum(_column_width(pivot, at) for at in (0, 1)) <= width:
        return max(longest, fixed)
    return max(min(longest, _WIDEST_NAME, width * 3 // 10), fixed)


def _column_width(pivot: Pivot, at: int) -> int:
    cells = [line.cells[at] for line in pivot.lines]
    heads = [len(text) for text in _heads(pivot.columns[at])]
    return max(sum(_sizes(cells)) + 3, min(max(heads), _WIDEST_HEAD))


def _sizes(cells: Sequence[Cell]) -> tuple[int, int]:
    """Widest value and widest outcome."""
    values = max((len(value_text(cell)) for cell in cells), default=0)
    return values, max((len(_outcome(cell)) for cell in cells), default=0)


def _outcome(cell: Cell) -> str:
    return answer(cell).word if cell.finding else "none"


def _name(line: Line) -> str:
    return f"{line.limit.id}{unit_text(line.limit.unit)}"


def _heads(column: Column) -> tuple[str, ...]:
    """Candidate, run, identity, step, start and verdict."""
    step = "" if column.candidate.step is None else str(column.candidate.step)
    started = column.record.started[:16].replace("T", " ")
    texts = (column.candidate.name, column.run, column.candidate.short, step, started, state(column))
    return tuple(map(visible, texts))


def _block(pivot: Pivot, columns: Sequence[int], width: int) -> Table:
    names = _name_width(pivot, width)
    grid = Table(box=_BOX, pad_edge=False, show_edge=False, show_header=False, padding=(0, _GAP - 1, 0, 0))
    grid.add_column(width=names, overflow="fold")
    for at in columns:
        grid.add_column(width=_column_width(pivot, at), overflow="fold")
    labels = ("candidate", "run", "identity", "step", "started (UTC)", "verdict")
    heads = [_heads(pivot.columns[at]) for at in columns]
    rows = [(label, [head[at] for head in heads]) for at, label in enumerate(labels)]
    for label, texts in (kept := [row for row in rows if any(row[1])]):
        style = "bold" if label == "candidate" else ""
        grid.add_row(
            Text(label, style=style), *(Text(text, style=style) for text in texts), end_section=label == kept[-1][0]
        )
    blocking = [line for line in pivot.lines if not warns_only(pivot, line)]
    warning = [line for line in pivot.lines if warns_only(pivot, line)]
    sizes = {at: _sizes([line.cells[at] for line in pivot.lines]) for at in columns}
    for line in blocking:
        grid.add_row(_wrapped(line, names), *(_cell(line.cells[at], sizes[at]) for at in columns))
    if warning:
        if blocking:
            grid.rows[-1].end_section = True
        grid.add_row(Text("warnings only", style="bold"))
    for line in warning:
        grid.add_row(_wrapped(line, names), *(_cell(line.cells[at], sizes[at]) for at in columns))
    return grid


def _wrapped(line: Line, width: int) -> Text:
    return Text("\n".join(wrap(visible(_name(line)), width)))


def _cell(cell: Cell, sizes: tuple[int, int]) -> Text:
    """``  0.410 FAIL    -``."""
    text = Text(f"{value_text(cell):>{sizes[0]}} {_outcome(cell):<{sizes[1]}} ")
    return text.append(cell.mark.value, style=_STYLE[cell.mark])


def _text(text: str, style: str = "") -> Text:
    return Text(visible(text), style=style)
