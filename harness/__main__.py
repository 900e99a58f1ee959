"""The command line: stored runs without a model, preference data before training, and answers for a judge to read."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from harness import baselines, bisection, corpus, engines, judging, labelling, pairs, parts, policy, record, verdicts
from harness.domain import EngineOptions
from harness.errors import HarnessError, OptionError
from harness.protocols import Judge, Openers

app = typer.Typer(
    help="Work with stored runs. The gate itself is pytest: pytest evals/ --candidate CKPT --reference CKPT",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Run = Annotated[Path, typer.Argument(metavar="RUN", help="a run directory, e.g. reports/20260101T120000-my-model")]
Candidates = Annotated[
    list[str] | None, typer.Option("--candidate", metavar="NAME", help="of several candidates; repeatable")
]


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="a run directory; several are compared")],
    output: Annotated[Path | None, typer.Option(help="where the page goes (default: report.html in the run)")] = None,
    model_card: Annotated[bool, typer.Option("--model-card", help="print a section for a Hugging Face card")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print the numbers as JSON")] = False,
    candidate: Candidates = None,
) -> None:
    """Draw the HTML report again from a stored record; or print it for a model card, or as numbers.

    Of several runs it draws the page that `compare --html` draws, and leaves the exit code at 0.
    """
    if len(runs) > 1:
        _draw_comparison(runs, output, alone=model_card or json_ or bool(candidate))
        return
    (run,) = runs
    if model_card or json_ or candidate:
        _write(_said(run, model_card, json_, candidate or []), output)
        return
    from harness.report import html

    typer.echo(str(html.write(record.read(run), _directory(run), output)))


def _draw_comparison(runs: list[Path], output: Path | None, *, alone: bool) -> None:
    """The page of several runs."""
    from harness import comparing
    from harness.report.comparison import contrast

    if alone:
        raise OptionError("--model-card, --json and --candidate are for one run; compare --format json is for several")
    if output is None:
        raise OptionError("several runs: say where their page goes with --output FILE")
    typer.echo(str(contrast.write(comparing.compare(runs), output)))


def _said(run: Path, model_card: bool, json_: bool, candidates: list[str]) -> str:
    """What `report` prints in place of the page."""
    from harness.report import flat

    if model_card == json_:
        raise OptionError("--model-card or --json, one of them; --candidate belongs to either")
    stored = _checked(run)
    names = flat.candidate_names(stored, candidates)
    if json_:
        return json.dumps(flat.as_data(stored, names), indent=2, allow_nan=False) + "\n"
    from harness.report.model_card import model_cards

    return model_cards(stored, names)


@app.command()
def log(
    run: Run,
    to: Annotated[str, typer.Option("--to", metavar="TRACKER", help="wandb, mlflow or tensorboard")],
    candidate: Candidates = None,
    directory: Annotated[Path | None, typer.Option(metavar="DIR", help="for tensorboard's event files")] = None,
) -> None:
    """Log a run's numbers at each candidate's training step; wandb and mlflow get the page too.

    Project, server and run are the tracker's own settings: WANDB_PROJECT, WANDB_RUN_ID, MLFLOW_TRACKING_URI,
    MLFLOW_EXPERIMENT_NAME, MLFLOW_RUN_ID, ...
    """
    from harness.integrations import tracking
    from harness.report import flat

    stored = _checked(run)
    _print(tracking.log(stored, _directory(run), to, flat.candidate_names(stored, candidate or []), directory))


@app.command(name="gate")
def gate_(run: Run) -> None:
    """Decide again from the record's findings alone; exit 1 where a candidate is blocked, 2 where the record is bad."""
    from harness.report.terminal import closing_table

    stored = record.read(run)
    verdicts.check(stored, run)
    typer.echo(closing_table(stored, **_terminal()), nl=False)
    raise typer.Exit(0 if stored.released else 1)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="run directories; the first is the basis")],
    basis: Annotated[str, typer.Option(metavar="KEY", help="hold the others against this column instead")] = "",
    accept: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="overlook that version or engine differ; repeatable")
    ] = None,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="table, json, csv or markdown")] = "table",
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="default: standard output")] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="write the comparison page, too")] = None,
) -> None:
    """Hold runs against the first one, limit by limit: + better, - worse, ~ noise, x not comparable, and why.

    Where both runs kept their tables the two candidates are compared item by item. Exits with 1 where a blocking limit
    got worse, else with 3 where one could not be compared, else with 0; with 2 where a run cannot be read.
    """
    from harness import comparing
    from harness.report.comparison import pivot_export as page
    from harness.report.comparison.pivot_table import table

    formats = {"table": None, "json": page.as_json, "csv": page.as_csv, "markdown": page.as_markdown}
    if format_ not in formats:
        raise OptionError(f"--format {format_!r} is none of {', '.join(formats)}")
    found = comparing.compare(runs, accept=accept or [], basis=basis)
    drawn = formats[format_]
    text = drawn(found) if drawn else table(found, **({"width": 100, "color": False} if output else _terminal()))
    if html is not None:
        from harness.report.comparison import contrast

        contrast.write(found, html)
    _write(text, output)
    raise typer.Exit(1 if found.worse else 3 if found.unknown else 0)


