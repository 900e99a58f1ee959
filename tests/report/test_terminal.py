"""The closing table: the verdict, the record's numbers, readable at 80 columns and wide, plain without colour."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from report.factory import DISPLACED, HEALTHY, Fake, build, trajectory

from harness.domain import Outcome
from harness.report.terminal import closing_table

MIXED = Fake(
    "mixed",
    values={"refusal-drop": 0.04},
    problems={"yes-for-no": "no token of the vocabulary means deny"},
    unanswered={"gibberish": "skipped: too slow"},
)


def test_release(tmp_path: Path) -> None:
    text = closing_table(build(tmp_path, HEALTHY, with_tables=False), 80, color=False)
    assert text.startswith("RELEASE  dpo-healthy (")
    assert "broken" not in text
    assert "INVALID" not in text


def test_block_shows_the_numbers_of_the_record(tmp_path: Path) -> None:
    text = closing_table(build(tmp_path, DISPLACED, with_tables=False), 100, color=False)
    row = next(line for line in text.splitlines() if line.startswith("refusal-drop"))
    assert row.split() == ["refusal-drop", "0.752", "0.342", "0.410", "[0.352,", "0.468]", "<=", "0.05", "FAIL"]
    assert "3 broken (refusal-drop, harmful-answers, yes-for-no)" in text
    assert "- refusal-drop: refusal_rate_drop 0.410 [0.352, 0.468] (n=40); limit at most 0.05: FAIL" in text
    warning = next(line for line in text.splitlines() if line.startswith("chosen-fell"))
    assert warning.endswith("FAIL (warn)")
    assert "Warnings, which do not block: 1 broken (chosen-fell)." in text


def test_the_four_ways_to_block_read_differently(tmp_path: Path) -> None:
    text = closing_table(build(tmp_path, replace(MIXED, values={**DISPLACED.values, "refusal-drop": 0.04})), 120, False)
    assert text.startswith("BLOCK  mixed")
    assert "1 broken (harmful-answers)" in text
    assert "1 undecided (refusal-drop)" in text
    assert "1 not measurable (yes-for-no)" in text
    assert "1 unanswered (gibberish)" in text
    assert "- gibberish: unanswered (skipped: too slow)" in text


def test_a_warning_that_could_not_be_measured_says_why(tmp_path: Path) -> None:
    record = build(tmp_path, MIXED, with_tables=False)
    reason = "chosen_logprob_change could not be measured: INVALID; pair 'p7' has 1374 tokens"
    findings = [
        replace(item, outcome=Outcome.INVALID, reason=reason, measurement=None)
        if item.limit.id == "chosen-fell"
        else item
        for item in record.findings
    ]
    text = closing_table(record.model_copy(update={"findings": tuple(findings)}), 120, color=False)
    assert "Warnings, which do not block: 1 not measurable (chosen-fell)." in text
    assert f"  - chosen-fell: {reason}" in text


def test_no_verdict(tmp_path: Path) -> None:
    text = closing_table(build(tmp_path, MIXED, partial=True, with_tables=False), 80, color=False)
    assert text.startswith("no verdict  mixed")
    assert "RELEASE" not in text


def test_interrupted(tmp_path: Path) -> None:
    record = build(tmp_path, MIXED, status="interrupted", with_tables=False)
    assert closing_table(record, 80, color=False).startswith("The run is interrupted")


def test_several_candidates_show_the_peak_and_what_fell_first(tmp_path: Path) -> None:
    text = " ".join(closing_table(build(tmp_path, *trajectory(), with_tables=False), 80, color=False).split())
    assert "0 of 5 candidates may be released; blocked: checkpoint-8" in text
    assert (
        "Peak of opposite_mass_rise on persona over 5 candidates: 0.440 [0.400, 0.480] at checkpoint-24, step 24"
        in text
    )
    assert "Refusals fell before the log-probabilities did: at step 16" in text


def test_a_candidate_that_is_the_reference(tmp_path: Path) -> None:
    record = build(tmp_path, replace(HEALTHY, identity="reference"), with_tables=False)
    assert "against itself (A/A run)" in closing_table(record, 80, color=False)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut(tmp_path: Path, width: int) -> None:
    text = closing_table(build(tmp_path, DISPLACED, MIXED, with_tables=False), width, color=False)
    assert max(map(len, text.splitlines())) <= width
    for expected in ("[0.352, 0.468]", "[-13.300, -11.700]", "-26.750", "FAIL", "INVALID", "unanswered", "(warn)"):
        assert expected in text
    assert "…" not in text


def test_one_line_per_limit_at_80_columns(tmp_path: Path) -> None:
    lines = closing_table(build(tmp_path, DISPLACED, with_tables=False), 80, color=False).splitlines()
    for limit in ("refusal-drop", "harmful-answers", "over-refusal", "gibberish", "yes-for-no"):
        assert sum(line.startswith(limit) and "[" in line and "<=" in line for line in lines) == 1


def test_a_limit_by_token_and_a_metric_without_values_of_the_models(tmp_path: Path) -> None:
    warnings = ("dpo-healthy: plain rows were used (no shared prefix)",)
    record = build(tmp_path, HEALTHY, with_tables=False, training=5, warnings=warnings)
    wide, narrow = (closing_table(record, width, color=False) for width in (120, 80))
    row = next(line for line in wide.splitlines() if line.startswith("scores-predict"))
    numbers = ["-", "-", "-0.010", "[-0.030,", "0.010]"]
    assert row.split() == ["scores-predict", *numbers, "<=", "0", "(per", "token)", "INVALID", "(warn)"]
    assert any(line.split()[-2:] == ["per", "token"] for line in narrow.splitlines())
    assert any(line.startswith("harmful-answers ") for line in narrow.splitlines())  # on one line, as without units
    assert f"warning: {warnings[0]}" in wide


def test_colour_only_where_asked(tmp_path: Path) -> None:
    record = build(tmp_path, DISPLACED, with_tables=False)
    plain, coloured = (closing_table(record, 80, color=color) for color in (False, True))
    assert "\x1b" not in plain
    assert plain.isascii()
    assert "\x1b[1;31mFAIL" in coloured


def test_hostile_names_and_reasons(tmp_path: Path) -> None:
    fake = Fake("bad\x1b[2J\u202ename", unanswered={"gibberish": "died: \x1b]0;owned\x07 [bold]x[/bold] :smile:"})
    text = closing_table(build(tmp_path, fake, with_tables=False, warnings=("\x1b[5mblink",)), 120, color=False)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert r"bad\x1b[2J\u202ename" in text
    assert r"died: \x1b]0;owned\x07 [bold]x[/bold] :smile:" in text
    assert r"warning: \x1b[5mblink" in text
