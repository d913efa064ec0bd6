"""Gemma2ForCausalLM: Gemma 2 (norms around both branches, soft caps, a window in every other layer)."""

from __future__ import annotations

import math
from typing import Final

from edgestill.export.architectures.config import Config
from edgestill.export.architectures.decoder import Decoder, Scales, register
from edgestill.export.architectures.llama import PostNorms, describe_llama_like
from edgestill.export.weights import Weights

GEMMA_POST_NORMS: Final = PostNorms(
    "post_attention_layernorm", "post_feedforward_layernorm", "pre_feedforward_layernorm"
)


@register("Gemma2ForCausalLM")
def describe_gemma2(config: Config, weights: Weights) -> Decoder:
    """Describe a Gemma 2: the even layers, from 0, see ``sliding_window`` tokens."""
    config.require("attention_bias", (False, None), False)
    config.require("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
    scalar, refusal = gemma_attention_scalar(config, layers_of_the_largest=46)
    attention_softcap = config.number("attn_logit_softcapping") if config.has("attn_logit_softcapping") else None
    logits_softcap = config.number("final_logit_softcapping") if config.has("final_logit_softcapping") else None
    if attention_softcap is None or logits_softcap is None:
        refusal = "llama.cpp's gemma2 always caps attention scores and logits"
    window = config.integer("sliding_window", 4096)
    windowed = gemma_windowed(config, period=2)
    return describe_llama_like(
        config,
        weights,
        architecture="Gemma2ForCausalLM",
        gguf_architecture="gemma2",
        post_norms=GEMMA_POST_NORMS,
        window=lambda layer: window if windowed[layer] else None,
        scales=Scales(
            embedding=math.sqrt(config.integer("hidden_size")),
            attention=scalar**-0.5,
            attention_softcap=attention_softcap,
            logits_softcap=logits_softcap,
        ),
        norm_offset=1.0,
        activation="gelu_tanh",
        tied_default=True,
        gguf_keys=(
            ("attn_logit_softcapping", attention_softcap or 0.0),
            ("final_logit_softcapping", logits_softcap or 0.0),
            ("attention.sliding_window", window),
        ),
        gguf_refusal=refusal,
    )


def gemma_attention_scalar(config: Config, layers_of_the_largest: int) -> tuple[float, str | None]:
    """Return ``query_pre_attn_scalar`` and why llama.cpp, which derives it from the sizes, can't have it."""
    scalar = config.number("query_pre_attn_scalar", 256.0)
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    derived: int = config.integer("head_dim", 256)
    if config.layers("num_hidden_layers") == layers_of_the_largest:
        derived = hidden // heads
    if scalar == derived:
        return scalar, None
    return scalar, f"query_pre_attn_scalar {scalar:g}: llama.cpp has {derived} in a model of this size"


def gemma_windowed(config: Config, period: int) -> list[bool]:
    """Return for each layer whether it has a window: all but the last of each ``period``, as llama.cpp has it."""
    kinds = {True: "sliding_attention", False: "full_attention"}
    windowed = [(layer + 1) % period != 0 for layer in range(config.layers("num_hidden_layers"))]
    config.require("layer_types", ([kinds[item] for item in windowed], None), None)
    config.require("sliding_window_pattern", (period, None), None)
    return windowed
