"""What ``python -m harness bless`` prints: what a name stands for, and the list of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.padding import Padding
from rich.text import Text

from harness import baselines
from harness.baselines import Blessing, Holder
from harness.errors import HarnessError
from harness.report.console import printed, text_console
from harness.report.rows import verdict_of, verdict_word
from harness.report.text import visible


def blessed(done: Blessing, *, width: int, color: bool) -> str:
    """What was blessed, what it replaced and where that is written."""
    console = text_console(width, color)
    already = "" if done.new else " already"
    lines = [f"baseline {done.name} is{already} {baselines.describe(done.holder)}"]
    if done.replaced is not None:
        lines.append(f"before: {baselines.describe(done.replaced)}, blessed {done.replaced.blessed}")
    if done.note:
        lines.append(f"note: {done.note}")
    lines += [f"written to {done.file}"] if done.new else []
    lines.append(f"to hold a candidate against it: pytest evals/ --candidate CKPT --baseline {done.name}")
    for line in lines:
        console.print(Text(visible(line)))
    return printed(console)


def listed(holders: Mapping[str, Holder], run_dir: Path, *, width: int, color: bool) -> str:
    """Name, verdict and when; below each one its run, its candidate and that one's identity."""
    console = text_console(width, color)
    if not holders:
        console.print(Text(visible(f"nothing is blessed in {run_dir}: python -m harness bless RUN --as NAME")))
        return printed(console)
    for name, holder in holders.items():
        head = Text(visible(f"{name}  {_state(run_dir, name)}, blessed {holder.blessed}"), style="bold")
        console.print(head)
        console.print(Padding(Text(visible(baselines.describe(holder))), (0, 0, 0, 4)))
    return printed(console)


def _state(run_dir: Path, name: str) -> str:
    """The verdict on its candidate, or why it cannot be used."""
    try:
        found = baselines.open_baseline(run_dir, name)
    except HarnessError as error:
        return f"cannot be used: {str(error).removeprefix(f'--baseline {name}: ').split('; see python -m')[0]}"
    return verdict_word(verdict_of(found.record, found.facts.candidate))
