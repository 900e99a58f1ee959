"""Attention in which several responses share one computed prompt.

Groups (see ``layout``) stand one after the other in a single row of T tokens, without padding, so every matrix product
of the model runs on real tokens only. Attention then sees two kinds of sequences: a group's prefix with its first
branch, which is plain causal attention, and each further branch, whose queries see the prefix's keys before their own.
The function is registered with transformers' attention interface under ``NAME``; no model code is touched. What a layer
asks for besides (a sliding window, a soft cap on scores, its scale) reaches it as arguments and is respected; anything
it does not know raises ``Unsupported``.

Two kernels: padded ``scaled_dot_product_attention`` (any device), and on CUDA in half precision torch's variable-length
flash attention with gathered keys (queries [P+C][R], keys [P+C][P+R]), aligned at the bottom right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from harness.engines.layout import Group, Unsupported

NAME = "shared_prefix"

_UNKNOWN = ("s_aux", "position_bias", "head_mask", "attention_bias", "cache")
"""Arguments that change the result in ways this function does not know."""


class Plan:
    """Which tokens of a packed row see which, for every layer of one forward pass."""

    def __init__(self, groups: Sequence[Group], device: torch.device) -> None:
        firsts: list[Tensor] = []
        queries: list[Tensor] = []
        keys: list[Tensor] = []
        segments: list[tuple[int, Tensor]] = []
        offset = 0
        for group in groups:
            prefix = torch.arange(offset, offset + len(group.prefix))
            starts = [offset + start for start in group.starts()]
            spans = [torch.arange(s, s + len(b)) for s, b in zip(starts, group.branches, strict=True)]
            firsts.append(torch.cat([prefix, spans[0]]))
            segments.append((len(firsts[-1]), firsts[-1]))
            for span in spans[1:]:
                if len(span):
                    queries.append(span)
                    keys.append(torch.cat([prefix, span]))
                    segments.append((len(span), keys[-1]))
            offset += group.tokens
        self.parts = [_Part(firsts, firsts, device)] + ([_Part(queries, keys, device)] if queries else [])
        self._segments = segments
        self._device = device
        self._varlen: tuple[Tensor, Tensor, Tensor, int, int] | None = None

    def varlen(self) -> tuple[Tensor, Tensor, Tensor, int, int]:
        """(key index [K], cu_seq_q, cu_seq_k, longest query, longest key) for variable-length kernels.

        Queries stay where they are: segments follow each other in the packed row.
        """
        if self._varlen is None:
            lengths_q = [length for length, _ in self._segments]
            lengths_k = [len(index) for _, index in self._segments]
            ends = [
                torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=self._device)
                for lengths in (lengths_q, lengths_k)
            ]
            index = torch.cat([index for _, index in self._segments]).to(self._device)
            self._varlen = (index, ends[0], ends[1], max(lengths_q), max(lengths_k))
        return self._varlen


class _Part:
    """Sequences of one kind, padded on the right to [N, Q] queries and [N, K] keys; a query sees no later key."""

    def __init__(self, queries: Sequence[Tensor], keys: Sequence[Tensor], device: torch.device) -> None:
        self.lengths = torch.tensor([len(index) for index in queries], device=device)
        self.before = torch.tensor([len(k) - len(q) for q, k in zip(queries, keys, strict=True)], device=device)
        self.query = pad_sequence(list(queries), batch_first=True).to(device)
        self.key = pad_sequence(list(keys), batch_first=True).to(device)
        valid = torch.arange(self.query.shape[1], device=device) < self.lengths[:, None]
        self.valid = valid.flatten().nonzero()[:, 0]
        self.destination = self.query.flatten()[self.valid]
        self.plain = bool((self.before == 0).all())
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[N or 1, 1, Q, K] additive: 0 where a query sees a key, the lowest number elsewhere.

        Padded queries see what stands at their place, so that no row of the softmax is empty.
        """
        if (window, dtype) not in self._masks:
            device = self.query.device
            before = self.before[:1] if self.plain else self.before
            at = before[:, None] + torch.arange(self.query.shape[1], device=device)
            distance = at[:, :, None] - torch.arange(self.key.shape[1], device=device)
            seen = distance >= 0
            if window is not None:
                seen &= distance < window
            mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, torch.finfo(dtype).min)
            self._masks[window, dtype] = mask[:, None]
        return self._masks[window, dtype]


_PLAN: ContextVar[Plan | None] = ContextVar("shared_prefix_plan", default=None)


@contextmanager
def planned(plan: Plan) -> Iterator[None]:
    """Inside, layers attend as the plan says."""
    token = _PLAN.set(plan)
    try:
        yield
    finally:
        _PLAN.reset(token)


@contextmanager
def installed(model: Any) -> Iterator[None]:
    """Inside, the model's layers use this module's attention. Raises ``Unsupported`` where they cannot."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attend)
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(NAME)
        if model.config._attn_implementation != NAME:
            raise Unsupported(f"{type(model).__name__} has attention code of its own")
        yield
    finally:
        model.set_attn_implementation(before)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention over a packed row: query [1, H, T, D], key and value [1, H_kv, T, D] -> [1, T, H, D].

    Raises ``Unsupported`` for arguments it does not know, a mask, dropout or attention that is not causal.
    """
    plan = _PLAN.get()
    assert plan is not None, "attention on a shared prefix is only used by the scoring pass"
    asked = [name for name in _UNKNOWN if kwargs.get(name) is not None]
    if asked or attention_mask is not None or dropout or is_causal is False or not getattr(module, "is_causal", True):
        raise Unsupported(f"{type(module).__name__} wants {', '.join(asked) or 'a mask of its own'}")
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))  # [T, H, D]
    if softcap is None and _has_varlen(q):
        return _varlen(plan, q, k, v, scaling, sliding_window).unsqueeze(0), None
    out = q.new_empty(q.shape[0], q.shape[1], v.shape[2])
    for part in plan.parts:
        pq = q[part.query].transpose(1, 2)  # [N, H, Q, D]
        pk, pv = (states[part.key].transpose(1, 2) for states in (k, v))  # [N, H_kv, K, D]
        window = sliding_window if sliding_window is not None and sliding_window < part.key.shape[1] else None
        if softcap is not None:
            attended = _capped(pq, pk, pv, part.mask(window, q.dtype), scaling, softcap)
        else:
            causal = part.plain and window is None
            attended = scaled_dot_product_attention(
                pq,
                pk,
                pv,
                attn_mask=None if causal else part.mask(window, q.dtype),
                is_causal=causal,
                scale=scaling,
                enable_gqa=pq.shape[1] != pk.shape[1],
            )
        out[part.destination] = attended.transpose(1, 2).flatten(0, 1)[part.valid]
    return out.unsqueeze(0), None


def _capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scaling: float | None, softcap: float) -> Tensor:
    """softmax(c tanh(q kᵀ s / c) + mask) v, softmax in float32."""
    repeats = q.shape[1] // k.shape[1]
    k, v = (states.repeat_interleave(repeats, dim=1) for states in (k, v))
    scores = q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap + mask
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype) @ v


def _has_varlen(q: Tensor) -> bool:
    if not q.is_cuda or q.dtype not in (torch.bfloat16, torch.float16):
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn  # noqa: F401 - only whether it is there
    except ImportError:
        return False
    return True


def _varlen(plan: Plan, q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    index, ends_q, ends_k, longest_q, longest_k = plan.varlen()
    result = varlen_attn(
        q.contiguous(),
        k[index],
        v[index],
        ends_q,
        ends_k,
        longest_q,
        longest_k,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(result, Tensor), "no auxiliary output was asked for"
    return result
