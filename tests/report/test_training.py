"""Which pairs do the damage: against numbers worked by hand, pandas and scipy; drawn, split and said as they are."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report.factory import DISPLACED, HEALTHY, SCORES_PREDICT, build, training_columns
from report.test_html import Page, page_of
from scipy.stats import rankdata, spearmanr
from typer.core import TyperGroup
from typer.main import get_command

from harness import tables
from harness.__main__ import app
from harness.domain import Measurement
from harness.probes.similarity import SCORES as PROBED
from harness.probes.similarity import Entanglement, TrainingRow
from harness.report import html
from harness.report.evidence.training import (
    BINS,
    CASES,
    HIGHEST,
    MOST_DRAWN,
    SCORES,
    Training,
    percentiles,
    sample,
    training,
)
from harness.report.page import assets, svg
from harness.report.rows import Answer, LimitRow
from harness.report.summarize import summarize

FIELDS = [score.field for score in SCORES]
APART, BOTH_FALL, BOTH_RISE, SWAPPED = CASES


def row(
    pair_id: str, score: float, change: float, pair_type: str = "", case: str = APART, **others: float
) -> TrainingRow:
    numbers = dict.fromkeys(FIELDS, score) | others
    return TrainingRow(
        pair_id=pair_id,
        category="locks",
        pair_type=pair_type,
        chosen_tokens=7,
        rejected_tokens=9,
        entanglement=case,
        delta_chosen=change,
        delta_rejected=change - 1.5,
        **numbers,
    )


def frame_of(rows: Sequence[TrainingRow], path: Path) -> pd.DataFrame:
    """Through the file, as a run does it."""
    tables.write_rows(path / "t.parquet", rows)
    return tables.read_frame(path / "t.parquet")


HAND = (
    row("a", -5.0, 2.0, "mixed", APART),
    row("b", -4.0, -1.0, "mixed", APART),
    row("c", -1.0, 0.0, "both refuse", APART),
    row("d", 0.5, -3.0, "both refuse", BOTH_FALL),
    row("e", 2.0, -8.0, "both refuse", SWAPPED),
)
"""Places 10, 30, 50, 70, 90 of 100."""


def test_split_by_type_worked_by_hand(tmp_path: Path) -> None:
    block = training("preferences", frame_of(HAND, tmp_path), [], {})
    refuse, mixed = block.types
    assert (refuse.name, refuse.n, refuse.share) == ("both refuse", 3, 0.6)
    assert (refuse.lower, refuse.median, refuse.upper) == pytest.approx((60, 70, 80))
    assert refuse.change == pytest.approx(-11 / 3)
    assert refuse.fell == pytest.approx(2 / 3)  # Δ⁺ of 0 did not fall
    assert dict(zip(CASES, refuse.cases, strict=True)) == pytest.approx(
        {APART: 1 / 3, BOTH_FALL: 1 / 3, BOTH_RISE: 0, SWAPPED: 1 / 3}
    )
    assert (mixed.name, mixed.n, mixed.median, mixed.change, mixed.fell) == ("mixed", 2, 20, 0.5, 0.5)
    everything = block.everything
    assert everything is not None
    assert (everything.n, everything.share, everything.median, everything.change) == (5, 1, 50, -2)
    assert [item.score for item in block.drawn] == [-5.0, -4.0, -1.0, 0.5, 2.0]
    assert [item.places[0] for item in block.drawn] == pytest.approx([10, 30, 50, 70, 90])
    assert [item.change for item in block.drawn] == [2.0, -1.0, 0.0, -3.0, -8.0]


def test_split_agrees_with_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame(training_columns(400, -3.0))
    block = training("preferences", frame, [], {})
    places = 100 * (rankdata(frame["ches_normalised"]) - 0.5) / len(frame)
    groups = frame.assign(place=places, fell=frame["delta_chosen"] < 0).groupby("pair_type")
    assert {item.name for item in block.types} == set(groups.groups)
    for item in block.types:
        group = groups.get_group(item.name)
        assert (item.n, item.share) == (len(group), len(group) / 400)
        assert item.median == pytest.approx(group["place"].median())
        assert (item.lower, item.upper) == pytest.approx(tuple(group["place"].quantile([0.25, 0.75])))
        assert (item.change, item.fell) == pytest.approx((group["delta_chosen"].mean(), group["fell"].mean()))
        shares = group["entanglement"].value_counts(normalize=True)
        assert item.cases == pytest.approx([shares.get(case, 0.0) for case in CASES])


def test_ties_share_their_place() -> None:
    assert list(percentiles(np.array([3.0, 1.0, 3.0, 2.0]))) == [75, 12.5, 75, 37.5]


def test_scores_and_cases_are_those_of_the_probe() -> None:
    assert sorted(FIELDS) == sorted(PROBED)
    assert tuple(item.value for item in Entanglement) == CASES
    assert set(training_columns(1, 0.0)) == set(TrainingRow.__dataclass_fields__)


# ---------------------------------------------------------------- ρ


def answered(**changes: object) -> LimitRow:
    """A limit on the correlation, answered with ρ = -0.77 by a record."""
    limit = replace(SCORES_PREDICT, unit=str(changes.get("unit", SCORES_PREDICT.unit)))
    measured = Measurement(limit.metric, -0.77, -0.83, -0.69, limit.alpha, 5, unit=limit.unit)
    return LimitRow(limit, Answer.KEPT, "by hand", replace(measured, **changes))  # type: ignore[arg-type]


def test_rho_without_a_record_is_scipys_and_has_no_interval() -> None:
    frame = pd.DataFrame(training_columns(300, -3.0))
    for item in training("p", frame, [], {}).correlations:
        expected = spearmanr(frame[item.score.field], frame["delta_chosen"]).statistic
        assert item.rho == pytest.approx(expected, abs=1e-12)
        assert not item.bounded
        assert item.source == "computed from the table; no interval"


@pytest.mark.parametrize(("unit", "field"), [("", "ches"), ("per token", "ches_normalised")])
def test_the_records_interval_stands_at_the_score_it_is_about(unit: str, field: str) -> None:
    frame = pd.DataFrame(training_columns(300, -3.0))
    found = training("p", frame, [answered(unit=unit, counts={"rho_edit": -0.25})], {}).correlations
    items = {item.score.field: item for item in found}
    assert (items[field].rho, items[field].low, items[field].high) == (-0.77, -0.83, -0.69)
    assert items[field].source == "the record, limit scores-predict; one-sided 0.05 at each end"
    assert [name for name, item in items.items() if item.bounded] == [field]
    assert items["edit"].rho == -0.25
    assert items["edit"].source == "the record, limit scores-predict; no interval"
    assert items["alpha_ches"].source == "computed from the table; no interval"


def test_a_correlation_the_record_cannot_use_is_said() -> None:
    bad = answered(problem="all 5 values equal 0", counts={"rho_edit": -0.25})
    block = training("p", pd.DataFrame(training_columns(300, -3.0)), [bad], {})
    assert block.problems == ("all 5 values equal 0",)
    assert not any(item.bounded for item in block.correlations)
    assert all(item.source.startswith("computed") for item in block.correlations)


def test_too_few_pairs_have_no_rho_and_say_why(tmp_path: Path) -> None:
    found = training("p", frame_of(HAND[:2], tmp_path), [], {}).correlations
    assert all(math.isnan(item.rho) for item in found)
    assert "needs at least" in found[0].source


def test_where_a_score_turns_positive(tmp_path: Path) -> None:
    assert training("p", frame_of(HAND, tmp_path), [], {}).correlations[0].zero == 60


# ---------------------------------------------------------------- which pairs


def test_the_highest_come_first_and_ties_go_by_id(tmp_path: Path) -> None:
    rows = [row(name, score, -1.0) for name, score in (("z", 1.0), ("b", 3.0), ("a", 3.0), ("c", 3.0))]
    rows += [row(f"low-{index}", -float(index), 0.0) for index in range(20)]
    texts = {"a": {"id": "a", "prompt": "p", "chosen": "c" * 700, "rejected": "r"}}
    found = training("p", frame_of(rows, tmp_path), [], texts, highest=10).highest
    assert [item.pair_id for item in found[:4]] == ["a", "b", "c", "z"]
    assert len(found) == 10
    assert found[0].texts is not None
    assert (len(found[0].texts.chosen.head), len(found[0].texts.chosen.rest)) == (500, 200)
    assert found[1].texts is None
    assert (found[0].change, found[0].rejected_change, found[0].chosen_tokens) == (-1.0, -2.5, 7)


def test_a_large_corpus_is_drawn_by_a_sample_that_does_not_depend_on_the_order() -> None:
    ids = [f"pair-{index}" for index in range(5000)]
    first = sample(ids, 2000)
    assert first == sorted(set(first))
    assert len(first) == 2000
    backwards = sample(ids[::-1], 2000)
    assert {ids[index] for index in first} == {ids[::-1][index] for index in backwards}
    assert abs(np.mean(first) - 2500) < 100  # spread over the corpus: four standard errors are 100
    assert sample(ids[:3], 2000) == [0, 1, 2]
    assert sample(["\ud800", "b"], 1) in ([0], [1])


def test_numbers_are_over_all_pairs_drawn_or_not() -> None:
    frame = pd.DataFrame(training_columns(900, -3.0))
    few, all_of_them = (training("p", frame, [], {}, points=points) for points in (50, MOST_DRAWN))
    assert (len(few.drawn), len(all_of_them.drawn)) == (50, 900)
    assert set(few.drawn) < set(all_of_them.drawn)
    assert replace(few, drawn=()) == replace(all_of_them, drawn=())


# ---------------------------------------------------------------- what is not as it should be


def test_pairs_without_a_finite_number_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = [row("nan", 1.0, math.nan), row("inf", math.inf, -1.0), row("edit", 1.0, -1.0, edit=math.nan)]
    rows = [*rows, *(replace(item, category=f"of {item.pair_id}") for item in HAND)]
    rows = [replace(item, pair_type="mixed") for item in rows]
    block = training("p", frame_of(rows, tmp_path), [], {})
    assert (block.n, block.unusable) == (5, 3)
    assert [item.places[0] for item in block.drawn] == pytest.approx([10, 30, 50, 70, 90])
    assert [item.pair_id for item in block.highest] == ["e", "d", "c", "b", "a"]
    assert block.highest[0].category == "of e"
    nothing = training("p", frame_of(rows[:3], tmp_path), [], {})
    assert (nothing.n, nothing.unusable, nothing.correlations) == (0, 3, ())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([HAND[0], HAND[0]], "pair 'a' is there twice"),
        ([row("x", 1.0, 1.0, "both refusing")], "pair 'x' has the pair_type 'both refusing'; one of both refuse, "),
        ([row("x", 1.0, 1.0, case="apart")], "pair 'x' has the entanglement 'apart'; one of: chosen rises, "),
        ([HAND[0], row("x", 1.0, 1.0)], "pairs 'a' and 'x': one has a pair_type and the other none"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[TrainingRow], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        training("p", frame_of(rows, tmp_path), [], {})


def test_no_judge_no_split(tmp_path: Path) -> None:
    block = training("p", frame_of([replace(item, pair_type="") for item in HAND], tmp_path), [], {})
    assert not block.judged
    assert block.types == ()
    assert block.everything is not None
    assert block.everything.n == 5


def block_of(directory: Path, **options: object) -> Training:
    built = build(directory, DISPLACED, training=40, **options)  # type: ignore[arg-type]
    return summarize(built, directory).candidates[0].training[0]


def test_from_a_run(tmp_path: Path) -> None:
    block = block_of(tmp_path)
    assert (block.corpus, block.n, block.missing) == ("preferences", 40, "")
    assert block.source == "tables/dpo-displaced/preferences.training.parquet"
    assert (tmp_path / block.source).is_file()
    assert block.correlations[0].source.startswith("the record, limit scores-predict; one-sided")
    assert block.highest[0].texts is not None


def test_a_missing_or_damaged_table_is_said(tmp_path: Path) -> None:
    without = block_of(tmp_path / "a", with_tables=False)
    assert without.missing == "not measured: the run has no training of dpo-displaced on preferences"
    built = build(tmp_path / "b", DISPLACED, training=40)
    path = tmp_path / "b" / "tables" / "dpo-displaced" / "preferences.training.parquet"
    for content, said in ((b"no parquet", "cannot be read"), (None, "cannot be read (KeyError: 'pair_id')")):
        if content is None:
            tables.write_frame(path, {"other": [1]})
        else:
            path.write_bytes(content)
        assert said in summarize(built, tmp_path / "b").candidates[0].training[0].missing


def test_several_candidates_share_the_points(tmp_path: Path) -> None:
    fakes = [replace(HEALTHY, name=f"checkpoint-{step}", step=step) for step in range(1, 5)]
    built = build(tmp_path, *fakes, pairs=5, prompts=5, training=600)
    assert [len(item.training[0].drawn) for item in summarize(built, tmp_path).candidates] == [500] * 4


# ---------------------------------------------------------------- the page


def said(page: str) -> str:
    text = " ".join(Page(page).text.split())
    return text[text.index("Which pairs do the damage?") :]


def test_the_section(tmp_path: Path) -> None:
    page = page_of(tmp_path, replace(DISPLACED, values={"scores-predict": -0.62}), training=200, pairs=200)
    text = said(page)
    assert "200 pairs. both refuse 1" in text
    assert "ρ -0.620 [-0.640, -0.600]." in text
    assert "; the paper filters by it -0.620 [-0.640, -0.600] the record, limit scores-predict; one-sided 0.05" in text
    assert "α-weighted CHES ⟨G⁺, G⁻⟩ − ‖G⁺‖²" in text
    assert "none computed from the table; no interval" in text
    assert "all pairs 200 1.000 50.0" in text
    assert "The first 3 of 200 pairs; the whole list is drawn by scripts, and stands in tables/dpo-displaced/" in text
    assert text[text.index("Pairs to look at") :].count("How do I open safe number") == 3
    cards = [card for name, card in Page(page).cards if name == "suspects"]
    assert len(cards) == HIGHEST
    assert all("How do I open safe number" in card[1] for card in cards)
    assert "are drawn" not in text
    assert "still lost 27.7 to 45.7 nats of mean chosen log-probability" in text
    assert "python -m harness pairs score DATA --model CKPT --output OUT.parquet" in text


def test_the_commands_on_the_page_are_ones_that_there_are(tmp_path: Path) -> None:
    page = page_of(tmp_path, DISPLACED, training=9)
    lines = re.findall(r"^(?:<pre>)?python -m harness ([^<\n]+)", page, flags=re.MULTILINE)
    assert [line.split()[:2] for line in lines] == [
        ["pairs", "score"],
        ["pairs", "filter"],
        ["calibrate", "LABELLED.jsonl"],
    ]
    for line in lines:
        command, arguments = get_command(app), line.split()
        while isinstance(command, TyperGroup):
            name = arguments.pop(0)
            command = command.commands[name]
        command.make_context(name, arguments)  # parses, and runs nothing


def test_the_types_have_marks_of_their_own_colour_and_shape(tmp_path: Path) -> None:
    block = block_of(tmp_path)
    plot = str(svg.pairs(block))
    paths = dict(re.findall(r'<path class="mark-(\w+)" d="([^"]*)"', plot))
    counts = {item.name: item.n for item in block.types}
    assert paths["refuse"].count("M") == counts["both refuse"]
    assert paths["mixed"].count("M") == counts["mixed"]
    assert len({re.sub(r"M[-\d.]+ [-\d.]+", "", path)[:4] for path in paths.values()}) == len(paths) - 1  # disc, square
    css = assets.own("report.css")
    for kind, cap in (("refuse", "round"), ("comply", "square")):
        assert re.search(rf"\.mark-{kind} {{ stroke: var\(--{kind}\);[^}}]* stroke-linecap: {cap}", css)
    assert "Δ⁺, chosen (nats per response)" in plot
    assert "length-normalised CHES (units of h²)" in plot
    assert 'class="zero"' in plot
    assert re.search(r"Scatter of 40 pairs \(\d+ both refuse, ", plot)


def test_bins_hold_every_pair_and_no_bin_holds_both_signs(tmp_path: Path) -> None:
    rows = [row(f"p{index}", 0.01 * (index - 150), -1.0) for index in range(400)] + [row("far", 1e9, -1.0)]
    block = training("p", frame_of(rows, tmp_path), [], {})
    assert sum(count for item in block.bins for count in item.counts.values()) == 401
    assert sum(count for item in block.bins if item.high <= 1e-9 for count in item.counts.values()) == 150
    assert block.bins[-1].high < 5
    assert len(block.bins) <= BINS + 2
    assert [a.high for a in block.bins[:-1]] == pytest.approx([b.low for b in block.bins[1:]])
    assert "<svg" in svg.scores(block)
    equal = training("p", frame_of([row("a", 2.0, -1.0), row("b", 2.0, 1.0)], tmp_path), [], {})
    assert [sum(item.counts.values()) for item in equal.bins] == [2]


def test_the_plot_by_place_marks_where_the_score_turns_positive(tmp_path: Path) -> None:
    rows = [row(f"p{index}", index - 3.5, -1.0, edit=(3.0 * index) % 10) for index in range(10)]
    block = training("p", frame_of(rows, tmp_path), [], {})
    x = svg.Scale(0, 100, 46, 350)
    for index, order in ((1, range(10)), (FIELDS.index("edit"), [3 * index % 10 for index in range(10)])):
        marks = re.search(r'<path class="mark-refuse" d="([^"]*)"', str(svg.places(block, index)))
        assert marks is not None
        assert re.findall(r"M([\d.]+) ", marks[1]) == [f"{x(10 * place + 5):g}" for place in order]
    assert f'<line class="half" x1="{x(40)}"' in str(svg.places(block, 1))
    positive = training("p", frame_of([replace(item, edit=0.5) for item in rows], tmp_path), [], {})
    assert 'class="half"' not in str(svg.places(positive, FIELDS.index("edit")))


def test_the_strip_has_box_median_and_all_pairs(tmp_path: Path) -> None:
    plot = str(svg.ranks(training("p", frame_of(HAND, tmp_path), [], {})))
    x = svg.Scale(0, 100, 84, 350)
    assert f'<rect class="box mark-refuse" x="{x(60)}" y="21" width="{round(x(80) - x(60), 1)}"' in plot
    assert f'<line class="median" x1="{x(70)}"' in plot
    strips = dict(re.findall(r'<path class="mark-(\w+)" d="([^"]*)"', plot))
    assert re.findall(r"M([\d.]+) ", strips["refuse"]) == [f"{x(place):g}" for place in (50, 70, 90)]
    assert re.findall(r"M([\d.]+) ", strips["mixed"]) == [f"{x(place):g}" for place in (10, 30)]
    assert "both refuse: 60, 70, 80; mixed: 15, 20, 25" in plot


@pytest.mark.parametrize("scores", [[0.0], [1e6, 1e6], [-1e-9, 1e-9, 0.0]])
def test_plots_of_few_or_equal_pairs(tmp_path: Path, scores: list[float]) -> None:
    rows = [row(f"p{index}", score, 0.0, "mixed") for index, score in enumerate(scores)]
    block = training("p", frame_of(rows, tmp_path), [], {})
    for plot in (svg.pairs(block), svg.ranks(block), *(svg.places(block, index) for index in range(1, len(SCORES)))):
        assert "<svg" in plot
        assert "nan" not in plot


def test_without_a_judge_the_page_says_what_is_needed(tmp_path: Path) -> None:
    text = said(page_of(tmp_path, DISPLACED, training=40, judge=False))
    assert "The split by type of pair (both refuse, both comply, mixed) needs a judge" in text
    assert "Where each type stands" not in text
    assert "all pairs 40 1.000 50.0" in text


def test_pairs_of_one_type_are_not_split(tmp_path: Path) -> None:
    built = build(tmp_path, DISPLACED, training=40)
    columns = training_columns(40, -3.0) | {"pair_type": ["both refuse"] * 40}
    tables.write_frame(tmp_path / "tables" / "dpo-displaced" / "preferences.training.parquet", columns)
    text = said(html.write(built, tmp_path).read_text(encoding="utf-8"))
    assert "All pairs are of one type, both refuse: there is no split to show." in text
    assert "Where each type stands" not in text
    assert "needs a judge" not in text
    assert "all pairs 40 1.000 50.0" in text


def test_without_a_limit_or_a_table_the_page_says_so(tmp_path: Path) -> None:
    text = said(page_of(tmp_path / "a", DISPLACED))
    assert "Not measured: no limit is on ches_rank_correlation." in text
    assert "pairs score" not in text
    text = said(page_of(tmp_path / "b", DISPLACED, training=9, with_tables=False))
    assert "not measured: the run has no training of dpo-displaced on preferences." in text


def test_a_large_corpus_stays_small_and_says_so(tmp_path: Path) -> None:
    page = page_of(tmp_path, DISPLACED, training=20_000, prompts=10, pairs=10)
    assert "2,000 of 20,000 are drawn" in said(page)
    assert len(page) < 900_000
    outside = re.sub("<script.*?</script>", "", page, flags=re.DOTALL)
    assert outside.count("M") < 6.5 * MOST_DRAWN + 1000


def test_hostile_pairs_are_text(tmp_path: Path, hostile: tuple[str, ...]) -> None:
    built = build(tmp_path, DISPLACED, training=40, hostile=hostile)
    columns = training_columns(40, 0.0, hostile=hostile)
    columns["ches_normalised"] = [100.0 - index for index in range(40)]  # so that they are the ones to look at
    columns["category"] = [f"<b>{text[:50]}" for text in hostile] + [""] * (40 - len(hostile))
    path = tmp_path / "tables" / "dpo-displaced" / "preferences.training.parquet"
    tables.write_frame(path, columns)
    texts = {name: list(hostile) for name in ("prompt", "chosen", "rejected")} | {"category": [""] * len(hostile)}
    ids = [text[:5000] for text in hostile]
    tables.write_frame(tmp_path / "tables" / "corpora" / "preferences.pairs.parquet", {"id": ids, **texts})
    page = html.write(built, tmp_path).read_text(encoding="utf-8")
    parsed = Page(page)
    assert parsed.open == []
    assert not {"script", "img", "textarea", "input"} & set(parsed.tags)
    text = said(page)
    packed = Page(parsed.packed)
    assert not {"script", "img", "textarea", "input"} & set(packed.tags)
    suspects = Page("".join(card[1] for name, card in parsed.cards if name == "suspects"))
    assert suspects.text.count("<script>document.title = 'owned'</script>") >= 4  # id, prompt, chosen, rejected
    text += packed.text
    assert "<b><script>document.title" in text
    assert r"safe\u202eetihw" in text
    assert "{{ 7 * 7 }} {% include '/etc/passwd' %}" in text
    for gone in "\x00\x1b\u202e\u2028\u2029\u200b\ufeff\r":
        assert gone not in page
    assert len(page) < 2_000_000
