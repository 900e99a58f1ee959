"""The command line: what can be done with a stored run, without running a model."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness import gate, policy, record
from harness.errors import HarnessError, RecordError

app = typer.Typer(
    help="Work with stored runs. The gate itself is pytest: pytest evals/ --candidate CKPT --reference CKPT",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="a run directory, e.g. reports/20260101T120000-my-model")]


@app.command()
def report(
    run: Run,
    output: Annotated[Path | None, typer.Option(help="where the page goes (default: report.html in the run)")] = None,
) -> None:
    """Draw the HTML report again from a stored record."""
    from harness.report import html

    typer.echo(str(html.write(record.read(run), _directory(run), output)))


@app.command(name="gate")
def gate_(run: Run) -> None:
    """Decide again from the record's findings alone; exit 1 where a candidate is blocked, 2 where the record is bad."""
    from harness.report.terminal import closing_table

    stored = record.read(run)
    rules = policy.parse(stored.policy.text.encode("utf-8"), Path(stored.policy.path))
    findings = policy.correct(
        [
            item if item.measurement is None else policy.assess(item.measurement, item.limit, item.candidate)
            for item in stored.findings
        ]
    )
    again = gate.decide_all(
        rules.limits,
        [candidate.name for candidate in stored.candidates],
        findings,
        {(item.candidate, item.limit): item.why for item in stored.unanswered},
        partial=stored.partial,
        interrupted=stored.status != "complete",
    )
    if (rules.limits, again, tuple(findings)) != (stored.policy.limits, stored.verdicts, stored.findings):
        raise RecordError(
            f"{run}: the verdict stored does not follow from the findings stored; the record was changed, or it was "
            "made by a version with other rules"
        )
    width = shutil.get_terminal_size().columns
    typer.echo(closing_table(stored, width=width, color=sys.stdout.isatty()), nl=False)
    raise typer.Exit(0 if stored.released else 1)


@app.command()
def schema(
    output: Annotated[Path | None, typer.Option(help="file to write (default: standard output)")] = None,
) -> None:
    """Print the JSON Schema of policy.yaml."""
    text = json.dumps(policy.json_schema(), indent=2) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")


def _directory(run: Path) -> Path:
    return run.parent if run.name == record.FILE else run


def main() -> None:
    """Run the command line; what a user can cure is one line on standard error and exit code 2."""
    try:
        app()
    except HarnessError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
