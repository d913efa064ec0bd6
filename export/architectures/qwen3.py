"""Qwen3ForCausalLM: Qwen3 (Llama's block, with an RMS norm on each head of q and k instead of biases)."""

from __future__ import annotations

from edgestill.export.architectures.config import Config
from edgestill.export.architectures.decoder import Decoder, register
from edgestill.export.architectures.llama import describe_llama_like
from edgestill.export.weights import Weights


@register("Qwen3ForCausalLM")
def describe_qwen3(config: Config, weights: Weights) -> Decoder:
    """Describe a Qwen3. No released one has biases or a sliding window switched on; llama.cpp's has neither."""
    config.require("use_sliding_window", (False, None), False)
    config.require("attention_bias", (False, None), False)
    return describe_llama_like(
        config,
        weights,
        architecture="Qwen3ForCausalLM",
        gguf_architecture="qwen3",
        qk_norm="each",
    )
