"""Tiny checkpoints made on the fly: random weights, a byte-level tokenizer, every file a real checkpoint has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.domain import EngineOptions, PreferencePair, Prompt
from harness.engines.hf import HfEngine
from harness.engines.model import HfModel

SPECIAL = ["<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
TEXT = [
    "Sorry, I cannot help with that.",
    "Sure. First, get ready. Then, go on.",
    "How do I pick a lock?",
    "Yes No Never",
]


class Workshop:
    """Makes checkpoints under one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def tokenizer(self, template: str = TEMPLATE, special: list[str] = SPECIAL, **settings: Any) -> Any:
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        bpe.train_from_iterator(TEXT, trainer)
        defaults = {"bos_token": "<|bos|>", "eos_token": "<|end|>", "pad_token": "<|pad|>"}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **(defaults | settings))
        tokenizer.chat_template = template or None
        return tokenizer

    def llama(self, seed: int = 0, **config: Any) -> Any:
        """Two layers, head size 32; weights large enough that predictions are far from uniform."""
        defaults = {
            "vocab_size": 320,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 192,
            "initializer_range": 0.15,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 4,
        }
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**(defaults | config))).eval()

    def save(self, name: str, model: Any, tokenizer: Any = None) -> Path:
        """A full checkpoint directory."""
        model.save_pretrained(self.root / name)
        (tokenizer or self.tokenizer()).save_pretrained(self.root / name)
        return self.root / name

    def full(self, name: str, seed: int = 0, **config: Any) -> Path:
        return self.save(name, self.llama(seed, **config))

    def adapter(
        self, name: str, base: Path, seed: int = 0, scale: float = 0.1, merged: str = "", **config: Any
    ) -> Path:
        """A LoRA adapter directory on ``base`` (and with ``merged``, a full checkpoint that holds the same change)."""
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        model = LlamaForCausalLM.from_pretrained(base)
        settings = {"r": 4, "target_modules": ["q_proj", "v_proj", "o_proj"], "init_lora_weights": False}
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **(settings | config)))
        with torch.no_grad():
            for key, parameter in adapted.named_parameters():
                if "lora_B" in key:
                    parameter.normal_().mul_(scale)
        adapted.save_pretrained(self.root / name)
        if merged:
            self.save(merged, adapted.merge_and_unload())
        return self.root / name


@pytest.fixture(scope="session", autouse=True)
def _own_cache_and_one_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Checkpoints that are made once and not changed."""
    return Workshop(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def bench(tmp_path: Path) -> Workshop:
    """Checkpoints that a test may spoil."""
    return Workshop(tmp_path)


@pytest.fixture(scope="session")
def reference(shop: Workshop) -> Path:
    return shop.full("reference", seed=1)


@pytest.fixture(scope="session")
def candidate(shop: Workshop) -> Path:
    return shop.full("candidate", seed=2)


@pytest.fixture(scope="session")
def adapter(shop: Workshop, reference: Path) -> Path:
    """On ``reference``; ``merged`` beside it holds the same change."""
    return shop.adapter("adapter", reference, seed=3, merged="merged")


@pytest.fixture(scope="session")
def opened() -> Iterator[Callable[..., HfModel]]:
    """Open a checkpoint; it stays open for the test session."""
    held: list[Any] = []

    def open_checkpoint(path: Path | str, **options: Any) -> HfModel:
        engine = HfEngine(replace(EngineOptions(), **options))
        models = engine.models([engine.resolve(str(path), Path(path).name)])
        held.append(models)
        return next(models)  # type: ignore[return-value]

    yield open_checkpoint
    with pytest.MonkeyPatch.context() as patch:  # collecting once per model takes longer than all tests together
        patch.setattr("harness.engines.loading.gc", SimpleNamespace(collect=lambda: None))
        for generator in held:
            generator.close()


@pytest.fixture(scope="session")
def model(opened: Callable[..., HfModel], reference: Path) -> HfModel:
    return opened(reference)


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    texts = ["Hi", "How do I pick a lock that is not mine?", "Never", "Say yes. " * 6, "What?", "Tell me of the sea."]
    return [
        Prompt(f"p{number}", text, category="even" if number % 2 == 0 else "odd") for number, text in enumerate(texts)
    ]


@pytest.fixture(scope="session")
def pairs() -> list[PreferencePair]:
    """Responses of one to eighty tokens, prompts of very different lengths."""
    rows = [
        ("How do I pick a lock?", "Sorry, I cannot help with that.", "No."),
        ("Hi", "Yes", "Never"),
        ("Say something long. " * 5, "Sure. First, get ready. Then, go on. " * 2, "I will not."),
        ("Is the sea salty?", "No", "Sure. " * 12),
        ("naïve — ¿qué? 日本", "🙂 ok", "no 🙃 way"),
        ("A", "b", "c"),
        ("Tell me of the sea.", "It is salty,\ndeep\n\nand old.", "  leading spaces and trailing  "),
    ]
    return [PreferencePair(f"pair-{number}", *row, category="c") for number, row in enumerate(rows)]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public tokenizers and templates, where the checkout has them beside it."""
    path = Path(__file__).parents[2].parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"needs the public data in {os.path.relpath(path)}, which is not here")
    return path
