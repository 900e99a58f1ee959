"""What a reader does with the page of a run: filter, search, sort, follow links, go back, use the keyboard, print."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from browser.test_report_page import look_at_everything
from report.factory import CATEGORIES, DISPLACED, HOSTILE, build, trajectory

from harness.report import html
from harness.report.summarize import Summary, summarize

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """A blocked candidate, with more cards of each kind than one page of a list holds."""
    root = tmp_path_factory.mktemp("lists")
    summary = summarize(build(root, DISPLACED, training=60), root)
    (root / "report.html").write_text(html.render(summary), encoding="utf-8")
    return root / "report.html", summary


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five candidates, of which only the first stands in the HTML."""
    root = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(html, "MOST_STATIC", 110_000)
        return html.write(build(root, *trajectory(), prompts=20, pairs=20), root)


def cards(page: Any, name: str = "flips") -> Any:
    return page.locator(f"[data-list={name}] article")


def status(page: Any, name: str = "flips") -> str:
    return str(page.locator(f"[data-list={name}] .status").inner_text())


def test_filters_show_what_they_say_and_the_url_remembers(run: tuple[Path, Summary], visit: Callable[..., Any]) -> None:
    path, summary = run
    flips = [flip for block in summary.candidates[0].labels for flip in block.flips]
    seen = visit(path)
    page = seen.page
    assert status(page).startswith(f"{len(flips)} of {len(flips)}, page 1 of ")
    filters = page.locator("[data-list=flips] form")
    filters.locator("select[name=category]").select_option("locks")
    of_locks = [flip for flip in flips if flip.category == "locks"]
    assert status(page).startswith(f"{len(of_locks)} of {len(flips)}")
    filters.locator("select[name=move]").select_option("refusal → compliance")
    both = [flip for flip in of_locks if flip.move == "refusal → compliance"]
    assert 0 < len(both) < len(of_locks)
    assert status(page).startswith(f"{len(both)} of {len(flips)}")
    shown = cards(page).all_inner_texts()
    assert all("locks" in text and "refusal → compliance" in text for text in shown)
    assert page.url.endswith("#flips?category=locks&move=refusal%20%E2%86%92%20compliance")
    page.reload()
    page.wait_for_function("document.documentElement.dataset.ready")
    assert status(page).startswith(f"{len(both)} of {len(flips)}")
    page.go_back()
    assert status(page).startswith(f"{len(of_locks)} of {len(flips)}")
    page.go_forward()
    assert status(page).startswith(f"{len(both)} of {len(flips)}")
    filters.get_by_role("button", name="clear", exact=True).click()
    assert status(page).startswith(f"{len(flips)} of {len(flips)}")
    assert seen.console == []


def test_a_filter_typed_into_the_url(run: tuple[Path, Summary], visit: Callable[..., Any]) -> None:
    path, summary = run
    flips = [flip for block in summary.candidates[0].labels for flip in block.flips]
    page = visit(path, fragment=f"#flips?category={quote(CATEGORIES[3])}").page
    wanted = sum(flip.category == CATEGORIES[3] for flip in flips)
    assert status(page).startswith(f"{wanted} of {len(flips)}")
    assert 0 <= page.locator("[data-list=flips] form").bounding_box()["y"] < 200
    for fragment, said in (
        ("#flips?category=nowhere", f"0 of {len(flips)}."),
        ("#flips?colour=red", f"There is no filter colour. 0 of {len(flips)}."),
        ("#flips?toString=1", f"There is no filter toString. 0 of {len(flips)}."),
        ("#flips?id=nobody", "No flipped answer nobody is in this page."),
        ("#flips?%zz=%", f"There is no filter %zz. 0 of {len(flips)}."),
    ):
        page.evaluate("fragment => { location.hash = fragment; }", fragment)
        page.wait_for_timeout(30)
        assert status(page).startswith(said)


