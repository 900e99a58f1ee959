"""The comparison page as data: order, sentence, who flipped when, which pairs differ, and what fits into the page."""

from __future__ import annotations

import itertools
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report.contrasting import columns, of, pivot, set_asked, set_labels, set_scores
from report.factory import DISPLACED, HEALTHY, HOSTILE, Fake, trajectory

from harness import record, tables
from harness.__main__ import app
from harness.comparing import Column, Mark, Pivot
from harness.conditions import Difference, Kind
from harness.domain import Decoding, Measurement
from harness.errors import OptionError
from harness.report.comparison import contrast, contrast_packs, contrast_samples
from harness.report.comparison.contrast_samples import Changed, Pair, Pairs, Prompts, Said, Side
from harness.report.page.pack import decode
from harness.report.text import shorten, visible

TINY: dict[str, Any] = {"prompts": 4, "pairs": 4}


def two(directory: Path, **options: Any) -> list[Column]:
    return [*columns(directory / "a", HEALTHY, **options), *columns(directory / "b", DISPLACED, **options)]


# ---------------------------------------------------------------- order and sentence


def test_checkpoints_that_know_their_step_stand_in_step_order_whatever_the_basis(tmp_path: Path) -> None:
    found = columns(tmp_path, *trajectory(), **TINY)
    basis = found.pop(2)
    shown = contrast.contrast(pivot([basis, *reversed(found)]))
    assert shown.by_step
    assert [head.step for head in shown.heads] == [8, 16, 24, 40, 64]
    assert [head.key for head in shown.heads if head.basis] == ["checkpoint-24"]
    assert shown.places == (8, 16, 24, 40, 64)
    assert [cell.mark for cell in shown.rows[0].cells].index(Mark.FIRST) == 2


@pytest.mark.parametrize("steps", [(None, 5, 9), (5, 5, 9)])
def test_others_stand_in_the_order_of_their_runs(tmp_path: Path, steps: tuple[int | None, ...]) -> None:
    times = ("2026-03-01T00:00:00+00:00", "2026-01-01T01:00:00+02:00", "2025-12-31T23:30:00+00:00")
    found = [
        columns(tmp_path / name, Fake(name, step=step), update={"started": when}, **TINY)[0]
        for name, step, when in zip("xyz", steps, times, strict=True)
    ]
    shown = contrast.contrast(pivot(found))
    assert not shown.by_step
    assert [head.key for head in shown.heads] == ["y", "z", "x"]  # 23:00, 23:30, March
    assert shown.places == (1, 2, 3)


def test_the_first_sentence_says_what_got_worse_or_what_is_unknown_or_neither(tmp_path: Path) -> None:
    found = two(tmp_path, **TINY)
    fine = contrast.contrast(pivot(found))
    assert (fine.state, fine.worse, fine.unknown) == ("fine", (), ())
    assert "worse than in dpo-healthy" in fine.sentence
    apart = {"mark": Mark.INCOMPARABLE, "unlike": (Difference(Kind.JUDGE, "version 1, then 2"),)}
    unknown = contrast.contrast(pivot(found, {("gibberish", "dpo-displaced"): apart}))
    assert unknown.state == "unknown"
    assert "gibberish in dpo-displaced" in unknown.sentence
    worse = {"mark": Mark.WORSE, "got_worse": True}
    both = contrast.contrast(
        pivot(found, {("gibberish", "dpo-displaced"): apart, ("refusal-drop", "dpo-displaced"): worse})
    )
    assert both.state == "worse"
    assert both.sentence.startswith("Worse than dpo-healthy: refusal-drop in dpo-displaced.")
    assert both.blocking == 1
    assert len(both.unknown) == 1


def test_a_warning_that_got_worse_does_not_make_the_page_say_worse(tmp_path: Path) -> None:
    cells = {("chosen-fell", "dpo-displaced"): {"mark": Mark.WORSE, "got_worse": True}}
    shown = contrast.contrast(pivot(two(tmp_path, **TINY), cells))
    assert (shown.state, shown.blocking, len(shown.worse)) == ("fine", 0, 1)


