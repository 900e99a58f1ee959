"""What ``python -m harness pairs`` prints: tables of scores, what was kept, and what neither of them shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.pairs import QUANTILES, Kept, Summary
from harness.parts import Progress, silent
from harness.protocols import OnProgress
from harness.report.console import printed, text_console
from harness.report.text import counted, shorten, visible

CAVEAT = (
    "What this says: how alike this checkpoint finds chosen and rejected before training. In the paper (Razin et al., "
    "arXiv 2410.08847) pairs with a higher length-normalised CHES went with a larger fall of the chosen response under "
    "DPO, and training on the 5 % of pairs with the lowest brought no loss of refusals. What it does not say: that "
    "this training still lost chosen log-probability, and with a twentieth of the pairs it made fewer updates than the "
    "training on all of them that it is compared with, so how much of the gain is the choice of pairs is not known. "
    "The entanglement case is to first order, one pair alone, and of the LM head's weights only. Train on what is "
    "kept, and gate the result like any other."
)

_TEXT = 160
"""Characters shown of a prompt or response."""


def bars(on_terminal: bool) -> Progress:
    """Bars with an ETA on standard error where that is a terminal; nothing elsewhere."""
    return _bar if on_terminal else silent


def _bar(what: str, total: int, done: int) -> AbstractContextManager[OnProgress]:
    @contextmanager
    def bar() -> Iterator[OnProgress]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(visible(what).replace("[", r"\["), total=total, completed=done)
            yield lambda count: progress.advance(task, count)

    return bar()


def scores(summary: Summary, output: Path, *, width: int, color: bool) -> str:
    """The closing table of ``pairs score``.

    Args:
        summary: what was found.
        output: where the table of all pairs is.
        width: columns of the terminal.
        color: use ANSI colours; without them the text is plain.
    """
    console = text_console(width, color)
    facts = summary.facts
    left_out = f", {counted(facts.left_out, 'row')} left out" if facts.left_out else ""
    console.print(_text(f"{counted(summary.scored, 'pair')} scored{left_out}", "bold"))
    for name, value in (
        ("data", facts.data),
        ("model", f"{facts.checkpoint} ({facts.identity[:12]})"),
        ("scores", output),
    ):
        console.print(_text(f"{name:<7}{value}"), soft_wrap=True)
    console.print()
    console.print(_quantiles(summary))
    console.print()
    console.print(_cases(summary))
    if summary.apart:
        console.print()
        console.print(
            _text(
                f"{counted(summary.apart, 'pair')}: prompt and response had to be tokenised apart (column "
                "tokenised_apart)"
            )
        )
    for note in facts.notes:
        console.print(_text(f"note: {note}"))
    console.print()
    console.print(_text(f"Pairs to look at: the highest {summary.by}", "bold"))
    for example in summary.top:
        console.print(_text(f"{_number(example.score)}  row {example.row}, id {shorten(example.pair_id, 60)}"))
        for name in ("prompt", "chosen", "rejected"):
            value = shorten(visible(getattr(example, name)), _TEXT)
            console.print(Padding(_text(f"{name:<9}{value}", "dim"), (0, 0, 0, 2)))
    console.print()
    console.print(_text(CAVEAT))
    return printed(console)


def _quantiles(summary: Summary) -> Table:
    table = _table("score", *[f"{share:.0%}" for share in QUANTILES])
    for name, values in summary.quantiles.items():
        table.add_row(name, *map(_number, values))
    return table


def _number(value: float) -> str:
    """At most seven characters, for the size of a value; the exact ones are in the table on disk."""
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _cases(summary: Summary) -> Table:
    table = _table("one DPO step on the pair alone, LM head", "pairs", "share")
    for case, count in summary.cases.items():
        table.add_row(case, f"{count:,}", f"{count / summary.scored:.1%}")
    return table


def kept(done: Kept, output: Path, by: str, *, width: int, color: bool) -> str:
    """What ``pairs filter`` says at its end."""
    console = text_console(width, color)
    console.print(_text(f"{counted(done.kept, 'row')} kept, {counted(done.dropped, 'row')} dropped", "bold"))
    console.print(_text(f"kept in {output}"), soft_wrap=True)
    if done.lowest_dropped is not None:
        console.print(_text(f"dropped: {by} from {done.lowest_dropped:.6g} up"))
    if done.highest_kept is not None:
        console.print(_text(f"kept: {by} up to {done.highest_kept:.6g}"))
    if done.unscored:
        console.print(_text(f"{counted(done.unscored, 'row')} without a score among them"))
    console.print()
    console.print(_text(CAVEAT))
    return printed(console)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _text(text: str, style: str = "") -> Text:
    return Text(visible(text), style=style)
