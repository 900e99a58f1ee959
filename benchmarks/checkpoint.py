"""The checkpoint all engines load: a Llama-shaped model with random weights, and a tokenizer that reads numbers.

Random weights make matrix products as slow as trained ones do; what such a model says means nothing. The LM head is
scaled so that logits have a standard deviation of about 3.4 and predictions are far from uniform: an engine that loses
a prompt or reads the wrong position is then off by nats. The text of token i is the number i, so the same ids can be
given to engines that want text. Ids 0 to 2 are padding, unknown and end of turn.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.floor import Shape
from benchmarks.pairs import END, FIRST

LOGIT_SPREAD = 3.4
"""Standard deviation of the logits."""

TEMPLATE = (
    "{%- for message in messages %}{{- message['content'] }}"
    "{{- '</s>' if message['role'] == 'assistant' else ' ' }}{%- endfor %}"
)


def write(directory: Path, shape: Shape, device: str, dtype: str) -> None:
    """Make the checkpoint. Seeded: the same on every call for one device and version of torch."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        with torch.no_grad():
            model.lm_head.weight.normal_(std=LOGIT_SPREAD / shape.hidden**0.5)
    model.save_pretrained(directory)
    _write_tokenizer(directory, shape.vocabulary)


def _write_tokenizer(directory: Path, vocabulary: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"<pad>": 0, "<unk>": 1, "</s>": END}
    words = special | {str(token): token for token in range(FIRST, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))  # noqa: S106 - not a password
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(directory)
    assert json.loads((directory / "config.json").read_text(encoding="utf-8"))["eos_token_id"] == END
