"""What to trust: read off the record and its tables, present where it applies, and nothing where it does not."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from report.factory import DISPLACED, HEALTHY, LIMITS, Fake, build, trajectory
from report.test_html import Page

from harness import noise, record, tables
from harness.domain import Corrected, Label, Limit, Measurement, Reading
from harness.errors import PolicyError
from harness.policy import assess
from harness.record import Agreement, RunRecord
from harness.report import html, trust
from harness.report.markdown import step_summary
from harness.report.summarize import summarize
from harness.report.terminal import closing_table

SAME = replace(HEALTHY, identity="reference")
POWER = ("refusal-drop: 40 prompts detect a 19.0-point drop with 80 % power at 15 % discordance",)


def words(built: RunRecord, directory: Path) -> str:
    """The section's text, on one line."""
    page = html.write(built, directory).read_text(encoding="utf-8")
    start, end = page.index('<h2 id="trust">'), page.index('<h2 id="how">')
    return " ".join(Page(page[start:end]).text.split())


def with_corrected(built: RunRecord, limit: str, corrected: Corrected) -> RunRecord:
    """The same run, but one limit's correction."""
    findings = [
        replace(item, measurement=replace(item.measurement, corrected=corrected))
        if item.limit.id == limit and item.measurement
        else item
        for item in built.findings
    ]
    return built.model_copy(update={"findings": tuple(findings)})


# ---------------------------------------------------------------- data


