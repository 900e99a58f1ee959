"""A comparison in the terminal, as JSON, CSV and Markdown: the same numbers everywhere, and nothing hostile in them."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from report.factory import HOSTILE
from stored import POLICY, Said, pairs, store

from harness.__main__ import main
from harness.comparing import Cell, Mark, Pivot, compare
from harness.conditions import Difference, Kind
from harness.report.comparison.pivot import basis_line, cure, sentence, unknown_lines
from harness.report.comparison.pivot_export import MOST_BYTES, as_csv, as_json, as_markdown
from harness.report.comparison.pivot_table import table

BEFORE = Said("before", chosen=pairs(0.0), step=8)
AFTER = Said("after", unsafe="R" * 20 + "C" * 20, chosen=pairs(-3.0), step=16)
OTHER = POLICY + "decoding: {max_new_tokens: 64}\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A basis, a run that got worse, and one whose answers were generated otherwise."""
    root = tmp_path_factory.mktemp("runs")
    short = replace(BEFORE, name="short", step=None)
    return [
        store(root / "monday", BEFORE),
        store(root / "tuesday", AFTER),
        store(root / "wednesday", short, policy=OTHER),
    ]


@pytest.fixture(scope="module")
def pivot(runs: list[Path]) -> Pivot:
    return compare(runs)


def hostile(pivot: Pivot) -> Pivot:
    """The same with names, ids and notes that a model or a data set could have."""
    text = " ".join(item[:80] for item in HOSTILE)
    columns = tuple(
        replace(item, key=f"{item.key} {text}", run=text, candidate=replace(item.candidate, name=text))
        for item in pivot.columns
    )
    lines = tuple(
        replace(
            line, cells=tuple(_hostile_cell(cell, text) for cell in line.cells), limit=replace(line.limit, unit=text)
        )
        for line in pivot.lines
    )
    return replace(pivot, columns=columns, lines=lines)


def _hostile_cell(cell: Cell, text: str) -> Cell:
    return replace(cell, note=text, why=text, unlike=tuple(Difference(Kind.CORPUS, text) for _ in cell.unlike))


# ---------------------------------------------------------------- the terminal


def test_the_first_line_says_what_got_worse(pivot, runs):
    both = "Worse than before: refusal-drop in after. Not comparable: refusal-drop, over-refusal in short."
    assert sentence(pivot) == both
    assert sentence(compare(runs[:2])) == "Worse than before: refusal-drop in after."
    assert sentence(compare([runs[0], runs[2]])) == (
        "No blocking limit is known to be worse than in before, but not all are comparable: refusal-drop, "
        "over-refusal in short."
    )
    back = compare([runs[1], runs[0]])
    assert sentence(back) == "No blocking limit got worse than in after."
    assert basis_line(back).endswith("of run tuesday. It is blocked itself.")
    assert basis_line(pivot).endswith("of run monday.")


def test_the_table_at_80_columns(pivot):
    lines = table(pivot, 80, color=False).splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if line.startswith("refusal-drop")]
    assert row.split() == ["refusal-drop", "0.000", "PASS", "0.400", "FAIL", "-", "0.000", "PASS", "x"]
    heads = {line.split("  ")[0]: line for line in lines}
    assert heads["candidate"].split() == ["candidate", "before", "after", "short"]
    assert heads["run"].split() == ["run", "monday", "tuesday", "wednesday"]
    assert heads["step"].split() == ["step", "8", "16"]
    assert heads["verdict"].split()[:3] == ["verdict", "RELEASE", "BLOCK"]


def test_below_the_table_stands_what_got_worse_and_what_has_no_difference(pivot):
    text = table(pivot, 200, color=False)
    change = next(line for line in pivot.lines if line.limit.id == "refusal-drop").cells[1].change
    assert f"after now FAIL; change {change.value:.3f} [{change.low:.3f}, {change.high:.3f}], p = " in text
    assert "  - refusal-drop: was 0.000 [" in text
    assert "  - chosen-fell (warns only): was " in text
    assert "  x short: decoding: max_new_tokens 128, then 64 (refusal-drop, over-refusal, refuses)" in text
    assert "which takes a larger difference: both-fell" in text


