"""A sequence classifier in memory: weights, rows in batches, probabilities.

It is checked once before it reads anything: its numbers are finite, and a batch with padding gives what one row at a
time gives. Where that is not so (no padding token, a head that reads the last position), rows are run one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.domain import Checkpoint, EngineOptions
from harness.engines import batching, loading, memory
from harness.engines.model import CPU_TOKENS, context_length
from harness.engines.tokens import first_line, load_tokenizer
from harness.engines.windows import Framer, Row
from harness.errors import CheckpointError
from harness.protocols import OnProgress

TOLERANCE = 1e-3
"""Largest difference of a logit between a batch and a single row that rounding explains, in float32."""

ROUGH = 0.2
"""The same in half precision."""

_PROBES = ("No.", "Sure. First, get ready; then go on, and do not look back. " * 4)
"""Texts of very different lengths."""


class LoadedClassifier:
    """Weights, tokenizer, and the way to run them."""

    def __init__(
        self, checkpoint: Checkpoint, classes: Sequence[str], options: EngineOptions, max_tokens: int | None
    ) -> None:
        """Load and check.

        Args:
            checkpoint: found and hashed.
            classes: their names as config.json has them.
            options: ``dtype`` is that of the weights; everything after the logits is float32.
            max_tokens: most tokens of a row, where the checkpoint's own limit is higher.

        Raises:
            CheckpointError: it cannot be loaded, has tensors missing, gives numbers that are not finite, or its
                classes are not those of config.json.
        """
        self.name = checkpoint.path
        self.notes: list[str] = []
        device = loading.pick_device(options.device)
        dtype = loading.pick_dtype(options.dtype, device)
        self._batch_tokens = min(options.batch_tokens, CPU_TOKENS) if device.type == "cpu" else options.batch_tokens
        self._module = _load(Path(checkpoint.path), options, device, dtype)
        self._check_classes(classes)
        tokenizer = load_tokenizer(checkpoint, options)
        limits = [limit for limit in (max_tokens, _positions(self._module)) if limit is not None]
        longest = min([*limits, tokenizer.model_max_length])
        self.window: int | None = longest if longest < 1_000_000 else None
        """Most tokens of a row; tokenizers that know no limit say 10**30."""
        self._framer = Framer(tokenizer, self.window, self.name)
        pad = self._module.config.get_text_config().pad_token_id
        pad = tokenizer.pad_token_id if pad is None else pad  # a head that looks for padding looks for its config's
        self._pad: int = 0 if pad is None else pad
        self._round = _row_multiple(self._module.config)
        self._alone = not self._batches_agree(ROUGH if dtype.itemsize < 4 else TOLERANCE)

    def read(
        self, texts: Sequence[tuple[str, str]], on_progress: OnProgress
    ) -> tuple[list[npt.NDArray[np.float32]], int]:
        """[windows, classes] probabilities for each (first, second) text, and how many first texts were cut.

        Where a row's logits are not finite or there was no token to read, its probabilities are NaN.

        Raises:
            MeasurementError: out of memory with a single row.
        """
        framed = self._framer.rows(texts)
        rows = [row for windows, _ in framed for row in windows]
        owners = [number for number, (windows, _) in enumerate(framed) for _ in windows]
        found = np.full((len(rows), self._module.config.num_labels), np.nan, dtype=np.float32)
        countdown = batching.Countdown(owners, on_progress)

        def process(batch: list[int]) -> None:
            full = [number for number in batch if rows[number].ids]
            if full:
                logits = self._logits([rows[number] for number in full])
                finite = logits.isfinite().all(dim=-1, keepdim=True)
                found[full] = torch.where(finite, logits.softmax(dim=-1), torch.nan).cpu().numpy()
            countdown.finished(batch)

        cure = (
            f"with a single row of up to {max(len(row.ids) for row in rows) if rows else 0} tokens; use a device with "
            "more memory, or give the tokenizer a smaller model_max_length (tokenizer_config.json)"
        )
        with memory.explained(self.name, cure):
            batching.run(
                [-(-len(row.ids) // self._round) * self._round for row in rows],
                1 if self._alone else self._batch_tokens,
                process,
                on_smaller=lambda budget: self.notes.append(f"ran out of memory; went on with {budget} tokens a batch"),
            )
        ends = np.cumsum([len(windows) for windows, _ in framed])
        return np.split(found, ends[:-1]) if len(ends) else [], sum(cut > 0 for _, cut in framed)

    @torch.inference_mode()
    def _logits(self, rows: Sequence[Row]) -> Tensor:
        """[rows, classes], float32. Padding stands on the right and is masked."""
        width = max(len(row.ids) for row in rows)
        device = self._module.device

        def filled(value: int, of: Callable[[Row], Sequence[int]]) -> Tensor:
            return torch.tensor([[*of(row), *[value] * (width - len(row.ids))] for row in rows], device=device)

        inputs = {
            "input_ids": filled(self._pad, lambda row: row.ids),
            "attention_mask": filled(0, lambda row: [1] * len(row.ids)),
        }
        if rows[0].types:
            inputs["token_type_ids"] = filled(0, lambda row: row.types)
        logits: Tensor = self._module(**inputs).logits
        expected = (len(rows), self._module.config.num_labels)
        if logits.shape != expected:
            raise CheckpointError(
                f"{self.name} gives {tuple(logits.shape)} numbers for {len(rows)} texts, not {expected}: it does not "
                "classify whole texts"
            )
        return logits.float()

    def _batches_agree(self, tolerance: float) -> bool:
        """Whether rows with padding give what they give alone. Raises ``CheckpointError`` on NaN or infinity."""
        rows = [windows[0] for windows, _ in self._framer.rows([(text, "") for text in _PROBES])]
        alone = torch.cat([self._logits([row]) for row in rows])
        if not bool(alone.isfinite().all()):
            raise CheckpointError(
                f"{self.name} gives NaN or infinite numbers on {_PROBES[0]!r}: its weights are damaged, or numbers "
                "overflow in this dtype (use float32)"
            )
        try:
            difference = float((self._logits(rows) - alone).abs().max())
        except Exception as error:  # such as no padding token: whatever it is, single rows work
            if memory.is_exhausted(error):
                raise
            self.notes.append(f"run one row at a time, as it takes no batch ({first_line(error)})")
            return False
        if not difference <= tolerance:
            self.notes.append(f"run one row at a time, as padding changes its logits by {difference:.2g}")
            return False
        return True

    def _check_classes(self, classes: Sequence[str]) -> None:
        named = self._module.config.id2label
        loaded = [str(named[number]) for number in sorted(named)]
        if loaded != list(classes) or self._module.config.num_labels != len(classes):
            raise CheckpointError(
                f"{self.name}: config.json names the classes {list(classes)}, but the model has {loaded}; write all of "
                "them into id2label"
            )


def _load(path: Path, options: EngineOptions, device: torch.device, dtype: torch.dtype) -> Any:
    """A transformers sequence classifier in eval mode. Raises ``CheckpointError`` where a tensor is missing."""
    import transformers

    module = loading.pretrained(
        transformers.AutoModelForSequenceClassification,
        path,
        options,
        device,
        dtype,
        name=f"the classifier {path}",
        smaller="dtype bfloat16 or device cpu",
        unfit=lambda tensors: (
            f"{path} is not a whole classifier: {tensors}, where it would run with random numbers; give a checkpoint "
            "that was trained to classify, with its head"
        ),
    )
    config = module.config.get_text_config()
    if hasattr(config, "use_cache"):
        config.use_cache = False  # nothing is generated
    return module


def _positions(module: Any) -> int | None:
    """Most tokens of a row that the model has positions for, None where it knows no limit.

    RoBERTa and its relatives count positions from the padding index on, so those up to it are never used.
    """
    limit = context_length(module)
    for name, part in module.named_modules():
        index = getattr(part, "padding_idx", None)
        if name.endswith("position_embeddings") and index is not None:
            usable = int(part.num_embeddings) - int(index) - 1
            limit = usable if limit is None else min(limit, usable)
    return limit


def _row_multiple(config: Any) -> int:
    """What a model pads its rows to by itself (Longformer: to its widest attention window)."""
    window = getattr(config, "attention_window", None)
    if isinstance(window, int):
        return max(1, window)
    return max([1, *window]) if isinstance(window, list | tuple) else 1
