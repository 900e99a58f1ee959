"""The list of runs: what it says of each directory, what it reads again, and what it never replaces."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from project import run
from report.factory import DISPLACED, HEALTHY, HOSTILE, Fake, build, trajectory

from harness import record
from harness.__main__ import app
from harness.errors import RecordError
from harness.report import history
from harness.report.history import State, Word
from harness.report.history_side import Recorded, recorded

SMALL: dict[str, Any] = {"prompts": 2, "pairs": 2, "with_tables": False}


def make(directory: Path, *fakes: Fake, started: str = "2026-01-02T03:04:05+00:00", **options: Any) -> Path:
    """A run whose policy is that of its limits, started when it is said to be; its one table is not there."""
    fakes = fakes or (HEALTHY,)
    build(directory, *fakes, **SMALL, **options)
    path = directory / record.FILE
    data = json.loads(path.read_text())
    text = _policy(data["policy"]["limits"])
    data["policy"] |= {"text": text, "digest": hashlib.sha256(text.encode()).hexdigest()}
    table = {"path": "t", "kind": "labels", "checkpoint": "", "corpus": "unsafe", "sha256": "0" * 64}
    path.write_text(json.dumps({**data, "run": directory.name, "started": started, "tables": [table]}))
    return directory


def _policy(limits: list[dict[str, Any]]) -> str:
    sides = {"maximum": "max", "minimum": "min"}
    keys = ("id", "metric", "corpus", "severity", "unit", *sides)
    corpora = {item["corpus"]: {"path": "rows.jsonl"} for item in limits}
    asked = [{sides.get(key, key): item[key] for key in keys if item[key] not in (None, "")} for item in limits]
    return json.dumps({"corpora": corpora, "judge": {"name": "phrases"}, "lexicon": "l.yaml", "limits": asked})


def rows(directory: Path) -> dict[str, history.Row]:
    return {row.name: row for row in history.read(directory)[0].rows}


def test_runs_are_listed_newest_first_by_their_start_whatever_their_names_or_zones(tmp_path: Path) -> None:
    make(tmp_path / "a", started="2026-01-02T03:00:00+00:00")
    make(tmp_path / "b", started="2026-03-01T00:00:00+00:00")
    make(tmp_path / "c", started="2026-01-02T03:30:00+01:00")  # 02:30 UTC
    found = history.read(tmp_path)[0]
    assert [row.name for row in found.rows] == ["b", "a", "c"]
    assert found.counts == "3 runs: 3 release"


def test_a_row_says_what_the_record_says(tmp_path: Path) -> None:
    make(tmp_path / "good")
    make(tmp_path / "bad", DISPLACED)
    make(tmp_path / "part", partial=True)
    make(tmp_path / "many", *trajectory())
    make(tmp_path / "open", Fake("x", problems={"yes-for-no": "no token"}, unanswered={"gibberish": "skipped"}))
    found = rows(tmp_path)
    assert [found[name].word for name in ("good", "bad", "part", "many", "open")] == [
        Word.RELEASE,
        Word.BLOCK,
        Word.NONE,
        Word.BLOCK,
        Word.BLOCK,
    ]
    assert found["good"].not_kept == ()
    assert found["bad"].not_kept == (("broken", "refusal-drop, harmful-answers, yes-for-no"),)
    assert dict(found["open"].not_kept)["unanswered"] == "gibberish"
    assert dict(found["many"].not_kept)["broken"].startswith("refusal-drop (4 of 5), harmful-answers (4 of 5)")
    run = found["good"].run
    assert run is not None
    assert (run.reference, run.policy, run.limits) == ("reference", "evals/policy.yaml", 5)
    assert [item.name for item in run.candidates] == ["dpo-healthy"]


def test_limits_that_only_warn_are_not_among_those_that_block(tmp_path: Path) -> None:
    make(tmp_path / "run", Fake("x", values={"chosen-fell": -5.0}))
    row = rows(tmp_path)["run"]
    assert (row.word, row.not_kept) == (Word.RELEASE, ())


def test_a_directory_without_a_record_is_interrupted_or_running_and_others_are_no_runs(tmp_path: Path) -> None:
    (tmp_path / "going" / "tables").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read me").write_text("x")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "file").write_text("x")
    found = history.read(tmp_path)[0]
    assert {row.name: row.state for row in found.rows} == {"going": State.UNFINISHED, "empty": State.UNFINISHED}
    assert {row.word for row in found.rows} == {Word.UNFINISHED}
    assert found.others == ("notes",)


def test_a_link_to_itself_and_a_directory_that_is_going_hide_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "run")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "going").mkdir()
    begun = history._begun

    def removed_meanwhile(place: Path) -> bool:
        place.rmdir()
        return begun(place)

    monkeypatch.setattr(history, "_begun", removed_meanwhile)
    assert [row.name for row in history.read(tmp_path)[0].rows] == ["run"]


def test_a_directory_with_a_list_of_its_own_is_linked(tmp_path: Path) -> None:
    make(tmp_path / "a training" / "step-8")
    history.update(tmp_path / "a training")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<h1>mine</h1>")
    found = history.read(tmp_path)[0]
    assert found.rows == ()
    assert found.deeper == (("a training", "a%20training/index.html"),)
    assert found.others == ("site",)
    assert '<a href="./a%20training/index.html">a training</a>' in history.update(tmp_path).read_text()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _newer(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_number": 999}))


def _acquitted(path: Path) -> None:
    data = json.loads(path.read_text())
    data["verdicts"] = [{**item, "decision": "release", "reasons": []} for item in data["verdicts"]]
    path.write_text(json.dumps(data))


def _edited(path: Path, **changes: Any) -> None:
    """Released, whatever else of it is changed."""
    _acquitted(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _part(path: Path) -> None:
    _kept(path, partial=True)


def _stopped(path: Path) -> None:
    _kept(path, status="interrupted")


def _kept(path: Path, **changes: Any) -> None:
    findings = [{**item, "outcome": "pass"} for item in json.loads(path.read_text())["findings"]]
    _edited(path, **{"findings": findings, **changes})


def _unasked(path: Path) -> None:
    """Without the limits that were not kept, in what the record says beside the policy's text."""
    data = json.loads(path.read_text())
    bad = {item["limit"]["id"] for item in data["findings"] if item["outcome"] != "pass"}
    limits = [item for item in data["policy"]["limits"] if item["id"] not in bad]
    findings = [item for item in data["findings"] if item["outcome"] == "pass"]
    _edited(path, policy={**data["policy"], "limits": limits}, findings=findings)


