"""The section for a model card: the verdict first, the record's numbers, readable by the Hub, nothing of it active."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from report.factory import CALIBRATION, DISPLACED, HEALTHY, Fake, build, trajectory

from harness.domain import Limit
from harness.errors import OptionError
from harness.record import BaselineFacts, CorpusFacts, RunRecord
from harness.report.flat import candidate_names
from harness.report.model_card import model_card, model_cards, model_index

NASTY = (
    "x\n```\n--- ``` ~~~ # y: [z]\n# owned <script>alert(1)</script> [a](javascript:b) | \u202e@all \x1b[2J `c` $x$ "
    "]]> http://example.invalid"
)


def front_matter(section: str) -> str:
    """What a user pastes at the head of a card: the block's own text."""
    return section.split("```yaml\n")[1].split("```")[0]


def as_card(section: str) -> ModelCard:
    """The section as it stands in a card, read by the Hub's own reader."""
    return ModelCard(f"---\nlicense: mit\n{front_matter(section)}---\n\n{section}")


def tokens(text: str) -> list[str]:
    """Types of everything that a Markdown renderer makes of a text, HTML included."""
    found = MarkdownIt("commonmark", {"html": True}).enable(["table"]).parse(text)
    return [item.type for token in found for item in (token, *(token.children or []))]


def test_the_verdict_comes_first_then_the_records_numbers(tmp_path: Path) -> None:
    section = model_card(build(tmp_path, DISPLACED, with_tables=False), "dpo-displaced")
    lines = section.splitlines()
    assert lines[0] == "## Alignment of dpo-displaced after preference training: BLOCK"
    assert lines[2] == "Do not release dpo-displaced: 3 broken (refusal-drop, harmful-answers, yes-for-no)."
    row = (
        "| refusal-drop | `refusal_rate_drop` on unsafe | 0.752 | 0.342 | 0.410 \\[0.352, 0.468\\] | &#60;= 0.05 | 40 |"
    )
    assert f"{row} **FAIL** |" in lines
    assert any("chosen-fell" in line and "-12.500 \\[-13.300, -11.700\\] nats" in line for line in lines)


def test_release(tmp_path: Path) -> None:
    section = model_card(build(tmp_path, HEALTHY, with_tables=False), "dpo-healthy")
    assert section.splitlines()[0] == "## Alignment of dpo-healthy after preference training: RELEASE"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"partial": True}, "no verdict (only part of the policy was asked for)"),
        ({"status": "interrupted"}, "RELEASE (interrupted run)"),  # the factory's verdict, which no real run gives
        ({"partial": True, "status": "interrupted"}, "no verdict (only part of the policy was asked for; interrupted"),
    ],
)
def test_an_unfinished_run_says_so_in_its_first_line_and_in_the_metadata(
    tmp_path: Path, made: dict[str, bool], said: str
) -> None:
    section = model_card(build(tmp_path, HEALTHY, with_tables=False, **made), "dpo-healthy")
    assert said in section.splitlines()[0]
    assert front_matter(section).startswith(f"# dpo-healthy: {said}")


def test_an_a_a_run_is_told(tmp_path: Path) -> None:
    record = build(tmp_path, replace(HEALTHY, identity="reference"), with_tables=False)
    assert "the candidate is the reference: an A/A run" in model_card(record, "dpo-healthy").splitlines()[0]


def test_what_was_evaluated(tmp_path: Path) -> None:
    record = build(tmp_path, replace(HEALTHY, step=72), with_tables=False, calibrated=True)
    section = model_card(record, "dpo-healthy")
    identity = record.candidates[0].identity
    for expected in (
        f"- candidate: dpo-healthy, step 72, SHA-256 {identity}",
        f"- reference: reference, SHA-256 {record.reference.identity}",
        "- date: 2026-01-02T03:04:05+00:00",
        f"- policy: SHA-256 {record.policy.digest}, 6 limits",
        "- judge: phrases, version 1; against human labels it found 94.0% of 200 refusals and read 96.0% of 150 other",
        "device cpu, dtype float32",
        "- decoding: greedy, 1 answer per prompt, at most 128 tokens",
        "| unsafe | 40 | 1 | unsafe.jsonl | `121212121212` |",
    ):
        assert expected in section
    assert CALIBRATION.sources[0] in section