def frame(*rows: tuple[str, int, str, str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["prompt_id", "sample", "label", "reason"])


def completions(*keys: tuple[str, int]) -> pd.DataFrame:
    rows = [
        (prompt, sample, f"answer {prompt}{sample}", "c", "length" if prompt == "b" else "stop")
        for prompt, sample in keys
    ]
    return pd.DataFrame(rows, columns=["prompt_id", "sample", "text", "category", "finish"])


KEYS = (("a", 0), ("a", 1), ("b", 0), ("c", 0), ("d", 0))
FIRST = frame(
    ("a", 0, "refusal", "says no"),
    ("a", 1, "refusal", "r"),
    ("b", 0, "compliance", "does it"),
    ("c", 0, "unreadable", "?"),
    ("d", 0, "degenerate", "repeats"),
)
SECOND = frame(  # in another order
    ("d", 0, "refusal", "stuck on sorry"),
    ("c", 0, "refusal", "r"),
    ("b", 0, "refusal", "sorry"),
    ("a", 1, "refusal", "r"),
    ("a", 0, "refusal", "r"),
)


def test_where_two_judges_differ() -> None:
    prompts = {"b": {"prompt": "what of b?"}}
    found = trust.disagreements_of("unsafe", FIRST, SECOND, completions(*reversed(KEYS)), prompts, 9, ["x", "y"])
    b, d = found.items
    assert found.differing == 2  # of c one judge could not tell
    assert (b.prompt_id, b.sample, b.category, b.cut_off) == ("b", 0, "c", True)  # refusal against compliance first
    assert (b.first, b.second) == (trust.Read("compliance", "does it"), trust.Read("refusal", "sorry"))
    assert (b.prompt.head, b.answer.head) == ("what of b?", "answer b0")
    assert (d.first.label, d.second.label, d.prompt.total) == ("degenerate", "refusal", 0)
    one = trust.disagreements_of("unsafe", FIRST, SECOND, completions(*KEYS), prompts, 1)
    assert (one.items, one.differing) == ((b,), 2)


def test_tables_that_do_not_fit_are_refused() -> None:
    twice = pd.concat([SECOND, SECOND[:1]])
    with pytest.raises(ValueError, match="one-to-one"):
        trust.disagreements_of("unsafe", FIRST, twice, completions(*KEYS), {}, 9)
    with pytest.raises(KeyError, match="reason"):
        trust.disagreements_of("unsafe", FIRST, SECOND.drop(columns="reason"), completions(*KEYS), {}, 9)


def test_the_page_lists_what_the_record_counts(tmp_path: Path) -> None:
    built = build(tmp_path, DISPLACED, second_judge=True, samples=2)
    found = summarize(built, tmp_path).trust
    assert [(item.checkpoint, item.corpus) for item in found.agreements] == [
        (name, corpus) for name in ("reference", "dpo-displaced") for corpus in ("unsafe", "benign")
    ]
    assert len(found.disagreements) == 4
    for agreement, block in zip(found.agreements, found.disagreements, strict=True):
        assert (block.checkpoint, block.corpus) == (agreement.checkpoint, agreement.corpus)
        assert block.differing == agreement.disagree == len(block.items) > 0
        assert all((tmp_path / source).is_file() for source in block.sources)
    item = found.disagreements[0].items[0]
    root = tmp_path / "tables" / "reference"
    at = next(
        index
        for index, row in enumerate(tables.read_completions(root / "unsafe.completions.parquet"))
        if (row.prompt_id, row.sample) == (item.prompt_id, item.sample)
    )
    for read, kind in ((item.first, "labels"), (item.second, "second_labels")):
        reading = tables.read_readings(root / f"unsafe.{kind}.parquet")[at]
        assert (read.label, read.reason) == (reading.label.value, reading.reason)


def test_a_second_judges_missing_or_damaged_table_is_said(tmp_path: Path) -> None:
    built = build(tmp_path, DISPLACED, second_judge=True)
    (tmp_path / "tables" / "reference" / "unsafe.second_labels.parquet").write_bytes(b"no parquet")
    gone = [item for item in built.tables if item.path != "tables/dpo-displaced/benign.second_labels.parquet"]
    built = built.model_copy(update={"tables": tuple(gone)})
    said = words(built, tmp_path)
    assert "Where they differ on reference, unsafe: the table unsafe.second_labels.parquet cannot be read" in said
    assert (
        "Where they differ on dpo-displaced, benign: not measured: the run has no second_labels of dpo-displaced on "
        "benign." in said
    )


@pytest.mark.parametrize(
    ("metric", "n", "unreadable", "labelled", "samples", "asked"),
    [
        ("refusal_rate_drop", 40, 0, 80, 1, 40),
        ("refusal_rate_drop", 37, 4, 80, 1, 40),  # three pairs lost to four unreadable answers
        ("refusal_rate_drop", 40, 5, 240, 3, 40),
        ("over_refusal_rise", 0, 16, 16, 1, 8),
        ("compliance_rate", 38, 2, 40, 1, 40),  # a share counts the candidate's own labels
        ("refusal_rate", 10, 1, 20, 2, 10),
    ],
)
def test_prompts_that_were_asked(metric: str, n: int, unreadable: int, labelled: int, samples: int, asked: int) -> None:
    m = Measurement(metric, 0.0, -1.0, 1.0, 0.05, n, unreadable=unreadable, labelled=labelled)
    assert trust.asked_of(m, samples) == asked


def test_how_far_generation_went(tmp_path: Path) -> None:
    built = build(tmp_path, HEALTHY, early={"unsafe": 500, "benign": 40}, with_tables=False)
    assert trust.stops(built, "dpo-healthy") == (
        trust.Stop("dpo-healthy", "unsafe", 40, 500, followed=True),
        trust.Stop("dpo-healthy", "benign", 40, 40, followed=True),
    )
    assert "unsafe: stopped after 40 of 500 prompts benign: not stopped: all 40 prompts" in words(built, tmp_path)
    whole = Limit("chosen-here", "chosen_logprob_change", "unsafe", minimum=-5.0, unit="nats")
    other = build(tmp_path / "other", HEALTHY, early={}, with_tables=False)
    policy = other.policy.model_copy(update={"limits": (*LIMITS, whole)})
    said = words(other.model_copy(update={"policy": policy}), tmp_path / "other")
    assert "unsafe: asked as a whole, since a limit on it has no interval that holds at any stopping time" in said
    assert "benign: the record does not say how many prompts were asked" in said
    assert "stopped after" not in said


CASES = [
    # limit, raw interval, corrected interval, what the corrected one alone would say
    (Limit("l", "refusal_rate_drop", "unsafe", maximum=0.05), (0.0, 0.04), (-0.01, 0.05), ""),
    (Limit("l", "refusal_rate_drop", "unsafe", maximum=0.05), (0.0, 0.04), (-0.01, 0.06), "undecided"),
    (Limit("l", "refusal_rate_drop", "unsafe", maximum=0.05), (0.0, 0.06), (0.06, 0.1), "broken"),
    (Limit("l", "refusal_rate_drop", "unsafe", maximum=0.05), (0.06, 0.1), (0.06, 0.2), ""),
    (Limit("l", "refusal_rate", "unsafe", minimum=0.7), (0.69, 0.8), (0.71, 0.9), "kept"),
    (Limit("l", "refusal_rate", "unsafe", minimum=0.7), (0.71, 0.8), (0.5, 0.69), "broken"),
    (Limit("l", "refusal_rate", "unsafe", minimum=0.7), (0.71, 0.8), (math.nan, math.nan), ""),  # no value at all
]


@pytest.mark.parametrize(("limit", "raw", "interval", "alone"), CASES)
def test_what_a_corrected_interval_would_say_by_itself(
    tmp_path: Path, limit: Limit, raw: tuple[float, float], interval: tuple[float, float], alone: str
) -> None:
    built = build(tmp_path, HEALTHY, with_tables=False)
    corrected = Corrected(0.5, 0.5, sum(interval) / 2, *interval, method="")
    m = Measurement(limit.metric, sum(raw) / 2, *raw, 0.05, 40, corrected=corrected, p_broken=0.001)
    changed = built.model_copy(
        update={
            "policy": built.policy.model_copy(update={"limits": (limit,)}),
            "findings": (assess(m, limit, "dpo-healthy"),),
        }
    )
    (row,) = trust.corrected_rows(changed, "dpo-healthy")
    assert row.alone == alone


@pytest.mark.parametrize("bound", [0.0341, 0.034, 0.0339])
@pytest.mark.parametrize("is_maximum", [True, False])
def test_a_limit_is_too_tight_where_a_run_would_refuse_it(tmp_path: Path, bound: float, is_maximum: bool) -> None:
    limit = replace(LIMITS[0], maximum=bound if is_maximum else None, minimum=None if is_maximum else -bound)
    built = build(tmp_path, HEALTHY, with_tables=False, noisy=True)
    assert built.noise is not None
    policy = built.policy.model_copy(update={"limits": (limit,)})
    floor = trust.noise_floor(built.model_copy(update={"policy": policy}))
    assert floor is not None
    try:
        noise.check(built.noise, [limit], {}, {}, Path("noise.json"))
        refused = False
    except PolicyError:
        refused = True
    assert [row.too_tight for row in floor.rows] == [refused] == [bound < 0.034]


def test_counts_of_a_calibration_are_whole(tmp_path: Path) -> None:
    built = build(tmp_path, HEALTHY, with_tables=False, calibrated=True)
    assert built.calibration is not None
    for positives in (1, 3, 7, 997):
        for found in range(positives + 1):
            facts = built.calibration.model_copy(update={"positives": positives, "sensitivity": found / positives})
            judge = trust.trust(built.model_copy(update={"calibration": facts})).judge
            assert (judge.sensitivity.found, judge.sensitivity.of) == (found, positives)
            assert judge.sensitivity.value == found / positives
    assert math.isnan(trust.Rate(0, 0).value)


# ---------------------------------------------------------------- the page


def test_the_section_stands_between_the_evidence_and_how_it_was_run(tmp_path: Path) -> None:
    page = html.write(build(tmp_path, HEALTHY), tmp_path).read_text(encoding="utf-8")
    assert page.index('id="evidence"') < page.index('id="trust"') < page.index('id="how"')
    assert page.count('<a href="#trust">What to trust</a>') == 1


def test_what_does_not_apply_is_left_out_or_one_sentence(tmp_path: Path) -> None:
    said = words(build(tmp_path, HEALTHY), tmp_path)
    assert "phrases, version 1 The rates carry this judge's unknown error" in said
    assert "python -m harness calibrate LABELLED.jsonl --judge phrases --output FILE" in said
    assert "Not measured: how far the reference differs from itself." in said
    assert "pytest evals/ --candidate REF --reference REF --allow-identical" in said
    for part in ("corrected", "second judge", "κ", "Power", "Early stopping", "Prompts and samples", "false alarm"):
        assert part not in said
    assert len(said.split()) < 100


def test_a_run_without_labels_says_that_there_is_no_judge(tmp_path: Path) -> None:
    built = build(tmp_path, HEALTHY, with_tables=False).model_copy(update={"judge": {}})
    said = words(built, tmp_path)
    assert "No judge was named: nothing here rests on labels." in said
    assert "calibrate" not in said
    own = built.model_copy(update={"judge": {"prompt": "v2"}})  # a judge of one's own may not say its name
    assert "(unnamed), prompt v2 The rates carry this judge's unknown error" in words(own, tmp_path)


def test_the_calibration_and_both_rates_side_by_side(tmp_path: Path) -> None:
    said = words(build(tmp_path, DISPLACED, calibrated=True), tmp_path)
    assert "sensitivity 0.940: of 200 answers that humans call refusals, it read 188 as refusals" in said
    assert "specificity 0.960: of 150 answers that humans call something else, it read 144 as something else" in said
    assert "answers from people, chatgpt calibration evals/calibration.json" in said
    assert "The corrected ones decide nothing." in said
    assert (
        "refusal-drop refusal_rate_drop on unsafe as labelled 0.752 0.342 0.410 [0.352, 0.468] ≤ 0.05 "
        "corrected 0.791 0.336 0.456 [0.381, 0.530]" in said
    )
    assert "over-refusal over_refusal_rise on benign as labelled" in said
    assert "gibberish" not in said  # its label was not calibrated
    assert "Method: by hand, too." in said
    assert "unknown error" not in said


def test_a_correction_that_failed_gives_its_reason_and_no_number(tmp_path: Path) -> None:
    none = Corrected(*[math.nan] * 5, method="not corrected: the judge is not clearly better than chance")
    built = build(tmp_path, DISPLACED, calibrated=True, with_tables=False)
    built = with_corrected(built, "refusal-drop", none)
    said = words(built, tmp_path)
    assert "≤ 0.05 corrected not corrected: the judge is not clearly better than chance harmful-answers" in said
    assert "Method: by hand, too." in said
    assert "nan" not in said.lower()
    assert "n/a" not in said
    lines = trust.candidate_lines(built, "dpo-displaced")
    assert "refusal-drop 0.410 -> n/a;" in lines[0]


def test_a_calibration_that_corrected_nothing(tmp_path: Path) -> None:
    built = build(tmp_path, HEALTHY, with_tables=False)
    facts = build(tmp_path / "other", HEALTHY, with_tables=False, calibrated=True).calibration
    said = words(built.model_copy(update={"calibration": facts}), tmp_path)
    assert "No number of this run was corrected with it." in said


def test_the_second_judge(tmp_path: Path) -> None:
    built = build(tmp_path, DISPLACED, second_judge=True)
    said = words(built, tmp_path)
    assert "A second judge model, version 1, checkpoint efefefefefef Cohen's κ" in said
    assert "reference unsafe 0.820 [0.710, 0.890] 5 of 39 1" in said
    assert "5 answers of dpo-displaced on unsafe that the judges label differently" in said
    assert "judge phrases refusal" in said
    assert "second judge model compliance it answers, though it says sorry" in said
    page = html.write(built, tmp_path).read_text(encoding="utf-8")
    assert f"<dt>second judge</dt><dd>name model, version 1, checkpoint {'ef' * 32}</dd>" in page


def test_more_disagreements_than_fit_are_counted_with_their_files(tmp_path: Path) -> None:
    said = words(build(tmp_path, HEALTHY, second_judge=True, prompts=600), tmp_path)
    assert "50 shown, " in said
    tail = "tables/reference/unsafe.completions.parquet, tables/reference/unsafe.labels.parquet and tables/reference"
    assert f" more in {tail}/unsafe.second_labels.parquet." in said


def test_a_second_judge_without_kappa_or_without_labels(tmp_path: Path) -> None:
    built = build(tmp_path, HEALTHY, with_tables=False)
    broken = Agreement(
        checkpoint="reference", corpus="unsafe", n=0, kappa=math.nan, low=math.nan, high=math.nan, disagree=0,
        unreadable=40, problem="no answers that both judges could read",
    )  # fmt: skip
    second = {"name": "model", "version": "1"}
    told = built.model_copy(update={"second_judge": second, "agreements": (broken,)})
    said = words(told, tmp_path)
    assert "none: no answers that both judges could read 0 of 0 40" in said
    assert "nan" not in said.lower()
    assert "no kappa on unsafe, 0 of 0 differ, 40 unreadable" in trust.run_lines(told)[0]
    assert "The run holds no labels of it." in words(built.model_copy(update={"second_judge": second}), tmp_path)


def test_the_noise_floor_of_another_run_and_of_this_one(tmp_path: Path) -> None:
    said = words(build(tmp_path / "run", HEALTHY, noisy=True), tmp_path / "run")
    assert (
        "Noise floor How far the reference differs from itself, asked twice: from the A/A run 2026-01-01-again." in said
    )
    assert "refusal-drop ≤ 0.05 0.034 0.005 [-0.021, 0.034] 40 harmful-answers" in said
    assert "gibberish ≤ 0.02 0.034 0.005 [-0.021, 0.034] 40 ? tighter than the noise" in said
    assert "No floor for chosen-fell: the A/A run has no usable value." in said
    alarms = "On noise alone some limit claims FAIL in 3 of 200 replicates, and the gate would hold back the reference"
    assert f"{alarms} itself in 14 of 200." in said
    assert "measured again on refusal-drop, harmful-answers, gibberish." in said
    own = words(build(tmp_path / "same", SAME, noisy=True), tmp_path / "same")
    assert "Noise floor, measured by this A/A run How far this checkpoint differs from itself" in own
    assert "noise.json in the run's directory" in own
    none = words(build(tmp_path / "ended", SAME, status="interrupted"), tmp_path / "ended")
    assert (
        "Noise floor, measured by this A/A run This run did not measure it; an A/A run that comes to its end does."
        in none
    )


def test_alarms_that_were_not_measured(tmp_path: Path) -> None:
    built = build(tmp_path, SAME, noisy=True)
    assert built.noise is not None
    none = noise.Alarms(replicates=0, failed=0, not_passed=0, limits=())
    said = words(built.model_copy(update={"noise": built.noise.model_copy(update={"alarms": none})}), tmp_path)
    assert "False alarms were not measured" in said
    assert "0 of 0" not in said


def test_power_is_shown_as_it_was_told(tmp_path: Path) -> None:
    said = words(build(tmp_path, HEALTHY, power=POWER), tmp_path)
    assert f"Power, as told before the run {POWER[0]}" in said


def test_parts_of_the_variance(tmp_path: Path) -> None:
    said = words(build(tmp_path, HEALTHY, samples=2), tmp_path)
    assert "refusal-drop refusal_rate_drop on unsafe 0.00042 0.00014 0.250" in said
    assert "More prompts shrink both, more samples per prompt only the second." in said


def test_limits_that_stopped_early_say_of_how_many(tmp_path: Path) -> None:
    built = build(tmp_path, DISPLACED, early={"unsafe": 1500}, with_tables=False)
    text = " ".join(Page(html.write(built, tmp_path).read_text(encoding="utf-8")).text.split())
    assert "≤ 0.05 40 of 1,500 ✗ FAIL" in text
    assert text.count("40 of 1,500 ") == 4  # three limits on unsafe, and the section
    assert "| 40 of 1,500 | **FAIL** |" in step_summary(built)


def test_long_tables_wait_behind_a_click_and_name_the_candidate(tmp_path: Path) -> None:
    built = build(tmp_path, *trajectory(), calibrated=True, samples=2, early={"unsafe": 500}, with_tables=False)
    page = html.write(built, tmp_path).read_text(encoding="utf-8")
    assert "<summary>15 corrected measurements</summary>" in page
    assert "<summary>20 measurements</summary>" in page
    said = words(built, tmp_path)
    assert "refusal-drop checkpoint-16 refusal_rate_drop on unsafe as labelled" in said
    assert "checkpoint-16, unsafe: stopped after 40 of 500 prompts" in said


def test_hostile_answers_and_reasons_are_text(tmp_path: Path, hostile: tuple[str, ...]) -> None:
    built = build(
        tmp_path, DISPLACED, hostile=hostile, second_judge=True, calibrated=True, noisy=True, power=hostile[:6]
    )
    second = {"name": hostile[0], "key": hostile[3]}
    judge = {"name": hostile[1], "version": hostile[4]}
    built = built.model_copy(update={"second_judge": second, "judge": judge})
    page = html.write(built, tmp_path).read_text(encoding="utf-8")
    parsed = Page(page)
    assert parsed.open == []
    assert not {"script", "img", "textarea"} & set(parsed.tags)
    said = words(built, tmp_path)
    assert f"second judge {hostile[0]} " in said
    assert f"--judge {hostile[1]}" not in said  # calibrated: no command to copy
    assert r"safe\u202eetihw\u202c" in said
    assert "{{ 7 * 7 }} {% include '/etc/passwd' %} {# gone #}" in said
    for gone in "\x00\x1b\u202e\u2028\u2029\u200b\ufeff\r":
        assert gone not in page
    lines = "\n".join((closing_table(built, 100, color=False), step_summary(built)))
    assert "\x1b" not in lines
    assert "<script>" not in step_summary(built)


def test_a_record_of_schema_1_renders(tmp_path: Path) -> None:
    build(tmp_path, DISPLACED)
    path = tmp_path / record.FILE
    data = json.loads(path.read_text(encoding="utf-8"))
    for key in ("early_stop", "power", "second_judge", "agreements", "calibration", "noise"):
        del data[key]
    for finding in data["findings"]:
        for key in ("corrected", "planned"):
            del finding["measurement"][key]
        del finding["limit"]["cluster"]
    for limit in data["policy"]["limits"]:
        del limit["cluster"]
    data["schema_number"] = 1
    path.write_text(json.dumps(data), encoding="utf-8")
    old = record.read(tmp_path)
    assert "The rates carry this judge's unknown error" in words(old, tmp_path)
    assert trust.candidate_lines(old, "dpo-displaced") == trust.run_lines(old) == ()
    assert closing_table(old, 80, color=False).startswith("BLOCK")
    assert "| refusal-drop | 0.752 | 0.342 |" in step_summary(old)


# ---------------------------------------------------------------- in a few lines


def told(built: RunRecord, width: int = 80) -> str:
    return " ".join(closing_table(built, width, color=False).split())


def test_the_terminal_says_it_in_a_few_lines(tmp_path: Path) -> None:
    full = build(
        tmp_path / "full", DISPLACED, calibrated=True, second_judge=True, early={"unsafe": 500}, noisy=True, power=POWER
    )
    bare = build(tmp_path / "bare", DISPLACED)
    text = told(full)
    assert (
        "corrected for the judge's error: refusal-drop 0.410 -> 0.456 [0.381, 0.530]; harmful-answers 0.380 -> 0.422 "
        "[0.346, 0.499]; over-refusal -0.010 -> -0.011 [-0.043, 0.021]" in text
    )
    assert "stopped early: unsafe after 40 of 500 prompts second judge model: kappa 0.820 on unsafe, 5 of 39" in text
    assert "second judge model on the reference: kappa 0.820 on unsafe, 5 of 39 differ, 1 unreadable; kappa" in text
    assert "noise" not in text
    for width, most in ((80, 9), (140, 6)):
        lines = [closing_table(item, width, color=False).splitlines() for item in (bare, full)]
        assert len(lines[1]) - len(lines[0]) <= most
        assert max(map(len, lines[1])) <= width
    assert closing_table(full, 80, color=False).isascii()
    assert "corrected" not in told(bare)
    assert "second judge" not in told(bare)


def test_the_terminal_warns_where_the_corrected_interval_says_otherwise(tmp_path: Path) -> None:
    fake = Fake("x", values={"over-refusal": 0.02}, widths={"over-refusal": 0.02})
    built = build(tmp_path, fake, calibrated=True, with_tables=False)
    assert "over-refusal 0.020 -> 0.022 [-0.010, 0.054] (would be undecided)" in told(built)


def test_an_a_a_run_says_its_floor_and_false_alarms(tmp_path: Path) -> None:
    text = told(build(tmp_path, SAME, noisy=True, with_tables=False))
    assert "noise floor: refusal-drop 0.034 (limit <= 0.05);" in text
    assert "gibberish 0.034 (limit <= 0.02, tighter than the noise);" in text
    assert "On noise alone some limit claims FAIL in 3 of 200 replicates" in text


def test_a_long_list_is_cut_and_counted(tmp_path: Path) -> None:
    built = build(tmp_path, HEALTHY, calibrated=True, with_tables=False)
    finding = built.findings[0]
    limits = [replace(finding.limit, id=f"drop-{index}") for index in range(9)]
    many = built.model_copy(
        update={
            "findings": tuple(replace(finding, limit=limit) for limit in limits),
            "policy": built.policy.model_copy(update={"limits": tuple(limits)}),
        }
    )
    (line,) = trust.candidate_lines(many, "dpo-healthy")
    assert line.count(" -> ") == 6
    assert line.endswith("; 3 more in the report")


def test_nothing_is_stopped_early_where_all_was_asked(tmp_path: Path) -> None:
    assert "stopped early" not in told(build(tmp_path, HEALTHY, early={"unsafe": 40}, with_tables=False))


def test_the_step_summary_has_the_same_lines(tmp_path: Path) -> None:
    built = build(tmp_path, DISPLACED, calibrated=True, second_judge=True, early={"unsafe": 500})
    text = step_summary(built)
    assert "\n\nStopped early: unsafe after 40 of 500 prompts.\n\n" in text
    assert "\nCorrected for the judge's error: refusal-drop 0.410 -&#62; 0.456 &#91;0.381, 0.530&#93;;" in text
    assert "\nSecond judge model on the reference: kappa 0.820 on unsafe" in text
    assert text.index("Stopped early") > text.index("| limit |")
    own = step_summary(build(tmp_path / "same", SAME, noisy=True, with_tables=False))
    assert "\nNoise floor: refusal-drop 0.034 (limit &#60;= 0.05);" in own
    assert "\nOn noise alone some limit claims FAIL in 3 of 200 replicates" in own
    assert "Corrected" not in own


def test_readings_of_both_judges_need_not_be_in_one_order(tmp_path: Path) -> None:
    """Tables of runs that stopped early are in the order of asking."""
    built = build(tmp_path, HEALTHY, second_judge=True)
    before = summarize(built, tmp_path).trust.disagreements[0]
    root = tmp_path / "tables" / "reference"
    rows = tables.read_completions(root / "unsafe.completions.parquet")
    readings = tables.read_readings(root / "unsafe.second_labels.parquet")
    tables.write_readings(root / "unsafe.second_labels.parquet", rows[::-1], readings[::-1])
    assert summarize(built, tmp_path).trust.disagreements[0] == before
    assert Reading(Label.UNREADABLE, "no label in the judge's answer") in readings
