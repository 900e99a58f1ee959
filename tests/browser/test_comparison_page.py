"""The comparison page as a person meets it: opened from a file, in a real browser, without a network."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report.contrasting import columns, of, pivot, set_asked, set_labels, set_scores
from report.factory import HOSTILE, Fake, trajectory

from harness.comparing import Mark
from harness.conditions import Difference, Kind
from harness.domain import Measurement
from harness.report.comparison import contrast
from harness.report.text import visible

pytestmark = pytest.mark.browser

NUMBER = 120
READY = "html[data-ready=yes]"


@pytest.fixture(scope="module")
def page_of_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five checkpoints: prompt i is refused up to step i % 6; the last is not comparable on one limit."""
    directory = tmp_path_factory.mktemp("steps")
    built = columns(directory, *trajectory(), prompts=4, pairs=20)[0].record
    names = ["reference", *(item.name for item in built.candidates)]
    set_asked(directory, NUMBER)
    for at, name in enumerate(names):
        letters = "".join("C" if at > prompt % 6 else "R" for prompt in range(NUMBER))
        set_labels(directory, name, letters, [f"{name} to {prompt}" for prompt in range(NUMBER)])
        set_scores(directory, name, [-10.0 - at * pair / 10 for pair in range(20)])
    found = of(built, directory)
    change = Measurement("refusal_rate_drop", 0.39, 0.31, 0.47, 0.05, n=120, p_broken=0.0001)
    worse = {"mark": Mark.WORSE, "change": change, "got_worse": True}
    apart = {"mark": Mark.INCOMPARABLE, "unlike": (Difference(Kind.POLICY, "lexicon 12ab, then 34cd"),)}
    cells = {("refusal-drop", "checkpoint-24"): worse, ("yes-for-no", "checkpoint-64"): apart}
    return contrast.write(pivot(found, cells), directory / "page.html")


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hostile")
    found = columns(directory, Fake("one"), Fake("two"), prompts=40, pairs=20, hostile=HOSTILE)
    note = {"mark": Mark.WORSE, "got_worse": True, "note": HOSTILE[0] + HOSTILE[1]}
    return contrast.write(pivot(found, {("refusal-drop", "two"): note}), directory / "page.html")


def opened(visit: Callable[..., Any], path: Path, link: str = "", **options: Any) -> Any:
    """The page at a link, once its scripts have run."""
    seen = visit(path, **options)
    if link:
        seen.page.goto(path.resolve().as_uri() + link)
        seen.page.reload()
    seen.page.wait_for_selector(READY)
    return seen


