"""MistralForCausalLM: Mistral 7B from v0.2 on and what is trained in its shape (Llama's block and tensor names)."""

from __future__ import annotations

from edgestill.export.architectures.config import Config
from edgestill.export.architectures.decoder import Decoder, register
from edgestill.export.architectures.llama import describe_llama_like
from edgestill.export.weights import Weights


@register("MistralForCausalLM")
def describe_mistral(config: Config, weights: Weights) -> Decoder:
    """Describe a Mistral.

    A sliding window that is shorter than the context (v0.1) is refused: beyond it llama.cpp's llama sees more
    than the model does. Within the window the two are the same.
    """
    context = config.integer("max_position_embeddings")
    window = config.integer("sliding_window", context)
    if window < context:
        config.refuse(
            f"sliding_window {window} is shorter than max_position_embeddings {context}; lower the latter to {window}, "
            "as far as which attention sees everything"
        )
    return describe_llama_like(
        config,
        weights,
        architecture="MistralForCausalLM",
        gguf_architecture="llama",
        gguf_permutes_qk=True,
    )
