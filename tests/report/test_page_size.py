"""A page stays within its size whatever a run holds, and says what it left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from report.test_html import Page

from benchmarks import page as benchmark
from harness.report import html
from harness.report.summarize import summarize


def test_a_page_is_filled_and_not_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MOST_BYTES", 1_150_000)
    monkeypatch.setattr(html, "MOST_STATIC", 450_000)
    built = benchmark.build(tmp_path, benchmark.Size(prompts=300, pairs=900, candidates=3))
    summary = summarize(built, tmp_path)
    text = html.render(summary)
    assert 1_000_000 < len(text.encode()) <= 1_150_000
    page = Page(text)
    assert sum(name.startswith("body-") for name in page.packs) in (1, 2)
    for place, candidate in enumerate(summary.candidates):
        totals = {
            "flips": sum(block.flipped for block in candidate.labels),
            "fallen": candidate.displacement[0].fallen,
            "tops": candidate.risers[0].risen,
            "suspects": candidate.training[0].n,
        }
        for name, total in totals.items():
            packed = page.packs[f"cards-{name}-{place}"]
            left = total - len(packed["cards"])
            assert packed["fixed"] == {"candidate": candidate.checkpoint.name}
            assert packed["more"].startswith(f"{left} more ") if left else packed["more"] == ""
        points = page.packs[f"figures-{place}"]["changes preferences"]
        assert len(points["ids"]) == 900 <= html.figures.MOST_POINTS
        assert set(points["ids"]) == {f"pair-{index:05d}" for index in range(900)}


def test_the_benchmark_prints_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "none"))
    benchmark.main(["--prompts", "40", "--pairs", "50", "--candidates", "1", "--keep", str(tmp_path)])
    *_, row = capsys.readouterr().out.strip().splitlines()
    assert row.startswith("| 1 | 40 | 50 | ")
    assert row.endswith("| no Chromium |")
    assert f"| {(tmp_path / 'run-1' / 'report.html').stat().st_size:,} |" in row
