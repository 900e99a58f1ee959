"""The page: verdict first, the record's numbers, self-contained, and nothing a model wrote is more than text."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report.factory import DISPLACED, HEALTHY, LIMITS, Fake, build, trajectory

from harness import record
from harness.report import html
from harness.report.page import assets, pack, svg
from harness.report.summarize import summarize

OWN = tuple(assets.own(name) for name in ("page.js", "cards.js", "figures.js", "run.js"))
"""The scripts that a page of a run has."""
LIBRARIES = tuple(item.text for item in assets.LIBRARIES.values())


class Page(HTMLParser):
    """Tags, attributes and text of a page; its packs apart, and scripts as tags only where they are not its own."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.packs: dict[str, Any] = {}
        self.scripts: list[str] = []
        self._script: dict[str, str | None] | None = None
        self.feed(page)
        self.close()

    @property
    def cards(self) -> list[tuple[str, list[Any]]]:
        """(name of its list, card) for all packed cards."""
        packs = [value for name, value in self.packs.items() if name.startswith("cards-")]
        return [(pack["name"], card) for pack in packs for card in pack["cards"]]

    @property
    def packed(self) -> str:
        """All packed HTML."""
        bodies = [value for name, value in self.packs.items() if name.startswith("body-")]
        return "".join([*(card[1] for _, card in self.cards), *bodies])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "script":
            self._script = dict(attrs)
            self.open.append(tag)
            return
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in {"meta", "link", "br", "line", "rect", "circle", "path", "polygon", "polyline"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag
        self._script = None

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self._script is None:
            self.text += data
        elif self._script.get("class") == "pack":
            assert self._script["type"] == "application/octet-stream"
            self.packs[str(self._script["id"])] = pack.decode(data)
        else:
            self.scripts.append(data)
            if self._script or data not in OWN:
                self.tags.append("script")
        self._script = None


def page_of(directory: Path, *fakes: Fake, **options: object) -> str:
    built = build(directory, *fakes, **options)  # type: ignore[arg-type]
    return html.write(built, directory).read_text(encoding="utf-8")


MIXED = Fake(
    "mixed",
    values={"refusal-drop": 0.04},
    problems={"yes-for-no": "no token means deny"},
    unanswered={"gibberish": "skipped: slow"},
)


@pytest.mark.parametrize(
    "fakes",
    [(HEALTHY,), (DISPLACED,), (MIXED,), trajectory(), (HEALTHY, DISPLACED), (replace(HEALTHY, identity="reference"),)],
    ids=["release", "block", "mixed", "trajectory", "two", "same"],
)
@pytest.mark.parametrize("with_tables", [True, False], ids=["tables", "no-tables"])
def test_well_formed_and_self_contained(tmp_path: Path, fakes: tuple[Fake, ...], with_tables: bool) -> None:
    page = Page(page_of(tmp_path, *fakes, with_tables=with_tables))
    assert page.open == []
    assert not {"script", "iframe", "object", "embed", "img", "form", "base"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        if name in {"src", "href", "action", "data", "srcset", "poster"}:
            assert value.startswith("#") or (tag, value) == ("link", "data:,"), (tag, name, value)
    policy = next(value for tag, name, value in page.attributes if name == "content" and "default-src" in value)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    allowed = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (*OWN, *LIBRARIES)]
    assert sorted(rules["script-src"].split()) == sorted(f"'sha256-{digest}'" for digest in allowed)
    assert page.scripts == list(OWN)
    assert [page.packs["lib-d3"], page.packs["lib-plot"]] == list(LIBRARIES)
    assert "url(" not in page.text
    assert "@import" not in page.text
    anchors = {value.removeprefix("#") for _, name, value in page.attributes if name == "href" and value[0] == "#"}
    ids = [value for _, name, value in page.attributes if name == "id"]
    lists = {value for _, name, value in page.attributes if name == "data-list"}
    assert {item for item in anchors if item.partition("?")[0] not in lists} <= set(ids)
    assert len(ids) == len(set(ids))


def test_release(tmp_path: Path) -> None:
    page = page_of(tmp_path, HEALTHY)
    assert "<h1>Release dpo-healthy: all 5 blocking limits are kept.</h1>" in page
    assert "<title>release: dpo-healthy against reference</title>" in page


def test_block_says_which_limits_and_shows_the_numbers_of_the_record(tmp_path: Path) -> None:
    page = page_of(tmp_path, DISPLACED)
    assert "<h1>Do not release dpo-displaced: 3 broken (refusal-drop, harmful-answers, yes-for-no).</h1>" in page
    text = " ".join(Page(page).text.split())
    assert "refusal-drop refusal_rate_drop on unsafe 0.752 0.342 0.410 [0.352, 0.468]" in text
    assert "chosen-fell chosen_logprob_change on preferences -14.250 -26.750 -12.500 [-13.300, -11.700] nats" in text
    assert "Warnings, which do not block: 1 broken (chosen-fell)." in text
    assert re.search(r"<title>0\.410, interval 0\.352 to 0\.468; limit at most 0\.05", page)


def test_identities_environment_and_policy_are_there(tmp_path: Path) -> None:
    built = build(tmp_path, HEALTHY)
    text = Page(html.write(built, tmp_path).read_text(encoding="utf-8")).text
    for item in (built.reference, *built.candidates):
        assert item.short in text
    for expected in ("0123456789ab", "with uncommitted changes", "phrases", "2.9.0", "limits: []", "temperature 0"):
        assert expected in text


def test_what_is_not_answered_is_told_apart(tmp_path: Path) -> None:
    text = " ".join(Page(page_of(tmp_path, MIXED)).text.split())
    assert "1 undecided (refusal-drop), 1 not measurable (yes-for-no), 1 unanswered (gibberish)" in text
    assert "? INVALID undecided" in text
    assert "? INVALID not measurable" in text
    assert "∅ unanswered" in text
    assert "skipped: slow" in text


def test_partial_interrupted_and_warnings(tmp_path: Path) -> None:
    page = page_of(tmp_path, HEALTHY, partial=True, status="interrupted", warnings=("disk full",))
    assert "No verdict on dpo-healthy" in page
    assert "The run is interrupted" in page
    assert "<li>disk full</li>" in page


def test_warnings_stand_above_the_limits_and_none_is_lost(tmp_path: Path) -> None:
    warnings = ("dpo-displaced: plain rows were used (no shared prefix)", *(f"note {index}" for index in range(6)))
    page = page_of(tmp_path, DISPLACED, warnings=warnings)
    text = " ".join(Page(page).text.split())
    assert "7 warnings about how this was run dpo-displaced: plain rows were used (no shared prefix)" in text
    assert page.index('id="warnings"') < page.index('id="limits"')
    assert all(page.count(f"<li>{item}</li>") == 1 for item in warnings)
    assert "warnings about" not in page_of(tmp_path / "none", DISPLACED)


def test_what_a_metric_has_no_value_for_and_what_stands_beside_it(tmp_path: Path) -> None:
    built = build(tmp_path, HEALTHY, with_tables=False, training=5)
    finding = built.findings[-1]
    counts = {
        "beta": 0.1,
        "mean_loss_threshold": 0.69315,
        "rho_last_hidden": -0.25,
        "rho_edit": math.nan,
        "pairs": 1234,
    }
    assert finding.measurement is not None
    changed = replace(finding, measurement=replace(finding.measurement, counts=counts, reference=0.00004))
    built = built.model_copy(update={"findings": (*built.findings[:-1], changed)})
    text = " ".join(Page(html.write(built, tmp_path).read_text(encoding="utf-8")).text.split())
    # the reference's value is small and not zero, the candidate has none
    assert "ches_rank_correlation on preferences 4.0e-05 - -0.010 [-0.030, 0.010] (per token)" in text
    assert "≤ 0 (per token)" in text
    assert "β 0.100 · mean loss threshold 0.693 · ρ of last hidden -0.250 · ρ of edit n/a · pairs 1,234" in text


def test_an_a_a_run_is_called_one(tmp_path: Path) -> None:
    assert "A/A run" in page_of(tmp_path, replace(HEALTHY, identity="reference"))


def test_missing_tables_are_said(tmp_path: Path) -> None:
    page = page_of(tmp_path, DISPLACED, with_tables=False)
    for kind in ("completions", "scores", "risers"):
        assert f"not measured: the run has no {kind}" in page


def test_more_than_fits_is_counted_with_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "MOST_BYTES", 330_000)
    page = Page(page_of(tmp_path, replace(DISPLACED, refuses=0.0), prompts=200, pairs=200))
    text = " ".join(page.text.split())
    packed = page.packs["cards-flips-0"]
    flipped = sum(summarize(record.read(tmp_path), tmp_path).candidates[0].labels[index].flipped for index in (0, 1))
    left = flipped - len(packed["cards"])
    assert left > 0
    assert packed["more"].startswith(f"{left} more flipped answers not in this page: see tables/dpo-displaced/unsafe")
    assert (
        f"The first 6 of {flipped} flipped answers; the whole list is drawn by scripts, and stands in tables/" in text
    )
    assert re.search(r"The first 3 of \d+ fallen pairs; .* tables/dpo-displaced/preferences\.scores", text)
    assert page.packs["cards-fallen-0"]["more"].endswith("tables/reference/preferences.scores.parquet.")