def test_a_cell_says_what_its_mark_rests_on(tmp_path: Path) -> None:
    change = Measurement("refusal_rate_drop", 0.4, 0.3, 0.5, 0.05, n=40, p_broken=0.0002)
    cells = {
        ("refusal-drop", "dpo-displaced"): {"mark": Mark.WORSE, "change": change, "got_worse": True},
        ("gibberish", "dpo-displaced"): {
            "mark": Mark.INCOMPARABLE,
            "unlike": (Difference(Kind.CORPUS, "unsafe 12, then 34"),),
            "note": "bound at most 0.02, then at most 0.1",
        },
        ("over-refusal", "dpo-displaced"): {"finding": None, "why": "unanswered (skipped)", "got_worse": True},
    }
    shown = contrast.contrast(pivot(two(tmp_path, **TINY), cells))
    row = {item.limit.id: item.cells[1] for item in shown.rows}
    assert row["refusal-drop"].said == (
        "refusal_rate_drop from dpo-healthy, item by item: 0.400 [0.300, 0.500] (n=40; p(worse) = 0.0002)",
    )
    assert row["gibberish"].said == ("corpus: unsafe 12, then 34", "bound at most 0.02, then at most 0.1")
    assert (row["over-refusal"].answer.value, math.isnan(row["over-refusal"].value)) == ("unanswered", True)
    assert row["over-refusal"].said == ("unanswered (skipped)", "kept in the basis, and not kept here")
    assert (row["refusal-drop"].value, row["refusal-drop"].low) == (0.41, pytest.approx(0.352))


def test_bounds_and_conditions_that_differ_are_listed(tmp_path: Path) -> None:
    found = two(tmp_path, **TINY)
    limits = tuple(
        replace(item, maximum=0.2) if item.id == "gibberish" else item for item in found[1].record.policy.limits
    )
    policy = found[1].record.policy.model_copy(update={"limits": limits})
    other = found[1].record.model_copy(update={"policy": policy, "versions": {"python": "3.11.9", "torch": "2.8.0"}})
    found[1] = replace(found[1], record=other)
    shown = contrast.contrast(pivot(found))
    assert [row.limit.id for row in shown.other_bounds] == ["gibberish"]
    assert shown.other_bounds[0].bounds == ("at most 0.02", "at most 0.2")
    facts = dict(shown.facts)
    assert facts["torch"] == ("2.9.0", "2.8.0")
    assert "python" not in facts


# ---------------------------------------------------------------- prompts


def labelled(directory: Path, letters: dict[str, str], **update: Any) -> list[Column]:
    """A run whose checkpoints gave these labels, prompt by prompt."""
    names = [name for name in letters if name != "reference"]
    columns(directory, *(Fake(name) for name in names), **TINY)
    for name, row in letters.items():
        set_labels(directory, name, row)
    set_asked(directory, len(next(iter(letters.values()))))
    return of(record.read(directory, check_tables=False), directory, update)


def test_prompts_whose_label_is_not_the_same_everywhere_are_sorted_by_their_first_flip(tmp_path: Path) -> None:
    found = labelled(tmp_path, {"reference": "RRRRCR", "one": "RRRCCR", "two": "RCRCC·", "three": "RCDRCR"})
    block = next(item for item in contrast_samples.prompts(pivot(found), [0, 1, 2]) if item.corpus == "unsafe")
    assert [side.key for side in block.sides] == ["reference", "one", "two", "three"]
    assert [(item.id, item.letters, item.first) for item in block.changed] == [
        ("p3", "RCCR", 1),
        ("p1", "RRCC", 2),
        ("p2", "RRRD", 3),
    ]
    assert block.same == 3, "p0 and p4 never change; p5 has one answer less, and the others are alike"
    assert block.changed[0].prompt == "question 3"
    assert block.changed[0].category == "a"
    assert [item.text for item in block.changed[0].said if item] == [
        "reference says R",
        "one says C",
        "two says C",
        "three says R",
    ]


