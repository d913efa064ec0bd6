"""Qwen2ForCausalLM: Qwen2 and Qwen2.5 (Llama's block with biases on q, k and v)."""

from __future__ import annotations

from edgestill.export.architectures.config import Config
from edgestill.export.architectures.decoder import Decoder, register
from edgestill.export.architectures.llama import describe_llama_like
from edgestill.export.weights import Weights


@register("Qwen2ForCausalLM")
def describe_qwen2(config: Config, weights: Weights) -> Decoder:
    """Describe a Qwen2. Sliding-window attention is refused: no released Qwen2 has it switched on."""
    config.require("use_sliding_window", (False, None), False)
    return describe_llama_like(
        config,
        weights,
        architecture="Qwen2ForCausalLM",
        gguf_architecture="qwen2",
        qkv_bias=True,
    )