@app.command()
def index(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="where run directories are")] = Path("reports"),
) -> None:
    """Write RUN_DIR/index.html again: the list of its runs, newest first. Each run does so at its end."""
    from harness.report import history

    typer.echo(str(history.update(run_dir)))


@app.command()
def bless(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="a run directory")] = None,
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="of the baseline")] = None,
    candidate: Annotated[str | None, typer.Option(metavar="C", help="which, where the run has several")] = None,
    force: Annotated[bool, typer.Option("--force", help="take the name from the run that has it")] = False,
    although_blocked: Annotated[
        bool, typer.Option("--although-blocked", help="also where the candidate was not released")
    ] = False,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="D", help="where baselines.json is (default: beside RUN; for --list: reports)"),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="print the baselines that there are")] = False,
) -> None:
    """Make a candidate of a stored run a named baseline: pytest evals/ --candidate CKPT --baseline NAME."""
    from harness.report.commands import baselines as page

    if list_:
        if run is not None or name is not None or candidate is not None or force or although_blocked:
            raise OptionError("bless --list takes --run-dir only: it blesses nothing")
        where = run_dir or Path("reports")
        typer.echo(page.listed(baselines.read(where), where, **_terminal()), nl=False)
        return
    if run is None or name is None:
        raise OptionError(
            "name the run and the baseline: python -m harness bless RUN --as NAME (--list: those there are)"
        )
    done = baselines.bless(
        run, name, candidate=candidate, run_dir=run_dir, force=force, although_blocked=although_blocked
    )
    typer.echo(page.blessed(done, **_terminal()), nl=False)


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


@app.command()
def recipes() -> None:
    """List the data sets that a policy can name: `corpora: {unsafe: {recipe: sorry-bench}}`."""
    from harness.report.commands import recipes as page

    typer.echo(page.listed(corpus.RECIPES, **_terminal()), nl=False)


@app.command()
def bisect(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="where a trainer wrote its checkpoint-N")],
    options: Annotated[list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="for pytest")] = None,
    reference: Annotated[str | None, typer.Option(metavar="CKPT", help="default: what the run itself names")] = None,
    policy_: Annotated[Path | None, typer.Option("--policy", metavar="FILE", help="default: beside the cases")] = None,
    evals: Annotated[str, typer.Option(metavar="DIR", help="where the cases are")] = "evals/",
    run_dir: Annotated[Path, typer.Option(metavar="DIR", help="where run directories land")] = Path("reports"),
    only_failed: Annotated[
        bool, typer.Option("--only-failed", help="look for the first proved broken; undecided ones count as good")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="print the answer as JSON")] = False,
) -> None:
    """Search a training run for its first checkpoint that the gate blocks; each step is a run of its own.

    Assumes that checkpoints are released up to some step and blocked from there on, and says where it saw otherwise.
    Run again, it goes on from the runs that are there. Exits with 0 where the last checkpoint is released, with 1 where
    one is blocked, and with 2 where a checkpoint could not be tested.
    """
    names, start = bisection.open_run(str(run), reference)
    rules = str(policy_) if policy_ else None
    test = bisection.Gate(run, start, evals, rules, run_dir, tuple(options or ()), say=_say)
    answer = bisection.find(names, test, run=str(run), undecided_is_bad=not only_failed)
    _print(json.dumps(answer.as_dict(), indent=2) if json_ else bisection.table(answer).rstrip())
    raise typer.Exit(1 if answer.first_bad else 0)


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
    from harness.report.commands import pairs as page

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
    from harness.report.commands import pairs as page

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


