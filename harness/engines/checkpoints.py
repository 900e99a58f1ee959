"""Find a checkpoint, check that it is whole, and know it by its bytes. Imports neither torch nor transformers.

Identity is SHA-256 over four digests:

- weights: every weight file's bytes (the base's, for an adapter), and from the configurations what decides results;
- adapter: its bytes and its configuration without names and paths;
- tokenizer and chat template: see ``templates``.

It depends on contents and never on where they lie. The same tensors cut into shards differently are different bytes and
so another identity. The training's step and β are told beside it and are no part of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.domain import Checkpoint, EngineOptions
from harness.engines import locate, templates, training, weights
from harness.errors import CheckpointError

ADAPTER_CONFIG = "adapter_config.json"

_CONFIG_NOISE = frozenset(
    {"_name_or_path", "transformers_version", "use_cache", "dtype", "torch_dtype", "_attn_implementation_autoset"}
)
"""Keys of config.json that cannot change a number here: names, versions, and what loading overrides."""

_ADAPTER_NOISE = frozenset(
    {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "runtime_config"}
)


def resolve(spec: str, name: str, options: EngineOptions) -> Checkpoint:
    """Find, check and hash one checkpoint; ``name`` is what the run calls it.

    Raises ``CheckpointError`` naming the path and the cure, or ``OptionError`` for a bad ``--chat-template``.
    """
    root = locate.directory(spec, unsafe=options.unsafe_weights, remote_code=options.trust_remote_code)
    base = None
    if (root / ADAPTER_CONFIG).is_file():
        if weights.has_model_files(root):
            raise CheckpointError(
                f"{root} holds both an adapter ({ADAPTER_CONFIG}) and full weights, so it could mean either; "
                "move one of them to its own directory"
            )
        base = base_directory(root, options)
    full = base or root
    weights_digest = _weights(full, options)
    adapter_digest = _adapter(root, options) if base else ""
    tokenizer_digest = templates.tokenizer_digest(templates.tokenizer_home(root, base))
    template = templates.template_text(root, base, options.chat_template)
    template_digest = hashlib.sha256(template.encode()).hexdigest()
    parts = (weights_digest, adapter_digest, tokenizer_digest, template_digest)
    return Checkpoint(
        spec=spec,
        name=name,
        path=str(root),
        weights=weights_digest,
        adapter=adapter_digest,
        tokenizer=tokenizer_digest,
        template=template_digest,
        base=str(base) if base else "",
        identity=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
        step=_step(root),
        beta=training.beta(root),
    )


def base_directory(root: Path, options: EngineOptions) -> Path:
    """An adapter's base model: ``--base``, else what its config names, relative to the adapter, then to the working
    directory, then on the hub. Raises ``CheckpointError`` where it cannot be found."""
    if options.base:
        return _checked_base(
            locate.directory(options.base, unsafe=options.unsafe_weights, remote_code=options.trust_remote_code), root
        )
    config = templates.read_json(root / ADAPTER_CONFIG)
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise CheckpointError(f"{root / ADAPTER_CONFIG} names no base model; pass it: --base PATH_OR_ID")
    beside = root / named
    if not Path(named).is_absolute() and beside.is_dir():
        return _checked_base(beside.resolve(), root)
    revision = config.get("revision")
    spec = f"{named}@{revision}" if revision and not Path(named).expanduser().is_dir() else named
    try:
        found = locate.directory(spec, unsafe=options.unsafe_weights, remote_code=options.trust_remote_code)
    except CheckpointError as error:
        raise CheckpointError(
            f"the adapter {root} is for the base model {named!r}, which cannot be found ({error}); "
            "pass where it is: --base PATH_OR_ID"
        ) from error
    return _checked_base(found, root)


def _checked_base(base: Path, root: Path) -> Path:
    if (base / ADAPTER_CONFIG).is_file() and not weights.has_model_files(base):
        raise CheckpointError(
            f"the base {base} of the adapter {root} is an adapter itself; merge it into its own base first "
            "(peft: merge_and_unload) and pass the result: --base PATH"
        )
    return base


def _weights(root: Path, options: EngineOptions) -> str:
    """Digest of a full model: its weight files in order and what in its configurations decides results."""
    files = weights.model_files(root, unsafe=options.unsafe_weights)
    config_file = root / "config.json"
    if not config_file.is_file():
        raise CheckpointError(f"{root} has weights but no config.json; copy the one of the model it was trained from")
    config = templates.read_json(config_file)
    sha = hashlib.sha256()
    for file in files:
        sha.update(_finite(file).encode())
    sha.update(templates.canonical({key: value for key, value in config.items() if key not in _CONFIG_NOISE}))
    generation = root / "generation_config.json"
    stops = templates.read_json(generation).get("eos_token_id") if generation.is_file() else None
    stops = sorted(stops) if isinstance(stops, list) else [stops]
    sha.update(templates.canonical(stops))  # where answers end; its sampling settings are never used
    if "auto_map" in config:
        for source in sorted(root.glob("*.py")):
            sha.update(source.name.encode() + b"\0" + source.read_bytes())
    return sha.hexdigest()


def _adapter(root: Path, options: EngineOptions) -> str:
    """Digest of an adapter: its bytes, and its configuration without names, paths and the order of its target lists."""
    config = templates.read_json(root / ADAPTER_CONFIG)
    sha = hashlib.sha256()
    for file in weights.adapter_files(root, unsafe=options.unsafe_weights):
        if file.suffix == ".safetensors" and not any(span.end > span.begin for span in weights.spans(file)):
            raise CheckpointError(
                f"{file} holds no tensors, so this adapter changes nothing; save it again "
                "(with ZeRO-3 or FSDP, gather the weights first)"
            )
        sha.update(_finite(file).encode())
    relevant = {
        key: _unordered(value) for key, value in config.items() if key not in _ADAPTER_NOISE and value is not None
    }
    sha.update(templates.canonical(relevant))
    return sha.hexdigest()


def _finite(file: Path) -> str:
    """A weight file's SHA-256. Raises ``CheckpointError`` where a tensor holds NaN or infinity."""
    found = weights.digest(file)
    if found.nonfinite:
        raise CheckpointError(
            f"{file} holds NaN or infinite numbers (first in tensor {found.nonfinite!r}): training diverged or the "
            "file was damaged; use an earlier checkpoint"
        )
    return found.sha256


def _unordered(value: Any) -> Any:
    """PEFT writes sets of module names as lists in no particular order."""
    if isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(item, str) for item in value):
        return sorted(value)
    return value


def _step(root: Path) -> int | None:
    """The training step, from ``trainer_state.json`` or a directory called ``checkpoint-N``."""
    state = root / "trainer_state.json"
    if state.is_file():
        step = templates.read_json(state).get("global_step")
        if isinstance(step, int) and not isinstance(step, bool):
            return step
    match = re.fullmatch(r"checkpoint-(\d+)", root.resolve().name)
    return int(match[1]) if match else None
