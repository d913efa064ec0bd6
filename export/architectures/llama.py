"""LlamaForCausalLM: Llama 2, 3, 3.1, 3.2, TinyLlama, SmolLM and models trained in their shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from edgestill.export.architectures.decoder import Config, Decoder, Layer, Linear, Scales, register
from edgestill.export.weights import Weights


@register("LlamaForCausalLM")
def describe_llama(config: Config, weights: Weights) -> Decoder:
    """Describe a Llama; ``attention_bias`` and ``mlp_bias`` add biases to all projections of their block."""
    return describe_llama_like(
        config,
        weights,
        architecture="LlamaForCausalLM",
        gguf_architecture="llama",
        gguf_permutes_qk=True,
        qkv_bias=config.flag("attention_bias", False),
        o_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
    )


def describe_llama_like(
    config: Config,
    weights: Weights,
    *,
    architecture: str,
    gguf_architecture: str,
    gguf_permutes_qk: bool,
    qkv_bias: bool,
    o_bias: bool,
    mlp_bias: bool,
    qk_norm: Literal["each", "all"] | None = None,
    post_norms: bool = False,
    rotary: Callable[[int], bool] = lambda layer: True,
    scales: Scales | None = None,
) -> Decoder:
    """Describe a decoder with Llama's tensor names and block; the flags say where biases are.

    ``qk_norm`` norms each head of q and k, or all together; with ``post_norms`` what the branches add is normed
    instead of their inputs.
    """
    config.require("hidden_act", ("silu",), "silu")
    hidden = config.integer("hidden_size")
    intermediate = config.integer("intermediate_size")
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    head_dim = config.integer("head_dim", max(hidden // heads, 1))
    theta, scaling = config.rope()

    def linear(name: str, outputs: int, inputs: int, bias: bool) -> Linear:
        return Linear(f"{name}.weight", f"{name}.bias" if bias else None, outputs, inputs)

    def layer(index: int) -> Layer:
        prefix = f"model.layers.{index}"
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        return Layer(
            attention_norm=None if post_norms else f"{prefix}.input_layernorm.weight",
            q=linear(f"{attention}.q_proj", heads * head_dim, hidden, qkv_bias),
            k=linear(f"{attention}.k_proj", kv_heads * head_dim, hidden, qkv_bias),
            v=linear(f"{attention}.v_proj", kv_heads * head_dim, hidden, qkv_bias),
            o=linear(f"{attention}.o_proj", hidden, heads * head_dim, o_bias),
            mlp_norm=None if post_norms else f"{prefix}.post_attention_layernorm.weight",
            gate=linear(f"{mlp}.gate_proj", intermediate, hidden, mlp_bias),
            up=linear(f"{mlp}.up_proj", intermediate, hidden, mlp_bias),
            down=linear(f"{mlp}.down_proj", hidden, intermediate, mlp_bias),
            attention_post_norm=f"{prefix}.post_attention_layernorm.weight" if post_norms else None,
            mlp_post_norm=f"{prefix}.post_feedforward_layernorm.weight" if post_norms else None,
            q_norm=f"{attention}.q_norm.weight" if qk_norm else None,
            k_norm=f"{attention}.k_norm.weight" if qk_norm else None,
            norms_all_heads=qk_norm == "all",
            rotary=rotary(index),
        )

    # Real files store tied embeddings in three ways: embed only, both, or lm_head only.
    tied = config.flag("tie_word_embeddings", False)
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    if tied and embedding not in weights and head in weights:
        embedding = head
    return Decoder(
        architecture=architecture,
        gguf_architecture=gguf_architecture,
        gguf_permutes_qk=gguf_permutes_qk,
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=intermediate,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context_length=config.integer("max_position_embeddings"),
        rms_norm_eps=config.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        embedding=embedding,
        final_norm="model.norm.weight",
        head=None if tied else head,
        layers=tuple(layer(index) for index in range(config.integer("num_hidden_layers"))),
        scales=scales or Scales(),
    )
