"""What a stored run has already paid for: its completions and scores, taken over where everything behind them is equal.

So answers can be judged again by another judge, or decided on by another policy, without running a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import record, tables
from harness.asking import Earlier
from harness.domain import Checkpoint, Decoding, EngineOptions, TaskSpec
from harness.engines.capability.tasks import asked
from harness.errors import OptionError, RecordError
from harness.outputs import UNFINISHED
from harness.plan import Task
from harness.policy import Work

KINDS = {Work.COMPLETIONS, Work.SCORES, Work.SIMILARITIES, Work.TASK}
"""Work whose tables stay in a run's directory; whole first-token distributions do not."""

_IRRELEVANT = ("batch_tokens", "allow_identical", "chat_template", "base")
"""Options that do not change what a model says, and files whose bytes are part of a checkpoint's identity."""

_RESOURCES = frozenset(
    {
        "cpu_kvcache_gib",
        "gpu_memory_utilization",
        "in_process",
        "max_lora_rank",
        "max_model_len",
        "max_num_seqs",
        "side_by_side",
    }
)
"""Engines' settings that say how much memory is taken, and like a batch's size change no answer on purpose: what a run
out of memory had finished can be taken over with less."""

_VERSIONS = ("dpo-harness", "tokenizers")
"""Versions that can change what a model says, beside those that the engine names."""


def open_run(
    run: Path,
    *,
    engine: Mapping[str, str],
    options: EngineOptions,
    decoding: Decoding,
    digests: Mapping[str, str],
    tasks: Mapping[str, TaskSpec],
) -> tuple[Earlier, dict[str, str]]:
    """What can be taken over from a stored run, and what to say of it in the record: its name and its record's SHA-256.

    A table is the same where the checkpoint's bytes, the corpus (``digests``: name -> digest), the engine with its
    versions and settings and, for completions, the decoding are equal. Of answers that an engine did not finish, the
    rest is generated. An lm-eval task is the same where its stored answers say that it was asked as ``tasks`` (name ->
    task) ask it now, by the same lm-eval; that its data were the same is seen when both checkpoints' questions are
    compared.

    Raises:
        OptionError: the run was made by another engine, with other settings, or of served models: nothing of it can be
            used.
        RecordError: no whole run there.
    """
    directory = run.parent if run.name == record.FILE else run
    stored = record.read(directory)
    if why := _differs(stored, engine, options):
        raise OptionError(f"--reuse {run}: its models were run otherwise ({why}), so nothing of it can be used")
    if stored.early_stop:
        raise OptionError(f"--reuse {run}: its generation may have stopped early; only whole runs can be reused")
    if served := [item.spec for item in (*stored.candidates, stored.reference) if item.served]:
        raise OptionError(
            f"--reuse {run}: {served[0]} was a served model: whether the server still has the same weights cannot be "
            "seen, so nothing of it can be used"
        )
    names = {item.digest: item.name for item in stored.corpora}
    again = {item.identity for item in stored.candidates} & {stored.reference.identity}
    checkpoints = {
        item.identity: item.name
        for item in (*stored.candidates, stored.reference)
        if item.identity not in again and item.name in stored.canaries
    }
    listed = {(table.checkpoint, table.corpus, table.kind): directory / table.path for table in stored.tables}

    def find(checkpoint: Checkpoint, task: Task) -> Path | None:
        return _table(checkpoint, task, task.work.value) if task.work in KINDS else None

    def unfinished(checkpoint: Checkpoint, task: Task) -> Path | None:
        return _table(checkpoint, task, UNFINISHED) if task.work is Work.COMPLETIONS else None

    def _table(checkpoint: Checkpoint, task: Task, kind: str) -> Path | None:
        if task.work is Work.COMPLETIONS and stored.policy.decoding != decoding:
            return None
        name = checkpoints.get(checkpoint.identity)
        if task.work is Work.TASK:
            answers = (path for (owner, _, of), path in listed.items() if (owner, of) == (name, kind))
            return next((path for path in answers if asked_so(path, tasks[task.corpus])), None)
        corpus = names.get(digests[task.corpus])
        return listed.get((name, corpus, kind)) if name and corpus else None

    canaries = {identity: stored.canaries[name] for identity, name in checkpoints.items()}
    return Earlier(find, unfinished, canaries), {
        "run": stored.run,
        "sha256": record.file_digest(directory / record.FILE),
    }


def asked_so(path: Path, task: TaskSpec) -> bool:
    """Whether a stored task was asked as this one is."""
    try:
        basis = tables.read_task(path).basis
    except RecordError:
        return False
    return all(basis.get(key) == value for key, value in asked(task).items())


def _differs(stored: record.RunRecord, engine: Mapping[str, str], options: EngineOptions) -> str:
    versions = record.environment()
    for key in _VERSIONS:
        if stored.versions.get(key) != versions.get(key):
            return f"{key} {stored.versions.get(key, 'unknown')}, now {versions.get(key, 'unknown')}"
    for key in sorted({*stored.engine, *engine} - set(_IRRELEVANT)):
        if stored.engine.get(key) != engine.get(key):
            return f"{key} {stored.engine.get(key, 'unknown')}, now {engine.get(key, 'unknown')}"
    before, now = _settings(stored.options), _settings(options)
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            return f"the engine's option {key} {before.get(key, 'not given')}, now {now.get(key, 'not given')}"
    for key in EngineOptions.__slots__:
        if key not in (*_IRRELEVANT, "settings") and getattr(stored.options, key) != getattr(options, key):
            return f"{key} {getattr(stored.options, key)}, now {getattr(options, key)}"
    if (stored.options.chat_template == "raw") != (options.chat_template == "raw"):
        return "one of them without a chat template"
    return ""


def engine_settings(engine: Mapping[str, str], options: EngineOptions) -> dict[str, str]:
    """What an engine says of itself and what it was told, without what changes no number on purpose."""
    described = {key: value for key, value in engine.items() if key not in _IRRELEVANT}
    template = {"chat template": "none"} if options.chat_template == "raw" else {}
    return described | template | {f"option {key}": str(value) for key, value in _settings(options).items()}


def _settings(options: EngineOptions) -> dict[str, Any]:
    """The engine's own settings that can change what a model says."""
    return {key: value for key, value in options.settings.items() if key not in _RESOURCES}
