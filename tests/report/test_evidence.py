"""The items behind the numbers: words that differ, rankings that flipped, tokens that fell, masses over steps."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from difflib import ndiff
from pathlib import Path

import pytest
from report.factory import DISPLACED, HEALTHY, build, trajectory

from harness import tables
from harness.domain import ResponseScore
from harness.record import BaselineFacts
from harness.report import basis, html
from harness.report.evidence import risen
from harness.report.evidence.flips import differences
from harness.report.page import marked
from harness.report.summarize import summarize
from harness.report.text import excerpt

# ---------------------------------------------------------------- words that differ


def parts(text: str, spans: tuple[tuple[int, int], ...]) -> list[str]:
    return [text[start:stop] for start, stop in spans]


def test_words_that_differ_are_marked() -> None:
    a, b = "I will not help you with that, sorry.", "I will gladly help you with all of that, friend."
    ours, theirs = differences(a, b)
    assert parts(a, ours) == ["not", "sorry"]
    assert parts(b, theirs) == ["gladly", "all of", "friend"]


def test_what_is_not_marked_is_the_same_in_both() -> None:
    chance = random.Random(3)
    for _ in range(50):
        words = [chance.choice("abcdefgh") for _ in range(30)]
        other = [chance.choice("abcdefgh") if chance.random() < 0.3 else word for word in words]
        a, b = " ".join(words), " ".join(other)
        left, right = (
            [word for at, word in enumerate(text.split()) if not any(s <= 2 * at < e for s, e in spans)]
            for text, spans in zip((a, b), differences(a, b), strict=True)
        )
        assert left == right
        if not any(differences(a, b)):
            assert a == b or sum(line.startswith("  ") for line in ndiff(words, other)) < 0.3 * 30


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("", ""),
        ("same words here", "same words here"),
        ("one two three", "four five six seven"),
        ("", "new"),
        ("x", ""),
    ],
)
def test_equal_texts_and_texts_with_nothing_in_common_are_not_marked(a: str, b: str) -> None:
    assert differences(a, b) == ((), ())


def test_long_texts_are_compared_by_their_beginning() -> None:
    a, b = "word " * 100_000, "word " * 99_999 + "other"
    assert differences(a, b) == ((), ())


def test_marks_go_on_behind_the_click() -> None:
    text = excerpt("x " * 240 + "y " * 400)
    assert text.rest
    both = replace(text, marks=((478, 530), (600, 601)))
    assert marked.head_of(both, "del").endswith("x x <del>x y y y y y y y y y y </del>")
    assert marked.rest_of(both, "del").startswith("<del>y y y y y y y y y y y y y y y </del>y y")
    assert marked.head_of(both, "") + marked.rest_of(both, "") == text.shown


def test_marked_texts_are_escaped() -> None:
    text = replace(excerpt("a <b>\u202e</b> c"), marks=((2, 10),))
    assert marked.head_of(text, "ins") == ('a <ins>&lt;b&gt;<span class="esc">\\u202e</span>&lt;/b&gt;</ins> c')


def test_answers_to_what_should_be_refused_are_covered(tmp_path: Path) -> None:
    unsafe, benign = summarize(build(tmp_path, DISPLACED), tmp_path).candidates[0].labels
    assert not unsafe.benign
    assert benign.benign
    for flip in unsafe.flips:
        for side in (flip.reference, flip.candidate):
            assert side.covered == (side.label == "compliance")
    assert benign.flips
    assert not any(side.covered for flip in benign.flips for side in (flip.reference, flip.candidate))


def test_a_corpus_that_no_limit_calls_benign_is_covered(tmp_path: Path) -> None:
    built = build(tmp_path, DISPLACED)
    limits = tuple(limit for limit in built.policy.limits if limit.corpus != "benign")
    changed = built.model_copy(update={"policy": built.policy.model_copy(update={"limits": limits})})
    blocks = summarize(changed, tmp_path).candidates[0].labels
    assert [(block.corpus, block.benign) for block in blocks] == [("unsafe", False), ("benign", False)]


# ---------------------------------------------------------------- pairs


def test_rankings_are_counted_from_the_scores(tmp_path: Path) -> None:
    block = summarize(build(tmp_path, DISPLACED, pairs=80), tmp_path).candidates[0].displacement[0]
    before, after = (
        {item.pair_id: item for item in tables.read_scores(tmp_path / "tables" / name / "preferences.scores.parquet")}
        for name in ("reference", "dpo-displaced")
    )

    def higher(score: object, per_token: bool) -> bool:
        sides = [(side.logprob / (side.tokens if per_token else 1)) for side in (score.chosen, score.rejected)]  # type: ignore[attr-defined]
        return sides[0] > sides[1]

    for ranking, per_token in zip(block.rankings, (False, True), strict=True):
        moves = [(higher(before[name], per_token), higher(after[name], per_token)) for name in before]
        counted = (ranking.kept, ranking.lost, ranking.gained, ranking.never)
        assert counted == tuple(
            moves.count(move) for move in ((True, True), (True, False), (False, True), (False, False))
        )
        assert sum(counted) == 80
    assert block.rankings[0] != block.rankings[1]  # responses of different length


def test_tokens_sum_to_the_change_of_their_response(tmp_path: Path) -> None:
    block = summarize(build(tmp_path, DISPLACED), tmp_path).candidates[0].displacement[0]
    for pair in block.fell:
        assert pair.chosen_tokens is not None
        assert pair.rejected_tokens is not None
        assert pair.chosen_tokens.change == pytest.approx(pair.chosen_change)
        assert pair.rejected_tokens.change == pytest.approx(pair.rejected_change)
        assert math.fsum(token.ratio for token in pair.chosen_tokens.shown) == pytest.approx(pair.chosen_change)
        assert "".join(token.text for token in pair.chosen_tokens.shown).startswith("Sorry, I cannot help")
    assert block.coloured


def test_tokens_beyond_those_shown_are_summed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.report.evidence.displaced.MOST_TOKENS", 3)
    pair = summarize(build(tmp_path, DISPLACED), tmp_path).candidates[0].displacement[0].fell[0]
    tokens = pair.chosen_tokens
    assert tokens is not None
    assert (len(tokens.shown), tokens.hidden) == (3, pair.tokens - 3)
    assert math.fsum(item.ratio for item in tokens.shown) + tokens.hidden_ratio == pytest.approx(tokens.change)


@pytest.mark.parametrize("how", ["other tokens", "no texts", "no column"])
def test_tokens_that_cannot_be_compared_are_not_coloured(tmp_path: Path, how: str) -> None:
    built = build(tmp_path, DISPLACED)
    path = tmp_path / "tables" / "dpo-displaced" / "preferences.scores.parquet"
    if how == "no column":
        tables.read_frame(path).drop(columns=["chosen_pieces", "rejected_pieces"]).to_parquet(path)
    else:
        change = {"other tokens": lambda pieces: ("X", *pieces[1:]), "no texts": lambda pieces: ()}[how]
        scores = [
            replace(
                item,
                chosen=ResponseScore(item.chosen.token_logprobs, change(item.chosen.pieces)),
                rejected=ResponseScore(item.rejected.token_logprobs, change(item.rejected.pieces)),
            )
            for item in tables.read_scores(path)
        ]
        tables.write_scores(path, scores)
    block = summarize(built, tmp_path).candidates[0].displacement[0]
    assert len(block.fell) > 10
    assert all(pair.chosen_tokens is None for pair in block.fell)
    assert not block.coloured
    assert block.fell[0].texts is not None


def test_a_pair_that_is_there_twice_is_said(tmp_path: Path) -> None:
    built = build(tmp_path, DISPLACED)
    path = tmp_path / "tables" / "dpo-displaced" / "preferences.scores.parquet"
    scores = tables.read_scores(path)
    tables.write_scores(path, [*scores, scores[0]])
    assert "a pair is there twice" in summarize(built, tmp_path).candidates[0].displacement[0].missing


@pytest.mark.parametrize(
    ("ratio", "name", "text"),
    [(-2.0, "f3", "-2.000"), (-0.5, "f2", "-0.500"), (-0.1, "f1", "-0.100"), (0.0, "z", "0.000"), (0.09, "z", "+0.090"),
     (0.1, "g1", "+0.100"), (1.9, "g2", "+1.900"), (7.0, "g3", "+7.000"), (math.nan, "z", "n/a")],
)  # fmt: skip
def test_a_tokens_class_and_number(ratio: float, name: str, text: str) -> None:
    assert marked.ratio_class(ratio) == name
    assert marked.signed(ratio) == text


# ---------------------------------------------------------------- trajectory and basis


def test_masses_come_from_the_record_alone(tmp_path: Path) -> None:
    built = build(tmp_path, *trajectory(), with_tables=False)
    counts = {
        f"{role} {relation} mass": value
        for role, values in (("reference", (0.1, 0.8, 0.1)), ("candidate", (0.5, 0.3, 0.2)))
        for relation, value in zip(risen.RELATIONS, values, strict=True)
    }
    findings = tuple(
        replace(item, measurement=replace(item.measurement, counts=counts)) if item.limit.id == "yes-for-no" else item
        for item in built.findings
    )
    (course,) = risen.mass_courses(built.model_copy(update={"findings": findings}))
    assert course.corpus == "persona"
    assert [(point.step, point.opposite, point.benign, point.other) for point in course.points] == [
        (step, 0.5, 0.3, 0.2) for step in (8, 16, 24, 40, 64)
    ]
    assert (course.reference.opposite, course.reference.step) == (0.1, None)
    assert risen.mass_courses(built) == ()


def test_what_the_numbers_rest_on_is_one_line_each(tmp_path: Path) -> None:
    known = summarize(built := build(tmp_path, HEALTHY, calibrated=True, noisy=True), tmp_path).trust
    lines = {item.name: (item.text, item.weak) for item in basis.grounds(built, known)}
    assert lines == {
        "judge": (
            "phrases; by human labels it finds 94.0% of refusals (n = 200) and 96.0% of other answers (n = 150)",
            False,
        ),
        "noise floor": ("measured by the A/A run 2026-01-01-again; tighter than the noise: gibberish", True),
        "policy": (f"evals/policy.yaml, 6 limits, SHA-256 {built.policy.digest[:12]}", False),
        "commit": ("0123456789ab, with uncommitted changes", True),
        "environment": ("hf, cpu, float32, torch 2.9.0, python 3.11.9", False),
    }


def test_limits_against_a_baseline_stay_out_of_what_is_about_the_reference(tmp_path: Path) -> None:
    built = build(tmp_path, DISPLACED)
    facts = BaselineFacts(name="prod", run="2025-12-01", candidate="old", identity="ab" * 32, sha256="cd" * 32)
    first = built.findings[0]
    other = replace(first, limit=replace(first.limit, id="refusal-drop@prod", baseline="prod"))
    policy = built.policy.model_copy(update={"limits": (*built.policy.limits, other.limit)})
    built = built.model_copy(update={"findings": (*built.findings, other), "policy": policy, "baseline": facts})
    summary = summarize(built, tmp_path)
    (line,) = (item for item in basis.grounds(built, summary.trust) if item.name == "baseline")
    assert line.text.startswith("prod: ")
    assert "2025-12-01" in line.text
    assert "refusal-drop@prod" in [row.limit.id for row in summary.candidates[0].rows]
    shown = [item.limit.id for item in summary.candidates[0].labels[0].rates]
    assert shown == ["refusal-drop", "harmful-answers"]
    page = html.render(summary)
    assert 'id="baseline"' in page
    assert 'id="limit-refusal-drop@prod"' in page
    assert '<a href="#baseline">baseline</a>' in page


def test_what_is_not_known_is_weak(tmp_path: Path) -> None:
    built = build(tmp_path, HEALTHY).model_copy(update={"git": {}})
    lines = {item.name: item for item in basis.grounds(built, summarize(built, tmp_path).trust)}
    assert lines["judge"].text == "phrases; how often it is right was not measured"
    assert lines["noise floor"].text == "not measured"
    assert all(lines[name].weak for name in ("judge", "noise floor", "commit"))
    silent = built.model_copy(update={"judge": {}})
    assert basis.grounds(silent, summarize(silent, tmp_path).trust)[0].text == "none: nothing here rests on labels"
