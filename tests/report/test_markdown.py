"""The step summary: verdict first, the record's numbers, escaped, bounded."""

from __future__ import annotations

from pathlib import Path

from report.factory import DISPLACED, HEALTHY, Fake, build, trajectory

from harness.report.markdown import MOST_BYTES, escaped, step_summary


def test_verdict_first_then_numbers(tmp_path: Path) -> None:
    text = step_summary(build(tmp_path, DISPLACED, with_tables=False))
    assert text.startswith("## Do not release dpo-displaced: 3 broken (refusal-drop, harmful-answers, yes-for-no).")
    assert "| refusal-drop | 0.752 | 0.342 | 0.410 \\[0.352, 0.468\\] | &#60;= 0.05 | 40 | **FAIL** |" in text
    assert "**FAIL**, warns only" in text


def test_release(tmp_path: Path) -> None:
    assert step_summary(build(tmp_path, HEALTHY, with_tables=False)).startswith("## Release dpo-healthy: all 5")


def test_invalid_and_unanswered_are_told_apart(tmp_path: Path) -> None:
    fake = Fake("x", values={"refusal-drop": 0.04}, unanswered={"gibberish": "deselected"})
    text = step_summary(build(tmp_path, fake, with_tables=False))
    assert "**INVALID** (undecided)" in text
    assert "**unanswered**" in text


def test_trajectory(tmp_path: Path) -> None:
    text = step_summary(build(tmp_path, *trajectory(), with_tables=False))
    assert "0.440" in text
    assert "Refusals fell before the log-probabilities did" in text


def test_warnings_come_before_the_numbers_and_are_bounded(tmp_path: Path) -> None:
    warnings = ("dpo-healthy: plain rows were used (no shared prefix)", *(f"note {index}" for index in range(29)))
    text = step_summary(build(tmp_path, HEALTHY, with_tables=False, warnings=warnings))
    assert "**30 warnings about how this was run:**\n\n- dpo-healthy: plain rows were used (no shared prefix)" in text
    assert text.index("plain rows") < text.index("| limit |")
    assert "- note 18\n- 10 more in the report" in text
    assert "note 19" not in text


def test_a_limit_by_token_and_a_metric_without_values_of_the_models(tmp_path: Path) -> None:
    text = step_summary(build(tmp_path, HEALTHY, with_tables=False, training=5))
    assert "| scores-predict | - | - | -0.010 \\[-0.030, 0.010\\] (per token) | &#60;= 0 (per token) | 60 |" in text


def test_hostile_text_is_not_markup(tmp_path: Path) -> None:
    fake = Fake("x", unanswered={"gibberish": "</td><script>x</script> | [a](javascript:b) `c`\n# big \x1b\u202e @all"})
    text = step_summary(build(tmp_path, fake, with_tables=False))
    for gone in ("<script>", "[a]", "`c`", "\n# big", "\x1b", "\u202e", "@all"):
        assert gone not in text
    assert escaped("a|b\nc") == "a&#124;b&#92;nc"
    assert "http://" not in escaped("see http://example.invalid")


def test_size_is_bounded(tmp_path: Path) -> None:
    fakes = [Fake(f"candidate-{index}", unanswered={"gibberish": "x" * 5000}) for index in range(150)]
    text = step_summary(build(tmp_path, *fakes, with_tables=False))
    assert len(text.encode()) < MOST_BYTES
    assert "more candidates are in the report" in text
    assert "policy `9f0243c1c912`" in text