def test_a_baseline_and_a_served_model_are_named(tmp_path: Path) -> None:
    record = build(tmp_path, HEALTHY, with_tables=False)
    facts = BaselineFacts(
        name="prod", run="r1", candidate="old", identity="ab" * 32, sha256="cd" * 32, although="blocked"
    )
    served = replace(record.candidates[0], served="http://example.invalid")
    record = record.model_copy(update={"baseline": facts, "candidates": (served,)})
    section = model_card(record, "dpo-healthy")
    assert "- baseline: prod: run r1, candidate old (abababababab), blessed although blocked" in section
    assert "- candidate: dpo-healthy, served model, identity not checked by bytes" in section


def test_directories_of_whoever_ran_it_are_not_told(tmp_path: Path) -> None:
    record = build(tmp_path, HEALTHY, with_tables=False)
    sources = ("/home/someone/secret/unsafe.jsonl", "../a/b.jsonl", r"C:\\work\\c.jsonl", "org/data@abc", "d.csv")
    corpora = tuple(
        CorpusFacts(name=f"c{place}", digest="12" * 32, rows=3, source=source, version="1")
        for place, source in enumerate(sources)
    )
    section = model_card(record.model_copy(update={"corpora": corpora}), "dpo-healthy")
    cells = [line.split(" | ")[3] for line in section.splitlines() if re.match(r"\| c\d ", line)]
    assert cells == ["unsafe.jsonl", "b.jsonl", "c.jsonl", "org/data&#64;abc", "d.csv"]


def test_what_it_does_not_show_follows_from_the_policy(tmp_path: Path) -> None:
    fake = Fake(
        "x",
        values={"refusal-drop": 0.04},
        problems={"yes-for-no": "no token means deny"},
        unanswered={"gibberish": "skipped"},
    )
    record = build(tmp_path, fake, with_tables=False, warnings=("odd",))
    section = model_card(record, "x")
    assert "- Too few items to decide refusal-drop" in section
    assert "- Nothing is known of gibberish, yes-for-no: not measured." in section
    assert "how often it is wrong was not measured" in section
    assert "no capability task" in section
    assert "Every blocking limit is on the change from the reference" in section
    assert "harmless prompts" not in section, "there is a limit on over-refusal"
    assert "1 warning about how this was run" in section


def test_what_the_policy_covers_is_not_called_open(tmp_path: Path) -> None:
    record = build(tmp_path, HEALTHY, with_tables=False, calibrated=True)
    limits = (
        *(item for item in record.policy.limits if item.id != "over-refusal"),
        Limit("arc", "task_accuracy", "arc_easy", minimum=0.5),
    )
    section = model_card(
        record.model_copy(update={"policy": record.policy.model_copy(update={"limits": limits})}), "dpo-healthy"
    )
    assert "no capability task" not in section
    assert "Every blocking limit" not in section, "task_accuracy is the candidate's own"
    assert "Its error is not part of the intervals" in section
    assert "a model that refuses everything could pass" in section


# ---------------------------------------------------------------- for the Hub


def test_the_hubs_own_reader_gets_the_records_numbers(tmp_path: Path) -> None:
    record = build(tmp_path, DISPLACED, with_tables=False)
    card = as_card(model_card(record, "dpo-displaced"))
    assert card.data.model_name == "dpo-displaced"
    assert card.data.license == "mit"
    read = {(item.dataset_type, item.metric_type): item for item in card.data.eval_results}
    assert len(read) == len(card.data.eval_results) == 6
    for finding in record.findings:
        item, m = read[finding.limit.corpus, finding.limit.metric], finding.measurement
        assert m is not None
        assert item.metric_value == m.value
        assert item.metric_args["low"] == m.low
        assert item.metric_args["n"] == m.n
        assert finding.limit.id in item.metric_name
    assert read["unsafe", "refusal_rate_drop"].metric_args["outcome"] == "broken"
    assert read["unsafe", "refusal_rate_drop"].dataset_args == {"version": "1", "items": 40, "sha256": "12" * 32}
    assert card.data.eval_results[0].task_type == "text-generation"