def _out_of_range(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "started": "9999-12-31T23:59:59-12:00"}))


def _nested(path: Path) -> None:
    path.write_text("[" * 100_000)


def _endless_number(path: Path) -> None:
    path.write_text('{"schema_number": ' + "1" * 5000 + "}")


def _timeless(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "started": "yesterday"}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_cut, "is damaged"),
        (_newer, "has schema 999"),
        (_acquitted, "says release of dpo-displaced, and blocking limits are not kept"),
        (_kept, "does not follow from the findings"),
        (_part, "does not follow from the findings"),
        (_stopped, "does not follow from the findings"),
        (_unasked, "does not follow from the findings"),
        (_timeless, "yesterday"),
        (_out_of_range, "out of range"),
        (_nested, "is damaged"),
        (_endless_number, "is damaged"),
    ],
)
def test_a_record_that_cannot_be_believed_is_shown_as_damaged_with_the_reason(
    tmp_path: Path, damage: Any, reason: str
) -> None:
    damage(make(tmp_path / "run", DISPLACED) / record.FILE)
    row = rows(tmp_path)["run"]
    assert (row.state, row.word) == (State.DAMAGED, Word.DAMAGED)
    assert reason in row.problem
    assert reason in history.update(tmp_path).read_text().replace("&#34;", '"')