def test_the_matrix_is_what_the_tables_say(tmp_path: Path) -> None:
    """Against the tables read by the project's own reader, prompt by prompt."""
    found = columns(tmp_path, *trajectory(), prompts=40, pairs=4)
    blocks = contrast_samples.prompts(pivot(found), range(5))
    assert [item.corpus for item in blocks] == ["benign", "unsafe"]
    for block in blocks:
        read: dict[tuple[str, int], list[str]] = {}
        for name in ("reference", *(column.candidate.name for column in found)):
            root = tmp_path / "tables" / name
            rows = tables.read_labelled(
                root / f"{block.corpus}.completions.parquet", root / f"{block.corpus}.labels.parquet"
            )
            for row in rows:
                read.setdefault(row.key, []).append(row.label.value[0].upper())
        differ = {key: "".join(row) for key, row in read.items() if len(set(row)) > 1}
        assert {(item.id, item.sample): item.letters for item in block.changed} == differ
        assert block.same == len(read) - len(differ)
        for item in block.changed:
            assert item.first == next(at for at, letter in enumerate(item.letters) if letter != item.letters[0])
    assert [block.benign for block in blocks] == [True, False]


def test_a_column_of_another_judge_or_decoding_is_shown_and_flips_nothing(tmp_path: Path) -> None:
    first = labelled(tmp_path / "a", {"reference": "RR", "one": "RR"})
    judged = labelled(tmp_path / "b", {"reference": "RR", "two": "CR"}, judge={"name": "phrases", "version": "2"})
    plain = pivot([*first, *judged])
    (block,) = [item for item in contrast_samples.prompts(plain, [0, 1]) if item.corpus == "unsafe"]
    assert block.sides[2].apart == ("judge: another one, or another version of it",)
    assert not block.sides[2].counts
    assert [(item.letters, item.first) for item in block.changed] == [("RRC", None)]
    assert block.flipped == ()
    policy = first[0].record.policy.model_copy(update={"decoding": Decoding(max_new_tokens=7)})
    shorter = replace(
        first[0], key="three", record=first[0].record.model_copy(update={"policy": policy}), directory=tmp_path / "b"
    )
    assert contrast_samples.apart(pivot([first[0], shorter]), 1, "unsafe", [Kind.DECODING]) == (
        "decoding: other settings",
    )


def test_what_the_comparison_found_unlike_is_taken_over_once(tmp_path: Path) -> None:
    first = labelled(tmp_path / "a", {"reference": "RR", "one": "RR"})
    judged = labelled(tmp_path / "b", {"reference": "RR", "two": "CR"}, judge={"name": "other"})
    cells = {
        (name, "two"): {"mark": Mark.INCOMPARABLE, "unlike": (Difference(Kind.JUDGE, "name phrases, then other"),)}
        for name in ("refusal-drop", "harmful-answers")
    }
    found = contrast_samples.apart(pivot([*first, *judged], cells), 1, "unsafe", list(Kind))
    assert found == ("judge: name phrases, then other",)
    assert contrast_samples.apart(pivot([*first, *judged], cells), 1, "unsafe", [Kind.CORPUS]) == ()


def test_a_column_that_was_asked_something_else_is_not_put_beside_the_others(tmp_path: Path) -> None:
    first = labelled(tmp_path / "a", {"reference": "RR", "one": "RR"})
    corpora = tuple(item.model_copy(update={"digest": "ff" * 32}) for item in first[0].record.corpora)
    other = labelled(tmp_path / "b", {"reference": "RR", "two": "CC"}, corpora=corpora)
    (block,) = [item for item in contrast_samples.prompts(pivot([*first, *other]), [0, 1]) if item.corpus == "unsafe"]
    assert block.sides[2].missing == "corpus: what is asked of unsafe 121212121212, then ffffffffffff"
    assert (block.changed, block.same) == ((), 2)
    unknown = labelled(tmp_path / "c", {"reference": "RR", "three": "CC"}, corpora=())
    assert "then not known" in contrast_samples.apart(pivot([*first, *unknown]), 1, "unsafe", [])[0]


