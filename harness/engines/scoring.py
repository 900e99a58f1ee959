"""Log-probabilities, similarities and first-token distributions of groups of sequences, from one pass, in nats.

The model's body runs on batches filled to a token budget, longest first; the LM head then runs in chunks, only where a
scored token is predicted, in float32. What is kept of a chunk are numbers on the CPU, so memory does not grow with the
number of groups. Shapes: R positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from harness.engines import attention, batching, head
from harness.engines.bodies import BODIES, Reader, load, width
from harness.engines.layout import Group, share
from harness.engines.similarity import Likeness, likeness, products, products_by_tiles
from harness.errors import MeasurementError

LOGITS_PER_CHUNK = {"cpu": 1 << 24, "cuda": 1 << 28}
"""Most logits (R x V) taken at once: 64 MiB and 1 GiB at float32."""

PROBABILITIES_HELD = 1 << 28
"""Most probabilities (R x V) of one group held for its similarity: 1 GiB at float32. Of a larger group two tiles of
half the size are held, and the head runs again for each pair of tiles."""


@dataclass(slots=True, eq=False)
class Found:
    """What one pass found, a place for each group."""

    logprobs: list[list[list[float]]]
    """For each group and row: log π(token | all tokens before it) of its scored tokens, nats."""
    likenesses: list[Likeness]
    """Of each group's first two rows; empty where not asked for."""
    first: Tensor | None
    """[groups, V] float32 on the CPU: log π(· | tokens before the first row's first scored token), nats."""


@torch.inference_mode()
def score(
    model: Any,
    groups: Sequence[Group],
    *,
    body: str,
    pad: int,
    batch_tokens: int,
    similarity: bool = False,
    first: bool = False,
    on_batch: Callable[[list[int]], None] = lambda _: None,
    on_smaller: Callable[[int], None] = lambda _: None,
) -> Found:
    """Score every row of every group; the order of the result is the order of ``groups``.

    Args:
        model: a transformers causal LM in eval mode.
        groups: what to score, laid out.
        body: a key of ``bodies.BODIES`` that is right for this model (see ``paths.choose``).
        pad: any token id; padding is never seen.
        batch_tokens: tokens of a batch, padding included.
        similarity: also ``Likeness`` of the first two rows of each group.
        first: also the distribution at the first row's first scored token.
        on_batch: told the groups of each finished batch.
        on_smaller: told the new budget after running out of memory.

    Raises ``MeasurementError`` for similarities of a model whose LM head does not read one hidden state per token.
    """
    if body == "whole-rows":  # what the others are checked against shares nothing
        groups = [share(group.rows, apart=True) for group in groups]
    logprobs: list[list[list[float]]] = [[] for _ in groups]
    likenesses: list[Likeness | None] = [None] * len(groups)
    distribution = torch.empty(len(groups), head.vocabulary_size(model)) if first else None

    def process(batch: list[int]) -> None:
        together = [groups[number] for number in batch]
        chunks = _Chunks(model, together, BODIES[body](model, together, pad))
        chunks.run(similarity=similarity, first=first)
        for number, values in zip(batch, chunks.logprobs(), strict=True):
            logprobs[number] = values
        if distribution is not None:
            distribution[batch] = torch.stack(chunks.first).cpu()
        if similarity:
            for number, numbers in zip(batch, torch.stack(chunks.likenesses).tolist(), strict=True):
                likenesses[number] = Likeness(*numbers)
        on_batch(batch)

    with prepared(model, body), head.float32(model):
        loads, widths = [load(body, group) for group in groups], [width(body, group) for group in groups]
        batching.run(loads, batch_tokens, process, widths, on_smaller)
    return Found(logprobs, [item for item in likenesses if item is not None], distribution)


@contextmanager
def prepared(model: Any, body: str) -> Iterator[None]:
    """Inside, the model attends as the body needs it."""
    if body == "packed":
        with attention.installed(model):
            yield
    else:
        yield


