"""Tokenizer and chat-template files on disk: where they are, and the digest of what in them affects results."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from harness.errors import CheckpointError, OptionError

JINJA, TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer_config.json"

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")
"""A directory with one of these has a tokenizer."""

_EXTRAS = ("merges.txt", "added_tokens.json")

RAW = "raw"
"""``--chat-template raw``: no template. A file of that name is ``./raw``."""

RAW_TEMPLATE = (
    "{%- for message in messages %}{{- message['content'] }}{%- endfor %}"
    "{%- if not add_generation_prompt %}{{- eos_token }}{%- endif %}"
)
"""What no template is as a template: the contents as they are, EOS after the answer."""

_SETTINGS = (
    "add_bos_token",
    "add_eos_token",
    "add_prefix_space",
    "bos_token",
    "byte_fallback",
    "do_lower_case",
    "eos_token",
    "legacy",
    "tokenizer_class",
    "unk_token",
)
"""The keys of tokenizer_config.json that change token ids. Padding, truncation and library versions do not."""


def tokenizer_home(path: Path, base: Path | None) -> Path:
    """The directory whose tokenizer is used: the checkpoint's own, else (for an adapter) its base's.

    Raises ``CheckpointError`` where there is none.
    """
    for home in (path, base):
        if home is not None and any((home / name).is_file() for name in VOCABULARIES):
            return home
    looked = f"{path}" if base is None else f"{path} nor in its base {base}"
    raise CheckpointError(
        f"there are no tokenizer files (such as tokenizer.json) in {looked}; "
        "save the tokenizer beside the weights: tokenizer.save_pretrained(DIRECTORY)"
    )


def tokenizer_digest(home: Path) -> str:
    """SHA-256 over what decides token ids: vocabulary files, and the settings listed above.

    ``tokenizer.json`` is read without its padding and truncation sections, which training writes and scoring never
    uses.
    """
    sha = hashlib.sha256()
    for name in (*VOCABULARIES, *_EXTRAS):
        file = home / name
        if not file.is_file():
            continue
        content = file.read_bytes()
        if name == "tokenizer.json":
            fields = read_json(file)
            content = canonical({key: value for key, value in fields.items() if key not in ("padding", "truncation")})
        sha.update(f"{name}\0{len(content)}\0".encode() + content)
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", TOKENIZER_CONFIG):
        if (home / name).is_file():
            settings |= read_json(home / name)
    sha.update(canonical({key: _token_text(settings[key]) for key in _SETTINGS if key in settings}))
    return sha.hexdigest()


def template_text(path: Path, base: Path | None, override: str) -> str:
    """The chat template in use: the override file's, else the checkpoint's own, else (for an adapter) its base's.

    The override ``raw`` is no template: ``RAW_TEMPLATE``.
    ``chat_template.jinja`` comes before ``tokenizer_config.json``, as in transformers; of several named templates the
    one called ``default`` is taken. Raises ``OptionError`` for a bad override, ``CheckpointError`` where there is none.
    """
    if override == RAW:
        return RAW_TEMPLATE
    if override:
        file = Path(override).expanduser()
        if not file.is_file():
            raise OptionError(f"--chat-template {override}: there is no such file (for no template at all: {RAW})")
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"--chat-template {override}: the file cannot be read ({error})") from None
        if not text.strip():
            raise OptionError(f"--chat-template {override}: the file is empty")
        return text
    for home in (path, base):
        if home is not None and (text := _own_template(home)):
            return text
    looked = f"{path}" if base is None else f"{path} nor in its base {base}"
    raise CheckpointError(
        f"there is no chat template ({JINJA}, or chat_template in {TOKENIZER_CONFIG}) in {looked}; "
        "pass the one it was trained with: --chat-template FILE; if it was trained on plain text without one: "
        f"--chat-template {RAW}"
    )


def _own_template(home: Path) -> str:
    if (home / JINJA).is_file():
        return (home / JINJA).read_text(encoding="utf-8")
    config = home / TOKENIZER_CONFIG
    template = read_json(config).get("chat_template") if config.is_file() else None
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else ""


def _token_text(value: Any) -> Any:
    """A token is written as text by some versions and as ``{"content": text, ...}`` by others."""
    return value["content"] if isinstance(value, dict) and "content" in value else value


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint's file. Raises ``CheckpointError`` naming the file where it is not one."""
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); copy or download it again") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{file} is not a JSON object; copy or download it again")
    return fields


def canonical(fields: object) -> bytes:
    """JSON with one spelling: sorted keys, no white space."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
