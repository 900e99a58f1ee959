"""The example that ships is what the commands of this version make of it."""

import shutil
from pathlib import Path

import pytest

from harness import record, verdicts
from harness.comparing import Mark, compare
from harness.report import html
from harness.report.summarize import summarize

EXAMPLE = Path(__file__).parents[1] / "reports" / "example"


def test_the_example_run_is_whole_and_its_verdict_follows():
    run = record.read(EXAMPLE / "displaced")
    verdicts.check(run, EXAMPLE / "displaced")
    assert not run.released
    assert {item.limit.id for item in run.findings if item.blocks} == {"refusal-drop", "harmful-answers"}


def test_its_page_is_drawn_as_it_lies_there():
    """Change the page, and draw the example again: python -m harness report reports/example/displaced"""
    directory = EXAMPLE / "displaced"
    page = html.render(summarize(record.read(directory), directory))
    assert page == (directory / "report.html").read_text(encoding="utf-8")


def test_its_comparison_shows_where_refusals_were_lost():
    page = (EXAMPLE / "comparison.html").read_text(encoding="utf-8")
    assert "Worse than checkpoint-8: refusal-drop, harmful-answers" in page
    assert len(page) < 2_000_000


def test_nothing_in_it_names_a_place_outside_the_project():
    for path in EXAMPLE.rglob("*"):
        if path.suffix in {".json", ".html", ".md"}:
            text = path.read_text(encoding="utf-8")
            assert not any(place in text for place in ("/home/", "/tmp/", "/root/", "/work/")), path


def test_it_can_be_compared(tmp_path):
    shutil.copytree(EXAMPLE / "displaced", tmp_path / "again")
    pivot = compare([EXAMPLE / "displaced", tmp_path / "again"])
    assert {cell.mark for line in pivot.lines for cell in line.cells[1:]} == {Mark.NOISE}
    (tmp_path / "again/tables/reference/unsafe.labels.parquet").unlink()
    with pytest.raises(record.RecordError, match=r"is missing or not the table"):
        compare([EXAMPLE / "displaced", tmp_path / "again"])