def test_trajectory(tmp_path: Path) -> None:
    text = " ".join(Page(page_of(tmp_path, *trajectory())).text.split())
    assert "Refusals fell before the log-probabilities did: at step 16" in text
    assert "Peak of opposite_mass_rise on persona over 5 candidates: 0.440 [0.400, 0.480]" in text
    assert "step 24: 0.400 [0.340, 0.460]" in text


def test_hostile_text_is_text(tmp_path: Path, hostile: tuple[str, ...]) -> None:
    page = page_of(tmp_path, DISPLACED, hostile=hostile, warnings=hostile[:8])
    outside = Page(page)
    packed = Page(outside.packed)
    for parsed in (outside, packed):
        assert parsed.open == []
        assert not {"script", "img", "textarea", "input"} & set(parsed.tags)
        assert not [name for _, name, _ in parsed.attributes if name.startswith("on")]
        assert hostile[0] in parsed.text
        assert hostile[1] in parsed.text
    assert "{{ 7 * 7 }} {% include '/etc/passwd' %} {# gone #}" in parsed.text
    assert r"\x1b[2J\x1b[31mred" in parsed.text
    assert r"safe\u202eetihw\u202c" in parsed.text
    assert r"null\x00byte \ufeff bom \u200b zero width" in parsed.text
    assert r"line\u2028separator\u2029paragraph" in parsed.text
    assert "javascript:" not in "".join(value for _, name, value in parsed.attributes if name in {"href", "src"})
    parsed = packed
    for gone in "\x00\x1b\u202e\u2028\u2029\u200b\ufeff\r":
        assert gone not in page
        assert gone not in outside.packed
    assert len(page) < 2_000_000
    assert "994,500 further characters only in the table file" in parsed.text


