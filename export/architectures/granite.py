"""GraniteForCausalLM: Granite 3 and 4 dense (Llama's block with constant factors)."""

from __future__ import annotations

from edgestill.export.architectures.decoder import Config, Decoder, Scales, register
from edgestill.export.architectures.llama import describe_llama_like
from edgestill.export.weights import Weights


@register("GraniteForCausalLM")
def describe_granite(config: Config, weights: Weights) -> Decoder:
    """Describe a Granite; its factors are transformers' ``*_multiplier`` and ``logits_scaling``."""
    return describe_llama_like(
        config,
        weights,
        architecture="GraniteForCausalLM",
        gguf_architecture="granite",
        gguf_permutes_qk=True,
        qkv_bias=config.flag("attention_bias", False),
        o_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
        scales=Scales(
            embedding=config.number("embedding_multiplier", 1.0),
            residual=config.number("residual_multiplier", 1.0),
            attention=config.number("attention_multiplier", 1.0),
            logits=config.number("logits_scaling", 1.0),
        ),
    )
