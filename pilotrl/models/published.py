"""Sizes of models that are known without a download, from their published configurations."""

from __future__ import annotations

from typing import Any

SHAPES: dict[str, tuple[str, int, int, int, int, int, int, bool]] = {
    "tiny": ("llama", 256, 32, 64, 2, 2, 1, True),
    "nano": ("llama", 2048, 128, 384, 4, 4, 2, True),
    "smollm2-135m": ("llama", 49152, 576, 1536, 30, 9, 3, True),
    "qwen2.5-0.5b": ("qwen2", 151936, 896, 4864, 24, 14, 2, True),
    "qwen2.5-7b": ("qwen2", 152064, 3584, 18944, 28, 28, 4, False),
    "llama3.1-8b": ("llama", 128256, 4096, 14336, 32, 32, 8, False),
    "qwen3-8b": ("qwen3", 151936, 4096, 12288, 36, 32, 8, False),
}
"""transformers' model type; vocabulary, width, inner width, layers, heads, heads of keys and values; whether the head is tied."""
PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": "smollm2-135m",
    "Qwen/Qwen2.5-0.5B-Instruct": "qwen2.5-0.5b",
    "Qwen/Qwen2.5-7B-Instruct": "qwen2.5-7b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama3.1-8b",
    "Qwen/Qwen3-8B": "qwen3-8b",
}
"""The shape of a model of the hub."""


def architecture(shape: str, positions: int) -> Any:
    """The transformers configuration of one of `SHAPES`, for contexts of so many tokens."""
    return configured(*SHAPES[shape], positions)


def configured(
    kind: str,
    vocabulary: int,
    width: int,
    inner: int,
    layers: int,
    heads: int,
    kv_heads: int,
    tied: bool,
    positions: int,
    **more: Any,
) -> Any:
    """The transformers configuration of a model of these sizes; `more` under transformers' own names."""
    from transformers import AutoConfig

    return AutoConfig.for_model(
        kind,
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        max_position_embeddings=positions,
        **more,
    )