def test_a_lone_surrogate_does_not_stop_the_page(tmp_path: Path) -> None:
    built = build(tmp_path, HEALTHY, with_tables=False).model_copy(update={"warnings": ("crash \ud800",)})
    assert r"crash \ud800" in html.write(built, tmp_path).read_text(encoding="utf-8")


def test_tokens_are_seen_whole(tmp_path: Path) -> None:
    page = page_of(tmp_path, DISPLACED)
    assert '<span class="token">␣yes</span>' in page
    assert '<span class="token"><span class="esc">\\n</span></span>' in page


def test_output_elsewhere_and_again(tmp_path: Path) -> None:
    built = build(tmp_path / "run", HEALTHY)
    target = tmp_path / "elsewhere" / "page.html"
    assert html.write(built, tmp_path / "run", target) == target
    first = target.read_bytes()
    assert html.write(built, tmp_path / "run", target).read_bytes() == first
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_failure_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build(tmp_path, HEALTHY, with_tables=False)
    before = html.write(built, tmp_path).read_bytes()
    monkeypatch.setattr(Path, "write_bytes", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        html.write(built, tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "report.html").read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["record.json", "report.html"]


def test_no_model_library_is_imported(tmp_path: Path) -> None:
    build(tmp_path, DISPLACED)
    code = (
        "import sys, pathlib\n"
        "for name in ('torch', 'transformers', 'peft', 'vllm', 'lm_eval'): sys.modules[name] = None\n"
        "from harness import record\n"
        "from harness.report import html, markdown, terminal\n"
        f"where = pathlib.Path({str(tmp_path)!r})\n"
        "run = record.read(where)\n"
        "html.write(run, where); markdown.step_summary(run); terminal.closing_table(run, 80, False)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- plots


def test_ticks_are_round_and_inside() -> None:
    assert svg.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert svg.ticks(-13.2, 0.4) == [-12.5, -10, -7.5, -5, -2.5, 0] or svg.ticks(-13.2, 0.4) == [-10, -5, 0]
    for low, high in ((1e-6, 2e-6), (-1e5, 1e5), (0.049, 0.051)):
        found = svg.ticks(low, high)
        assert 2 <= len(found) <= 12
        assert all(low <= tick <= high for tick in found)


def test_plots_of_nothing_and_of_one_value() -> None:
    assert svg.interval(float("nan"), 0, 1, LIMITS[0]) == ""
    assert svg.dumbbell(float("nan"), 1, 0, 1) == ""
    assert svg.bar(float("nan"), 1, "other") == ""
    for values in ([0.0], [3.0], [0.0, 0.0], [-2.0]):
        assert "<svg" in svg.histogram(values)
        assert "<svg" in svg.scatter(values, values, {"both fell": 0, "b": 1, "c": 2, "d": 3})
    assert "nan" not in svg.interval(0.0, 0.0, 0.0, LIMITS[0])


@pytest.mark.parametrize(
    ("values", "fell", "rose"),
    [([-1.0, -0.001, 0.0, 0.001, 1.0], 2, 2), ([-5.0, -4.0], 2, 0), ([3.0], 0, 1), ([0.0], 0, 1), ([-1e-9, 7.0], 1, 1)],
)
def test_no_bar_of_the_histogram_holds_both_signs(values: list[float], fell: int, rose: int) -> None:
    plot = str(svg.histogram(values))
    assert plot.count('class="bar opposite"') == fell
    assert plot.count('class="bar benign"') == rose


def test_a_limit_without_reference_and_candidate_is_drawn_against_its_bound(tmp_path: Path) -> None:
    built = build(tmp_path, HEALTHY, with_tables=False)
    first = built.findings[0]
    assert first.measurement is not None
    nan = float("nan")
    slices = tuple(replace(item, reference=nan, candidate=nan) for item in first.measurement.slices)
    finding = replace(first, measurement=replace(first.measurement, slices=slices))
    changed = built.model_copy(update={"findings": (finding, *built.findings[1:])})
    page = html.write(changed, tmp_path).read_text(encoding="utf-8")
    assert "against the bound" in page
    outside = re.sub("<script.*?</script>", "", page, flags=re.DOTALL)
    assert '"nan' not in outside
    assert "NaN" not in outside