# ---------------------------------------------------------------- answers that are there already

JudgeName = Annotated[str | None, typer.Option("--judge", metavar="NAME", help="what reads (default: the policy's)")]
JudgeOption = Annotated[
    list[str] | None, typer.Option("--judge-option", metavar="KEY=VALUE", help="a setting of the judge, as YAML")
]
PolicyPath = Annotated[
    Path | None, typer.Option("--policy", metavar="FILE", help="take the judge's options and sentinels from there")
]
EngineName = Annotated[str, typer.Option(help="what runs a judge that is a model")]
Dtype = Annotated[str, typer.Option(metavar="DTYPE", help="auto, float32, bfloat16 or float16")]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N")]
Column = Annotated[list[str] | None, typer.Option(metavar="OURS=THEIRS", help="e.g. response=answer")]


@app.command()
def label(
    data: Annotated[Path, typer.Argument(metavar="IN", help="prompts and responses: .jsonl, .csv, .parquet; or a run")],
    output: Annotated[Path, typer.Option(help="the same rows with labels: .jsonl, or .parquet of other data")],
    judge: JudgeName = None,
    judge_option: JudgeOption = None,
    second_judge: Annotated[str | None, typer.Option(metavar="NAME", help="reads too; agreement is reported")] = None,
    second_judge_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="a setting of the second judge, as YAML")
    ] = None,
    policy_: PolicyPath = None,
    column: Column = None,
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="stands before the names of added columns")] = "",
    engine: EngineName = "hf",
    model_dtype: Dtype = "auto",
    model_device: Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be asked; ask nothing")] = False,
    force: Force = False,
    restart: Annotated[bool, typer.Option("--restart", help="forget what an earlier, ended run has done")] = False,
) -> None:
    """Label answers: adds `label` and `reason`. Of a run, its stored answers are read again, beside the old labels."""
    from harness.report.commands import labelling as page
    from harness.report.commands.pairs import bars

    make = _judges(policy_, engine, model_dtype, model_device)
    jury = labelling.Jury(
        make.judge(judge, judge_option or []),
        make.judge(second_judge, second_judge_option or [], second=True) if second_judge else None,
        make.sentinels,
    )
    if second_judge_option and not second_judge:
        raise OptionError("--second-judge-option without --second-judge: name it")
    source = _answers(data, column or [])
    if dry_run:
        labelling.check(source, jury, output, prefix=prefix, force=force)
        _print(labelling.plan(source, jury, output))
        return
    summary = labelling.label(
        source,
        jury,
        output,
        prefix=prefix,
        force=force,
        restart=restart,
        say=_say,
        progress=bars(sys.stderr.isatty()),
    )
    typer.echo(page.labelled(summary, output, **_terminal()), nl=False)