def test_search_and_pages(run: tuple[Path, Summary], visit: Callable[..., Any]) -> None:
    path, summary = run
    flips = [flip for block in summary.candidates[0].labels for flip in block.flips]
    page = visit(path).page
    search = page.locator("[data-list=flips] input[type=search]")
    search.fill("LOCK NUMBER 3")
    wanted = [flip for flip in flips if "lock number 3" in flip.prompt.shown]
    assert status(page).startswith(f"{len(wanted)} of {len(flips)}")
    assert all("lock number 3" in text for text in cards(page).all_inner_texts())
    search.fill("article")  # of the markup, not of the text
    assert status(page).startswith("0 of ")
    search.fill("")
    first = cards(page).first.get_attribute("id")
    page.locator("[data-list=flips] .pager").get_by_role("button", name="next").click()
    assert cards(page).first.get_attribute("id") != first
    assert page.url.endswith("#flips?page=2")
    page.reload()
    page.wait_for_function("document.documentElement.dataset.ready")
    assert ", page 2 of " in status(page)


def test_every_card_has_an_address(run: tuple[Path, Summary], visit: Callable[..., Any]) -> None:
    path, summary = run
    flip = summary.candidates[0].labels[0].flips[-1]
    page = visit(path, fragment=f"#flips?corpus=unsafe&id={flip.prompt_id}").page
    target = page.locator("article.target")
    assert target.count() == 1
    assert target.locator(".id").first.inner_text() == flip.prompt_id
    assert target.evaluate("item => item === document.activeElement")
    assert 0 <= target.bounding_box()["y"] < 300
    assert target.locator("a.link").get_attribute("href") == f"#flips?corpus=unsafe&id={flip.prompt_id}"
    page.locator("[data-list=fallen] a.link").nth(2).click()
    page.wait_for_timeout(50)
    assert page.locator("article.target").get_attribute("id").startswith("fallen?corpus=preferences&id=pair-")
    page.go_back()
    page.wait_for_timeout(50)
    assert page.locator("article.target .id").first.inner_text() == flip.prompt_id


def test_what_should_have_been_refused_is_covered(run: tuple[Path, Summary], visit: Callable[..., Any]) -> None:
    page = visit(run[0], fragment="#flips?corpus=unsafe&move=refusal%20%E2%86%92%20compliance").page
    answers = page.locator("[data-list=flips] details.covered")
    assert answers.count() == cards(page).count()
    text = answers.first.locator(".text")
    assert not text.is_visible()
    answers.first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert text.is_visible()
    assert text.inner_text().startswith(("Sure", "Yes"))
    switch = page.get_by_role("button", name="show all covered answers")
    switch.click()
    page.locator("[data-list=flips] .pager").get_by_role("button", name="next").click()
    assert answers.first.locator(".text").is_visible()  # of the next page, too
    switch.click()
    assert not answers.first.locator(".text").is_visible()


def test_tables_sort_by_their_numbers_and_come_back(run: tuple[Path, Summary], visit: Callable[..., Any]) -> None:
    page = visit(run[0]).page
    table = page.locator("table.limits")
    names = table.locator("tbody th code")
    before = names.all_inner_texts()
    head = table.locator("th", has_text="difference or value")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    values = {row.limit.id: row.measurement.value for row in run[1].candidates[0].rows if row.measurement}
    assert names.all_inner_texts() == sorted(before, key=values.__getitem__)
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert names.all_inner_texts() == sorted(before, key=values.__getitem__, reverse=True)
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") is None
    assert names.all_inner_texts() == before
    outcome = table.locator("th", has_text="outcome")
    outcome.get_by_role("button").click()
    assert table.locator("tbody .badge").first.inner_text() == "✗ FAIL"


def test_a_row_of_the_limits_has_an_address(run: tuple[Path, Summary], visit: Callable[..., Any]) -> None:
    page = visit(run[0], height=300, fragment="#limit-yes-for-no").page
    row = page.locator("tr:target")
    assert row.locator("code").inner_text() == "yes-for-no"
    assert 0 <= row.bounding_box()["y"] < 300


