"""Small models of many architectures, random weights large enough that predictions are far from uniform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf

SIZE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
}
WINDOW = 8

SHARED: dict[str, Callable[[], Any]] = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SIZE)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**SIZE, head_dim=16)),
    "qwen3-window": lambda: tf.Qwen3ForCausalLM(
        tf.Qwen3Config(**SIZE, head_dim=16, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2)
    ),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**SIZE, head_dim=16, sliding_window=WINDOW)),
    "gemma2": lambda: tf.Gemma2ForCausalLM(
        tf.Gemma2Config(
            **SIZE,
            head_dim=16,
            sliding_window=WINDOW,
            final_logit_softcapping=2.0,
            attn_logit_softcapping=2.0,
            query_pre_attn_scalar=16,
        )
    ),
    "gemma3": lambda: tf.Gemma3ForCausalLM(
        tf.Gemma3TextConfig(
            **SIZE,
            head_dim=16,
            sliding_window=WINDOW,
            final_logit_softcapping=3.0,
            query_pre_attn_scalar=16,
            layer_types=["sliding_attention", "full_attention"] * 2,
        )
    ),
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(vocab_size=320, n_embd=64, n_layer=2, n_head=2, n_positions=512, initializer_range=0.15)
    ),
    "olmo2": lambda: tf.Olmo2ForCausalLM(tf.Olmo2Config(**SIZE)),
    "phi3": lambda: tf.Phi3ForCausalLM(tf.Phi3Config(**SIZE, sliding_window=WINDOW, pad_token_id=0)),
    "granite": lambda: tf.GraniteForCausalLM(tf.GraniteConfig(**SIZE, logits_scaling=3.0)),
    "opt": lambda: tf.OPTForCausalLM(
        tf.OPTConfig(
            vocab_size=320,
            hidden_size=64,
            ffn_dim=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=512,
            word_embed_proj_dim=32,
            init_std=0.15,
        )
    ),
    "mixtral": lambda: tf.MixtralForCausalLM(tf.MixtralConfig(**SIZE, num_local_experts=4)),
}
"""Where a prompt can be shared: grouped and full attention, windows, caps and scales, learned positions, experts."""

NOT_BATCHED: dict[str, Callable[[], Any]] = {
    "phi3-longrope": lambda: tf.Phi3ForCausalLM(
        tf.Phi3Config(
            **SIZE,
            pad_token_id=0,
            original_max_position_embeddings=100,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 8,
                "long_factor": [4.0] * 8,
                "original_max_position_embeddings": 100,
            },
        )
    ),
}
"""Rotary factors for long texts: sequences of one batch change each other."""

NOT_SHARED: dict[str, Callable[[], Any]] = {
    "bloom": lambda: tf.BloomForCausalLM(
        tf.BloomConfig(vocab_size=320, hidden_size=64, n_layer=2, n_head=4, initializer_range=0.15)
    ),
    "mpt": lambda: tf.MptForCausalLM(
        tf.MptConfig(vocab_size=320, d_model=64, n_layers=2, n_heads=4, max_seq_len=512, initializer_range=0.15)
    ),
    "falcon-h1": lambda: tf.FalconH1ForCausalLM(
        tf.FalconH1Config(**SIZE, mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=16)
    ),
    "bamba": lambda: tf.BambaForCausalLM(
        tf.BambaConfig(
            **SIZE, mamba_n_heads=8, mamba_d_head=16, mamba_n_groups=1, mamba_d_state=16, attn_layer_indices=[1]
        )
    ),
    "jamba": lambda: tf.JambaForCausalLM(
        tf.JambaConfig(
            **SIZE,
            mamba_d_state=8,
            mamba_dt_rank=8,
            use_mamba_kernels=False,
            attn_layer_period=2,
            attn_layer_offset=1,
            expert_layer_period=2,
            num_experts=2,
            num_experts_per_tok=1,
        )
    ),
}
"""ALiBi and state-space hybrids: positions or state run through the row."""


def build(name: str) -> Any:
    """A model in eval mode, float32; softcapped attention runs where it is respected."""
    torch.manual_seed(0)
    model = (SHARED | NOT_SHARED | NOT_BATCHED)[name]().eval()
    if getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")
    return model
