"""What a stored run has already paid for: its completions and scores, taken over where everything behind them is equal.

So answers can be judged again by another judge, or decided on by another policy, without running a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness import record
from harness.domain import Checkpoint, Decoding, EngineOptions
from harness.errors import OptionError
from harness.plan import Task
from harness.policy import Work
from harness.running import Earlier

KINDS = {Work.COMPLETIONS, Work.SCORES, Work.SIMILARITIES}
"""Work whose tables stay in a run's directory; whole first-token distributions do not."""

_IRRELEVANT = ("batch_tokens", "allow_identical", "chat_template", "base")
"""Options that do not change what a model says, and files whose bytes are part of a checkpoint's identity."""

_VERSIONS = ("dpo-harness", "tokenizers")
"""Versions that can change what a model says, beside those that the engine names."""


def open_run(
    run: Path,
    *,
    engine: Mapping[str, str],
    options: EngineOptions,
    decoding: Decoding,
    digests: Mapping[str, str],
) -> tuple[Earlier, dict[str, str]]:
    """What can be taken over from a stored run, and what to say of it in the record: its name and its record's SHA-256.

    A table is the same where the checkpoint's bytes, the corpus (``digests``: name -> digest), the engine with its
    versions and settings and, for completions, the decoding are equal.

    Raises:
        OptionError: the run was made by another engine or with other settings: nothing of it can be used.
        RecordError: no whole run there.
    """
    directory = run.parent if run.name == record.FILE else run
    stored = record.read(directory)
    if why := _differs(stored, engine, options):
        raise OptionError(f"--reuse {run}: its models were run otherwise ({why}), so nothing of it can be used")
    if stored.early_stop:
        raise OptionError(f"--reuse {run}: its generation may have stopped early; only whole runs can be reused")
    names = {item.digest: item.name for item in stored.corpora}
    again = {item.identity for item in stored.candidates} & {stored.reference.identity}
    checkpoints = {
        item.identity: item.name
        for item in (*stored.candidates, stored.reference)
        if item.identity not in again and item.name in stored.canaries
    }
    listed = {(table.checkpoint, table.corpus, table.kind): directory / table.path for table in stored.tables}

    def find(checkpoint: Checkpoint, task: Task) -> Path | None:
        if task.work not in KINDS or (task.work is Work.COMPLETIONS and stored.policy.decoding != decoding):
            return None
        name, corpus = checkpoints.get(checkpoint.identity), names.get(digests[task.corpus])
        return listed.get((name, corpus, task.work.value)) if name and corpus else None

    canaries = {identity: stored.canaries[name] for identity, name in checkpoints.items()}
    return Earlier(find, canaries), {"run": stored.run, "sha256": record.file_digest(directory / record.FILE)}


def _differs(stored: record.RunRecord, engine: Mapping[str, str], options: EngineOptions) -> str:
    versions = record.environment()
    for key in _VERSIONS:
        if stored.versions.get(key) != versions.get(key):
            return f"{key} {stored.versions.get(key, 'unknown')}, now {versions.get(key, 'unknown')}"
    for key in sorted({*stored.engine, *engine} - set(_IRRELEVANT)):
        if stored.engine.get(key) != engine.get(key):
            return f"{key} {stored.engine.get(key, 'unknown')}, now {engine.get(key, 'unknown')}"
    for key in EngineOptions.__slots__:
        if key not in _IRRELEVANT and getattr(stored.options, key) != getattr(options, key):
            return f"{key} {getattr(stored.options, key)}, now {getattr(options, key)}"
    if (stored.options.chat_template == "raw") != (options.chat_template == "raw"):
        return "one of them without a chat template"
    return ""