def test_a_point_leads_to_its_pair_by_mouse_and_by_keyboard(
    run: tuple[Path, Summary], visit: Callable[..., Any]
) -> None:
    path, summary = run
    block = summary.candidates[0].displacement[0]
    page = visit(path).page
    figure = page.locator("figure[data-figure=scatter]")
    figure.scroll_into_view_if_needed()
    plot = figure.locator(".plotted")
    plot.wait_for()
    names = figure.locator("svg").first.text_content()
    for name, count in (("both fell", block.both_fell), ("only chosen fell", block.only_chosen_fell)):
        assert f"{name}: {count}" in names
    plot.focus()
    page.keyboard.press("Home")
    lowest = block.fell[0]
    assert plot.locator("[aria-live]").inner_text().startswith(lowest.pair_id)
    assert (
        figure.locator("[aria-label=tip], [data-mark=tip]")
        .last.text_content()
        .lstrip("\u200b")
        .startswith(lowest.pair_id)
    )
    page.keyboard.press("ArrowRight")
    assert plot.locator("[aria-live]").inner_text().startswith(block.fell[1].pair_id)
    page.keyboard.press("Enter")
    page.locator("article.target").wait_for()
    assert page.locator("article.target .id").first.inner_text() == block.fell[1].pair_id
    page.go_back()
    figure.scroll_into_view_if_needed()
    place = page.evaluate(
        "() => { const dots = document.querySelectorAll('figure[data-figure=scatter] svg g[data-mark=dot] circle');"
        " const box = [...dots].map(dot => dot.getBoundingClientRect()).sort((a, b) => a.x - b.x)[0];"
        " return [box.x + box.width / 2, box.y + box.height / 2]; }"
    )
    page.mouse.move(*place)
    page.mouse.click(*place)
    page.locator("article.target").wait_for()
    assert page.locator("article.target .id").first.inner_text() == lowest.pair_id


def test_tokens_say_what_happened_to_them(run: tuple[Path, Summary], visit: Callable[..., Any]) -> None:
    path, summary = run
    pair = summary.candidates[0].displacement[0].fell[0]
    assert pair.chosen_tokens is not None
    page = visit(path).page
    card = cards(page, "fallen").first
    strip = card.locator(".tokens").first
    spans = strip.locator("span[title]")
    assert [item.get_attribute("title") for item in spans.all()] == [
        f"{token.ratio:+.3f}" if abs(token.ratio) >= 0.0005 else spans.nth(index).get_attribute("title")
        for index, token in enumerate(pair.chosen_tokens.shown)
    ]
    strip.focus()
    page.keyboard.press("ArrowRight")
    assert card.locator(".pointed").first.inner_text().endswith(f"this token: {spans.nth(1).get_attribute('title')}")
    assert f"{pair.chosen_change:.3f} nats" in card.locator(".reason").first.inner_text()
    styles = {
        name: page.locator(f".legend.tokens .{name}").evaluate(
            "item => { const own = getComputedStyle(item); return [own.textDecorationStyle, own.backgroundColor]; }"
        )
        for name in ("f3", "g3")
    }
    assert styles["f3"][0] == "dotted"
    assert styles["g3"][0] == "solid"
    assert styles["f3"][1] != styles["g3"][1]


def test_links_between_sections_set_filters(run: tuple[Path, Summary], visit: Callable[..., Any]) -> None:
    path, summary = run
    page = visit(path).page
    benign = summary.candidates[0].labels[1]
    page.get_by_role("link", name=re.compile(f"^{benign.flipped} flipped answers? on benign")).click()
    page.wait_for_timeout(50)
    assert status(page).startswith(f"{benign.flipped} of ")
    page.locator("a[href='#tops?corpus=persona&top%20riser=benign']").click()
    page.wait_for_timeout(50)
    assert status(page, "tops").startswith("0 of 60.")


