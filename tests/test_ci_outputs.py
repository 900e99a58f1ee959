"""What continuous integration shows of a run: annotations, JUnit files, the step summary, and the example workflow."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml
from project import run
from report.factory import DISPLACED, HOSTILE, Fake, build

from harness.report.markdown import MOST_BYTES, step_summary

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / "examples" / "github-actions" / "gate.yml"

# ---------------------------------------------------------------- annotations and JUnit, of one red run

NASTY = "p\n::error::owned \x1b[2J\u202e</testcase> ]]> &amp; %0A \ufffe"


@pytest.fixture
def red(project, monkeypatch):
    """A run whose candidate is blocked, on prompts with hostile ids and categories."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.path))
    rows = [{"id": f"{i} {NASTY}", "prompt": f"How {i}?", "category": NASTY} for i in range(200)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (project.path / "evals" / "unsafe.jsonl").write_text(text)
    policy = project.path / "evals" / "policy.yaml"
    limit = "  - {id: mute, metric: degenerate_rate_rise, corpus: benign, max: 0.05}\n"
    policy.write_text(policy.read_text() + limit)
    result = run(project, "--junitxml=junit.xml", "-k", "not degenerate", candidate="bad")
    assert result.ret == 1
    return project.path, result


def test_a_red_run_as_annotations_and_as_junit(red):
    directory, result = red
    _each_failing_limit_is_an_annotation(result)
    _junit_has_known_elements_and_every_limits_numbers(directory)


def _each_failing_limit_is_an_annotation(result):
    lines = [line for line in (*result.errlines, *result.outlines) if line.lstrip().startswith("::")]
    assert len(lines) == 1, "one limit is broken, and no text of a prompt begins a line as a command does"
    place, message = re.fullmatch(r"::error (file=evals/test_refusal\.py,line=\d+)::(.*)", lines[0]).groups()
    assert place
    told = message.split("%0A")
    assert told[0] == "test_refusal_rate[drop]"
    assert re.fullmatch(r"Failed: refusal_rate_drop 0\.450 \[.*\] \(n=200\); limit at most 0\.05: FAIL", told[2])
    assert "\x1b" not in lines[0]
    assert "\u202e" not in lines[0]


XUNIT2 = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "time", "skipped", "timestamp", "hostname"},
    "testcase": {"name", "time", "classname"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"type", "message"},
    "properties": set(),
    "property": {"name", "value"},
}
"""Elements and attributes of the Jenkins xUnit plugin's junit-10.xsd, to which pytest's family xunit2 keeps; testcases
have properties besides, which that schema alone does not know."""


def _junit_has_known_elements_and_every_limits_numbers(directory):
    root = ET.parse(directory / "junit.xml").getroot()
    for element in root.iter():
        assert set(element.attrib) <= XUNIT2[element.tag]
    cases = {case.attrib["name"]: case for case in root.iter("testcase")}
    assert len(cases) == 4, "the deselected one is not there"
    for case in cases.values():
        properties = {item.attrib["name"]: item.attrib["value"] for item in case.iter("property")}
        assert {"limit", "candidate", "severity", "outcome", "bound", "metric", "value", "low", "high", "n"} <= set(
            properties
        )
        assert float(properties["low"]) <= float(properties["value"]) <= float(properties["high"])
    failed = cases["test_refusal_rate[drop]"]
    assert {item.attrib["name"]: item.attrib["value"] for item in failed.iter("property")}["outcome"] == "fail"
    message = failed.find("failure").attrib["message"]
    assert message.startswith("Failed: refusal_rate_drop 0.450 [")
    assert r"152 p\n::error::owned \x1b[2J\u202e</testcase> ]]>" in message
    assert root.find("testsuite").attrib["failures"] == "1"


# ---------------------------------------------------------------- step summary


def test_the_summary_of_eight_candidates_is_small_even_where_every_text_is_long(tmp_path):
    usual = build(tmp_path / "usual", *(Fake(f"c{n}", values=DISPLACED.values) for n in range(8)), with_tables=False)
    assert len(step_summary(usual).encode()) < 20_000
    why = {"gibberish": HOSTILE[-1], "refusal-drop": "\u202e" * 5000}
    long = build(
        tmp_path / "long", *(Fake(f"c{n}", unanswered=why) for n in range(8)), with_tables=False, warnings=HOSTILE
    )
    assert len(step_summary(long).encode()) < MOST_BYTES == 200_000


# ---------------------------------------------------------------- the example workflow


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text())


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def script(workflow, job, start):
    (found,) = (step["run"] for step in workflow["jobs"][job]["steps"] if step.get("name", "").startswith(start))
    return found


def test_no_expression_stands_in_a_script(workflow):
    """``${{ }}`` is put into a script's text before the shell sees it: a branch's name could be a command."""
    scripts = [step["run"] for step in steps(workflow) if "run" in step]
    assert len(scripts) == 4
    assert not [text for text in scripts if "${{" in text]
    assert "secrets." not in WORKFLOW.read_text()


