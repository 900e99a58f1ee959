"""Ways to run groups of sequences (see ``layout``) through a model, fastest first.

    packed        all groups in one row without padding, the common prefix once, attention of our own (``attention``)
    shared-rows   one group per row, the common prefix once, a 4D mask on the model's own attention
    plain-rows    one sequence per row, padded on the right: nothing shared, nothing that a causal model could get wrong
    whole-rows    one sequence at a time through the whole model, head included: what the others are checked against

The first three run the model's body only and give hidden states to ``head.read`` in parts. ``paths.choose`` takes the
first one that agrees with the last on synthetic sequences.

What each can get wrong, and why: packing by position ids alone makes a branch a new sequence, which loses its prompt;
with the cache on, sequences mix; one 4D mask for all layers drops a sliding window, so windows get a mask of their own
(by layer type); a boolean 4D mask is silently wrong in eager attention, so masks are additive.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.engines import attention, head
from harness.engines.layout import Group

Reader = Callable[[slice], tuple[Tensor | None, Tensor]]
"""Part of the needed tokens -> ([R, D] what the head reads or None, [R, V] float32 logits)."""


def packed(model: Any, groups: Sequence[Group], pad: int) -> Reader:
    """See the module. Raises ``Unsupported``; the attention must be ``attention.installed``."""
    device = _device(model)
    ids = torch.tensor([[token for group in groups for token in group.ids]], device=device)
    positions = torch.tensor([[at for group in groups for at in group.positions]], device=device)
    needed, offset = [], 0
    for group in groups:
        needed += [offset + index for index in group.needed]
        offset += group.tokens
    with attention.planned(attention.Plan(groups, device)):
        states = head.body(model)(input_ids=ids, position_ids=positions, use_cache=False, return_dict=True)
    return _reader(model, states, torch.zeros(len(needed), dtype=torch.long), torch.tensor(needed))


def shared_rows(model: Any, groups: Sequence[Group], pad: int) -> Reader:
    """See the module. Raises ``Unsupported``."""
    device, dtype = _device(model), model.get_input_embeddings().weight.dtype
    ids = _padded([group.ids for group in groups], pad)
    positions = _padded([group.positions for group in groups], 0)
    states = head.body(model)(
        input_ids=ids.to(device),
        position_ids=positions.to(device),
        attention_mask=_masks(model, groups, positions, dtype, device),
        use_cache=False,
        return_dict=True,
    )
    line = [number for number, group in enumerate(groups) for _ in group.needed]
    place = [index for group in groups for index in group.needed]
    return _reader(model, states, torch.tensor(line), torch.tensor(place))


def plain_rows(model: Any, groups: Sequence[Group], pad: int) -> Reader:
    """See the module. No mask is given: no token of a causal model sees the padding after it."""
    device = _device(model)
    ids = _padded([row.ids[:-1] for group in groups for row in group.rows], pad)
    states = head.body(model)(input_ids=ids.to(device), use_cache=False, return_dict=True)
    line, place, first = [], [], 0
    for group in groups:
        for row, position in group.places():
            line.append(first + row)
            place.append(position)
        first += len(group.rows)
    return _reader(model, states, torch.tensor(line), torch.tensor(place))


def whole_rows(model: Any, groups: Sequence[Group], pad: int) -> Reader:
    """See the module."""
    device = _device(model)
    states: list[Tensor | None] = []
    logits: list[Tensor] = []
    for group in groups:
        places = group.places()
        found: dict[int, tuple[Tensor | None, Tensor]] = {}
        for number, row in enumerate(group.rows):
            at = [index for index, (line, _) in enumerate(places) if line == number]
            if not at:
                continue
            positions = [places[index][1] for index in at]
            seen, values = read_row(model, row.ids[:-1], positions, device)
            found |= {index: (None if seen is None else seen[place], values[place]) for place, index in enumerate(at)}
        states += [found[index][0] for index in range(len(places))]
        logits += [found[index][1] for index in range(len(places))]
    together = torch.stack(logits)
    known = [state for state in states if state is not None]
    read = torch.stack(known) if len(known) == len(states) else None
    return lambda part: (None if read is None else read[part], together[part])


def read_row(
    model: Any, ids: Sequence[int], positions: Sequence[int], device: torch.device | None = None
) -> tuple[Tensor | None, Tensor]:
    """([R, D] what the LM head reads, [R, V] float32 logits) at positions of one sequence, by the whole model."""
    tokens = torch.tensor([list(ids)], device=device or _device(model))
    wanted = torch.tensor(list(positions), device=tokens.device)
    keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
    some = {"logits_to_keep": wanted} if keeps and len(positions) < len(ids) else {}
    with head.caught(model) as inputs, head.float32(model):
        logits: Tensor = model(input_ids=tokens, use_cache=False, return_dict=True, **some).logits
    picked = slice(None) if some else wanted
    seen = inputs[-1][0, picked] if inputs and inputs[-1].shape[:2] == logits.shape[:2] else None
    return seen, logits[0, picked].float()


BODIES: Mapping[str, Callable[[Any, Sequence[Group], int], Reader]] = {
    "packed": packed,
    "shared-rows": shared_rows,
    "plain-rows": plain_rows,
    "whole-rows": whole_rows,
}
"""Fastest first; the last is what all are checked against."""


def load(body: str, group: Group) -> int:
    """Tokens that a group costs in a batch; rows are padded, a packed batch is not."""
    if body in ("packed", "shared-rows"):
        return group.tokens
    return group.longest


def width(body: str, group: Group) -> int:
    """Rows that a group takes in a batch."""
    return len(group.rows) if body in ("plain-rows", "whole-rows") else 1


def obstacle(model: Any) -> str:
    """Why a prefix cannot be shared exactly, as far as the configuration tells; '' where it may be."""
    config = model.config.get_text_config()
    if "position_ids" not in inspect.signature(head.body(model).forward).parameters:
        return "it takes no position ids (positions come from the place in the row)"
    kinds = set(getattr(config, "layer_types", None) or ()) | set(getattr(config, "layers_block_type", None) or ())
    if others := sorted(kinds - {"full_attention", "sliding_attention", "attention"}):
        return f"it has layers of the kind {others[0]!r}, which are not known to allow it"
    return ""


def window(model: Any) -> int | None:
    """The model's sliding (or chunked) attention window in tokens, None where every token sees all before it."""
    config = model.config.get_text_config()
    sizes = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    if getattr(config, "use_sliding_window", True) is False:
        sizes[0] = None
    return max((size for size in sizes if isinstance(size, int) and size > 0), default=None)