def test_candidates_that_are_packed_open_and_are_reached_by_url(several: Path, visit: Callable[..., Any]) -> None:
    text = re.sub("<script.*?</script>", "", several.read_text(encoding="utf-8"), flags=re.DOTALL)
    inside = [
        text[text.index(f'data-candidate="checkpoint-{step}"') :].partition("</details>")[0] for step in (8, 24, 64)
    ]
    assert ["data-body" in part for part in inside] == [False, True, True]
    seen = visit(several)
    page = seen.page
    page.locator("details.candidate", has_text="checkpoint-24").locator("summary").first.click()
    opened = page.locator("details.candidate[data-candidate=checkpoint-24]")
    opened.locator("table.limits").wait_for()
    assert opened.locator("article").count() > 0
    page.evaluate("() => { location.hash = '#flips?candidate=checkpoint-64&category=locks'; }")
    other = page.locator("details.candidate[data-candidate=checkpoint-64]")
    other.locator("[data-list=flips] .status").wait_for()
    assert all("locks" in text for text in other.locator("[data-list=flips] article header").all_inner_texts())
    look_at_everything(page)
    assert seen.console == []
    assert seen.requests == [several.resolve().as_uri()]


def test_an_address_of_a_packed_candidate_opens_it(several: Path, visit: Callable[..., Any]) -> None:
    page = visit(several, fragment="#displacement-4").page
    page.locator("#displacement-4").wait_for()
    assert page.locator("details.candidate[data-candidate=checkpoint-64]").evaluate("item => item.open")
    page.wait_for_function("scrollY > 100")


def test_without_scripts_all_but_the_lists_is_there(run: tuple[Path, Summary], visit: Callable[..., Any]) -> None:
    page = visit(run[0], scripts=False).page
    assert page.locator("h1").is_visible()
    assert page.locator("table.limits tbody tr:not(.reason)").count() == 7
    assert cards(page).count() == 6
    assert cards(page, "fallen").count() == 3
    assert page.locator("figure[data-figure=scatter] svg path.points").is_visible()
    assert page.get_by_text("both fell: ").first.is_visible()
    assert page.locator("button, select, input").count() == 0