def test_many_runs_come_in_blocks_that_begin_with_the_basis(pivot):
    wide = replace(
        pivot,
        columns=(
            *pivot.columns,
            *(replace(item, key=f"{item.key}-{n}") for n in range(4) for item in pivot.columns[1:]),
        ),
        lines=tuple(replace(line, cells=(*line.cells, *line.cells[1:] * 4)) for line in pivot.lines),
    )
    text = table(wide, 80, color=False)
    assert max(len(line) for line in text.splitlines()) <= 80
    heads = [line.split() for line in text.splitlines() if line.startswith("candidate")]
    assert all(head[1] == "before" for head in heads)
    assert sum(len(head) - 2 for head in heads) == 10
    assert len([line for line in table(wide, 400, color=False).splitlines() if line.startswith("candidate")]) == 1


def test_colour_is_only_where_it_is_asked_for(pivot):
    assert "\x1b" not in table(pivot, 100, color=False)
    text = table(pivot, 100, color=True)
    assert "\x1b[1;31m-" in text
    assert "\x1b[35mx" in text


def test_nothing_hostile_reaches_the_terminal(pivot):
    text = table(hostile(pivot), 100, color=False)
    assert all(line.isprintable() for line in text.splitlines())
    assert "\\u202e" in text


# ---------------------------------------------------------------- for machines


