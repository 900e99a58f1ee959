"""The vocabulary projection (LM head): from hidden states to float32 logits, and the weights themselves.

Logits are float32 whatever the weights' dtype: bfloat16 logits alone cost about 0.01 nats per token. The model's own
scaling and soft-capping of logits happen as always, because its own forward function does them. Shapes: R positions,
D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from harness.engines.layout import Unsupported


def body(model: Any) -> Any:
    """The part of a causal LM that turns token ids into hidden states. Raises ``Unsupported`` where it is not apart."""
    decoder = model.get_decoder()
    if decoder is None or decoder is model:
        decoder = getattr(model, "model", None)
    if decoder is None:
        raise Unsupported(f"{type(model).__name__} has no body apart from its head")
    return decoder


def read(model: Any, hidden: Tensor, output: type) -> tuple[Tensor | None, Tensor]:
    """([R, D] what the LM head reads, [R, V] float32 logits) for hidden states [R, D] that left the model's body.

    The model runs with its body replaced by one that returns ``hidden`` in an ``output``, the type of what the body
    returns. The first is None for models whose head does not read one row per token.
    """
    decoder = body(model)
    assert "forward" not in vars(decoder), "the body is replaced once at a time"
    decoder.forward = lambda *_, **__: output(last_hidden_state=hidden[None])
    try:
        with caught(model) as inputs, float32(model):
            tokens = torch.zeros((1, len(hidden)), dtype=torch.long, device=hidden.device)
            logits: Tensor = model(input_ids=tokens, use_cache=False, return_dict=True).logits
    finally:
        del decoder.forward
    seen = inputs[-1][0] if inputs and inputs[-1].shape[:2] == tokens.shape else None
    return seen, logits[0].float()


@contextmanager
def caught(model: Any) -> Iterator[list[Tensor]]:
    """Inside, what enters the LM head is appended to the list."""
    head = model.get_output_embeddings()
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, args: seen.append(args[0])) if head is not None else None
    try:
        yield seen
    finally:
        if hook is not None:
            hook.remove()


@contextmanager
def float32(model: Any) -> Iterator[None]:
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

    @cached_property
    def _exact(self) -> Tensor:
        """W [V, D] float32, for devices that cannot multiply halves into float32; one copy for all chunks of a pass."""
        return self._linear.weight.float()

    def __call__(self, x: Tensor) -> Tensor:
        weight, bias = self._linear.weight, self._linear.bias
        if x.is_cuda and x.dtype == weight.dtype:
            y = torch.mm(x.flatten(0, -2), weight.T, out_dtype=torch.float32).view(*x.shape[:-1], -1)
        else:
            y = nn.functional.linear(x.float(), self._exact)
        return y if bias is None else y + bias.float()


def vocabulary_size(model: Any) -> int:
    """V: how many logits the model gives."""
    head = model.get_output_embeddings()
    size: int = head.weight.shape[0] if head is not None else model.config.get_text_config().vocab_size
    return size


def unembedding(model: Any) -> Tensor:
    """W [V, D] float32: the LM head's weights, an adapter's change to them included."""
    head = model.get_output_embeddings()
    weight: Tensor = head.weight.detach()
    if not hasattr(head, "base_layer"):
        return weight.float()
    # whatever kind of adapter it is, it is linear: W is what it makes of the identity
    inputs = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    with torch.no_grad(), float32(model):
        projected: Tensor = head(inputs).float() - head(torch.zeros_like(inputs[:1])).float()
    return projected.T.contiguous()


@torch.inference_mode()
def directions(model: Any, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """[pairs, V] float32 on the CPU: ⟨W_z, W_chosen − W_rejected⟩ for every token z."""
    weight = unembedding(model)
    chosen = torch.tensor([pair[0] for pair in pairs], device=weight.device)
    rejected = torch.tensor([pair[1] for pair in pairs], device=weight.device)
    return ((weight[chosen] - weight[rejected]) @ weight.T).cpu()
