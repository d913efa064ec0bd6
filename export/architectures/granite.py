"""GraniteForCausalLM: Granite 3 and 4 dense (Llama's block with constant factors)."""

from __future__ import annotations

from edgestill.export.architectures.config import Config
from edgestill.export.architectures.decoder import Decoder, Scales, register
from edgestill.export.architectures.llama import describe_llama_like
from edgestill.export.weights import Weights


@register("GraniteForCausalLM")
def describe_granite(config: Config, weights: Weights) -> Decoder:
    """Describe a Granite; its factors are transformers' ``*_multiplier`` and ``logits_scaling``."""
    attention_bias = config.flag("attention_bias", False)
    scales = Scales(
        embedding=config.number("embedding_multiplier", 1.0),
        residual=config.number("residual_multiplier", 1.0),
        attention=(attention := config.number("attention_multiplier", 1.0)),
        logits=config.number("logits_scaling", 1.0),
    )
    return describe_llama_like(
        config,
        weights,
        architecture="GraniteForCausalLM",
        gguf_architecture="granite",
        gguf_permutes_qk=True,
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=config.flag("mlp_bias", False),
        scales=scales,
        gguf_keys=(
            ("embedding_scale", scales.embedding),
            ("residual_scale", scales.residual),
            ("logit_scale", scales.logits),
            ("attention.scale", attention),
        ),
    )