class _Chunks:
    """The LM head's part of one batch: needed tokens are read in chunks that hold whole groups where these fit."""

    def __init__(self, model: Any, groups: Sequence[Group], reader: Reader) -> None:
        self._groups = groups
        self._reader = reader
        self._begins = list(accumulate((len(group.needed) for group in groups), initial=0))
        device = model.get_input_embeddings().weight.device
        most = LOGITS_PER_CHUNK["cuda" if device.type == "cuda" else "cpu"]
        vocabulary = head.vocabulary_size(model)
        self._rows, self._held = max(1, most // vocabulary), max(1, PROBABILITIES_HELD // vocabulary)
        reads = zip(self._begins, groups, strict=False)
        self._at = torch.tensor([begin + at for begin, group in reads for row in group.reads for at in row])
        self._target = torch.tensor([token for group in groups for row in group.rows for token in row.scored])
        self._values = torch.empty(len(self._at))
        self.first: list[Tensor] = []
        self.likenesses: list[Tensor] = []

    def run(self, *, similarity: bool, first: bool) -> None:
        for members in self._together():
            begin, end = self._begins[members.start], self._begins[members.stop]
            reads, probabilities = self._read(members, begin, end, similarity=similarity, first=first)
            if not similarity:
                continue
            read = torch.cat(reads)
            for number in members:
                group, part = (
                    self._groups[number],
                    slice(self._begins[number] - begin, self._begins[number + 1] - begin),
                )
                if probabilities is None:
                    gram, picked = self._by_tiles(group, begin, end)
                else:
                    gram, picked = products(group, probabilities[part])
                self.likenesses.append(likeness(group, read[part], gram, picked))

    def logprobs(self) -> list[list[list[float]]]:
        """For each group and row."""
        values = iter(self._values.tolist())
        return [[[next(values) for _ in row.scored] for row in group.rows] for group in self._groups]

    def _together(self) -> list[range]:
        """Consecutive groups that fill a chunk; one that is larger stands alone."""
        chunks = [range(1)]
        for number in range(1, len(self._groups)):
            if self._begins[number + 1] - self._begins[chunks[-1].start] <= self._rows:
                chunks[-1] = range(chunks[-1].start, number + 1)
            else:
                chunks.append(range(number, number + 1))
        return chunks

    def _read(
        self, members: range, begin: int, end: int, *, similarity: bool, first: bool
    ) -> tuple[list[Tensor], Tensor | None]:
        """Read needed tokens [begin, end) in chunks; for similarity gives what the head read, [R, D] in parts, and
        π [R, V], None where that would not fit."""
        firsts = {self._begins[number] + self._groups[number].reads[0][0] for number in members} if first else set()
        reads: list[Tensor] = []
        held: Tensor | None = None
        for part in _slices(begin, end, self._rows):
            read, logits = self._reader(part)
            log_probs = self._keep(logits, part.start, part.stop)
            self.first += [log_probs[at - part.start].clone() for at in sorted(firsts) if part.start <= at < part.stop]
            if similarity:
                reads.append(_seen(read))
                if end - begin <= self._rows:
                    held = log_probs.exp_()
                elif end - begin <= self._held:
                    held = log_probs.new_empty(end - begin, log_probs.shape[1]) if held is None else held
                    torch.exp(log_probs, out=held[part.start - begin : part.stop - begin])
        return reads, held

    def _by_tiles(self, group: Group, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """``products`` of a group whose probabilities do not fit at once: the head runs again, two tiles are held."""

        def probabilities(tile: slice) -> Tensor:
            return self._reader(slice(begin + tile.start, begin + tile.stop))[1].softmax(dim=-1)

        tiles = list(_slices(0, end - begin, max(1, self._held // 2)))
        return products_by_tiles(group, probabilities, tiles)

    def _keep(self, logits: Tensor, begin: int, end: int) -> Tensor:
        """Keep log π of the tokens predicted in [begin, end); returns log π [R, V]."""
        log_probs = logits.log_softmax(dim=-1)
        mine = ((self._at >= begin) & (self._at < end)).nonzero()[:, 0]
        at, target = (self._at[mine] - begin).to(logits.device), self._target[mine].to(logits.device)
        self._values[mine] = log_probs[at, target].cpu()
        return log_probs


def _slices(begin: int, end: int, size: int) -> Iterator[slice]:
    return (slice(at, min(at + size, end)) for at in range(begin, end, size))


def _seen(read: Tensor | None) -> Tensor:
    if read is None:
        raise MeasurementError("this model's LM head does not read one hidden state per token: no similarities")
    return read
