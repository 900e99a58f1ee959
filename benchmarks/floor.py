"""The least work that scoring a preference pair takes, in floating-point operations.

A decoder of L layers, hidden size d, H query and H_kv key heads of size h, MLP size f and vocabulary V has

    body = L (2 d H h + 2 d H_kv h + 3 d f)    weights that every token is multiplied with
    head = d V                                 weights that every scored position is multiplied with

and a forward pass that processes T tokens, reads R positions and attends to S (query, key) couples costs

    FLOPs = 2 body T + 2 head R + 4 H h L S,

one multiplication and one addition per weight or couple of numbers; norms, rotations and the softmax are left out. With
a prefix of P tokens computed once and branches of B_i tokens behind it, T = P + Σ B_i and
S = tri(P) + Σ (P B_i + tri(B_i)), tri(n) = n (n + 1) / 2.

``minimal`` is the work nobody can do without: the longest common token prefix once, the LM head once per position that
predicts a response token, and no pass over a response's last token, which predicts nothing. It is the numerator of the
share of the matmul rate, so that padding, prompts computed twice and the LM head on prompts show as a low share.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.pairs import Pair


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Llama-shaped decoder with untied embeddings."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    context: int = 4096
    """Most positions."""

    @property
    def body(self) -> int:
        """Weights each processed token is multiplied with."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def head(self) -> int:
        """Weights of the LM head."""
        return self.hidden * self.vocabulary


SHAPES = {
    "tiny": Shape(layers=2, hidden=64, heads=2, kv_heads=1, head_dim=32, inner=128, vocabulary=512),
    "small": Shape(layers=8, hidden=512, heads=8, kv_heads=4, head_dim=64, inner=1408, vocabulary=32_000),
    "llama-3-8b": Shape(
        layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, inner=14_336, vocabulary=128_256, context=8192
    ),
}
"""Shapes by name: ``tiny`` for tests, ``small`` for two CPU cores, ``llama-3-8b`` for CUDA."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a forward pass has to do; adds up over pairs."""

    tokens: int
    """T, processed."""
    rows: int
    """R, positions read by the LM head."""
    visible: int
    """S, (query, key) couples."""

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.rows + other.rows, self.visible + other.visible)


def body_flops(shape: Shape, work: Work) -> int:
    """Floating-point operations of the layers, attention included."""
    return 2 * shape.body * work.tokens + 4 * shape.heads * shape.head_dim * shape.layers * work.visible


def head_flops(shape: Shape, work: Work) -> int:
    """Floating-point operations of the LM head."""
    return 2 * shape.head * work.rows


def flops(shape: Shape, work: Work) -> int:
    """Floating-point operations of one forward pass; see the module."""
    return body_flops(shape, work) + head_flops(shape, work)


def shared(prefix: int, branches: Sequence[int], rows: int) -> Work:
    """A prefix computed once with branches behind it."""
    visible = _triangle(prefix) + sum(prefix * branch + _triangle(branch) for branch in branches)
    return Work(prefix + sum(branches), rows, visible)


def apart(lengths: Iterable[int], rows: int) -> Work:
    """Sequences that are computed one by one."""
    lengths = list(lengths)
    return Work(sum(lengths), rows, sum(map(_triangle, lengths)))


def minimal(pair: Pair) -> Work:
    """The least work that scores both responses; see the module."""
    chosen, rejected = (pair.prompt + response[:-1] for response in (pair.chosen, pair.rejected))
    prefix = len(os.path.commonprefix([chosen, rejected]))  # noqa: RUF071 - not paths
    twice = prefix - (len(pair.prompt) - 1)  # positions that predict a token of either response
    rows = len(pair.chosen) + len(pair.rejected) - twice
    return shared(prefix, [len(chosen) - prefix, len(rejected) - prefix], rows)


def _triangle(n: int) -> int:
    return n * (n + 1) // 2
