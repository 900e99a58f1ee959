"""What makes two checkpoints incomparable, said before any weights are loaded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers

from harness.domain import EngineOptions
from harness.engines.hf import HfEngine
from harness.errors import CheckpointError, MismatchError


def check(reference: Path, *candidates: Path, **options: Any) -> None:
    engine = HfEngine(replace(EngineOptions(), **options))
    resolved = [engine.resolve(str(path), path.name) for path in (reference, *candidates)]
    engine.preflight(resolved[0], resolved[1:])


@pytest.fixture
def copy(candidate: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(candidate, tmp_path / "copy"))


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_comparable_checkpoints_pass_without_loading_weights(
    reference: Path, candidate: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", None)
    check(reference, candidate, adapter)


def test_identical_weights(reference: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(reference, tmp_path / "twin"))
    with pytest.raises(
        MismatchError, match=r"candidate \S+twin and reference \S+reference have identical weights.*--allow-identical"
    ):
        check(reference, twin)
    check(reference, twin, allow_identical=True)
    edit(twin / "config.json", _name_or_path="elsewhere")
    with pytest.raises(MismatchError, match="identical weights"):
        check(reference, twin)


def test_different_tokenizers(bench: Any, reference: Path) -> None:
    other = bench.save("other", bench.llama(3), bench.tokenizer(special=["<|pad|>", "<|bos|>", "<|user|>", "<|end|>"]))
    with pytest.raises(
        MismatchError, match=r"candidate \S+other and reference \S+ have different tokenizers \(\d+ and \d+ tokens"
    ):
        check(reference, other)
    other = bench.save("another", bench.llama(3), bench.tokenizer(eos_token="<|user|>"))
    with pytest.raises(MismatchError, match=r"eos_token '<\|end\|>' in the reference, '<\|user\|>' in the candidate"):
        check(reference, other)


def test_equal_vocabularies_that_split_differently(reference: Path, copy: Path) -> None:
    edit(copy / "tokenizer.json", normalizer={"type": "Lowercase"})
    with pytest.raises(MismatchError, match="split or normalise text differently"):
        check(reference, copy)


def test_files_that_differ_and_mean_the_same_pass(reference: Path, copy: Path) -> None:
    """Another version wrote the tokenizer's class under another name, and training set a padding token."""
    edit(copy / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", pad_token="<|end|>", legacy=False)
    edit(copy / "tokenizer.json", padding=None, truncation=None)
    engine = HfEngine(EngineOptions())
    assert engine.resolve(str(copy), "c").tokenizer != engine.resolve(str(reference), "r").tokenizer
    check(reference, copy)


def test_different_templates(reference: Path, copy: Path, tmp_path: Path) -> None:
    template = copy / "chat_template.jinja"
    text = template.read_text()
    template.write_text(text.replace("<|assistant|>", "<|assistant|> "))
    with pytest.raises(MismatchError, match=r"different chat templates \(first in line 1: .*--chat-template FILE"):
        check(reference, copy)
    (tmp_path / "one.jinja").write_text(text)
    check(reference, copy, chat_template=str(tmp_path / "one.jinja"))
    template.write_text(text + "\n")
    with pytest.raises(MismatchError, match=r"different chat templates \(.*white space"):
        check(reference, copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("{{- bos_token }}", "{{- bos_token * 2 }}"), r"more than one BOS token \('<\|bos\|>'\).*--chat-template"),
        (("'<|assistant|>'", "bos_token + '<|assistant|>'"), r"more than one BOS token"),
        (("{{- bos_token }}", "\n{{ bos_token }}"), r"writes text before the BOS token .*--chat-template"),
        (("message['content']", "(message['content'] * (loop.index0 % 2))"), r"leaves out the user's"),
        (("{{- bos_token }}", "{{- raise_exception('no') }}"), r"chat template fails \(no\).*--chat-template"),
        (("{{- bos_token }}", "{% if"), r"chat template fails \(.*--chat-template"),
    ],
)  # fmt: skip
def test_templates_that_cannot_be_right(
    reference: Path, candidate: Path, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    text = (candidate / "chat_template.jinja").read_text()
    assert change[0] in text
    (tmp_path / "spoilt.jinja").write_text(text.replace(*change))
    with pytest.raises(CheckpointError, match=message):
        check(reference, candidate, chat_template=str(tmp_path / "spoilt.jinja"))


def test_a_vocabulary_smaller_than_the_tokenizers(bench: Any, reference: Path) -> None:
    small = bench.full("small", vocab_size=290)
    with pytest.raises(
        CheckpointError, match=r"small: the tokenizer has token ids up to \d+ .* vocabulary is 290; use"
    ):
        check(reference, small)


def test_a_tokenizer_that_cannot_be_loaded(reference: Path, copy: Path) -> None:
    edit(copy / "tokenizer.json", model={"type": "NoSuchModel"})
    with pytest.raises(CheckpointError, match=r"the tokenizer in \S+copy cannot be loaded: "):
        check(reference, copy)