def test_the_job_that_runs_the_branchs_code_can_write_nothing(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    assert "permissions" not in workflow["jobs"]["gate"]
    assert workflow["jobs"]["comment"]["permissions"] == {"pull-requests": "write"}
    assert not [step for step in workflow["jobs"]["comment"]["steps"] if "checkout" in step.get("uses", "")]
    assert "pull_request_target" not in workflow[True]  # YAML 1.1 reads the key `on` as true
    (checkout,) = (step for step in steps(workflow) if step.get("uses", "").startswith("actions/checkout@"))
    assert checkout["with"] == {"persist-credentials": False}


def test_actions_are_githubs_own_by_major_version(workflow):
    uses = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert uses
    assert all(re.fullmatch(r"actions/[a-z/-]+@v\d+", name) for name in uses)


def test_what_a_red_run_leaves_is_kept(workflow):
    kept = [step for step in steps(workflow) if re.search("upload-artifact|cache/save", step.get("uses", ""))]
    assert len(kept) == 3
    assert {step["if"] for step in kept} == {"always()"}


def gate(workflow, directory, *, exit_code: int, summary: bytes, baseline: str = ""):
    """The step as a runner does it, with a pytest that writes its arguments, a summary and an exit code."""
    tools = directory / "bin"
    tools.mkdir(parents=True)
    (directory / "said").write_bytes(summary)
    fake = '#!/bin/bash\nprintf "%s\\n" "$@" > arguments\ncat said >> "$GITHUB_STEP_SUMMARY"\n' + f"exit {exit_code}\n"
    (tools / "pytest").write_text(fake)
    (tools / "pytest").chmod(0o755)
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(directory / "summary.md"),
        "CANDIDATE": "$(touch owned); a b",
        "REFERENCE": "ref",
        "RUN_NAME": "run-1",
        "BASELINE": baseline,
        "MARKER": workflow["env"]["MARKER"],
        "LC_ALL": "C.UTF-8",
    }
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script(workflow, "gate", "Gate")]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True)
    return done, (directory / "arguments").read_text().splitlines(), (directory / "comment.md").read_bytes()


@pytest.mark.parametrize("code", [0, 1, 4])
def test_the_gates_exit_code_is_the_steps(workflow, tmp_path, code):
    done, arguments, comment = gate(workflow, tmp_path, exit_code=code, summary=b"## Release x\n")
    assert done.returncode == code
    assert arguments[1:5] == ["--candidate", "$(touch owned); a b", "--reference", "ref"]
    assert "--baseline" not in arguments
    assert not (tmp_path / "owned").exists()
    without = "Held against the reference only: GATE_BASELINE is not set.\n"
    assert comment.decode() == "<!-- dpo-harness gate -->\n## Release x\n" + without


def test_a_baseline_is_one_argument(workflow, tmp_path):
    _, arguments, comment = gate(workflow, tmp_path, exit_code=0, summary=b"x", baseline="my prod")
    assert b"GATE_BASELINE" not in comment
    assert arguments[arguments.index("--baseline") + 1] == "my prod"


def test_a_run_without_a_verdict_says_so(workflow, tmp_path):
    done, _, comment = gate(workflow, tmp_path, exit_code=4, summary=b"")
    assert done.returncode == 4
    assert b"The gate ended with exit code 4 and without a verdict: see the log." in comment
    assert b"without a verdict" in (tmp_path / "summary.md").read_bytes()


def test_a_long_summary_is_cut_to_what_a_comment_can_hold(workflow, tmp_path):
    done, _, comment = gate(workflow, tmp_path, exit_code=1, summary=b"x" + "ü".encode() * 100_000)
    assert done.returncode == 1
    assert 59_000 < len(comment) < 65_536
    comment.decode()


@pytest.mark.parametrize(("old", "method"), [("", "POST"), ("17", "PATCH")])
def test_one_comment_is_made_and_then_changed(workflow, tmp_path, old, method):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "gh").write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >> calls\ncase "$*" in *--jq*) echo "{old}";; esac\n')
    (tools / "gh").chmod(0o755)
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "REPO": "o/r", "PR": "5", "MARKER": "m", "GH_TOKEN": "t"}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script(workflow, "comment", "Comment")]
    assert subprocess.run(command, cwd=tmp_path, env=environment).returncode == 0
    looked, wrote = (tmp_path / "calls").read_text().splitlines()
    assert "startswith(env.MARKER)" in looked
    place = "repos/o/r/issues/comments/17" if old else "repos/o/r/issues/5/comments"
    assert wrote == f"api --method {method} {place} -F body=@comment.md --silent"


# ---------------------------------------------------------------- what docs/ci.md says


def test_the_list_to_install_without_torch_is_the_projects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {re.match("[a-z0-9-]+", line)[0] for line in project["dependencies"]} - {"torch", "transformers", "peft"}
    (line,) = re.findall("light/bin/pip install (filelock .*)", (ROOT / "docs" / "ci.md").read_text())
    assert set(line.split()) == core


def test_the_gitlab_job_keeps_what_a_red_run_leaves():
    (text,) = re.findall("```yaml\n(gate:.*?)```", (ROOT / "docs" / "ci.md").read_text(), flags=re.DOTALL)
    job = yaml.safe_load(text)["gate"]
    assert job["artifacts"]["when"] == job["cache"]["when"] == "always"
    assert job["artifacts"]["reports"] == {"junit": "junit.xml"}
    assert "--junitxml junit.xml" in job["script"][-1]
