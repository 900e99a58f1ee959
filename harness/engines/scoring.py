"""Log-probabilities of given tokens, in nats, float32.

Rows are padded on the right and masked; the vocabulary projection (LM head) runs only on the positions asked for, and
in float32 whatever the weights' dtype: bfloat16 logits alone cost about 0.01 nats per token. Shapes: B rows, T padded
tokens, D hidden size, V vocabulary, R positions asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.engines.batching import plan

LOGITS_PER_BATCH = 1 << 29
"""Most logits (R x V) of one batch: 2 GiB at float32."""

ROWS_PER_CHUNK = 1024
"""Positions whose log-softmax is taken at once; bounds temporary memory."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence, and the part of it that is scored."""

    ids: tuple[int, ...]
    start: int
    """Index of the first scored token; at least 1."""


def predicting(rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """(line, position) of a batch, [R] each: where the scored tokens of its rows are predicted, row by row."""
    line = [index for index, row in enumerate(rows) for _ in row.ids[row.start :]]
    position = [column for row in rows for column in range(row.start - 1, len(row.ids) - 1)]
    return line, position


@torch.inference_mode()
def token_logprobs(
    model: Any,
    rows: Sequence[Row],
    *,
    pad: int,
    batch_tokens: int,
    on_batch: Callable[[list[int]], None] = lambda _: None,
) -> list[list[float]]:
    """log π(token | all tokens before it) of every row's tokens from ``start`` on, nats.

    The order of the result is the order of ``rows``; ``on_batch`` is called with the rows of each finished batch.
    """
    vocabulary = vocabulary_size(model)
    scored = [len(row.ids) - row.start for row in rows]
    results: list[list[float]] = [[] for _ in rows]
    heaviest = max(1, LOGITS_PER_BATCH // vocabulary)
    for batch in plan([len(row.ids) for row in rows], batch_tokens, scored, heaviest):
        line, position = predicting([rows[row] for row in batch])
        target = [token for row in batch for token in rows[row].ids[rows[row].start :]]
        logits = logits_at(model, [rows[row].ids for row in batch], line, position, pad=pad)
        values = gather_logprobs(logits, torch.tensor(target, device=logits.device)).tolist()
        begin = 0
        for row in batch:
            results[row] = values[begin : begin + scored[row]]
            begin += scored[row]
        on_batch(batch)
    return results


@torch.inference_mode()
def next_token_logprobs(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    *,
    pad: int,
    batch_tokens: int,
    on_batch: Callable[[list[int]], None] = lambda _: None,
) -> Tensor:
    """[prompts, V] float32 on the CPU: log π(· | prompt), nats."""
    vocabulary = vocabulary_size(model)
    result = torch.empty(len(prompts), vocabulary)
    most = max(1, LOGITS_PER_BATCH // vocabulary)
    for batch in plan([len(prompt) for prompt in prompts], batch_tokens, [1] * len(prompts), most):
        ids = [prompts[row] for row in batch]
        logits = logits_at(model, ids, list(range(len(ids))), [len(row) - 1 for row in ids], pad=pad)
        result[batch] = logits.log_softmax(dim=-1).cpu()
        on_batch(batch)
    return result


def logits_at(
    model: Any, ids: Sequence[tuple[int, ...]], line: Sequence[int], position: Sequence[int], *, pad: int
) -> Tensor:
    """[R, V] float32: the logits at (line, position) of a batch of sequences padded on the right.

    The rows of the last hidden state are picked before they enter the LM head, so the model's own scaling and
    soft-capping of logits happen as always.
    """
    return read_at(model, ids, line, position, pad=pad)[1]


def read_at(
    model: Any, ids: Sequence[tuple[int, ...]], line: Sequence[int], position: Sequence[int], *, pad: int
) -> tuple[Tensor | None, Tensor]:
    """([R, D] in the model's dtype: what the LM head reads at (line, position), [R, V] float32: the logits there).

    The hidden state is None for models whose head does not read one row per token.
    """
    longest = max(len(row) for row in ids)
    device = model.get_input_embeddings().weight.device
    tokens = torch.full((len(ids), longest), pad, dtype=torch.long)
    mask = torch.zeros((len(ids), longest), dtype=torch.long)
    for index, row in enumerate(ids):
        tokens[index, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[index, : len(row)] = 1
    lines, positions = torch.tensor(line, device=device), torch.tensor(position, device=device)
    head = model.get_output_embeddings()
    picked: list[Tensor] = []

    def pick(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]  # [B, T, D]
        if hidden.shape[:2] != tokens.shape:
            return args
        picked.append(hidden[lines, positions])
        return (picked[-1].unsqueeze(0), *args[1:])  # [1, R, D]

    hook = head.register_forward_pre_hook(pick) if head is not None else None
    try:
        with float32_head(model):
            logits: Tensor = model(
                input_ids=tokens.to(device), attention_mask=mask.to(device), use_cache=False, return_dict=True
            ).logits
    finally:
        if hook is not None:
            hook.remove()
    if picked:
        return picked[-1], logits[0].float()
    return None, logits[lines, positions].float()


def gather_logprobs(logits: Tensor, target: Tensor) -> Tensor:
    """[R] log-softmax of ``logits`` [R, V] at ``target`` [R]."""
    chunks = zip(torch.split(logits, ROWS_PER_CHUNK), torch.split(target, ROWS_PER_CHUNK), strict=True)
    return torch.cat([z.log_softmax(dim=1).gather(1, y[:, None])[:, 0] for z, y in chunks])


@contextmanager
def float32_head(model: Any) -> Iterator[None]:
    """Inside, a half-precision LM head multiplies exactly and returns float32 logits.

    Only plain linear maps onto the vocabulary are touched, wherever an adapter has put them; others stay as they are.
    """
    head = model.get_output_embeddings()
    vocabulary = vocabulary_size(model)
    linears = [
        module
        for module in (head.modules() if head is not None else ())
        if type(module) is nn.Linear
        and module.out_features == vocabulary
        and module.weight.dtype in (torch.bfloat16, torch.float16)
        and "forward" not in vars(module)
    ]
    for linear in linears:
        linear.forward = _Float32Linear(linear)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        for linear in linears:
            del linear.forward


class _Float32Linear:
    """y = x Wᵀ + b with float32 accumulation and result, from half-precision x and W."""

    def __init__(self, linear: nn.Linear) -> None:
        self._linear = linear

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias = self._linear.weight, self._linear.bias
        if x.is_cuda and x.dtype == weight.dtype:
            y = torch.mm(x.flatten(0, -2), weight.T, out_dtype=torch.float32).view(*x.shape[:-1], -1)
        else:
            y = nn.functional.linear(x.float(), weight.float())
        return y if bias is None else y + bias.float()


def vocabulary_size(model: Any) -> int:
    """V: how many logits the model gives."""
    head = model.get_output_embeddings()
    size: int = head.weight.shape[0] if head is not None else model.config.get_text_config().vocab_size
    return size


def unembedding(model: Any) -> Tensor:
    """W [V, D] float32: the LM head's weights, an adapter's change to them included."""
    head = model.get_output_embeddings()
    weight: Tensor = head.weight.detach().float()
    if hasattr(head, "get_delta_weight"):
        for adapter in head.active_adapters:
            if adapter in getattr(head, "lora_A", {}):
                weight = weight + head.get_delta_weight(adapter).float()
    return weight


@torch.inference_mode()
def directions(model: Any, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """[pairs, V] float32 on the CPU: ⟨W_z, W_chosen − W_rejected⟩ for every token z."""
    weight = unembedding(model)
    chosen = torch.tensor([pair[0] for pair in pairs], device=weight.device)
    rejected = torch.tensor([pair[1] for pair in pairs], device=weight.device)
    return ((weight[chosen] - weight[rejected]) @ weight.T).cpu()