def test_without_one_reference_for_all_none_is_shown(tmp_path: Path) -> None:
    first = labelled(tmp_path / "a", {"reference": "RR", "one": "RR"})
    other = labelled(tmp_path / "b", {"reference": "RR", "two": "CR"})
    moved = replace(other[0].record.reference, identity="9" * 64)
    other = [replace(other[0], record=other[0].record.model_copy(update={"reference": moved}))]
    (block,) = [item for item in contrast_samples.prompts(pivot([*first, *other]), [0, 1]) if item.corpus == "unsafe"]
    assert [side.key for side in block.sides] == ["one", "two"]


def test_tables_that_are_gone_or_damaged_are_told_by_side(tmp_path: Path) -> None:
    found = labelled(tmp_path, {"reference": "RR", "one": "RC", "two": "CR"})
    (tmp_path / "tables" / "one" / "unsafe.labels.parquet").write_bytes(b"no table")
    tables_left = tuple(
        item for item in found[0].record.tables if (item.checkpoint, item.kind) != ("two", "completions")
    )
    stored = found[0].record.model_copy(update={"tables": tables_left})
    found = [replace(column, record=stored) for column in found]
    (block,) = [item for item in contrast_samples.prompts(pivot(found), [0, 1]) if item.corpus == "unsafe"]
    assert "unsafe.labels.parquet is damaged" in block.sides[1].missing
    assert block.sides[2].missing.endswith("kept no labels of two on unsafe")
    assert (block.changed, block.same) == ((), 2)


def test_a_comparison_without_any_table_still_has_its_limits(tmp_path: Path) -> None:
    shown = contrast.contrast(pivot(two(tmp_path, with_tables=False, **TINY)))
    assert (shown.prompts, shown.pairs) == ((), ())
    text = contrast.render(shown)
    assert "None of these runs has labels." in text
    assert "None of these runs has labels or scores." in text
    assert "refusal-drop" in text


# ---------------------------------------------------------------- pairs


def test_pairs_that_differ_most_between_any_two_columns_are_kept_and_falls_are_counted(tmp_path: Path) -> None:
    found = columns(tmp_path, *(Fake(name) for name in "abc"), prompts=2, pairs=60)
    chance = random.Random(1)
    values = {name: [chance.gauss(-20, 5) for _ in range(60)] for name in ("reference", "a", "b", "c")}
    values["b"][7] = math.nan
    for name, row in values.items():
        set_scores(tmp_path, name, row)
    found = of(found[0].record, tmp_path)
    (block,) = [item for item in contrast_samples.pairs(pivot(found), range(3), top=5) if item.corpus == "preferences"]
    sides = list(values.values())
    wanted = set()
    for (a, x), (b, y) in itertools.combinations(enumerate(sides), 2):
        both = [at for at in range(60) if not math.isnan(x[at]) and not math.isnan(y[at])]
        assert block.lower[a, b] == (sum(y[at] < x[at] for at in both), len(both))
        wanted |= set(sorted(both, key=lambda at: -abs(y[at] - x[at]))[:5])
    assert {item.id for item in block.differ} == {f"pair-{at:04d}" for at in wanted}
    assert block.total == 60
    spans = [max(map(abs, (y - x for x, y in itertools.combinations(pair.chosen, 2)))) for pair in block.differ]
    assert spans == sorted(spans, reverse=True)
    pair = block.differ[0]
    at = int(pair.id.removeprefix("pair-"))
    assert pair.chosen == pytest.approx([row[at] for row in sides])
    assert pair.rejected == pytest.approx([row[at] / 10 for row in sides])
    assert pair.prompt == f"How do I open safe number {at}?"


def test_pairs_that_do_not_differ_are_not_kept(tmp_path: Path) -> None:
    found = columns(tmp_path, Fake("a"), Fake("b"), **TINY)
    for name in ("reference", "a", "b"):
        set_scores(tmp_path, name, [-1.0, -2.0, -3.0])
    (block,) = [
        item for item in contrast_samples.pairs(pivot(of(found[0].record, tmp_path)), [0, 1]) if item.total == 3
    ]
    assert block.differ == ()
    assert block.lower[0, 2] == (0, 3)


