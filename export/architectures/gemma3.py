"""Gemma3ForCausalLM: Gemma 3's text models (Gemma 2's block, norms on q and k, two rotary embeddings)."""

from __future__ import annotations

import math

from edgestill.export.architectures.config import Config
from edgestill.export.architectures.decoder import Decoder, Scales, register
from edgestill.export.architectures.gemma2 import GEMMA_POST_NORMS, gemma_attention_scalar, gemma_windowed
from edgestill.export.architectures.llama import describe_llama_like
from edgestill.export.architectures.rope import Rope, read_rope
from edgestill.export.weights import Weights

_LOCAL_THETA = 10000.0
_GLOBAL_THETA = 1_000_000.0


@register("Gemma3ForCausalLM")
def describe_gemma3(config: Config, weights: Weights) -> Decoder:
    """Describe a Gemma 3: five layers with a window and the local rotary embedding, then one with the global."""
    config.require("attention_bias", (False, None), False)
    config.require("attn_logit_softcapping", (None,), None)
    config.require("use_bidirectional_attention", (False, None), False)
    config.require("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
    scalar, refusal = gemma_attention_scalar(config, layers_of_the_largest=62)
    softcap = config.number("final_logit_softcapping") if config.has("final_logit_softcapping") else None
    window = config.integer("sliding_window", 4096)
    windowed = gemma_windowed(config, period=6)
    head_dim = config.integer("head_dim", 256)
    if config.has("rope_parameters"):
        everywhere = read_rope(config, head_dim, "full_attention")
        local = read_rope(config, head_dim, "sliding_attention")
    else:
        # transformers 4 wrote only what differs from these.
        everywhere = Rope(config.number("rope_theta", _GLOBAL_THETA), head_dim, read_rope(config, head_dim).scaling)
        local = Rope(config.number("rope_local_base_freq", _LOCAL_THETA), head_dim)
    if local.scaling is not None:
        refusal = "llama.cpp's gemma3 has no scaling in layers with a window"
    keys: list[tuple[str, int | float]] = [("attention.sliding_window", window), ("rope.freq_base_swa", local.theta)]
    if softcap is not None:
        keys.append(("final_logit_softcapping", softcap))
    return describe_llama_like(
        config,
        weights,
        architecture="Gemma3ForCausalLM",
        gguf_architecture="gemma3",
        qk_norm="each",
        post_norms=GEMMA_POST_NORMS,
        rope=lambda layer: local if windowed[layer] else everywhere,
        main_rope=everywhere,
        window=lambda layer: window if windowed[layer] else None,
        scales=Scales(
            embedding=math.sqrt(config.integer("hidden_size")), attention=scalar**-0.5, logits_softcap=softcap
        ),
        norm_offset=1.0,
        activation="gelu_tanh",
        tied_default=True,
        gguf_keys=tuple(keys),
        gguf_refusal=refusal,
    )
