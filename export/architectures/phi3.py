"""Phi3ForCausalLM: Phi-3, Phi-3.5 and Phi-4-mini (Llama's block; q, k, v fused, gate and up fused)."""

from __future__ import annotations

from typing import Final

from edgestill.export.architectures.config import Config
from edgestill.export.architectures.decoder import Decoder, register
from edgestill.export.architectures.llama import describe_llama_like
from edgestill.export.architectures.rope import read_rope
from edgestill.export.weights import Weights

_ORIGINAL_CONTEXT: Final = 4096
"""transformers' default of Phi3Config.original_max_position_embeddings."""


@register("Phi3ForCausalLM")
def describe_phi3(config: Config, weights: Weights) -> Decoder:
    """Describe a Phi-3. Rotary embedding may cover a part of each head and be scaled by LongRoPE.

    transformers takes LongRoPE's long factors in a sequence longer than the original context, llama.cpp in a
    session that is opened with room for one; llama.cpp ignores a sliding window.
    """
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if config.integer("head_dim", hidden // heads) * heads != hidden:
        config.refuse("head_dim * num_attention_heads must be hidden_size")
    context = config.integer("max_position_embeddings")
    window = config.integer("sliding_window", context)
    rope = read_rope(config, hidden // heads, original_context=_ORIGINAL_CONTEXT)
    scaling = rope.scaling
    keys: list[tuple[str, int | float]] = [("attention.sliding_window", window if config.has("sliding_window") else 0)]
    notes = []
    if scaling is not None and scaling.kind == "longrope":
        keys.append(("rope.scaling.original_context_length", scaling.original_context))
        keys.append(("rope.scaling.attn_factor", scaling.attention_factor))
        notes.append(
            f"LongRoPE: a llama.cpp session with room for more than {scaling.original_context} tokens uses the long "
            "factors from its first token, transformers only in sequences that are longer"
        )
    else:
        keys.append(
            ("rope.scaling.original_context_length", config.integer("original_max_position_embeddings", context))
        )
    if window < context:
        notes.append(f"llama.cpp ignores phi3's sliding window: from token {window} on it attends to more")
    return describe_llama_like(
        config,
        weights,
        architecture="Phi3ForCausalLM",
        gguf_architecture="phi3",
        main_rope=rope,
        window=lambda layer: window if window < context else None,
        fused=True,
        gguf_keys=tuple(keys),
        gguf_notes=tuple(notes),
    )