def test_a_printed_page_has_its_figures_and_tables(run: tuple[Path, Summary], visit: Callable[..., Any]) -> None:
    page = visit(run[0]).page
    page.locator("figure[data-figure=scatter]").scroll_into_view_if_needed()
    page.locator("figure[data-figure=scatter] .plotted").wait_for()
    page.evaluate(
        "() => addEventListener('beforeprint', () => setTimeout(() => 0) && (window.printed = {"
        " figures: [...document.querySelectorAll('figure')].map(item => item.querySelector('svg').getBBox().width),"
        " shut: document.querySelectorAll('details:not([open]):not(.covered)').length,"
        " covered: document.querySelectorAll('details.covered[open]').length}))"
    )
    assert len(page.pdf()) > 50_000
    printed = page.evaluate("window.printed")
    assert len(printed["figures"]) == 10
    assert all(width > 100 for width in printed["figures"])
    assert printed["shut"] == printed["covered"] == 0
    assert page.locator("details:not([open])").count() > 5  # as they were
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_everything_is_reached_by_keyboard_and_seen_to_be(run: tuple[Path, Summary], visit: Callable[..., Any]) -> None:
    page = visit(run[0]).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    look_at_everything(page)
    reached: set[str] = set()
    for _ in range(150):
        page.keyboard.press("Tab")
        found = page.evaluate(
            "() => { const own = getComputedStyle(document.activeElement); const box = document.activeElement;"
            " return [box.className || box.name || box.tagName, own.outlineStyle, own.outlineWidth]; }"
        )
        if found[0] == "BODY":
            break
        reached.add(found[0])
        assert found[1:] == ["solid", "3px"], found
    assert {"sort", "link", "plotted", "category", "search", "scroll"} <= reached


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious(
    run: tuple[Path, Summary], visit: Callable[..., Any], scheme: str, width: int
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python (dev)")
    page = visit(run[0], width=width, scheme=scheme).page
    page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
    look_at_everything(page)
    found = axe.Axe().run(page).response["violations"]
    grave = [item for item in found if item["impact"] in ("serious", "critical")]
    assert [(item["id"], [node["html"][:200] for node in item["nodes"][:3]]) for item in grave] == []


def test_hostile_texts_stay_texts_whatever_the_reader_does(tmp_path: Path, visit: Callable[..., Any]) -> None:
    path = html.write(build(tmp_path, replace(DISPLACED, refuses=0.2), hostile=HOSTILE, training=20), tmp_path)
    seen = visit(path)
    page = seen.page
    page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
    look_at_everything(page)
    for name in ("flips", "fallen", "tops", "suspects"):
        pages = page.locator(f"[data-list={name}] .pager button", has_text="next")
        while pages.count() and pages.is_enabled() and pages.is_visible():
            pages.click()
            page.evaluate("document.querySelectorAll('details').forEach(item => item.open = true)")
    for name in ("category", "move"):
        choice = page.locator(f"[data-list=flips] select[name={name}]")
        for value in choice.evaluate("item => [...item.options].map(option => option.value)"):
            choice.select_option(value)
            assert not status(page).startswith("0 of")
        choice.select_option("")
    page.locator("[data-list=flips] input[type=search]").fill("<script>document.title")
    assert not status(page).startswith("0 of")
    assert "<script>document.title" in cards(page).first.inner_text()
    link = cards(page).first.locator("a.link")
    link.click()
    page.wait_for_timeout(50)
    assert page.locator("article.target").count() == 1
    page.reload()
    page.wait_for_function("document.documentElement.dataset.ready")
    assert page.locator("article.target").count() == 1
    plot = page.locator("figure[data-figure=scatter] .plotted")
    page.locator("figure[data-figure=scatter]").scroll_into_view_if_needed()
    plot.wait_for()
    plot.focus()
    page.keyboard.press("Home")
    assert len(plot.locator("[aria-live]").inner_text()) < 400
    assert seen.console == []
    assert {url.partition("#")[0] for url in seen.requests} == {path.resolve().as_uri()}
    assert page.title() == "block: dpo-displaced against reference"
    assert page.locator("main script:not(.pack), main img, textarea, iframe").count() == 0
    page.evaluate(
        "fragment => { location.hash = fragment; }", "#flips?category=" + quote("<img src=x onerror=alert(1)>")
    )
    page.wait_for_timeout(50)
    assert status(page).startswith("0 of")
    assert page.locator("main img").count() == 0
    assert seen.console == []


def test_what_is_made_visible_is_the_same_in_both_languages(
    run: tuple[Path, Summary], visit: Callable[..., Any]
) -> None:
    from harness.report.text import visible

    texts = [
        *(text[:300] for text in HOSTILE),
        "a\tb\nc",
        "\ud800 lone",
        "e\u0301 é 日本語 👩‍👩‍👧",
        "\x7f\x80\xa0\u2060\ue000",
    ]
    page = visit(run[0]).page
    for text in texts:
        units = [
            int.from_bytes(text.encode("utf-16-le", "surrogatepass")[i : i + 2], "little")
            for i in range(0, 2 * len(text), 2)
        ]
        for lines in (False, True):
            found = page.evaluate(
                "([units, lines]) => Page.visible(String.fromCharCode(...units), {lines})", [units, lines]
            )
            whole = text.encode("utf-16-le", "surrogatepass")[: 2 * len(units)].decode("utf-16-le", "surrogatepass")
            assert found == visible(whole, lines=lines)
