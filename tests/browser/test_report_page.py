"""The report as a person meets it: opened from a file, in a real browser, without a network."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report.factory import DISPLACED, HEALTHY, HOSTILE, Fake, build, trajectory

from harness.report import html

pytestmark = pytest.mark.browser

RUNS = {
    "release": (HEALTHY,),
    "block": (DISPLACED,),
    "unanswered": (Fake("x", problems={"yes-for-no": "no token"}, unanswered={"gibberish": "skipped"}),),
    "trajectory": trajectory(),
    "training": (DISPLACED,),
    "no judge": (DISPLACED,),
    "trust": (DISPLACED,),
}
_TRUST: dict[str, Any] = {
    "calibrated": True,
    "second_judge": True,
    "early": {"unsafe": 500, "benign": 40},
    "noisy": True,
    "power": ("refusal-drop: 40 prompts detect a 19.0-point drop with 80 % power at 15 % discordance",),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "training": {"training": 500},
    "no judge": {"training": 60, "judge": False},
    "trust": _TRUST,
    "trajectory": {**_TRUST, "samples": 2},
}
_POOR_CONTRAST = """() => {
  const rgb = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => [0.2126, 0.7152, 0.0722].reduce((sum, share, i) => sum + share * linear(c[i] / 255), 0);
  const behind = item => {
    for (; item; item = item.parentElement) {
      const color = rgb(getComputedStyle(item).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const speaks = item => [...item.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  return [...document.querySelectorAll('body *:not(title)')].filter(speaks).map(item => {
    const own = getComputedStyle(item);
    const [a, b] = [rgb(item instanceof SVGElement ? own.fill : own.color), behind(item)].map(light);
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), item.outerHTML.slice(0, 100)];
  }).filter(([ratio]) => ratio < 4.5);
}"""
_OPEN_ALL = "document.querySelectorAll('details').forEach(item => item.open = true)"


def look_at_everything(page: Any) -> None:
    """Scroll through the page, so that every figure that can be seen is drawn."""
    for _ in range(3):  # what is drawn may move what comes after it
        page.evaluate(
            "async () => { for (let y = 0; y < document.documentElement.scrollHeight; y += 700) {"
            " scrollTo(0, y); await new Promise(requestAnimationFrame); } }"
        )
        left = "[...document.querySelectorAll('[data-static]')].filter(item => item.checkVisibility()).length"
        if not page.evaluate(left):
            return
        page.wait_for_timeout(100)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    runs = {name: build(root / name, *fakes, **OPTIONS.get(name, {})) for name, fakes in RUNS.items()}
    return {name: html.write(run, root / name) for name, run in runs.items()}


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    return html.write(build(root, DISPLACED, hostile=HOSTILE, warnings=HOSTILE[:8], training=20, **_TRUST), root)


@pytest.mark.parametrize("name", RUNS)
def test_opens_from_a_file_quietly(pages: dict[str, Path], visit: Callable[..., Any], name: str) -> None:
    seen = visit(pages[name])
    seen.page.evaluate(_OPEN_ALL)
    look_at_everything(seen.page)
    assert seen.console == []
    assert seen.requests == [pages[name].resolve().as_uri()]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", [*RUNS, "hostile"])
def test_nothing_overflows(
    pages: dict[str, Path], hostile_page: Path, visit: Callable[..., Any], name: str, width: int
) -> None:
    page = visit(pages.get(name, hostile_page), width=width, height=844).page
    page.evaluate(_OPEN_ALL)
    look_at_everything(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        "width => [...document.querySelectorAll('body *')].filter(item => !item.closest('.scroll, pre')"
        " && item.getBoundingClientRect().right > width + 1).map(item => item.outerHTML.slice(0, 120))",
        width,
    )
    assert outside == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", RUNS)
def test_the_verdict_is_above_the_fold(
    pages: dict[str, Path], visit: Callable[..., Any], name: str, width: int
) -> None:
    page = visit(pages[name], width=width, height=844).page
    box = page.locator("h1").bounding_box()
    assert page.locator("h1").is_visible()
    assert box["y"] >= 0
    assert box["y"] + box["height"] < 844
    assert page.locator(".word").inner_text() == ("RELEASE" if name == "release" else "BLOCK")


def test_hostile_text_is_shown_and_runs_nothing(hostile_page: Path, visit: Callable[..., Any]) -> None:
    seen = visit(hostile_page)
    page = seen.page
    page.evaluate(_OPEN_ALL)
    page.wait_for_timeout(100)
    assert seen.console == []
    assert seen.requests == [hostile_page.resolve().as_uri()]
    assert page.title() == "block: dpo-displaced against reference"
    assert page.locator("main script:not(.pack), main img, textarea, iframe").count() == 0
    text = page.locator("main").inner_text()
    for shown in (HOSTILE[0], HOSTILE[1], "{{ 7 * 7 }}", r"\x1b[2J", r"safe\u202eetihw", r"null\x00byte", r"\u2028"):
        assert shown in text
    links = page.eval_on_selector_all("a", "items => items.map(item => item.getAttribute('href'))")
    assert all(link.startswith("#") for link in links)


def test_the_policy_of_the_page_stops_scripts_that_get_in(pages: dict[str, Path], visit: Callable[..., Any]) -> None:
    """Were escaping ever to fail, the browser still runs nothing and fetches nothing."""
    page = visit(pages["block"]).page
    page.evaluate(
        "() => { const item = document.createElement('div'); document.body.append(item);"
        " item.innerHTML = `<img src=x onerror=\"document.title = 'owned'\">`;"
        " const script = document.createElement('script'); script.textContent = \"document.title = 'owned'\";"
        " document.body.append(script); }"
    )
    page.wait_for_timeout(100)
    assert page.title() != "owned"


def test_links_lead_to_sections(pages: dict[str, Path], visit: Callable[..., Any]) -> None:
    page = visit(pages["trajectory"]).page
    for link in page.locator("nav a").all():
        link.click()
        assert page.locator(page.url[page.url.index("#") :]).is_visible()


def test_long_text_waits_behind_a_click(hostile_page: Path, visit: Callable[..., Any]) -> None:
    page = visit(hostile_page, fragment="#flips?corpus=unsafe&page=3").page
    closed = page.get_by_text("5,000 more characters")
    assert closed.count() > 0
    assert len(page.locator("body").inner_text()) < 150_000


@pytest.mark.parametrize("name", ["unanswered", "training", "no judge", "trust"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(pages: dict[str, Path], visit: Callable[..., Any], name: str, scheme: str) -> None:
    """Contrast of at least 4.5 to 1 for every text, badge and heading in sight (WCAG AA)."""
    page = visit(pages[name], scheme=scheme).page
    page.evaluate(_OPEN_ALL)
    look_at_everything(page)
    poor = page.evaluate(_POOR_CONTRAST)
    assert poor == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_of_pairs_stand_out_and_differ_in_colour_and_shape(
    pages: dict[str, Path], visit: Callable[..., Any], scheme: str
) -> None:
    """Contrast of at least 3 to 1 against the page (WCAG AA for graphics), in the legend as in the plot."""
    page = visit(pages["training"], scheme=scheme, scripts=False).page
    marks = page.locator(".legend path").evaluate_all(
        "items => items.map(item => { const own = getComputedStyle(item); return {stroke: own.stroke, cap: "
        "own.strokeLinecap, shape: item.getAttribute('d'), className: item.getAttribute('class')}; })"
    )
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert len(marks) == 4
    assert len({mark["stroke"] for mark in marks}) == 4
    assert len({(mark["cap"], mark["shape"]) for mark in marks}) == 4
    assert all(_contrast(mark["stroke"], paper) >= 3 for mark in marks)
    drawn = page.locator("figure").filter(has_text="Δ⁺ against length-normalised CHES").locator("path")
    classes = drawn.evaluate_all("items => items.map(item => item.getAttribute('class'))")
    assert sorted(classes) == sorted(mark["className"] for mark in marks)
    assert drawn.evaluate_all("items => items.every(item => item.getBBox().width > 0)")


def _contrast(*colors: str) -> float:
    def light(color: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(light, colors))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_pairs_are_seen_at_once_and_the_other_scores_on_a_click(
    pages: dict[str, Path], visit: Callable[..., Any], width: int
) -> None:
    page = visit(pages["training"], width=width, height=844).page
    first = page.locator("figure").filter(has_text="Δ⁺ against length-normalised CHES")
    strip = page.locator("figure").filter(has_text="Where each type stands")
    other = page.locator("figure").filter(has_text="Δ⁺ against edit similarity")
    assert first.is_visible()
    assert strip.is_visible()
    assert not other.is_visible()
    assert first.locator("svg").bounding_box()["width"] > 300
    page.get_by_text("the same for the other 4 scores").click()
    assert other.is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_what_to_trust_is_a_click_away_and_disagreements_one_more(
    pages: dict[str, Path], visit: Callable[..., Any], width: int
) -> None:
    page = visit(pages["trust"], width=width, height=844).page
    page.get_by_role("link", name="What to trust").click()
    top = page.locator("#trust").bounding_box()["y"]
    assert -1 <= top < 844
    for heading in ("The judge", "A second judge", "Noise floor", "Power, as told before the run", "Early stopping"):
        assert page.get_by_role("heading", name=heading, exact=True).is_visible()
    assert page.get_by_text("stopped after 40 of 500 prompts").is_visible()
    reason = page.get_by_text("it answers, though it says sorry").first
    assert not reason.is_visible()
    page.get_by_text("5 answers of reference on unsafe that the judges label differently").click()
    assert reason.is_visible()


@pytest.mark.parametrize("width", [1280, 390])
def test_each_corrected_rate_stands_under_its_raw_one(
    pages: dict[str, Path], visit: Callable[..., Any], width: int
) -> None:
    page = visit(pages["trust"], width=width, height=844).page
    rows = page.locator("tbody.pair").first.locator("tr")
    raw, corrected = (rows.nth(index) for index in (0, 1))
    assert raw.get_by_text("0.410 [0.352, 0.468]").is_visible()
    assert corrected.get_by_text("0.456 [0.381, 0.530]").is_visible()
    if width == 1280:  # in one column; on a narrow page each row is a line of its own
        for column in range(1, 4):
            places = [row.locator("> *").nth(column + 1).bounding_box() for row in (raw, corrected)]
            assert places[0]["x"] == places[1]["x"]
            assert places[0]["y"] < places[1]["y"]


def test_a_long_reason_does_not_squeeze_the_names_beside_it(tmp_path: Path, visit: Callable[..., Any]) -> None:
    built = build(tmp_path, HEALTHY, second_judge=True, prompts=10, pairs=10)
    why = "both judges gave all 10 answers the same label: agreement by chance is complete, so kappa has no meaning"
    problems = tuple(item.model_copy(update={"problem": why}) for item in built.agreements)
    page = visit(html.write(built.model_copy(update={"agreements": problems}), tmp_path)).page
    cell = page.locator("table.words tbody tr").first.locator("td").first
    assert cell.inner_text() == "unsafe"
    lines = cell.evaluate(
        "item => { const r = document.createRange(); r.selectNodeContents(item); return r.getClientRects().length; }"
    )
    assert lines == 1
