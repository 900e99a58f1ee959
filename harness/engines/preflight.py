"""What makes two checkpoints incomparable and can be known before any weights are loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from harness.domain import Checkpoint, EngineOptions
from harness.engines import templates
from harness.engines.tokens import ChatTokenizer, load_tokenizer, stop_tokens
from harness.errors import CheckpointError, MismatchError

_PROBE = "Does this prompt come through?"


def check(reference: Checkpoint, candidates: Sequence[Checkpoint], options: EngineOptions) -> None:
    """Raise ``MismatchError`` where a candidate cannot be compared with the reference, ``CheckpointError`` where a
    checkpoint's tokenizer, template and configuration do not fit together."""
    everyone = (reference, *candidates)
    loaded: dict[tuple[str, str], Any] = {}
    for checkpoint in everyone:
        if _key(checkpoint) not in loaded:
            loaded[_key(checkpoint)] = load_tokenizer(checkpoint, options)
    for candidate in candidates:
        _check_different(reference, candidate, options)
        _check_tokenizers(reference, candidate, loaded)
        _check_templates(reference, candidate)
    for checkpoint in everyone:
        _check_fit(checkpoint, loaded[_key(checkpoint)])


def _key(checkpoint: Checkpoint) -> tuple[str, str]:
    """What a loaded tokenizer depends on."""
    return (checkpoint.tokenizer, checkpoint.template)


def _check_different(reference: Checkpoint, candidate: Checkpoint, options: EngineOptions) -> None:
    same = (reference.weights, reference.adapter) == (candidate.weights, candidate.adapter)
    if same and not options.allow_identical:
        raise MismatchError(
            f"candidate {candidate.spec} and reference {reference.spec} have identical weights, so there is nothing to "
            "compare; give the model DPO started from as --reference, or pass --allow-identical to measure noise"
        )


def _check_tokenizers(reference: Checkpoint, candidate: Checkpoint, loaded: dict[tuple[str, str], Any]) -> None:
    """Equal files are equal tokenizers; different files may still be, when different versions wrote them."""
    if reference.tokenizer == candidate.tokenizer:
        return
    ours, theirs = loaded[_key(reference)], loaded[_key(candidate)]
    if difference := _tokenizer_difference(ours, theirs):
        raise MismatchError(
            f"candidate {candidate.spec} and reference {reference.spec} have different tokenizers ({difference}), so "
            "their log-probabilities are about different tokens; compare a candidate with the model it was trained "
            "from, or put that model's tokenizer files into the candidate's directory if they were changed by mistake"
        )


def _tokenizer_difference(reference: Any, candidate: Any) -> str:
    """What distinguishes two loaded tokenizers, '' where they give equal ids."""
    vocabularies = reference.get_vocab(), candidate.get_vocab()
    if vocabularies[0] != vocabularies[1]:
        changed = sorted(token for token, _ in set(vocabularies[0].items()) ^ set(vocabularies[1].items()))
        return f"{len(vocabularies[0])} and {len(vocabularies[1])} tokens, differing in {changed[0]!r} for one"
    for name in ("bos_token", "eos_token"):
        values = getattr(reference, name), getattr(candidate, name)
        if values[0] != values[1]:
            return f"{name} {values[0]!r} in the reference, {values[1]!r} in the candidate"
    if _pipeline(reference) != _pipeline(candidate):
        return "equal vocabularies, but they split or normalise text differently"
    return ""


def _pipeline(tokenizer: Any) -> object:
    """How a tokenizer turns text into ids; padding and truncation left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return (type(tokenizer).__name__, tokenizer("The 2 cats'  naïve\n\tquestion?")["input_ids"])
    fields = json.loads(backend.to_str())
    return {key: value for key, value in fields.items() if key not in ("padding", "truncation")}


def _check_templates(reference: Checkpoint, candidate: Checkpoint) -> None:
    if reference.template == candidate.template:
        return
    texts = [
        templates.template_text(Path(checkpoint.path), Path(checkpoint.base) if checkpoint.base else None, "")
        for checkpoint in (reference, candidate)
    ]
    lines = zip_longest(texts[0].splitlines(), texts[1].splitlines(), fillvalue="")
    differing = ((number, *pair) for number, pair in enumerate(lines, 1) if pair[0] != pair[1])
    number, ours, theirs = next(differing, (len(texts[0].splitlines()), "white space", "other white space"))
    raise MismatchError(
        f"candidate {candidate.spec} and reference {reference.spec} have different chat templates (first in line "
        f"{number}: {ours[:60]!r} in the reference, {theirs[:60]!r} in the candidate); run both with one: "
        "--chat-template FILE"
    )


def _check_fit(checkpoint: Checkpoint, tokenizer: Any) -> None:
    """Vocabulary, template and BOS of one checkpoint."""
    home = Path(checkpoint.base or checkpoint.path)
    chat = ChatTokenizer(tokenizer, where=checkpoint.path, stop_tokens=stop_tokens(home))
    text = chat.prompt_text(_PROBE)
    if _PROBE not in text:
        raise CheckpointError(
            f"{checkpoint.path}: its chat template leaves out the user's message; pass one that works: "
            "--chat-template FILE"
        )
    ids = chat.prompt_ids(_PROBE)
    beginnings = ids.count(chat.bos) if chat.bos is not None and chat.bos not in chat.stops else 0
    if beginnings > 1 or (len(ids) > 1 and ids[0] == ids[1] == chat.bos):
        raise CheckpointError(
            f"{checkpoint.path}: a templated prompt has more than one BOS token ({tokenizer.bos_token!r}); write it "
            "once in the chat template: --chat-template FILE"
        )
    if beginnings and ids[0] != chat.bos:
        raise CheckpointError(
            f"{checkpoint.path}: its chat template writes text before the BOS token ({text[:20]!r}); take out the "
            "white space between its tags: --chat-template FILE"
        )
    config = templates.read_json(home / "config.json")
    nested = config.get("text_config")
    size = (nested if isinstance(nested, dict) else config).get("vocab_size")
    if isinstance(size, int) and size <= chat.largest_id:
        token = tokenizer.convert_ids_to_tokens(chat.largest_id)
        raise CheckpointError(
            f"{checkpoint.path}: the tokenizer has token ids up to {chat.largest_id} ({token!r}) but the model's "
            f"vocabulary is {size}; use the tokenizer that belongs to these weights"
        )
