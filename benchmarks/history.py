"""``python -m benchmarks.history``: what the list of runs costs at a thousand runs (docs/benchmarks.md)."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from harness import record
from harness.report import history


def main(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="stored runs, copied in turn; tables are not")],
    number: Annotated[int, typer.Option(help="runs in the list", min=1)] = 1000,
    keep: Annotated[Path | None, typer.Option(help="leave the directory here (default: a temporary one)")] = None,
) -> None:
    """Time the page of NUMBER runs: all new, none new, one new. Prints seconds and sizes."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = keep or Path(temporary)
        for index in range(number):
            _copy(runs[index % len(runs)], directory / f"run-{index:05d}", index)
        size = sum(path.stat().st_size for path in directory.glob(f"*/{record.FILE}"))
        typer.echo(f"{number:,} runs, records of {size / 1e6:.1f} MB")
        typer.echo(f"all new:  {_timed(directory):.2f} s")
        typer.echo(f"none new: {min(_timed(directory) for _ in range(3)):.2f} s")
        _copy(runs[0], directory / "run-new", number)
        typer.echo(f"one new:  {_timed(directory):.2f} s")
        for name in (history.FILE, history.SIDE_FILE):
            typer.echo(f"{name}: {(directory / name).stat().st_size / 1e3:.0f} kB")


def _copy(run: Path, to: Path, index: int) -> None:
    """The record under another name and time, and its page as an empty file."""
    to.mkdir(parents=True)
    data = json.loads((run / record.FILE).read_text(encoding="utf-8"))
    started = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(1.75e9 + 3600 * index))
    (to / record.FILE).write_text(json.dumps({**data, "run": to.name, "started": started}), encoding="utf-8")
    (to / "report.html").touch()


def _timed(directory: Path) -> float:
    begin = time.perf_counter()
    history.update(directory)
    return time.perf_counter() - begin


if __name__ == "__main__":
    typer.run(main)
