"""What a stored run has already paid for: its completions and scores, taken over where everything behind them is equal.

So answers can be judged again by another judge, or decided on by another policy, without running a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from harness import record
from harness.domain import Checkpoint, Decoding, EngineOptions
from harness.errors import OptionError
from harness.plan import Task
from harness.policy import Work

KINDS = {Work.COMPLETIONS, Work.SCORES, Work.SIMILARITIES}
"""Work whose tables stay in a run's directory; whole first-token distributions do not."""

_IRRELEVANT = ("batch_tokens", "allow_identical", "chat_template", "base")
"""Options that do not change what a model says, and files whose bytes are part of a checkpoint's identity."""


def tables_of(
    directory: Path,
    *,
    engine: Mapping[str, str],
    options: EngineOptions,
    decoding: Decoding,
    digests: Mapping[str, str],
) -> Callable[[Checkpoint, Task], Path | None]:
    """Where the run in ``directory`` has a table of a piece of work; None where it has none that is the same.

    A table is the same where the checkpoint's bytes, the corpus (``digests``: name -> digest), the engine with its
    versions and settings and, for completions, the decoding are equal.

    Raises:
        OptionError: the run was made by another engine or with other settings: nothing of it can be used.
        RecordError: no whole run there.
    """
    stored = record.read(directory)
    if why := _differs(stored, engine, options):
        raise OptionError(f"--reuse {directory}: its models were run otherwise ({why}), so nothing of it can be used")
    if stored.early_stop:
        raise OptionError(f"--reuse {directory}: its generation may have stopped early; only whole runs can be reused")
    by_digest = {item.digest: item.name for item in stored.corpora}
    names = {name: by_digest.get(digest) for name, digest in digests.items()}
    again = {item.identity for item in stored.candidates} & {stored.reference.identity}
    checkpoints = {
        item.identity: item.name for item in (*stored.candidates, stored.reference) if item.identity not in again
    }
    listed = {(table.checkpoint, table.corpus, table.kind): directory / table.path for table in stored.tables}

    def find(checkpoint: Checkpoint, task: Task) -> Path | None:
        if task.work not in KINDS or (task.work is Work.COMPLETIONS and stored.policy.decoding != decoding):
            return None
        name, corpus = checkpoints.get(checkpoint.identity), names.get(task.corpus)
        return listed.get((name, corpus, task.work.value)) if name and corpus else None

    return find


def _differs(stored: record.RunRecord, engine: Mapping[str, str], options: EngineOptions) -> str:
    for key in sorted({*stored.engine, *engine} - set(_IRRELEVANT)):
        if stored.engine.get(key) != engine.get(key):
            return f"{key} {stored.engine.get(key, 'unknown')}, now {engine.get(key, 'unknown')}"
    for key in EngineOptions.__slots__:
        if key not in _IRRELEVANT and getattr(stored.options, key) != getattr(options, key):
            return f"{key} {getattr(stored.options, key)}, now {getattr(options, key)}"
    if (stored.options.chat_template == "raw") != (options.chat_template == "raw"):
        return "one of them without a chat template"
    return ""
