"""Olmo2ForCausalLM: OLMo 2 (Llama's projections; norms on q and k, and on what each branch adds)."""

from __future__ import annotations

from edgestill.export.architectures.config import Config
from edgestill.export.architectures.decoder import Decoder, register
from edgestill.export.architectures.llama import PostNorms, describe_llama_like
from edgestill.export.weights import Weights


@register("Olmo2ForCausalLM")
def describe_olmo2(config: Config, weights: Weights) -> Decoder:
    """Describe an OLMo 2. No released one has biases or a tied head; llama.cpp's has neither."""
    config.require("attention_bias", (False, None), False)
    config.require("tie_word_embeddings", (False, None), False)
    return describe_llama_like(
        config,
        weights,
        architecture="Olmo2ForCausalLM",
        gguf_architecture="olmo2",
        qk_norm="all",
        post_norms=PostNorms("post_attention_layernorm", "post_feedforward_layernorm", None),
        input_norms=False,
    )
