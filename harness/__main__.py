"""The command line: what can be done with a stored run without a model, and preference data before training."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from harness import engines, gate, pairs, policy, record
from harness.domain import EngineOptions
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
    typer.echo(closing_table(stored, **_terminal()), nl=False)
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


# ---------------------------------------------------------------- preference data

pairs_app = typer.Typer(help="Score a preference data set before training, and leave out its most harmful pairs.")
app.add_typer(pairs_app, name="pairs", no_args_is_help=True)

DataSpec = Annotated[str, typer.Argument(metavar="DATA", help=".jsonl, .csv or .parquet file, or a data set's id")]
Split = Annotated[str | None, typer.Option(help="part of a data set on the hub, which needs one")]
Config = Annotated[str | None, typer.Option(help="configuration of a data set on the hub")]
Revision = Annotated[str | None, typer.Option(help="commit of a data set on the hub (default: the newest)")]
Force = Annotated[bool, typer.Option("--force", help="overwrite files")]


@pairs_app.command(name="score")
def pairs_score(
    data: DataSpec,
    model: Annotated[str, typer.Option(metavar="CKPT", help="what training starts from: directory, hub id or adapter")],
    output: Annotated[Path, typer.Option(help="the table, a row for each pair (.parquet)")],
    split: Split = None,
    config: Config = None,
    revision: Revision = None,
    column: Annotated[list[str] | None, typer.Option(metavar="OURS=THEIRS", help="e.g. chosen=preferred")] = None,
    engine: Annotated[str, typer.Option(help="what runs the checkpoint")] = "hf",
    base: Annotated[str, typer.Option(metavar="CKPT", help="base of an adapter, overriding its own config")] = "",
    chat_template: Annotated[str, typer.Option(metavar="FILE", help="Jinja template; raw: none, as TRL on text")] = "",
    model_dtype: Annotated[str, typer.Option(metavar="DTYPE", help="auto, float32, bfloat16 or float16")] = "auto",
    model_device: Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N")] = "auto",
    batch_tokens: Annotated[int, typer.Option(min=1, help="padded tokens per forward pass")] = 8192,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="run a checkpoint's own code")] = False,
    allow_unsafe_weights: Annotated[
        bool, typer.Option("--allow-unsafe-weights", help="load pickle weights, which can run code")
    ] = False,
    skip_unusable: Annotated[
        bool, typer.Option("--skip-unusable", help="leave out rows and pairs that cannot be scored")
    ] = False,
    force: Force = False,
    restart: Annotated[bool, typer.Option("--restart", help="forget what an earlier, ended run has done")] = False,
) -> None:
    """Score every pair: CHES and its relatives, and both log-probabilities. An ended run goes on where it was."""
    from harness.report import pairs as page

    runner = engines.create(
        engine,
        EngineOptions(
            dtype=model_dtype,
            device=model_device,
            trust_remote_code=trust_remote_code,
            unsafe_weights=allow_unsafe_weights,
            chat_template=chat_template,
            base=base,
            batch_tokens=batch_tokens,
        ),
    )
    source = pairs.open_data(data, split=split, config=config, revision=revision, columns=column or [])
    pairs.score(
        source,
        runner,
        model,
        output,
        skip_unusable=skip_unusable,
        force=force,
        restart=restart,
        say=_say,
        progress=page.bars(sys.stderr.isatty()),
    )
    typer.echo(page.scores(pairs.summarize(output, source), output, **_terminal()), nl=False)


@pairs_app.command(name="filter")
def pairs_filter(
    data: DataSpec,
    scores: Annotated[Path, typer.Option(help="what `pairs score` wrote of this data")],
    output: Annotated[Path, typer.Option(help="for what stays: .jsonl, or .parquet for data that is no JSONL")],
    drop_top: Annotated[float | None, typer.Option(metavar="SHARE", help="drop the pairs with the highest")] = None,
    keep_bottom: Annotated[float | None, typer.Option(metavar="SHARE", help="keep the pairs with the lowest")] = None,
    by: Annotated[str, typer.Option(metavar="SCORE", help="the score to rank by")] = "ches_normalised",
    unscored: Annotated[str | None, typer.Option(metavar="keep|drop", help="rows without a score")] = None,
    dropped: Annotated[Path | None, typer.Option(metavar="FILE", help="for the other rows")] = None,
    split: Split = None,
    config: Config = None,
    revision: Revision = None,
    force: Force = False,
) -> None:
    """Take the pairs that score worst out of the data; every other row stays as it is."""
    from harness.report import pairs as page

    source = pairs.open_data(data, split=split, config=config, revision=revision)
    done = pairs.keep(
        source,
        scores,
        output,
        drop_top=drop_top,
        keep_bottom=keep_bottom,
        by=by,
        unscored=unscored,
        dropped=dropped,
        force=force,
    )
    typer.echo(page.kept(done, output, by, **_terminal()), nl=False)


def _say(line: str) -> None:
    from harness.report.text import visible

    typer.echo(visible(line), err=True)


class _Terminal(TypedDict):
    width: int
    color: bool


def _terminal() -> _Terminal:
    """How wide and colourful standard output is."""
    return {"width": shutil.get_terminal_size().columns, "color": sys.stdout.isatty()}


def _directory(run: Path) -> Path:
    return run.parent if run.name == record.FILE else run


def main() -> None:
    """Run the command line; what a user can cure is one line on standard error and exit code 2."""
    try:
        app()
    except HarnessError as error:
        from harness.report.text import visible

        typer.echo(f"error: {visible(str(error), lines=True)}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