def _masks(
    model: Any, groups: Sequence[Group], positions: Tensor, dtype: torch.dtype, device: torch.device
) -> Tensor | dict[str, Tensor]:
    """Additive [B, 1, T, T] masks: one, or one for each type of layer."""
    width = positions.shape[1]
    seen = torch.ones(width, width, dtype=torch.bool).tril().repeat(len(groups), 1, 1)
    for number, group in enumerate(groups):
        starts = group.starts()
        for start, branch in list(zip(starts, group.branches, strict=True))[1:]:
            seen[number, start : start + len(branch), len(group.prefix) : start] = False
    full, size = _additive(seen, dtype, device), window(model)
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    if size is None:
        return dict.fromkeys(kinds, full) if "sliding_attention" in kinds else full
    near = (positions[:, :, None] - positions[:, None, :]) < size
    near |= torch.eye(width, dtype=torch.bool)
    banded = _additive(seen & near, dtype, device)
    if "sliding_attention" in kinds:
        return {kind: banded if kind == "sliding_attention" else full for kind in kinds}
    return full if kinds else banded


def _additive(seen: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    return mask[:, None].to(device)


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """[B, T] padded on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])


def _reader(model: Any, states: Any, line: Tensor, place: Tensor) -> Reader:
    """Reads (line, place), [R] each, of what the body returned."""
    device = states.last_hidden_state.device
    hidden, output = states.last_hidden_state[line.to(device), place.to(device)], type(states)
    return lambda part: head.read(model, hidden[part], output)


def _device(model: Any) -> torch.device:
    device: torch.device = model.get_input_embeddings().weight.device
    return device