# ---------------------------------------------------------------- what fits


def many(number: int, sides: int, words: int, seed: int = 0) -> Prompts:
    chance = random.Random(seed)

    def text() -> str:
        return " ".join(f"{chance.getrandbits(40):x}" for _ in range(words))

    changed = tuple(
        Changed(
            f"id-{at:05d}",
            0,
            "c",
            text(),
            "R" * (sides - 1) + "C",
            sides - 1,
            tuple(Said("refusal" if side < sides - 1 else "compliance", "r", text(), False) for side in range(sides)),
        )
        for at in range(number)
    )
    return Prompts(
        "unsafe", False, tuple(Side(f"k{at}", at, sources=("run/t.parquet",)) for at in range(sides)), changed, 3
    )


def test_what_does_not_fit_is_counted_and_its_table_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast_packs, "ROOM_ANSWERS", 100_000)
    block = many(120, 8, 60)
    made = contrast_packs.make([block], [])
    packs = dict(made.elements)
    assert len(packs["labels"][0]["rows"]) == 120
    kept = packs["answers"][0]
    assert 0 < len(kept) < 120
    assert packs["labels"][0]["cut"] == contrast_packs.LENGTHS[-1]
    size = contrast_packs._size(kept)
    assert 0.8 * contrast_packs.ROOM_ANSWERS < size <= contrast_packs.ROOM_ANSWERS
    assert made.left == (
        f"answers to {120 - len(kept)} prompts on unsafe are not in the page; all are in run/t.parquet and those of 7 "
        "other columns",
    )
    assert kept[0][0] == block.changed[0].prompt[: contrast_packs.LENGTHS[-1]], "those that differ first"


def test_what_fits_is_there_whole() -> None:
    block = many(5, 3, 20)
    made = contrast_packs.make([block], [])
    packs = dict(made.elements)
    assert made.left == ()
    assert packs["labels"][0]["cut"] == contrast_packs.LENGTHS[0]
    prompt, left, texts, whose = packs["answers"][0][0]
    assert (prompt, left) == (block.changed[0].prompt, 0)
    assert whose == [0, 1, 2]
    assert [item[2] for item in texts] == [said.text for said in block.changed[0].said if said]


def test_answers_that_are_alike_are_kept_once() -> None:
    said = Said("refusal", "r", "No.", False)
    item = Changed("p", 0, "", "Q", "RR·C", 3, (said, said, None, Said("compliance", "r", "Yes.", True)))
    block = Prompts("unsafe", False, tuple(Side(key, at) for at, key in enumerate("abcd")), (item,), 0)
    ((_, _, texts, whose),) = dict(contrast_packs.make([block], []).elements)["answers"][0]
    assert texts == [["R", "r", "No.", 0, False], ["C", "r", "Yes.", 0, True]]
    assert whose == [0, 0, -1, 1]


def test_corpora_share_the_room_and_pairs_have_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast_packs, "ROOM_ANSWERS", 100_000)
    pair = Pair("x", "", "p" * 3000, "c", "r", (-1.0, math.nan), (-1.23456, -2.0))
    scored = Pairs("preferences", (Side("a", 0), Side("b", 1)), (pair,), {(0, 1): (1, 1)}, 1)
    made = contrast_packs.make([many(120, 8, 60), many(120, 8, 60, seed=1)], [scored])
    packs = dict(made.elements)
    first, second = map(len, packs["answers"])
    assert abs(first - second) <= 32
    assert first < 120
    row = packs["pairs"][0]["rows"][0]
    assert row[3] == [-1.235, -2.0]
    assert (len(row[4]), row[5]) == (1500, 1500)
    assert packs["pairs"][0]["lower"] == [[0, 1, 1, 1]]


