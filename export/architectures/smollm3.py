"""SmolLM3ForCausalLM: SmolLM3 (Llama's block, without rotary embedding in every fourth layer)."""

from __future__ import annotations

from typing import Final

from edgestill.export.architectures.config import Config
from edgestill.export.architectures.decoder import Decoder, register
from edgestill.export.architectures.llama import describe_llama_like
from edgestill.export.architectures.rope import read_rope
from edgestill.export.weights import Weights

_INTERVAL: Final = 4  # llama.cpp's is fixed


@register("SmolLM3ForCausalLM")
def describe_smollm3(config: Config, weights: Weights) -> Decoder:
    """Describe a SmolLM3; of the layouts that its configuration can say, the released one."""

    def rotary(layer: int) -> bool:
        return (layer + 1) % _INTERVAL != 0

    layers = range(config.layers("num_hidden_layers"))
    config.require("no_rope_layer_interval", (_INTERVAL, None), None)
    config.require("no_rope_layers", ([int(rotary(layer)) for layer in layers], None), None)
    config.require("use_sliding_window", (False, None), False)
    config.require("attention_bias", (False, None), False)
    config.require("mlp_bias", (False, None), False)
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    everywhere = read_rope(config, config.integer("head_dim", max(hidden // heads, 1)))
    return describe_llama_like(
        config,
        weights,
        architecture="SmolLM3ForCausalLM",
        gguf_architecture="smollm3",
        gguf_permutes_qk=True,
        rope=lambda layer: everywhere if rotary(layer) else None,
    )
