"""The list of runs as a person meets it: opened from a file, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report.factory import DISPLACED, HEALTHY, HOSTILE, Fake, trajectory
from report.test_history import make

from harness.report import history

pytestmark = pytest.mark.browser

READY = "html[data-ready=yes]"


@pytest.fixture(scope="module")
def page_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reports")
    make(directory / "good", HEALTHY, started="2026-01-01T00:00:00+00:00")
    make(directory / "bad", DISPLACED, started="2026-01-02T00:00:00+00:00")
    make(directory / "steps", *trajectory(), started="2026-01-03T00:00:00+00:00")
    make(directory / "part", HEALTHY, partial=True, started="2026-01-04T00:00:00+00:00")
    make(directory / "<script>alert(1)<", Fake(HOSTILE[0]), started="2025-01-05T00:00:00+00:00")
    (make(directory / "broken") / "record.json").write_text("{")
    (directory / "going" / "tables").mkdir(parents=True)
    for name in ("good", "<script>alert(1)<"):
        (directory / name / "report.html").write_text(f"<title>{len(name)}</title>")
    return history.update(directory)


def opened(visit: Callable[..., Any], path: Path, link: str = "", **options: Any) -> Any:
    seen = visit(path, **options)
    if link:
        seen.page.goto(path.resolve().as_uri() + link)
        seen.page.reload()
    seen.page.wait_for_selector(READY)
    return seen


def names(page: Any) -> list[str]:
    rows = page.locator("table.runs tbody tr:visible th").all()
    return [row.inner_text().split("\n")[0].strip() for row in rows]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_quietly_fits_its_width_and_is_accessible(
    page_of_runs: Path, visit: Callable[..., Any], width: int, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    seen = opened(visit, page_of_runs, width=width, scheme=scheme)
    assert seen.console == []
    assert seen.requests == [page_of_runs.resolve().as_uri()]
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(seen.page).response["violations"]
    assert [item["id"] for item in found if item["impact"] in ("serious", "critical")] == []
    assert seen.page.locator("script:not([src]) ~ img, img").count() == 0


def test_all_runs_are_there_without_scripts(page_of_runs: Path, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_of_runs.resolve().as_uri())
    assert sorted(names(page)) == ["<script>alert(1)<", "bad", "broken", "going", "good", "part", "steps"]
    assert not page.locator("#filters").is_visible()
    page.get_by_role("link", name="good").click()
    assert page.url.endswith("/good/report.html")
    page.go_back()
    page.get_by_role("link", name="<script>").click()
    assert page.title() == "17"
    context.close()


def test_runs_are_filtered_and_the_url_says_so(page_of_runs: Path, visit: Callable[..., Any]) -> None:
    page = opened(visit, page_of_runs).page
    form = page.locator("#filters")
    form.get_by_label("verdict").select_option("block")
    assert names(page) == ["steps", "bad"]
    assert page.url.endswith("#runs?verdict=block")
    form.get_by_label("candidate").fill("checkpoint-4")
    assert names(page) == ["steps"]
    page.reload()
    page.wait_for_selector(READY)
    assert names(page) == ["steps"]
    assert form.get_by_label("candidate").input_value() == "checkpoint-4"
    form.get_by_role("button", name="clear").click()
    assert len(names(page)) == 7
    form.get_by_label("text").fill("BROKEN: refusal")
    assert names(page) == ["steps", "bad"]
    form.get_by_label("text").fill("")
    policy = form.get_by_label("policy")
    policy.select_option(policy.locator("option").nth(1).get_attribute("value"))
    assert len(names(page)) == 5
    assert page.locator("#shown").inner_text() == "5 of 7 shown."
    page.go_back()
    page.wait_for_function("document.querySelector('#filters select[name=policy]').value === ''")
    assert len(names(page)) == 7


def test_a_link_with_a_filter_works_when_typed_in_and_an_unknown_value_hides_all(
    page_of_runs: Path, visit: Callable[..., Any]
) -> None:
    page = opened(visit, page_of_runs, "#runs?verdict=damaged").page
    assert names(page) == ["broken"]
    page = opened(visit, page_of_runs, "#runs?verdict=perhaps").page
    assert names(page) == []
    assert page.locator("#shown").inner_text() == "0 of 7 shown."


def test_runs_are_sorted_by_a_column(page_of_runs: Path, visit: Callable[..., Any]) -> None:
    page = opened(visit, page_of_runs, "#runs?text=2026").page
    page.get_by_role("button", name="started").click()
    order = [name for name in names(page) if name not in ("broken", "going")]
    assert order == ["good", "bad", "steps", "part"]
    assert page.locator("th[aria-sort=ascending]").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_verdict_is_a_word_and_a_sign_and_not_colour_alone(
    page_of_runs: Path, visit: Callable[..., Any], scheme: str
) -> None:
    page = opened(visit, page_of_runs, scheme=scheme).page
    texts = set(page.locator("table.runs .badge").all_inner_texts())
    assert texts == {"✓ release", "✗ block", "? no verdict", "! damaged", "… interrupted or running"}
