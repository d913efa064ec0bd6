"""LlamaForCausalLM: Llama 2, 3, 3.1, 3.2, TinyLlama, SmolLM and models trained in their shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edgestill.export.architectures.config import Config
from edgestill.export.architectures.decoder import Decoder, Layer, Linear, Norm, Scales, register
from edgestill.export.architectures.rope import Rope, read_rope
from edgestill.export.weights import Weights


@register("LlamaForCausalLM")
def describe_llama(config: Config, weights: Weights) -> Decoder:
    """Describe a Llama; ``attention_bias`` and ``mlp_bias`` add biases to all projections of their block."""
    attention_bias = config.flag("attention_bias", False)
    return describe_llama_like(
        config,
        weights,
        architecture="LlamaForCausalLM",
        gguf_architecture="llama",
        gguf_permutes_qk=True,
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=config.flag("mlp_bias", False),
    )


@dataclass(frozen=True)
class PostNorms:
    """Names, below ``model.layers.N``, of norms of what the branches add, and of the MLP's input norm if any."""

    attention: str
    mlp: str
    mlp_input: str | None


def describe_llama_like(
    config: Config,
    weights: Weights,
    *,
    architecture: str,
    gguf_architecture: str,
    gguf_permutes_qk: bool = False,
    qkv_bias: bool = False,
    o_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: Literal["each", "all"] | None = None,
    post_norms: PostNorms | None = None,
    input_norms: bool = True,
    rope: Callable[[int], Rope | None] | None = None,
    main_rope: Rope | None = None,
    window: Callable[[int], int | None] = lambda layer: None,
    scales: Scales | None = None,
    norm_offset: float = 0.0,
    activation: Literal["silu", "gelu_tanh"] = "silu",
    tied_default: bool = False,
    fused: bool = False,
    gguf_keys: tuple[tuple[str, int | float], ...] = (),
    gguf_notes: tuple[str, ...] = (),
    gguf_refusal: str | None = None,
) -> Decoder:
    """Describe a decoder with Llama's block and tensor names; the flags say where biases are.

    ``qk_norm`` norms each head of q and k, or all together; ``post_norms`` what the branches add;
    ``input_norms`` says whether their inputs are normed. ``rope`` and ``window`` say it of a layer (``rope`` None:
    ``main_rope`` in all, by default the configuration's). ``fused`` files have q, k, v in one tensor, and gate,
    up in another. For the rest see Decoder.
    """
    if activation == "silu":
        config.require("hidden_act", ("silu",), "silu")
    hidden = config.integer("hidden_size")
    intermediate = config.integer("intermediate_size")
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    head_dim = config.integer("head_dim", max(hidden // heads, 1))
    if heads % kv_heads:
        config.refuse(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    everywhere = main_rope or read_rope(config, head_dim)

    def linear(name: str, outputs: int, inputs: int, bias: bool, start: int = 0) -> Linear:
        return Linear(f"{name}.weight", f"{name}.bias" if bias else None, outputs, inputs, start)

    def norm(name: str, size: int = hidden) -> Norm:
        return Norm(f"{name}.weight", size)

    def layer(index: int) -> Layer:
        prefix = f"model.layers.{index}"
        attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
        q_size, kv_size = heads * head_dim, kv_heads * head_dim
        qkv = ("qkv_proj",) * 3 if fused else ("q_proj", "k_proj", "v_proj")
        starts = (0, q_size, q_size + kv_size) if fused else (0, 0, 0)
        q, k, v = (
            linear(f"{attention}.{name}", size, hidden, qkv_bias, start)
            for name, size, start in zip(qkv, (q_size, kv_size, kv_size), starts, strict=True)
        )
        gate, up = ("gate_up_proj",) * 2 if fused else ("gate_proj", "up_proj")
        mlp_input = f"{prefix}.{post_norms.mlp_input}" if post_norms and post_norms.mlp_input else None
        if post_norms is None:
            mlp_input = f"{prefix}.post_attention_layernorm"
        return Layer(
            attention_norm=norm(f"{prefix}.input_layernorm") if input_norms else None,
            q=q,
            k=k,
            v=v,
            o=linear(f"{attention}.o_proj", hidden, q_size, o_bias),
            mlp_norm=norm(mlp_input) if mlp_input else None,
            gate=linear(f"{mlp}.{gate}", intermediate, hidden, mlp_bias),
            up=linear(f"{mlp}.{up}", intermediate, hidden, mlp_bias, intermediate if fused else 0),
            down=linear(f"{mlp}.down_proj", hidden, intermediate, mlp_bias),
            rope=rope(index) if rope else everywhere,
            attention_post_norm=norm(f"{prefix}.{post_norms.attention}") if post_norms else None,
            mlp_post_norm=norm(f"{prefix}.{post_norms.mlp}") if post_norms else None,
            q_norm=norm(f"{attention}.q_norm", q_size if qk_norm == "all" else head_dim) if qk_norm else None,
            k_norm=norm(f"{attention}.k_norm", kv_size if qk_norm == "all" else head_dim) if qk_norm else None,
            norms_all_heads=qk_norm == "all",
            window=window(index),
        )

    # Real files store tied embeddings in three ways: embed only, both, or lm_head only.
    tied = config.flag("tie_word_embeddings", tied_default)
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
        norm_eps=config.number("rms_norm_eps", 1e-6),
        rope=everywhere,
        embedding=embedding,
        final_norm=norm("model.norm"),
        head=None if tied else head,
        layers=tuple(layer(index) for index in range(config.layers("num_hidden_layers"))),
        scales=scales or Scales(),
        norm_offset=norm_offset,
        activation=activation,
        gguf_keys=gguf_keys,
        gguf_notes=gguf_notes,
        gguf_refusal=gguf_refusal,
    )
