"""The closing table: the verdict, the record's numbers, readable at 80 columns and wide, plain without colour."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from report.factory import DISPLACED, HEALTHY, Fake, build, trajectory

from harness import __main__
from harness.domain import Limit, Outcome
from harness.record import RunRecord
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


def renamed(record: RunRecord, *ids: str) -> RunRecord:
    """The run with other ids of its limits, in the policy's order."""
    names = dict(zip((item.id for item in record.policy.limits), ids, strict=False))

    def other(limit: Limit) -> Limit:
        return replace(limit, id=names.get(limit.id, limit.id))

    limits = tuple(map(other, record.policy.limits))
    findings = tuple(replace(item, limit=other(item.limit)) for item in record.findings)
    return record.model_copy(
        update={"policy": record.policy.model_copy(update={"limits": limits}), "findings": findings}
    )


@pytest.mark.parametrize("width", [60, 80, 200])
def test_ids_of_one_letter_have_their_heading_on_one_line(tmp_path: Path, width: int) -> None:
    record = renamed(build(tmp_path, DISPLACED, with_tables=False), *"abcdef")
    lines = closing_table(record, width, color=False).splitlines()
    (rule,) = (place for place, line in enumerate(lines) if line.startswith("---"))
    assert lines[rule - 1].startswith("limit ")
    assert [line.split()[0] for line in lines[rule + 1 :] if re.match("[a-f] ", line)] == list("abcdef")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_long_ids_are_whole_and_break_before_the_name_of_a_baseline(tmp_path: Path, width: int) -> None:
    ids = ("refusal-drop@production-2026-01", "x" * 70, "a-very-long-id-with-many-words-in-it-that-cannot-fit")
    record = renamed(build(tmp_path, DISPLACED, with_tables=False), *ids)
    text = closing_table(record, width, color=False)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    (rule,) = (place for place, line in enumerate(lines) if line.startswith("---"))
    shown = "".join(line.split(" ")[0] for line in lines[rule + 1 :] if not line.startswith(" "))
    assert all(name in shown for name in ids)
    first = {60: "refusal-", 80: "refusal-drop"}.get(width, "refusal-drop@production-2026-01")
    assert lines[rule + 1].split(" ")[0] == first
    assert width != 80 or lines[rule + 2].startswith("@production-")


def test_a_narrower_terminal_loses_nothing(tmp_path: Path) -> None:
    record = build(tmp_path, DISPLACED, with_tables=False)
    narrow, least = (closing_table(record, width, color=False) for width in (20, 60))
    assert narrow == least
    assert "FAIL" in least


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


@pytest.mark.parametrize(
    ("given", "color"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)]
)
def test_the_commands_are_plain_where_no_colour_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], color: bool
) -> None:
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in ({"TERM": "xterm"} | given).items():
        monkeypatch.setenv(name, value)
    assert __main__._terminal()["color"] is color


@pytest.mark.parametrize("width", range(60, 90, 3))
def test_no_line_is_a_command_to_a_ci_runner(tmp_path: Path, width: int) -> None:
    why = " ".join(["::stop-commands::x", "##[add-mask]e", "word"] * 8)
    record = build(tmp_path, Fake("x", unanswered={"gibberish": why}), with_tables=False, warnings=(why,))
    lines = closing_table(record, width, color=False).splitlines()
    assert any(line.lstrip().startswith(": :stop-commands::x") for line in lines)
    assert not [line for line in lines if line.lstrip().startswith("::") or "##[" in line]