@app.command()
def calibrate(
    data: Annotated[Path, typer.Argument(metavar="LABELLED", help="prompt, response and human label; as for `label`")],
    judge: JudgeName = None,
    judge_option: JudgeOption = None,
    policy_: PolicyPath = None,
    column: Column = None,
    label_map: Annotated[
        list[str] | None, typer.Option(metavar="THEIRS=OURS", help="e.g. rejected=refusal, mixed=leave-out")
    ] = None,
    by: Annotated[str | None, typer.Option(metavar="COLUMN", help="source of a row (default: source, model)")] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the counts, for a policy to name (.json)")
    ] = None,
    errors: Annotated[Path | None, typer.Option(metavar="FILE", help="all answers read wrongly (.jsonl)")] = None,
    min_kappa: Annotated[
        float | None, typer.Option(min=-1, max=1, help="exit 1 unless the lower bound of kappa reaches it")
    ] = None,
    max_unreadable: Annotated[
        float, typer.Option(min=0, max=1, help="with --min-kappa: exit 1 where more answers were not read")
    ] = 0.01,
    engine: EngineName = "hf",
    model_dtype: Dtype = "auto",
    model_device: Device = "auto",
    force: Force = False,
) -> None:
    """Compare a judge with human labels: kappa, sensitivity and specificity, by source."""
    from harness.report.commands import labelling as page
    from harness.report.commands.pairs import bars

    make = _judges(policy_, engine, model_dtype, model_device)
    reader = make.judge(judge, judge_option or [])
    for path, suffix, other in ((output, ".json", errors), (errors, ".jsonl", output)):
        if path is not None:
            parts.check_output(path, (suffix,), force=force, unlike=[data, other])
    found = labelling.calibrate(
        labelling.open_data(data, column or [], human=True),
        reader,
        make.sentinels,
        labels=labelling.label_map(label_map or []),
        by=by,
        progress=bars(sys.stderr.isatty()),
    )
    if output is not None:
        labelling.write_calibration(output, found.calibration)
    if errors is not None:
        labelling.write_wrong(errors, found.wrong)
    shown = page.calibrated(found, output=output, errors=errors, judge=reader.name, **_terminal())
    typer.echo(shown, nl=False)
    if min_kappa is not None and (why := found.doubt(min_kappa, max_unreadable)):
        _say(f"not good enough: {why}")
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Judges:
    """Makes the judges that a command names."""

    plan: policy.Policy | None
    openers: Openers
    sentinels: Sequence[judging.Sentinel]

    def judge(self, name: str | None, options: list[str], *, second: bool = False) -> Judge:
        return judging.create(judging.choose_judge(name, options, self.plan, second=second), self.openers)


def _judges(path: Path | None, engine: str, dtype: str, device: str) -> _Judges:
    plan = policy.load(path) if path else None
    root = plan.root if plan else Path.cwd()
    options = EngineOptions(dtype=dtype, device=device)
    engines.create(engine, options)  # an unknown name is an error now, also where no judge needs one
    sentinels = judging.load_sentinels(plan.judge if plan else None, root)
    return _Judges(plan, judging.openers(root, engine, options), sentinels)


def _answers(path: Path, columns: list[str]) -> labelling.Data:
    """The rows of a file, or the completions of a run whose record and tables are whole."""
    if not path.is_dir() and path.name != record.FILE:
        return labelling.open_data(path, columns)
    if columns:
        raise OptionError("--column is for files: the tables of a run have the columns they have")
    stored = record.read(path)
    names = [item.name for item in (stored.reference, *stored.candidates)]
    listed = [(item.checkpoint, item.corpus, item.kind) for item in stored.tables if item.checkpoint in names]
    return labelling.open_run(_directory(path), sorted(listed, key=lambda item: names.index(item[0])))


def _say(line: str) -> None:
    from harness.report.text import visible

    typer.echo(visible(line), err=True)


def _print(text: str) -> None:
    from harness.report.text import visible

    typer.echo(visible(text, lines=True))


class _Terminal(TypedDict):
    width: int
    color: bool


def _terminal() -> _Terminal:
    """How wide and colourful standard output is; plain where it is no terminal, or one that asks for no colour."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return {"width": shutil.get_terminal_size().columns, "color": sys.stdout.isatty() and not plain}


def _checked(run: Path) -> record.RunRecord:
    """A record whose verdict follows from its findings: what is published elsewhere must."""
    stored = record.read(run)
    verdicts.check(stored, run)
    return stored


def _write(text: str, output: Path | None) -> None:
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
        from harness.report.text import visible

        typer.echo(f"error: {visible(str(error), lines=True)}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