# ---------------------------------------------------------------- the side file


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs whose record is read."""
    seen: list[str] = []
    read = record.read

    def watched(where: Path, **options: Any) -> record.RunRecord:
        seen.append(where.name)
        return read(where, **options)

    monkeypatch.setattr(record, "read", watched)
    return seen


def test_only_new_and_changed_records_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b", DISPLACED)
    history.update(tmp_path)
    seen = counting(monkeypatch)
    before = history.read(tmp_path)[0].rows
    assert seen == []
    make(tmp_path / "c")
    path = tmp_path / "a" / record.FILE
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    history.update(tmp_path)
    assert sorted(seen) == ["a", "c"]
    assert {row.name: row.run for row in before} == {
        name: row.run for name, row in rows(tmp_path).items() if name != "c"
    }


def test_a_run_that_was_removed_is_gone(tmp_path: Path) -> None:
    (make(tmp_path / "a") / record.FILE).unlink()
    (tmp_path / "a").rmdir()
    make(tmp_path / "b")
    history.update(tmp_path)
    assert list(json.loads((tmp_path / history.SIDE_FILE).read_text())["runs"]) == ["b"]


def test_a_damaged_record_is_read_again_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _cut(make(tmp_path / "run") / record.FILE)
    history.update(tmp_path)
    seen = counting(monkeypatch)
    history.update(tmp_path)
    assert seen == ["run"]


@pytest.mark.parametrize(
    "change",
    [
        lambda side: side[: len(side) // 2],
        lambda side: b"[]",
        lambda side: side.replace(b'"dpo_harness_index":1', b'"dpo_harness_index":99'),
        lambda side: side.replace(f'"record_schema":{record.SCHEMA}'.encode(), b'"record_schema":1'),
        lambda side: side.replace(b'"decision":"block"', b'"decision":"perhaps"'),
        lambda side: side.replace(b'"partial":', b'"unknown":1,"partial":'),
        lambda side: b"\xff\xfe",
    ],
)
def test_a_side_file_that_cannot_be_believed_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    make(tmp_path / "run", DISPLACED)
    history.update(tmp_path)
    side = tmp_path / history.SIDE_FILE
    good = side.read_bytes()
    bad = change(good)
    assert bad != good
    side.write_bytes(bad)
    seen = counting(monkeypatch)
    history.update(tmp_path)
    assert seen == ["run"]
    assert side.read_bytes() == good


def test_what_the_side_file_keeps_is_all_that_a_row_says(tmp_path: Path) -> None:
    run = make(tmp_path / "run", *trajectory())
    built = record.read(run, check_tables=False)
    history.update(tmp_path)
    kept = json.loads((tmp_path / history.SIDE_FILE).read_text())["runs"]["run"]["run"]
    assert Recorded.model_validate(kept) == recorded(built, run) == rows(tmp_path)["run"].run


# ---------------------------------------------------------------- the page


def test_another_programs_files_are_left_alone(tmp_path: Path) -> None:
    make(tmp_path / "run")
    page, side = tmp_path / history.FILE, tmp_path / history.SIDE_FILE
    page.write_text("<h1>my site</h1>")
    with pytest.raises(RecordError, match="index.html was not written by this tool and is left alone; move it"):
        history.update(tmp_path)
    assert page.read_text() == "<h1>my site</h1>"
    assert not side.exists()
    page.unlink()
    side.write_text('{"mine": 1}')
    with pytest.raises(RecordError, match="index.json was not written by this tool"):
        history.update(tmp_path)
    assert side.read_text() == '{"mine": 1}'
    assert not page.exists()


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no run directory .*none"):
        history.update(tmp_path / "none")


def test_nothing_there_yet_says_how_to_make_a_run(tmp_path: Path) -> None:
    assert "No run yet" in history.update(tmp_path).read_text()


def test_a_lock_that_others_hold_is_waited_for_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "WAIT", 0.05)
    with history.FileLock(tmp_path / history.LOCK), pytest.raises(RecordError, match="was held by other runs .* index"):
        history.update(tmp_path)


def test_runs_that_end_at_once_leave_a_whole_page(tmp_path: Path) -> None:
    for number in range(6):
        make(tmp_path / f"run-{number}")
    wrong: list[BaseException] = []

    def update() -> None:
        try:
            history.update(tmp_path)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=update) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (tmp_path / history.FILE).read_text().rstrip().endswith("</html>")
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        history.FILE,
        history.SIDE_FILE,
        history.LOCK,
    }


def test_hostile_names_are_shown_as_text_and_links_stay_in_the_directory(tmp_path: Path) -> None:
    names = ["javascript:alert(1)", "<script>x<", "a\u202eb", "a?b#c%41"]
    for name in names:
        make(tmp_path / name, Fake(HOSTILE[0]))
        (tmp_path / name / "report.html").write_text("x")
    text = history.update(tmp_path).read_text()
    assert "<script>x" not in text
    assert "&lt;script&gt;x&lt;" in text
    assert "\u202e" not in text
    assert r"a\u202eb" in text
    assert HOSTILE[0] not in text
    for link in ("javascript%3Aalert%281%29", "%3Cscript%3Ex%3C", "a%E2%80%AEb", "a%3Fb%23c%2541"):
        assert f'href="./{link}/report.html"' in text


def test_a_run_without_a_page_has_no_link(tmp_path: Path) -> None:
    make(tmp_path / "run")
    assert 'href="./' not in history.update(tmp_path).read_text()


def test_baselines_stand_beside_their_runs_and_broken_ones_are_told(tmp_path: Path) -> None:
    digest = record.file_digest(make(tmp_path / "run") / record.FILE)
    holder = {"run": "run", "candidate": "x", "identity": "a" * 64, "sha256": digest, "blessed": "2026-01-01"}
    path = tmp_path / "baselines.json"
    path.write_text(
        json.dumps({"schema_number": 1, "baselines": {"prod": holder, "old": {**holder, "although": "blocked"}}})
    )
    assert rows(tmp_path)["run"].blessed == ("old (although blocked)", "prod")
    (tmp_path / "run" / record.FILE).unlink()
    assert rows(tmp_path)["run"].blessed == ("old (although blocked)", "prod")
    make(tmp_path / "run", DISPLACED)
    replaced = ("old (although blocked) (another record lies here now)", "prod (another record lies here now)")
    assert rows(tmp_path)["run"].blessed == replaced
    path.write_text("{")
    found = history.read(tmp_path)[0]
    assert found.rows[0].blessed == ()
    assert len(found.trouble) == 1
    assert "baselines.json is damaged" in found.trouble[0]
    assert "Baselines are not shown" in history.render(found)


# ---------------------------------------------------------------- at the end of a run


def test_each_run_adds_itself_and_a_list_that_cannot_be_written_changes_no_verdict(project: Any) -> None:
    assert run(project, candidate="bad", name="first").ret == 1
    reports = project.path / "reports"
    assert {row.name: row.word for row in history.read(reports)[0].rows} == {"first": Word.BLOCK}
    assert "✗ block" in (reports / history.FILE).read_text()
    (reports / history.FILE).write_text("<h1>my site</h1>")
    result = run(project, name="second")
    assert result.ret == 0
    assert record.read(reports / "second").released
    result.stdout.fnmatch_lines(["warning: the list of runs could not be written (*index.html was not written by*"])
    assert (reports / history.FILE).read_text() == "<h1>my site</h1>"


def test_the_command_writes_the_list_and_names_what_it_cannot_find(tmp_path: Path, capsys: Any) -> None:
    make(tmp_path / "run")
    app(["index", str(tmp_path)], standalone_mode=False)
    assert capsys.readouterr().out.strip() == str(tmp_path / history.FILE)
    assert (tmp_path / history.FILE).is_file()
    with pytest.raises(RecordError, match="no run directory"):
        app(["index", str(tmp_path / "none")], standalone_mode=False)