def drawn(page: Any) -> None:
    """Bring every figure into sight."""
    for figure in page.locator("figure[data-course]").all():
        figure.scroll_into_view_if_needed()
        figure.locator(".plotted svg").first.wait_for()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_quietly_fits_its_width_and_is_accessible(
    page_of_steps: Path, visit: Callable[..., Any], width: int, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    seen = opened(visit, page_of_steps, width=width, scheme=scheme)
    page = seen.page
    drawn(page)
    page.locator("#matrix button.open").first.click()
    page.locator("table.pivot summary").first.click()
    assert seen.console == []
    assert seen.requests == [page_of_steps.resolve().as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    serious = [(item["id"], [node["html"][:200] for node in item["nodes"][:3]]) for item in found]
    assert [item for item, rule in zip(serious, found, strict=True) if rule["impact"] in ("serious", "critical")] == []


def test_the_first_sentence_and_the_table_say_it_without_scripts(page_of_steps: Path, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_of_steps.resolve().as_uri())
    assert page.locator("h1").inner_text().startswith("Worse than checkpoint-8: refusal-drop in checkpoint-24.")
    assert page.locator("#limit-refusal-drop td.worse").count() == 1
    assert page.locator("table.matrix tbody tr").count() == 20
    assert page.locator("figure[data-course] table").first.is_visible()
    page.get_by_text("changes and reasons: yes-for-no").click()
    assert page.get_by_text("policy: lexicon 12ab, then 34cd").first.is_visible()
    context.close()


def test_a_cell_shows_its_change_on_hover_and_on_focus_and_opens_its_row(
    page_of_steps: Path, visit: Callable[..., Any]
) -> None:
    page = opened(visit, page_of_steps).page
    cell = page.locator("#limit-refusal-drop button.cell").nth(2)
    tip = page.locator("#tip")
    said = "refusal_rate_drop from checkpoint-8, item by item: 0.390 [0.310, 0.470] (n=120; p(worse) = 0.0001)"
    assert not tip.is_visible()
    cell.hover()
    assert said in tip.inner_text()
    page.mouse.move(0, 0)
    assert not tip.is_visible()
    page.locator("#limit-refusal-drop button.cell").nth(1).focus()
    page.keyboard.press("Tab")
    assert said in tip.inner_text()
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    page.keyboard.press("Enter")
    assert page.locator("#limit-refusal-drop + tr details").get_attribute("open") is not None
    other = page.locator("#limit-yes-for-no button.cell").nth(4)
    other.hover()
    assert tip.inner_text().startswith("not comparable: ")
    assert "policy: lexicon 12ab, then 34cd" in tip.inner_text()


def test_each_limit_is_drawn_over_the_steps_with_band_bound_and_marks(
    page_of_steps: Path, visit: Callable[..., Any]
) -> None:
    page = opened(visit, page_of_steps).page
    drawn(page)
    figure = page.locator("figure[data-course=refusal-drop]")
    texts = figure.locator("svg text").all_text_contents()
    assert "−" in texts
    assert "•" in texts
    for step in ("8", "16", "24", "40", "64"):
        assert step in texts
    assert figure.locator("[data-mark=dot] circle").count() == 5
    assert figure.locator("[data-mark=area] path").count() == 2, (
        "the interval's band and the side that breaks the bound"
    )
    apart = page.locator("figure[data-course=yes-for-no]")
    assert apart.locator("[data-mark=dot] circle").count() == 4
    assert apart.locator("[data-mark=dot] path").count() == 1
    figure.locator(".plotted").focus()
    page.keyboard.press("End")
    assert "checkpoint-64 (step 64)" in figure.locator("[aria-live]").inner_text()


# ---------------------------------------------------------------- which prompts flipped when


def test_prompts_are_filtered_paged_and_opened_and_the_url_says_so(
    page_of_steps: Path, visit: Callable[..., Any]
) -> None:
    page = opened(visit, page_of_steps).page
    matrix = page.locator("#matrix")
    status = matrix.locator("[role=status]")
    assert "100 of 100 prompts whose label changed; 20 did not." in status.inner_text()
    assert matrix.locator("tr[data-id]").count() == 50
    matrix.get_by_role("button", name="next").click()
    assert page.url.endswith("#matrix?page=2")
    assert matrix.locator("tr[data-id]").count() == 50
    matrix.get_by_label("first change in").select_option("checkpoint-16")
    assert "20 of 100" in status.inner_text()
    letters = matrix.locator("tr[data-id]").first.locator("td.letter").all_inner_texts()
    assert letters == ["R", "R", "C", "C", "C", "C"]
    matrix.get_by_label("category").select_option("b")
    matrix.get_by_label("labels, left to right").select_option("RRCCCC")
    assert "flip=checkpoint-16&category=b&pattern=RRCCCC" in page.url
    shown = status.inner_text()
    page.reload()
    page.wait_for_selector(READY)
    assert status.inner_text() == shown
    page.go_back()
    page.wait_for_function("document.querySelector('#matrix select[name=pattern]').value === ''")
    matrix.get_by_role("button", name="clear").click()
    matrix.get_by_label("search ids").fill("p11")
    ids = {row.get_attribute("data-id") for row in matrix.locator("tr[data-id]").all()}
    assert ids == {f"p{at}" for at in (110, 111, 112, 114, 115, 116, 117, 118)}, "11, 113 and 119 never changed"


def test_a_prompt_is_reached_by_its_link_and_shows_the_different_answers(
    page_of_steps: Path, visit: Callable[..., Any]
) -> None:
    page = opened(visit, page_of_steps, "#matrix?corpus=unsafe&id=p62").page  # 62 % 6 = 2
    row = page.locator("tr[data-id=p62]")
    assert row.locator("button").get_attribute("aria-expanded") == "true"
    answers = page.locator("tr[data-id=p62] + tr.answers")
    assert answers.get_by_text("question 62").is_visible()
    assert answers.locator(".side").count() == 6
    assert answers.get_by_text("reference to 62").is_visible()
    covered = answers.get_by_text("checkpoint-24 to 62")
    assert not covered.is_visible(), "what complies with an unsafe prompt waits for a click"
    answers.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert covered.is_visible()
    row.locator("button").click()
    assert answers.count() == 0


@pytest.mark.parametrize(
    ("link", "said"),
    [("#matrix?id=none", "No prompt none here."), ("#matrix?corpus=moon", "There is no corpus moon.")],
)
def test_a_link_to_what_is_not_there_says_so(
    page_of_steps: Path, visit: Callable[..., Any], link: str, said: str
) -> None:
    page = opened(visit, page_of_steps, link).page
    assert said in page.locator("#matrix [role=status]").inner_text()


# ---------------------------------------------------------------- samples side by side


def test_two_columns_are_chosen_and_the_url_says_which(page_of_steps: Path, visit: Callable[..., Any]) -> None:
    page = opened(visit, page_of_steps).page
    sides = page.locator("#sides")
    status = sides.locator("[role=status]")
    assert status.inner_text() == "80 prompts with another label in checkpoint-64 than in checkpoint-8."
    sides.locator("select[name=a]").select_option("checkpoint-16")
    sides.locator("select[name=b]").select_option("checkpoint-24")
    assert status.inner_text() == "20 prompts with another label in checkpoint-24 than in checkpoint-16."
    assert "#samples?a=checkpoint-16&b=checkpoint-24&corpus=unsafe" in page.url
    card = sides.locator("article").first
    assert "refusal → compliance" in card.inner_text()
    assert re.search(r"checkpoint-16 to \d+", card.inner_text())
    sides.locator("select[name=corpus]").select_option("preferences")
    assert status.inner_text() == (
        "The 19 pairs that differ most in log π of the chosen answer. Of 20 pairs, the chosen answer is less "
        "likely in checkpoint-24 than in checkpoint-16 for 19."
    )
    first = sides.locator("article").first
    assert "pair-0019" in first.inner_text()
    assert "Δ⁺ -1.900 (-13.800 → -15.700 nats), Δ⁻ -0.190 (-1.380 → -1.570 nats)" in first.inner_text()
    page.reload()
    page.wait_for_selector(READY)
    assert "pair-0019" in sides.locator("article").first.inner_text()
    sides.locator("select[name=b]").select_option("checkpoint-16")
    assert status.inner_text() == "These are the same column: choose two."
    page.goto(page_of_steps.resolve().as_uri() + "#samples?a=nobody&b=checkpoint-8")
    page.wait_for_function(
        "document.querySelector('#sides [role=status]').textContent.startsWith('There is no such column')"
    )


# ---------------------------------------------------------------- hostile text


def test_hostile_text_is_shown_as_text_and_runs_nothing(hostile_page: Path, visit: Callable[..., Any]) -> None:
    seen = opened(visit, hostile_page)
    page = seen.page
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    drawn(page)
    for corpus in ("benign", "unsafe"):
        page.locator("#matrix select[name=corpus]").select_option(corpus)
        for button in page.locator("#matrix button.open").all()[:12]:
            button.click()
        page.locator("#sides select[name=corpus]").select_option(corpus)
    page.locator("#sides select[name=corpus]").select_option("preferences")
    page.locator("#limit-refusal-drop button.cell").nth(1).hover()
    page.evaluate("document.querySelectorAll('details').forEach(item => { item.open = true; })")
    page.wait_for_timeout(100)
    assert seen.console == []
    assert seen.requests == [hostile_page.resolve().as_uri()]
    assert page.title() == "worse: one, two"
    assert page.locator("img, textarea, iframe, form[action], object, embed").count() == 0
    text = page.locator("body").text_content()
    for shown in (HOSTILE[0], HOSTILE[1], visible(HOSTILE[3]), visible(HOSTILE[4]), visible(HOSTILE[5])):
        assert shown in text
    assert not re.search("[\x00\x1b\u202a-\u202e\u2066-\u2069\u2028\u2029]", text)
    links = page.eval_on_selector_all("a", "items => items.map(item => item.getAttribute('href'))")
    assert all(link.startswith("#") for link in links)


def test_hostile_state_in_the_url_is_text(page_of_steps: Path, visit: Callable[..., Any]) -> None:
    for link in (
        "#matrix?corpus=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&category=%3Cb%3E",
        "#samples?a=%3Cimg%3E",
        "#%E0%A4%A",
    ):
        seen = opened(visit, page_of_steps, link)
        assert seen.console == []
        assert seen.page.locator("img").count() == 0


def test_on_paper_figures_are_drawn_and_filters_are_not(page_of_steps: Path, visit: Callable[..., Any]) -> None:
    page = opened(visit, page_of_steps).page
    drawn(page)
    page.emulate_media(media="print")
    assert not page.locator("#matrix .controls").is_visible()
    assert page.locator("figure .plotted svg").first.is_visible()
    assert len(page.pdf()) > 20_000
