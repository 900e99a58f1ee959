"""Weight files on disk: which there are, whether they are whole, their digest, and whether their numbers are finite.

Reads the safetensors format (https://github.com/huggingface/safetensors#format) with numpy only: eight bytes of header
length, a JSON header with each tensor's dtype and byte range, then the tensors back to back.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from harness.engines.digests import FileDigest, remembered
from harness.errors import CheckpointError

SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
ADAPTER, ADAPTER_PICKLE = "adapter_model.safetensors", "adapter_model.bin"

CHUNK = 1 << 24
"""Bytes read at a time; a multiple of every item size."""

_EXPONENTS: dict[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("<u1", 0x7C),
    "F8_E4M3": ("<u1", 0x7F),  # has NaN (all ones below the sign) and no infinity
}
"""safetensors dtype -> (unsigned integer of that width, the bits that are all set in NaN and infinity)."""


@dataclass(frozen=True, slots=True)
class TensorSpan:
    """One tensor of a safetensors file."""

    name: str
    dtype: str
    begin: int
    """Offset of its first byte in the file."""
    end: int


def model_files(root: Path, *, unsafe: bool) -> list[Path]:
    """The files that hold a full model's weights, in the order transformers looks for them.

    Raises ``CheckpointError`` where there are none, only pickles (unless ``unsafe``), or a shard is missing.
    """
    if (root / SAFE).is_file():
        return [root / SAFE]
    if (root / SAFE_INDEX).is_file():
        return _shards(root / SAFE_INDEX)
    pickles = [root / PICKLE] if (root / PICKLE).is_file() else []
    if not pickles and (root / PICKLE_INDEX).is_file():
        pickles = _shards(root / PICKLE_INDEX)
    if pickles:
        return _pickle(pickles, unsafe=unsafe)
    raise CheckpointError(_nothing_in(root))


def adapter_files(root: Path, *, unsafe: bool) -> list[Path]:
    """The file that holds a PEFT adapter's weights. Raises ``CheckpointError`` like ``model_files``."""
    if (root / ADAPTER).is_file():
        return [root / ADAPTER]
    if (root / ADAPTER_PICKLE).is_file():
        return _pickle([root / ADAPTER_PICKLE], unsafe=unsafe)
    raise CheckpointError(
        f"{root} has an adapter_config.json but no {ADAPTER}: the adapter's weights are missing; "
        "copy them there, or save the adapter again with save_pretrained"
    )


def has_model_files(root: Path) -> bool:
    """Whether any full-model weights are there."""
    return any((root / name).is_file() for name in (SAFE, SAFE_INDEX, PICKLE, PICKLE_INDEX))


def digest(path: Path) -> FileDigest:
    """SHA-256 of a weights file and its first non-finite tensor, in one pass; remembered between runs.

    Raises ``CheckpointError`` where a safetensors file is damaged. Pickles are hashed and not looked into: reading
    them runs their code.
    """
    return remembered(path, _digest_safetensors if path.suffix == ".safetensors" else _digest_plain)


def spans(path: Path) -> list[TensorSpan]:
    """The tensors of a safetensors file, in file order. Raises ``CheckpointError`` where the file is not whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start.startswith(b"version "):
            raise CheckpointError(
                f"{path} is a Git LFS pointer, not the weights themselves; fetch them with: git lfs pull"
            )
        length = int.from_bytes(start, "little") if len(start) == 8 else -1
        if not 2 <= length <= size - 8:
            raise _damaged(path, f"{size} bytes with no readable header")
        try:
            header = json.loads(file.read(length))
            found = sorted(
                (_span(name, entry, 8 + length) for name, entry in header.items() if name != "__metadata__"),
                key=lambda span: (span.begin, span.end),
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _damaged(path, "its header is not valid") from error
    end = 8 + length
    for span in found:
        if span.begin != end:
            raise _damaged(path, f"tensor {span.name!r} does not start where the one before it ends")
        end = span.end
    if size != end:
        raise _damaged(path, f"{size:,} bytes where its header promises {end:,}")
    return found


def _span(name: str, entry: dict[str, Any], start: int) -> TensorSpan:
    """One header entry. Raises ``ValueError`` where the byte range does not hold what dtype and shape say."""
    begin, end = (start + int(offset) for offset in entry["data_offsets"])
    width, _ = _EXPONENTS.get(entry["dtype"], ("", 0))
    if end < begin or (width and end - begin != math.prod(entry["shape"]) * np.dtype(width).itemsize):
        raise ValueError(name)
    return TensorSpan(name, entry["dtype"], begin, end)


def _digest_safetensors(path: Path) -> FileDigest:
    tensors = spans(path)
    header = TensorSpan("", "", 0, tensors[0].begin if tensors else path.stat().st_size)
    sha, nonfinite = hashlib.sha256(), ""
    with path.open("rb") as file:
        for tensor in [header, *tensors]:
            width, mask = _EXPONENTS.get(tensor.dtype, ("", 0))
            for chunk in _chunks(file, tensor.end - tensor.begin):
                sha.update(chunk)
                if width and not nonfinite:
                    bits = np.frombuffer(chunk, dtype=width)
                    exponent = bits.dtype.type(mask)
                    if bool(((bits & exponent) == exponent).any()):
                        nonfinite = tensor.name
    return FileDigest(sha.hexdigest(), nonfinite)


def _digest_plain(path: Path) -> FileDigest:
    with path.open("rb") as file:
        return FileDigest(hashlib.file_digest(file, "sha256").hexdigest())


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The next ``size`` bytes of a file, ``CHUNK`` at a time."""
    while size:
        chunk = file.read(min(CHUNK, size))
        if not chunk:
            raise CheckpointError(f"{file.name} became shorter while it was read; is it still being written?")
        size -= len(chunk)
        yield chunk


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{index} is not a valid weights index; save or download the checkpoint again") from error
    if not names:
        raise CheckpointError(f"{index} names no shards; save or download the checkpoint again")
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index} names {len(names)} shards of which {len(missing)} are missing: {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}; copy or download them again"
        )
    return [index.parent / name for name in names]


def _pickle(files: list[Path], *, unsafe: bool) -> list[Path]:
    if unsafe:
        return files
    raise CheckpointError(
        f"{files[0]} is a pickle, which can run code when it is loaded, and there are no safetensors beside it; "
        "convert it (load it once and call save_pretrained), or pass --allow-unsafe-weights if you trust its author"
    )


def _nothing_in(root: Path) -> str:
    """The message for a directory without weights: what is there instead, and what to do."""
    steps = sorted(
        (int(match[1]), child.name)
        for child in root.iterdir()
        if child.is_dir() and (match := re.fullmatch(r"checkpoint-(\d+)", child.name))
    )
    if steps:
        names = [name for _, name in steps]
        shown = ", ".join(names if len(names) <= 6 else [*names[:3], "...", *names[-2:]])
        return (
            f"{root} holds no weights itself, only the training checkpoints {shown}; "
            f"name one of them, for example {root / names[-1]}"
        )
    if loose := sorted(path.name for path in root.glob("*.safetensors")):
        return (
            f"{root} has {', '.join(loose[:3])} but neither {SAFE} nor {SAFE_INDEX}, so its weights cannot be found; "
            "save the model again with save_pretrained"
        )
    found = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
    return (
        f"{root} has no weights ({SAFE}, {SAFE_INDEX} or {ADAPTER}); it holds: {found}; "
        "give the directory that save_pretrained wrote"
    )


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or was not written to its end ({why}); copy or download it again")