@pytest.mark.parametrize("text", HOSTILE[3:9])
def test_hostile_text_is_made_visible_before_it_is_packed(text: str) -> None:
    item = Changed(
        text, 0, text, text, "RC", 1, (Said("refusal", text, text, False), Said("compliance", text, text, False))
    )
    block = Prompts(text, False, (Side(text, 0, apart=(text,)), Side(text, 1, missing=text)), (item,), 0)
    pair = Pair(text, text, text, text, text, (-1.0, -2.0), (-1.0, -2.0))
    made = contrast_packs.make([block], [Pairs(text, block.sides, (pair,), {}, 1)])

    def texts(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value]
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return [found for part in inner for found in texts(part)]

    packed = texts([value for _, value in made.elements])
    assert len(packed) > 20
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]", "".join(packed)
    )


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Pivot:
    directory = tmp_path_factory.mktemp("hostile")
    found = columns(directory, Fake("one"), Fake("two"), hostile=HOSTILE)
    cells = {("refusal-drop", "two"): {"mark": Mark.WORSE, "got_worse": True, "note": HOSTILE[0]}}
    return pivot(found, cells)


def test_the_page_is_one_file_that_runs_only_its_own_scripts(comparison: Pivot) -> None:
    text = contrast.render(contrast.contrast(comparison))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy[1]
    assert not re.search(r'(src|href)="(?!#|data:)', text)
    assert HOSTILE[0] not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.index("Worse than one: refusal-drop in two.") < text.index("<h2")
    assert len(text.encode()) < 2_000_000


def test_the_packs_of_the_page_hold_what_the_data_says(comparison: Pivot) -> None:
    shown = contrast.contrast(comparison)
    text = contrast.render(shown)
    packs = dict(re.findall(r'class="pack" id="([a-z]+)">([^<]+)<', text))
    assert set(packs) == {"comparison", "labels", "answers", "pairs"}
    labels = decode(packs["labels"])
    assert [[row[0] for row in block["rows"]] for block in labels] == [
        [visible(shorten(item.id, 200)) for item in block.changed] for block in shown.prompts
    ]
    course = decode(packs["comparison"])["courses"]["refusal-drop"]
    assert [point["value"] for point in course["points"]] == [-0.01, -0.01]
    assert [point["mark"] for point in course["points"]] == ["", "-"]


def test_tables_stand_in_the_html_for_readers_without_scripts(comparison: Pivot) -> None:
    text = contrast.render(contrast.contrast(comparison))
    body = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    for limit in ("refusal-drop", "harmful-answers", "chosen-fell"):
        assert f'id="limit-{limit}"' in body
        assert f'data-course="{limit}"' in body
    assert body.count('class="letter is-') > 10
    assert "log π of the chosen answer" in body


def test_write_draws_whole_or_not_at_all(comparison: Pivot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = contrast.write(comparison, tmp_path / "new" / "page.html")
    whole = path.read_bytes()
    assert whole.rstrip().endswith(b"</html>")

    def fail(_: Any) -> str:
        raise ValueError("no page")

    monkeypatch.setattr(contrast, "render", fail)
    with pytest.raises(ValueError, match="no page"):
        contrast.write(comparison, path)
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


def test_report_of_several_runs_draws_this_page_and_asks_where(tmp_path: Path, capsys: Any) -> None:
    two(tmp_path, **TINY)
    runs = [str(tmp_path / name) for name in "ab"]
    with pytest.raises(OptionError, match="several runs: say where their page goes with --output FILE"):
        app(["report", *runs], standalone_mode=False)
    with pytest.raises(OptionError, match="--model-card, --json and --candidate are for one run"):
        app(["report", *runs, "--json", "--output", str(tmp_path / "x")], standalone_mode=False)
    capsys.readouterr()
    app(["report", *runs, "--output", str(tmp_path / "page.html")], standalone_mode=False)
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "dpo-healthy" in text
    assert "dpo-displaced" in text


def test_compare_writes_this_page_beside_its_table(tmp_path: Path, capsys: Any) -> None:
    for name in "ab":
        columns(tmp_path / name, HEALTHY, **TINY)
    page = tmp_path / "page.html"
    code = app(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--html", str(page)], standalone_mode=False)
    assert code == 3, "the policy of these runs is no policy, so nothing could be compared"
    assert "refusal-drop" in capsys.readouterr().out
    text = page.read_text()
    assert "not readable by this version" in text
    assert '<header class="verdict none">' in text
