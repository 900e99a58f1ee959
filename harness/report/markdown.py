"""The run as Markdown for ``$GITHUB_STEP_SUMMARY``: verdict first, one table per candidate, bounded in size."""

from __future__ import annotations

import re

from harness.domain import unit_text
from harness.record import RunRecord
from harness.report.rows import (
    LimitRow,
    describe_peak,
    is_same,
    limit_rows,
    number,
    order_of_fall,
    overall,
    own_value,
    peaks,
    sample_size,
    sentence,
    short_bound,
    verdict_of,
    verdict_word,
    warned,
)
from harness.report.text import counted, shorten, visible
from harness.report.trust import candidate_lines, run_lines

MOST_BYTES = 200_000
"""GitHub refuses summaries above 1 MiB; a summary that long is not one."""

_MOST_WARNINGS, _LONGEST_WARNING = 20, 500

_SPECIAL = re.compile(r"[\\`*_{}\[\]<>#|~&@$]|:(?=//)|(?<=www)\.")


def escaped(text: str, length: int = 1000) -> str:
    """Text from elsewhere on one line, with nothing left that Markdown or HTML would act on."""
    return _SPECIAL.sub(lambda match: f"&#{ord(match[0])};", shorten(visible(text), length))


def step_summary(record: RunRecord) -> str:
    """The summary of a run, at most 200 kB; what does not fit is counted."""
    parts = [f"## {escaped(overall(record))}\n"]
    if record.status != "complete":
        parts.append(f"The run is **{escaped(record.status)}**: what was not answered blocks.\n")
    parts += [f"{escaped(describe_peak(peak))}\n" for peak in peaks(record)]
    parts += [f"{escaped(line)}\n" for line in order_of_fall(record)]
    parts += _warnings(record)
    several = len(record.candidates) > 1
    sections = [_candidate(record, item.name, several) for item in record.candidates]
    tail = "\n".join([*(f"{_sentence(line)}\n" for line in run_lines(record)), _facts(record)])
    room = MOST_BYTES - sum(len(part.encode()) + 1 for part in (*parts, tail)) - 200
    for done, section in enumerate(sections):
        room -= len(section.encode()) + 1
        if room < 0:
            parts.append(f"{len(sections) - done} more candidates are in the report.\n")
            break
        parts.append(section)
    return "\n".join([*parts, tail])


def _warnings(record: RunRecord) -> list[str]:
    """What the reader should know before the numbers; the rest is counted."""
    if not record.warnings:
        return []
    shown = [f"- {escaped(text, _LONGEST_WARNING)}" for text in record.warnings[:_MOST_WARNINGS]]
    if more := len(record.warnings) - len(shown):
        shown.append(f"- {more:,} more in the report")
    return [f"**{counted(len(record.warnings), 'warning')} about how this was run:**\n", "\n".join(shown) + "\n"]


def _candidate(record: RunRecord, name: str, several: bool) -> str:
    verdict = verdict_of(record, name)
    lines = [f"### {escaped(verdict_word(verdict))}: {escaped(name)}", ""]
    if several:
        lines += [escaped(sentence(record, name)), ""]
    if found := warned(record, name):
        lines += [escaped(found), ""]
    if is_same(record, name):
        lines += ["A/A run: candidate and reference are the same checkpoint; what differs is noise.", ""]
    lines += ["| limit | reference | candidate | difference or value | bound | n | outcome |"]
    lines += ["|---|---:|---:|---|---|---:|---|"]
    lines += [_row(row) for row in limit_rows(record, name)]
    if verdict.reasons:
        lines += ["", *(f"- {escaped(reason)}" for reason in verdict.reasons)]
    if told := candidate_lines(record, name):
        lines += ["", "\n".join(f"{_sentence(line)}\n" for line in told).rstrip()]
    return "\n".join(lines) + "\n"


def _row(row: LimitRow) -> str:
    return f"| {' | '.join((escaped(row.limit.id), *cells(row)))} |"


def cells(row: LimitRow) -> tuple[str, ...]:
    """Reference, candidate, value with its interval, bound, n and outcome, for a table."""
    m = row.measurement
    return (
        own_value(m, m.reference) if m else "",
        own_value(m, m.candidate) if m else "",
        f"{number(m.value)} \\[{number(m.low)}, {number(m.high)}\\]{escaped(unit_text(m.unit))}" if m else "",
        escaped(short_bound(row.limit)),
        sample_size(m) if m else "",
        _outcome(row),
    )


def _outcome(row: LimitRow) -> str:
    """``**PASS**``, ``**INVALID** (undecided)``, ``**FAIL**, warns only``."""
    meaning = f" ({row.answer.meaning})" if row.answer.word == "INVALID" else ""
    return f"**{row.answer.word}**{meaning}{', warns only' if row.warns_only else ''}"


def _sentence(text: str) -> str:
    return escaped(f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}")


def _facts(record: RunRecord) -> str:
    checkpoints = (("reference", record.reference), *(("candidate", item) for item in record.candidates))
    lines = [f"- {role} {escaped(item.name)} `{item.short}`" for role, item in checkpoints]
    judge = ", ".join(f"{key} {value}" for key, value in record.judge.items()) or "none"
    lines.append(f"- policy `{record.policy.digest[:12]}`, judge {escaped(judge)}, run {escaped(record.run)}")
    return "\n".join(lines[:200]) + "\n"