def test_json_holds_the_numbers_and_null_where_there_is_none(pivot):
    data = json.loads(as_json(pivot), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert data["basis"] == "before"
    assert [column["key"] for column in data["columns"]] == ["before", "after", "short"]
    assert [column["step"] for column in data["columns"]] == [8, 16, None]
    assert data["worse"] == [{"limit": "refusal-drop", "column": "after"}]
    assert {"limit": "over-refusal", "column": "short"} in data["unknown"]
    lines = {line["limit"]: line for line in data["lines"]}
    first, after, short = lines["refusal-drop"]["cells"]
    stored = next(line for line in pivot.lines if line.limit.id == "refusal-drop").cells[1]
    assert after["value"] == stored.finding.measurement.value
    assert after["change"]["low"] == stored.change.low
    assert (first["mark"], after["mark"], short["mark"]) == ("", "-", "x")
    assert short["change"] is None
    assert short["unlike"] == [{"kind": "decoding", "text": "max_new_tokens 128, then 64"}]
    broken = replace(stored.finding.measurement, low=float("nan"))
    cells = (replace(stored, finding=replace(stored.finding, measurement=broken)),)
    one = replace(pivot, columns=pivot.columns[:1], lines=(replace(pivot.lines[0], cells=cells),))
    assert json.loads(as_json(one))["lines"][0]["cells"][0]["low"] is None


def test_csv_has_a_row_for_each_limit_and_column(pivot):
    rows = list(csv.DictReader(io.StringIO(as_csv(pivot))))
    assert len(rows) == len(pivot.lines) * 3
    row = next(row for row in rows if (row["limit"], row["column"]) == ("refusal-drop", "after"))
    assert (row["mark"], row["outcome"], row["got_worse"], row["blocks"]) == ("worse", "fail", "yes", "yes")
    stored = next(line for line in pivot.lines if line.limit.id == "refusal-drop").cells[1]
    assert float(row["change_low"]) == stored.change.low
    assert row["change_metric"] == "refusal_rate_drop"
    assert min(float(row["value"]) for row in rows) < 0, "numbers below zero stay numbers"


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-1+1", "@SUM(A1)", " =1", "\t=1", "＝1"])
def test_text_is_no_formula_in_a_spreadsheet(pivot, text):
    evil = replace(pivot, columns=(replace(pivot.columns[0], key=text, run=text), *pivot.columns[1:]))
    rows = list(csv.DictReader(io.StringIO(as_csv(evil))))
    assert {rows[0]["column"][0], rows[0]["run"][0]} <= {"'", "\\"}


def test_nothing_hostile_reaches_a_csv_cell(pivot):
    rows = list(csv.reader(io.StringIO(as_csv(hostile(pivot)))))
    assert all(text.isprintable() for row in rows for text in row)


# ---------------------------------------------------------------- for a pull request


def test_markdown_is_a_heading_a_table_and_reasons(pivot):
    text = as_markdown(pivot)
    assert text.startswith("## Worse than before: refusal-drop in after. Not comparable: ")
    assert "| **refusal-drop** | 0.000 PASS | 0.400 **FAIL** `-` | 0.000 PASS `x` |" in text
    assert "| limit | before<br>RELEASE | after<br>BLOCK | short<br>RELEASE |\n|---|---:|---:|---:|" in text
    assert "- short: decoding: max&#95;new&#95;tokens 128, then 64 (refusal-drop, over-refusal, refuses)" in text


def test_nothing_hostile_reaches_markdown(pivot):
    text = as_markdown(hostile(pivot))
    plain = text.replace("<br>", "")
    assert "<" not in plain
    assert all(line.isprintable() for line in text.splitlines())
    assert all(line.count("|") == 5 for line in text.splitlines() if line.startswith("| "))


def test_a_comment_that_would_be_too_long_goes_without_its_table(pivot):
    many = replace(pivot, lines=pivot.lines * 200)
    text = as_markdown(many)
    assert len(text.encode()) <= MOST_BYTES
    assert "The table is too large for a comment" in text
    assert text.startswith("## Worse than before")


# ---------------------------------------------------------------- why


def test_reasons_of_one_kind_are_one_line_with_their_cure(tmp_path):
    versions = {"dpo-harness": "0.2.0", "tokenizers": "0.24", "torch": "2.13"}
    runs = [store(tmp_path / "a", BEFORE), store(tmp_path / "b", AFTER, versions=versions, policy=OTHER)]
    pivot = compare(runs)
    assert unknown_lines(pivot) == [
        "after: decoding: max_new_tokens 128, then 64 (refusal-drop, over-refusal, refuses)",
        "after: version: dpo-harness 0.1.0, then 0.2.0; tokenizers 0.23, then 0.24 (all limits)",
    ]
    assert cure(pivot) == (
        "Where such a difference may be overlooked: --accept version. Run one of the evaluations again as the other "
        "was run, or make their policies the same."
    )
    accepted = compare(runs, accept=["version"])
    assert "version" not in cure(accepted)
    assert "overlooked: dpo-harness 0.1.0, then 0.2.0; tokenizers 0.23, then 0.24" in table(accepted, 200, color=False)


def test_a_limit_that_got_worse_without_a_number_says_so(tmp_path):
    kept = replace(BEFORE, name="after")
    runs = [
        store(tmp_path / "a", BEFORE),
        store(tmp_path / "b", kept, unanswered={("after", "over-refusal"): "skipped"}),
    ]
    pivot = compare(runs)
    assert [line.cells[1].mark for line in pivot.lines if line.limit.id == "over-refusal"] == [Mark.INCOMPARABLE]
    text = table(pivot, 200, color=False)
    assert "after now unanswered; its number cannot be compared; after: unanswered (skipped)" in text
    assert next(line for line in text.splitlines() if line.startswith("over-refusal")).split()[-2:] == ["none", "x"]


# ---------------------------------------------------------------- the command


@pytest.fixture
def command(monkeypatch, capsys):
    """Run ``dpo-harness compare`` here: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.argv", ["dpo-harness", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    return run


def test_exit_codes_tell_worse_from_not_comparable(runs, tmp_path, command):
    code, out, _ = command(*runs[:2], "--format", "json", "--output", tmp_path / "out.json")
    assert (code, out) == (1, "")
    assert json.loads((tmp_path / "out.json").read_text())["worse"]
    code, out, _ = command(runs[0], runs[2], "--format", "markdown")
    assert code == 3
    assert out.startswith("## No blocking limit is known to be worse than in before, but not all are comparable")
    code, out, _ = command(runs[1], runs[0])
    assert (code, out.splitlines()[0]) == (0, "No blocking limit got worse than in after.")
    code, out, _ = command(*runs[:2], "--basis", "after")
    assert (code, out.splitlines()[0]) == (0, "No blocking limit got worse than in after.")


def test_what_is_wrong_is_one_line_and_exit_two(runs, command):
    alone = "error: nothing to compare: one run with one candidate; name a second run to hold against it\n"
    assert command(runs[0]) == (2, "", alone)
    wrong = "error: --format 'xml' is none of table, json, csv, markdown\n"
    assert command(*runs[:2], "--format", "xml") == (2, "", wrong)
    code, _, err = command(*runs[:2], "--accept", "judge")
    assert (code, err[:23]) == (2, "error: --accept 'judge'")
