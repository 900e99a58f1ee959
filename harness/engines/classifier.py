"""Sequence-classification checkpoints: found, checked and hashed here, loaded when the first text is read.

Importing this module and opening a classifier import no model library, so that a run can say which classifier it has
before it needs one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from harness.domain import Checkpoint, EngineOptions
from harness.engines import checkpoints, locate, templates
from harness.engines.hf import HfEngine
from harness.errors import CheckpointError
from harness.protocols import OnProgress, no_progress

if TYPE_CHECKING:
    from harness.engines.classification import LoadedClassifier

_SUFFIX = "ForSequenceClassification"


class HfClassifier:
    """A transformers sequence classifier; ``protocols.Classifier``."""

    def __init__(
        self, checkpoint: Checkpoint, classes: tuple[str, ...], options: EngineOptions, max_tokens: int | None = None
    ) -> None:
        """See ``open_classifier``, which makes it."""
        self.classes = classes
        self._checkpoint = checkpoint
        self._options = options
        self._max_tokens = max_tokens
        self._loaded: LoadedClassifier | None = None
        self._closed = False
        self._kept_notes: tuple[str, ...] = ()
        self._cut = 0

    def probabilities(
        self, texts: Sequence[tuple[str, str]], on_progress: OnProgress = no_progress
    ) -> list[npt.NDArray[np.float32]]:
        """[windows, classes] for each (first text, second text): softmax over the classes, in float32.

        A text that is too long is read in windows that share a quarter (``windows.Framer.rows``). Probabilities are
        NaN where the logits are not finite. The same for any batch size and order, up to rounding.

        Raises:
            CheckpointError: with the first texts: it cannot be loaded, has tensors missing (such as a head that was
                never trained), or gives numbers that are not finite.
            MeasurementError: out of memory.
        """
        assert not self._closed, f"the classifier {self._checkpoint.path} is closed"
        if self._loaded is None:
            from harness.engines.classification import LoadedClassifier

            self._loaded = LoadedClassifier(self._checkpoint, self.classes, self._options, self._max_tokens)
        found, cut = self._loaded.read(texts, on_progress)
        self._cut += cut
        return found

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its probabilities should know: how it had to be run, how many first texts were cut."""
        ran = tuple(self._loaded.notes) if self._loaded else self._kept_notes
        if not self._cut:
            return ran
        texts = "1 first text was" if self._cut == 1 else f"{self._cut} first texts were"
        return (*ran, f"{texts} cut to fit into a window with the second")

    def close(self) -> None:
        """Free its memory; it cannot be used afterwards."""
        self._closed = True
        if self._loaded is not None:
            from harness.engines import memory

            self._kept_notes = tuple(self._loaded.notes)
            self._loaded = None
            memory.release()

    def describe(self) -> Mapping[str, str]:
        """Identity (SHA-256 of its bytes), device, dtype, and the longest row where one was asked for.

        Imports torch only where it is needed to know the device (``HfEngine.describe``).
        """
        facts = HfEngine(self._options).describe()
        shortened = {} if self._max_tokens is None else {"max_tokens": str(self._max_tokens)}
        return {
            "identity": self._checkpoint.identity,
            "device": facts["device"],
            "dtype": facts["dtype"],
            **shortened,
        }


def open_classifier(spec: str, options: EngineOptions, max_tokens: int | None = None) -> HfClassifier:
    """Find, check and hash a sequence-classification checkpoint: a directory, or a hub id with ``@revision``.

    Its dtype is float32 unless ``options.dtype`` says otherwise: it is small beside what it judges, and labels near a
    threshold should not depend on rounding. Chat template and base model of the options are of other checkpoints.

    Refused, beside what is missing or damaged: a checkpoint of another kind (a token classifier's head has the same
    tensors as a sequence classifier's), and one whose outputs are no distribution over classes: several labels that
    may hold at once, or one output, which may be a logit, a score or a regression.

    Args:
        spec: as a user writes it.
        options: ``batch_tokens`` padded tokens go through the model together.
        max_tokens: most tokens that it reads at once, special ones included; None: as many as tokenizer and model take.

    Raises:
        CheckpointError: missing, not a classifier, unsafe weights, damaged. What only loading shows is raised by the
            first ``probabilities``.
    """
    options = replace(
        options, dtype="float32" if options.dtype == "auto" else options.dtype, chat_template=templates.RAW, base=""
    )
    root = locate.directory(spec, unsafe=options.unsafe_weights, remote_code=options.trust_remote_code)
    if (root / checkpoints.ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{root} is an adapter, and a classifier must be whole; merge it into its base (peft: merge_and_unload) "
            "and save the result with its tokenizer"
        )
    checkpoint = checkpoints.resolve(str(root), "classifier", options)
    classes = _classes(templates.read_json(root / "config.json"), root)
    return HfClassifier(
        replace(checkpoint, spec=spec, identity=_identity(checkpoint, root)), classes, options, max_tokens
    )


def _identity(checkpoint: Checkpoint, root: Path) -> str:
    """The checkpoint's, with the tokenizer's longest text, which decides where windows end."""
    file = root / templates.TOKENIZER_CONFIG
    longest = templates.read_json(file).get("model_max_length") if file.is_file() else None
    return hashlib.sha256(f"{checkpoint.identity}\n{longest}".encode()).hexdigest()


def _classes(config: Mapping[str, Any], root: Path) -> tuple[str, ...]:
    """The names of its classes, in the order of its outputs. Raises ``CheckpointError`` as ``open_classifier``."""
    kinds = config.get("architectures")
    names = [str(kind) for kind in kinds] if isinstance(kinds, list) else []
    remote = config.get("auto_map")
    own_code = isinstance(remote, dict) and f"AutoModel{_SUFFIX}" in remote
    if not own_code and not any(name.endswith(_SUFFIX) for name in names):
        raise CheckpointError(
            f"{root} is no sequence classifier: its config.json has the architectures {names}, and none is an "
            f"'...{_SUFFIX}'; give a checkpoint that was trained as one and saved with save_pretrained"
        )
    kind = config.get("problem_type")
    if kind not in (None, "single_label_classification"):
        raise CheckpointError(
            f"{root} is a classifier of the problem type {kind!r}, whose outputs are not probabilities of classes that "
            "exclude each other; give one trained for 'single_label_classification'"
        )
    named = config.get("id2label")
    if named is None:  # as transformers names them
        count = config.get("num_labels", 2)
        named = {number: f"LABEL_{number}" for number in range(count if isinstance(count, int) else 0)}
    try:
        numbered = {int(number): str(name) for number, name in named.items()}
    except (ValueError, AttributeError, TypeError):
        numbered = {}
    if not numbered or sorted(numbered) != list(range(len(numbered))):
        raise CheckpointError(f"{root}/config.json: id2label must name the classes 0, 1, ..., not {named!r}")
    if len(numbered) == 1:
        raise CheckpointError(
            f"{root} has one output, which may be a logit, a score or a regression, so it gives no probability of a "
            "class; give a classifier with two classes or more"
        )
    classes = tuple(numbered[number] for number in range(len(numbered)))
    if len(set(classes)) < len(classes):
        raise CheckpointError(f"{root}/config.json: two classes in id2label have one name: {list(classes)}; rename one")
    return classes
