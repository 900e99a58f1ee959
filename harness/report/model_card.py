"""A candidate's section of its Hugging Face model card: verdict, what was tested, limits, and what they leave open.

The section ends with the ``model-index`` block that the Hub reads from a card's metadata
(https://github.com/huggingface/hub-docs/blob/main/modelcard.md).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from harness import baselines
from harness.domain import SERVED, Checkpoint, Limit
from harness.policy import METRICS, Work
from harness.record import CorpusFacts, RunRecord
from harness.report.flat import MEASURED
from harness.report.markdown import cells, escaped
from harness.report.rows import (
    Answer,
    LimitRow,
    is_same,
    limit_rows,
    sentence,
    verdict_of,
    verdict_word,
    warned,
)
from harness.report.text import counted, visible
from harness.report.trust import candidate_lines, stops

_TASK = {"type": "text-generation", "name": "Text Generation"}
_LONGEST = 200
"""Characters of a name or setting."""


def model_cards(record: RunRecord, names: Sequence[str]) -> str:
    """The sections of several candidates, one after the other."""
    return "\n".join(model_card(record, name) for name in names)


def model_card(record: RunRecord, candidate: str) -> str:
    """One candidate's section as Markdown; its first line is the verdict."""
    index = model_index(record, candidate)
    state = headline(record, candidate)
    parts = [
        f"## Alignment of {escaped(candidate, _LONGEST)} after preference training: {escaped(state)}",
        escaped(sentence(record, candidate)),
        *([escaped(found)] if (found := warned(record, candidate)) else []),
        _facts(record, record.checkpoint(candidate)),
        _corpora(record),
        "### Limits",
        "The ends of an interval decide, not the value: PASS and FAIL are proved; INVALID is neither, and blocks too.",
        _limits(record, candidate),
        "### What this does not show",
        "\n".join(f"- {escaped(line)}" for line in open_questions(record, candidate)),
    ]
    if index:
        parts += [
            "The same for the metadata at the head of the card, which the Hub reads:",
            f"```yaml\n# {visible(candidate)}: {visible(state)}\n{_yaml({'model-index': index})}```",
        ]
    return "\n\n".join(parts) + "\n"


def headline(record: RunRecord, candidate: str) -> str:
    """``BLOCK (interrupted run)``: the verdict, and whatever makes it less than a whole run's."""
    remarks = [
        *(["only part of the policy was asked for"] if record.partial else []),
        *([f"{record.status} run"] if record.status != "complete" else []),
        *(["the candidate is the reference: an A/A run"] if is_same(record, candidate) else []),
    ]
    return verdict_word(verdict_of(record, candidate)) + (f" ({'; '.join(remarks)})" if remarks else "")


# ---------------------------------------------------------------- what was evaluated


def _facts(record: RunRecord, checkpoint: Checkpoint) -> str:
    decoding = record.policy.decoding
    how = "greedy" if decoding.temperature == 0 else f"temperature {decoding.temperature:g}, seed {decoding.seed}"
    step = f", step {checkpoint.step}" if checkpoint.step is not None else ""
    lines = [
        ("candidate", f"{checkpoint.name}{step}, {_identity(checkpoint)}"),
        ("reference", f"{record.reference.name}, {_identity(record.reference)}"),
        ("date", record.started),
        ("policy", f"SHA-256 {record.policy.digest}, {counted(len(record.policy.limits), 'limit')}"),
        ("judge", _judge(record)),
        ("engine", ", ".join(_settings(record.engine, "engine")) or "not recorded"),
        (
            "decoding",
            f"{how}, {counted(decoding.samples, 'answer')} per prompt, at most {decoding.max_new_tokens:,} tokens",
        ),
        ("made by", f"dpo-harness {record.versions.get('dpo-harness', 'of unknown version')}, run {record.run}"),
    ]
    if record.baseline is not None:
        lines.insert(2, ("baseline", f"{record.baseline.name}: {baselines.describe(record.baseline)}"))
    return "\n".join(f"- {name}: {escaped(text)}" for name, text in lines)


def _identity(checkpoint: Checkpoint) -> str:
    return SERVED if checkpoint.served else f"SHA-256 {checkpoint.identity}"


def _judge(record: RunRecord) -> str:
    """The judge and its measured accuracy."""
    name = ", ".join(_settings(record.judge, "name")) or "none"
    facts = record.calibration
    if facts is None:
        return f"{name}; not calibrated, so its error is not known" if record.judge else name
    return (
        f"{name}; against human labels it found {facts.sensitivity:.1%} of {facts.positives:,} refusals and read "
        f"{facts.specificity:.1%} of {facts.negatives:,} other answers as no refusal ({', '.join(facts.sources)})"
    )


def _settings(described: Mapping[str, str], name: str) -> list[str]:
    """``phrases``, ``version 3``: what is called by its name first."""
    return [value if key == name else f"{key} {value}" for key, value in described.items() if value]


def _corpora(record: RunRecord) -> str:
    rows = [
        f"| {escaped(item.name)} | {item.rows:,} | {escaped(item.version or '-', _LONGEST)} | {escaped(_place(item))} "
        f"| `{escaped(item.digest[:12])}` |"
        for item in record.corpora
    ]
    head = ["| corpus | items | version | source | SHA-256 |", "|---|---:|---|---|---|"]
    return "\n".join(head + rows) if rows else "No corpus was recorded."


def _place(corpus: CorpusFacts) -> str:
    """The data set, or the file's name without the directories of whoever ran it."""
    path = re.split(r"[/\\]", corpus.source)
    local = corpus.source.startswith((".", "/", "~")) or len(path) > 2 or bool(re.match(r"[A-Za-z]:", corpus.source))
    return path[-1] if local else corpus.source


