"""Corpora in a run: what is left out is told everywhere; the policy for real models; prompts that no template takes."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from corpus.asked import jsonl
from project import POLICY, run, stored

from harness import policy

SHIPPED = Path(__file__).parents[2] / "evals" / "policies" / "llama-3-8b.yaml"


def test_dropped_rows_are_told_by_header_summary_record_and_report(project):
    path = project.path / "evals" / "pairs.jsonl"
    lines = path.read_text().splitlines()
    lines[3] = "{"
    lines[7] = json.dumps({"prompt": "p", "chosen": "c", "rejected": "c"})
    lines[9] = json.dumps({"prompt": "p", "chosen": "<script>x()</script>", "rejected": "<script>x()</script>"})
    path.write_text("\n".join(lines) + "\n")
    rules = POLICY.replace("pairs: {path: pairs.jsonl}", "pairs: {path: pairs.jsonl, dirty: drop}")
    rules = rules.replace("unsafe: {path: unsafe.jsonl}", "unsafe: {path: unsafe.jsonl, sample: 150}")
    (project.path / "evals" / "policy.yaml").write_text(rules)
    result = run(project)
    told = "corpus pairs: 197 of 200 rows; 3 dropped: 2 equal responses (rows 8 and 10), 1 not JSON (row 4)"
    header, _, end = result.stdout.str().partition("collected")
    assert told in header
    assert "corpus unsafe: 150 of 200 rows; 50 filtered out or not sampled" in header
    assert "corpus benign" not in header
    assert told in " ".join(end.split())
    facts = {item.name: item for item in stored(project).corpora}
    assert [(item.row, item.kind) for item in facts["pairs"].dropped] == [
        (4, "not JSON"),
        (8, "equal responses"),
        (10, "equal responses"),
    ]
    assert (facts["pairs"].rows, facts["pairs"].available) == (197, 200)
    assert (facts["unsafe"].rows, facts["unsafe"].available) == (150, 200)
    assert [line for line in stored(project).warnings if "corpus" in line] == [told]
    page = (project.path / "reports" / "run" / "report.html").read_text()
    assert "3 rows of pairs dropped, because they cannot be used" in page
    assert re.search(r"equal responses</th><td class=\"num\">2</td><td>rows 8 and 10</td>", page)
    assert "197 of 200" in page
    assert "150 of 200" in page
    assert "<script>x()" not in page


def test_dirty_rows_end_a_run_before_it_starts(project):
    path = project.path / "evals" / "unsafe.jsonl"
    path.write_text(path.read_text() + '{"prompt": ""}\n')
    result = run(project)
    assert result.ret == 4
    assert "unsafe.jsonl, row 201: prompt '201' is empty; mend the data, or leave such rows out" in result.stderr.str()
    assert not (project.path / "reports").exists()


def test_a_known_data_set_in_the_wrong_place_is_told():
    def cautions(*limits):
        text = "corpora: {u: {recipe: sorry-bench}, b: {recipe: xstest-safe}}\njudge: {name: phrases}\nlimits:\n"
        lines = [f"  - {{id: l{number}, {limit}, max: 0.05}}\n" for number, limit in enumerate(limits)]
        return policy.cautions(policy.parse((text + "".join(lines)).encode(), Path("p.yaml")))

    drop, rise = "metric: refusal_rate_drop, corpus: {}", "metric: over_refusal_rise, corpus: {}"
    assert cautions(drop.format("u"), rise.format("b")) == ()
    assert cautions(drop.format("b"), rise.format("u")) == (
        "limit 'l0' measures refusal_rate_drop on 'xstest-safe', which holds benign prompts",
        "limit 'l1' measures over_refusal_rise on 'sorry-bench', which holds unsafe prompts",
    )


# ---------------------------------------------------------------- the policy for real models


def test_the_policy_for_real_models_loads_without_a_network():
    rules = policy.load(SHIPPED)
    assert {name: source.recipe for name, source in rules.corpora.items()} == {
        "unsafe": "sorry-bench",
        "benign": "xstest-safe",
        "preferences": "ultrafeedback",
    }
    blocking = {limit.metric for limit in rules.limits if limit.severity.value == "block"}
    assert blocking >= {"refusal_rate_drop", "compliance_rate_rise", "over_refusal_rise", "task_accuracy_drop"}
    assert policy.cautions(rules) == ()
    assert rules.tasks["arc_easy"].task == "arc_easy"


def test_the_policy_for_real_models_runs_on_small_files_in_the_same_shape(project):
    evals = project.path / "evals"
    sorry = [
        {"question_id": number, "category": str(number % 44), "turns": [f"Ask {number}?"], "prompt_style": style}
        for number in range(220)
        for style in ("base", "slang")
    ]
    jsonl(evals / "sorry.jsonl", *sorry)
    safe = [{"id": number, "prompt": f"Do {number}?", "type": "homonyms", "label": "safe"} for number in range(125)]
    pd.DataFrame([*safe, {"id": 999, "prompt": "Kill?", "type": "x", "label": "unsafe"}]).to_csv(
        evals / "xstest.csv", index=False
    )
    turn = {"role": "user", "content": ""}
    pairs = [
        {"prompt": f"Why {n}?", "prompt_id": f"{n}"}
        | {key: [turn | {"content": f"Why {n}?"}, {"role": "assistant", "content": text}] for key, text in answers}
        for n in range(505)
        for answers in ([("chosen", "So."), ("rejected", "No." if n else "So.")],)
    ]
    pd.DataFrame(pairs).to_parquet(evals / "pairs.parquet")
    text = SHIPPED.read_text()
    for recipe, file, rows in (
        ("sorry-bench", "sorry.jsonl", 220),
        ("xstest-safe", "xstest.csv", 125),
        ("ultrafeedback", "pairs.parquet", 505),
    ):
        assert text.count(f"{{recipe: {recipe}") == 1
        text = text.replace(f"{{recipe: {recipe}", f"{{recipe: {recipe}, path: {file}, rows: {rows}")
    text, removed = re.subn(r"\n  - \{id: arc,.*", "", text)  # lm-eval is asked in its own tests
    assert removed == 1
    (evals / "policy.yaml").write_text(text)
    result = run(project)
    record = stored(project)
    outcomes = {item.limit.id: item.outcome.value for item in record.findings}
    assert outcomes["refusal-drop"] == "pass", result.stdout.str()
    assert set(outcomes) == {"refusal-drop", "harmful-answers", "gibberish", "over-refusal", "chosen-fell", "both-fell"}
    assert "invalid" not in outcomes.values()
    assert {item.name: item.rows for item in record.corpora} == {"unsafe": 220, "benign": 125, "preferences": 500}
    assert (
        "corpus preferences: 500 of 505 rows; 4 filtered out or not sampled; 1 dropped: 1 equal responses (row 1)"
        in (result.stdout.str())
    )
    assert record.policy.decoding.max_new_tokens == 512


# ---------------------------------------------------------------- the reader of the answers


def test_judges_read_a_conversation_as_text(project):
    evals = project.path / "evals"
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]
    jsonl(
        evals / "unsafe.jsonl",
        *({"id": f"p{n:03d}", "prompt": [*talk, {"role": "user", "content": f"How {n}?"}]} for n in range(200)),
    )
    (evals / "policy.yaml").write_text(
        POLICY.replace("{path: unsafe.jsonl}", "{path: unsafe.jsonl, system: Be brief.}")
    )
    project.makepyfile(
        **{
            "evals/conftest": """
            import json, pathlib, pytest, fakes
            class Listening(fakes.MumblingJudge):
                def read(self, exchanges, *rest):
                    with pathlib.Path("heard.jsonl").open("a") as file:
                        file.writelines(json.dumps(item.prompt) + "\\n" for item in exchanges)
                    return super().read(exchanges, *rest)
            @pytest.fixture(scope="session")
            def judge():
                return Listening()
            """
        }
    )
    run(project)
    heard = [json.loads(line) for line in (project.path / "heard.jsonl").read_text().splitlines()]
    assert "system: Be brief.\n\nuser: Hello\n\nassistant: Hi.\n\nuser: How 7?" in heard
    table = pd.read_parquet(project.path / "reports" / "run" / "tables" / "corpora" / "unsafe.prompts.parquet")
    assert table["prompt"][7] == "system: Be brief.\n\nuser: Hello\n\nassistant: Hi.\n\nuser: How 7?"


@pytest.mark.parametrize("source", ["{recipe: sory-bench}", "{path: a.jsonl, where: x}", "{path: a.jsonl, sampel: 3}"])
def test_a_policy_names_the_corpus_that_is_wrong(source):
    text = POLICY.replace("{path: unsafe.jsonl}", source)
    with pytest.raises(ValueError, match="corpora.unsafe.*(did you mean|write e.g.)"):
        policy.parse(text.encode(), Path("p.yaml"))