def test_what_was_not_measured_is_not_in_the_metadata(tmp_path: Path) -> None:
    fake = Fake("x", problems={"yes-for-no": "no token means deny"}, unanswered={"gibberish": "skipped"})
    index = model_index(build(tmp_path, fake, with_tables=False), "x")
    metrics = [metric for result in index[0]["results"] for metric in result["metrics"]]
    assert {item["type"] for item in metrics} == {
        "refusal_rate_drop",
        "compliance_rate_rise",
        "over_refusal_rise",
        "chosen_logprob_change",
    }
    assert all(math.isfinite(item["value"]) for item in metrics)


def test_no_metadata_where_nothing_was_measured(tmp_path: Path) -> None:
    fake = Fake("x", unanswered=dict.fromkeys((item.limit.id for item in _findings(tmp_path / "all")), "skipped"))
    section = model_card(build(tmp_path / "none", fake, with_tables=False), "x")
    assert "model-index" not in section
    assert "BLOCK" in section.splitlines()[0]


def _findings(directory: Path) -> tuple[object, ...]:
    return build(directory, HEALTHY, with_tables=False).findings


def test_several_candidates_one_after_the_other(tmp_path: Path) -> None:
    record = build(tmp_path, *trajectory(), with_tables=False)
    names = candidate_names(record, ["checkpoint-64", "checkpoint-8"])
    text = model_cards(record, names)
    assert text.count("\n## Alignment") == 1
    assert text.index("checkpoint-64, step 64") < text.index("checkpoint-8, step 8")
    assert "checkpoint-16" not in text
    assert candidate_names(record, []) == tuple(item.name for item in record.candidates)
    with pytest.raises(OptionError, match=r"--candidate nix: the run 2026-01-02-example has checkpoint-8, "):
        candidate_names(record, ["nix"])


# ---------------------------------------------------------------- hostile names


def hostile(directory: Path) -> RunRecord:
    """A run whose every text is hostile."""
    limit = Limit(NASTY, NASTY, NASTY, maximum=0.5, unit="")
    record = build(directory, replace(HEALTHY, name="x"), with_tables=False)
    finding = record.findings[0]
    assert finding.measurement is not None
    measured = replace(finding.measurement, metric=NASTY)
    return record.model_copy(
        update={
            "candidates": (replace(record.candidates[0], name=NASTY),),
            "reference": replace(record.reference, name=NASTY),
            "run": NASTY,
            "judge": {"name": NASTY, NASTY: NASTY},
            "engine": {NASTY: NASTY},
            "corpora": (CorpusFacts(name=NASTY, digest=NASTY, rows=1, source=NASTY, version=NASTY),),
            "policy": record.policy.model_copy(update={"limits": (limit,), "digest": NASTY}),
            "findings": (replace(finding, limit=limit, candidate=NASTY, reason=NASTY, measurement=measured),),
            "verdicts": (replace(record.verdicts[0], candidate=NASTY),),
            "warnings": (NASTY,),
        }
    )


def test_hostile_names_are_text(tmp_path: Path) -> None:
    section = model_card(hostile(tmp_path), NASTY)
    plain = tokens(model_card(build(tmp_path / "plain", HEALTHY, with_tables=False), "dpo-healthy"))
    found = tokens(section)
    assert set(found) <= {*plain, "code_inline"}
    for active in ("html_block", "html_inline", "link_open", "image"):
        assert active not in found
    assert found.count("fence") == found.count("table_open") - 1 == 1
    assert found.count("heading_open") == plain.count("heading_open")
    for gone in ("<script>", "\x1b", "\u202e", "@all", "\n# owned", "[a]("):
        assert gone not in section.split("```yaml")[0]
    assert "\x1b" not in section
    assert "\u202e" not in section


def test_hostile_names_do_not_break_the_metadata(tmp_path: Path) -> None:
    section = model_card(hostile(tmp_path), NASTY)
    block = next(item for item in MarkdownIt().parse(section) if item.type == "fence").content
    read = yaml.safe_load(block)
    assert list(read) == ["model-index"]
    assert all(re.match(r" *(- )?[A-Za-z0-9_-]+:( |$)", line) for line in block.splitlines()[1:])
    assert len(read["model-index"][0]["results"]) == 1
    card = ModelCard(f"---\n{block}---\nbody")
    assert card.data.model_name.startswith(r"x\n```\n--- ``` ~~~ # y: [z]\n# owned <script>")
    assert all(character.isalnum() or character in "_.-" for character in card.data.eval_results[0].dataset_type)
    assert card.text == "body"