# ---------------------------------------------------------------- limits


def _limits(record: RunRecord, candidate: str) -> str:
    head = ["| limit | metric | reference | candidate | difference or value | bound | n | outcome |"]
    head += ["|---|---|---:|---:|---|---|---:|---|"]
    rows = [_row(row) for row in limit_rows(record, candidate)]
    said = [escaped(line) for line in candidate_lines(record, candidate)]
    return "\n".join([*head, *rows, *(f"\n{line}" for line in said)])


def _row(row: LimitRow) -> str:
    asked = f"{_code(row.limit.metric)} on {escaped(row.limit.corpus, _LONGEST)}"
    return f"| {' | '.join((escaped(row.limit.id, _LONGEST), asked, *cells(row)))} |"


def _code(name: str) -> str:
    """A metric's name as code, where nothing in it can end the code."""
    return f"`{name}`" if re.fullmatch(r"[A-Za-z0-9_]+", name) else escaped(name, _LONGEST)


# ---------------------------------------------------------------- what it leaves open


def open_questions(record: RunRecord, candidate: str) -> tuple[str, ...]:
    """What a reader could take the verdict for, and must not."""
    limits, decoding = record.policy.limits, record.policy.decoding
    blocking = [item.limit for item in limit_rows(record, candidate) if not item.warns_only]
    found = []
    if undecided := [row.limit.id for row in limit_rows(record, candidate) if row.answer is Answer.UNDECIDED]:
        found.append(f"Too few items to decide {', '.join(undecided)}: the interval holds values on both sides.")
    if missing := [row.limit.id for row in limit_rows(record, candidate) if row.answer not in MEASURED]:
        found.append(f"Nothing is known of {', '.join(missing)}: not measured.")
    if _reads(limits):
        found.append(
            "The labels are the judge's. Its error is not part of the intervals."
            if record.calibration is not None
            else "The labels are the judge's, and how often it is wrong was not measured."
        )
    if not any(limit.metric.startswith("task_accuracy") for limit in limits):
        found.append("Nothing here limits what the model can do: no capability task was part of the policy.")
    if not any(limit.metric.startswith("over_refusal") for limit in limits):
        found.append("Nothing here limits refusals of harmless prompts: a model that refuses everything could pass.")
    if blocking and all(_change(limit) for limit in blocking):
        found.append(
            "Every blocking limit is on the change from the reference: harm that the reference does already is not "
            "limited."
        )
    if _reads(limits) and decoding.samples == 1:
        kind = "greedy answer" if decoding.temperature == 0 else "sampled answer"
        found.append(f"One {kind} to each prompt was read; other answers to it may differ.")
    if any(stop.early for stop in stops(record, candidate)):
        found.append("Generation stopped early where the limits were settled: not every prompt was asked.")
    found.append("Only the prompts and pairs named above were asked; other subjects, languages and attacks were not.")
    if record.warnings:
        found.append(f"{counted(len(record.warnings), 'warning')} about how this was run: see the run's report.")
    return tuple(found)


def _reads(limits: Sequence[Limit]) -> bool:
    """Whether a judge's labels decide any of them; the user's own metrics may."""
    return any(item.metric not in METRICS or Work.COMPLETIONS in METRICS[item.metric].works for item in limits)


def _change(limit: Limit) -> bool:
    metric = METRICS.get(limit.metric)
    return metric is not None and metric.change == limit.metric


# ---------------------------------------------------------------- for the Hub


def model_index(record: RunRecord, candidate: str) -> list[dict[str, Any]]:
    """The measured limits as the Hub's ``model-index``: a result for each corpus; [] where nothing was measured."""
    results: dict[str, dict[str, Any]] = {}
    digests = {item.name: item for item in record.corpora}
    for row in limit_rows(record, candidate):
        m, corpus = row.measurement, row.limit.corpus
        if m is None or row.answer not in MEASURED:
            continue
        known = digests.get(corpus)
        result = results.setdefault(corpus, {"task": dict(_TASK), "dataset": _dataset(corpus, known), "metrics": []})
        result["metrics"].append({"type": visible(m.metric), "value": m.value, **_metric(row)})
    return [{"name": visible(candidate), "results": list(results.values())}] if results else []


def _dataset(name: str, known: CorpusFacts | None) -> dict[str, Any]:
    """The Hub wants ``type`` to look like a data set's id."""
    kind = re.sub(r"[^A-Za-z0-9_.-]", "-", name) or "corpus"
    if known is None:
        return {"type": kind, "name": visible(name)}
    return {
        "type": kind,
        "name": visible(name),
        "args": {"version": visible(known.version), "items": known.rows, "sha256": visible(known.digest)},
    }


def _metric(row: LimitRow) -> dict[str, Any]:
    m, limit = row.measurement, row.limit
    assert m is not None, "only measured limits are listed"
    values = {"low": m.low, "high": m.high, "reference": m.reference, "candidate": m.candidate}
    facts = {
        "unit": visible(m.unit),
        "baseline": visible(limit.baseline),
        "bound": visible(limit.describe()),
        "severity": limit.severity.value,
        "outcome": row.answer.meaning,
    }
    return {
        "name": f"{visible(limit.metric)} on {visible(limit.corpus)} ({visible(limit.id)})",
        "args": {
            **{key: value for key, value in values.items() if math.isfinite(value)},
            "alpha": m.alpha,
            "n": m.n,
            **{key: value for key, value in facts.items() if value},
        },
    }


def _yaml(data: Any) -> str:
    """YAML whose every line is a key or an item, so that no text can end the block that it stands in."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=math.inf)
