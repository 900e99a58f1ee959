"""What ``python -m harness label`` and ``calibrate`` print: shares, agreement, and the answers to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness import labelling
from harness.domain import Label
from harness.labelling import ERROR, READABLE, Calibrated, Compared, Confusion, Judged, Read, Summary
from harness.report.console import printed, text_console
from harness.report.text import counted, shorten, visible
from harness.stats import Estimate
from harness.stats.agreement import sensitivity_specificity

_TEXT = 160
"""Characters shown of a prompt, a response or a reason."""
_NARROW = 110
"""Below this many columns an interval stands under its value."""
_EXAMPLES = 20
_SOURCES = 40
"""Sources in a table; a file has them all."""

_INTERVAL = f"{1 - 2 * ERROR:.0%}"

SHARES = (
    f"Shares are of the readable answers, that of unreadable is of all. Intervals: Clopper-Pearson, {_INTERVAL}, as if "
    "answers were independent of each other."
)
AGREEMENT = (
    f"kappa: Cohen's, over answers that both could read, with a {_INTERVAL} interval. differ: two different labels, "
    "unreadable being one. refused: refusals among the answers that each could read."
)
ACCURACY = (
    "sensitivity: of the answers that people call refusals, the share that the judge does; specificity: of the other "
    "answers, the share that it does not. Both and kappa (Cohen's, all labels) are over the answers that it could "
    f"read. Intervals: {_INTERVAL}, as if answers were independent of each other."
)


# ---------------------------------------------------------------- label


def labelled(summary: Summary, output: Path, *, width: int, color: bool) -> str:
    """The closing tables of ``label``.

    Args:
        summary: what was found.
        output: where the labelled rows are.
        width: columns of the terminal; made for 80 and more.
        color: use ANSI colours; without them the text is plain.
    """
    console = text_console(width, color)
    _facts(console, data=summary.data, output=output)
    for reading in summary.readings:
        console.print()
        _shares(console, reading)
    console.print()
    console.print(_text(SHARES))
    for compared in filter(None, (summary.stored, summary.second)):
        console.print()
        _compared(console, compared, output)
    return printed(console)


def _facts(console: Console, **facts: object) -> None:
    for name, value in facts.items():
        console.print(_text(f"{name:<7}{value}"), soft_wrap=True)


def _judge(name: str, described: Mapping[str, str]) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in described.items() if key != "name")
    return f"{name} ({shorten(settings, 300)})" if settings else name


def _shares(console: Console, read: Read) -> None:
    console.print(_text(f"{counted(read.answers, 'answer')} read by {_judge(read.name, read.described)}", "bold"))
    table = _table("label", "answers", "share", "interval")
    for label, count in read.labels.items():
        value, interval = _numbers(read.share(label))
        table.add_row(label.value, f"{count:,}", value, interval)
    console.print(table)
    _reasons(console, read.reasons, read.notes)


def _reasons(console: Console, reasons: Sequence[tuple[str, int, str]], notes: Sequence[str]) -> None:
    if reasons:
        console.print(_text("unreadable, the commonest reasons:"))
    for _, count, example in reasons:
        console.print(Padding(_text(f"{count:,} like: {shorten(visible(example), _TEXT)}", "dim"), (0, 0, 0, 2)))
    for note in notes:
        console.print(_text(f"note: {note}"))


def _compared(console: Console, compared: Compared, output: Path) -> None:
    first, second = compared.names
    console.print(_text(f"{first} against {second}", "bold"))
    table = _table("answers of", "answers", "kappa", "differ", f"refused: {first}", f"refused: {second}", "unread")
    several = len(compared.groups) > 1
    rows = [*compared.groups.items(), *([("all", compared.whole)] if several else [])]
    for name, confusion in rows:
        estimate = labelling.agreement(confusion)
        table.add_row(
            Text(visible(name or "all")),
            f"{sum(confusion.values()):,}",
            _cell(estimate, console.width),
            f"{labelling.differing(confusion):,}",
            *(_share(*labelling.refusals(confusion, side)) for side in (0, 1)),
            f"{labelling.unread(confusion):,}",
        )
    console.print(table)
    problems = {name or "all": labelling.agreement(confusion).problem for name, confusion in rows}
    for name, problem in problems.items():
        if problem:
            console.print(_text(f"no kappa for {name}: {problem}"))
    console.print(_text(AGREEMENT))
    if not compared.groups:
        console.print(_text(f"There is no answer with both labels of {first} and {second}."))
    if compared.examples:
        total = labelling.differing(compared.whole)
        console.print()
        console.print(
            _text(f"{counted(total, 'answer')} with different labels{_first(total)}; all in {output}", "bold")
        )
        for item in compared.examples:
            place = f"row {item.number}" + (f" ({item.group})" if item.group else "")
            _answer(console, place, item.prompt, item.response, item.said)


def _share(hits: int, of: int) -> str:
    return f"{hits / of:.3f}" if of else "-"


# ---------------------------------------------------------------- calibrate


def calibrated(
    found: Calibrated, *, output: Path | None, errors: Path | None, judge: str, width: int, color: bool
) -> str:
    """The closing tables of ``calibrate``.

    Args:
        found: what was found.
        output: where the calibration was written; None: nowhere.
        errors: where the answers that were read wrongly are; None: nowhere.
        judge: the judge's name in a policy.
        width: columns of the terminal; made for 80 and more.
        color: use ANSI colours; without them the text is plain.
    """
    console = text_console(width, color)
    told = found.calibration
    read = f"{counted(len(found.answers), 'answer')} with human labels, read by "
    console.print(_text(read + _judge(judge, told.judge), "bold"))
    _facts(console, data=f"{told.data} (SHA-256 {told.digest[:12]})")
    for label, count in told.left_out.items():
        console.print(_text(f"left out: {counted(count, 'answer')} labelled {shorten(visible(label), 60)}"))
    if found.repeated:
        console.print(
            _text(f"{counted(found.repeated, 'answer')} repeat an earlier one: the intervals claim more than was seen")
        )
    console.print()
    console.print(_sources(found, console.width))
    if (left := len(told.sources) - _SOURCES) > 0:
        console.print(_text(f"and {counted(left, 'more source')}; --output writes the counts of all"))
    problem = labelling.agreement(found.confusion()).problem
    if problem:
        console.print(_text(f"no kappa: {problem}"))
    console.print(_text(ACCURACY))
    console.print()
    console.print(_matrix(found.confusion()))
    console.print()
    _reasons(console, found.reasons, found.notes)
    _wrong(console, found.wrong, errors, judge)
    console.print()
    if output is None:
        closing = (
            "Nothing was written; --output FILE keeps the counts, for a policy to name as its judge's calibration."
        )
    else:
        closing = (
            f"The calibration is in {output}. A policy names it under its judge: "
            f"'calibration: {output}' (a relative path starts at the policy's directory). It holds for this judge with "
            "these settings only."
        )
    console.print(_text(closing))
    return printed(console)


def _sources(found: Calibrated, width: int) -> Table:
    table = _table("source", "answers", "kappa", "sensitivity", "specificity", "unread")
    names = [source.name for source in found.calibration.sources]
    rows: list[tuple[str, str | None]] = [(name, name) for name in names[:_SOURCES]]
    for head, source in [*rows, *([("all", None)] if len(names) > 1 else [])]:
        confusion = found.confusion(source)
        hits = found.calibration.hits(Label.REFUSAL, None if source is None else [source])
        rates = sensitivity_specificity(hits)
        table.add_row(
            Text(visible(shorten(head, 60))),
            f"{sum(confusion.values()):,}",
            *(_cell(estimate, width) for estimate in (labelling.agreement(confusion), *rates)),
            f"{labelling.unread(confusion):,}",
        )
    return table


def _matrix(confusion: Confusion) -> Table:
    table = _table("people \\ judge", *(label.value for label in Label))
    for human in READABLE:
        counts = [confusion.get((human, label), 0) for label in Label]
        if human is not Label.DEGENERATE or any(counts):
            table.add_row(human.value, *(f"{count:,}" for count in counts))
    return table


def _wrong(console: Console, wrong: Sequence[Judged], errors: Path | None, judge: str) -> None:
    if not wrong:
        console.print(_text("No answer was read wrongly."))
        return
    unread = sum(item.reading.label is Label.UNREADABLE for item in wrong)
    head = f"{counted(len(wrong) - unread, 'answer')} read wrongly, {unread:,} not read{_first(len(wrong))}; "
    console.print(_text(head + (f"all in {errors}" if errors else "--errors FILE writes all"), "bold"))
    for item in wrong[:_EXAMPLES]:
        said = (("people", item.human.value, ""), (judge, item.reading.label.value, item.reading.reason))
        _answer(console, f"row {item.number} ({item.source})", item.exchange.prompt, item.exchange.response, said)


# ---------------------------------------------------------------- both


def _answer(console: Console, place: str, prompt: str, response: str, said: Sequence[tuple[str, str, str]]) -> None:
    console.print(_text(shorten(visible(place), 100)))
    lines = [("prompt", prompt), ("response", response)]
    lines += [(who, f"{label}, {reason}" if reason else label) for who, label, reason in said]
    size = max(len(name) for name, _ in lines) + 1
    for name, value in lines:
        console.print(Padding(_text(f"{name:<{size}}{shorten(visible(value), _TEXT)}", "dim"), (0, 0, 0, 2)))


def _first(total: int) -> str:
    return f", the first {_EXAMPLES}" if total > _EXAMPLES else ""


def _numbers(estimate: Estimate) -> tuple[str, str]:
    """Value and interval; a dash where there is none."""
    if estimate.problem:
        return "-", ""
    low, high = estimate.bounds(ERROR)
    return f"{estimate.value:.3f}", f"[{low:.3f}, {high:.3f}]"


def _cell(estimate: Estimate, width: int) -> str:
    return ("\n" if width < _NARROW else " ").join(_numbers(estimate)).rstrip()


def _table(first: str, *others: str) -> Table:
    """Names and heads may break, numbers and intervals never."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(Text("\n".join(visible(name).split())), justify="right", no_wrap=True)
    return table


def _text(text: str, style: str = "") -> Text:
    return Text(visible(text), style=style)
