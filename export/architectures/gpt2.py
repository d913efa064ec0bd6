"""GPT2LMHeadModel: GPT-2 (layer norms, learned positions, one projection for q, k, v; weights [inputs, outputs])."""

from __future__ import annotations

from edgestill.export.architectures.config import Config
from edgestill.export.architectures.decoder import Decoder, Layer, Linear, Norm, register
from edgestill.export.weights import Weights


@register("GPT2LMHeadModel")
def describe_gpt2(config: Config, weights: Weights) -> Decoder:
    """Describe a GPT-2. OpenAI's own files have the tensor names without ``transformer.`` in front."""
    config.require("activation_function", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new")
    config.require("scale_attn_weights", (True,), True)
    config.require("scale_attn_by_inverse_layer_idx", (False,), False)
    config.require("add_cross_attention", (False,), False)
    hidden, heads = config.integer("n_embd", 768), config.integer("n_head", 12)
    if hidden % heads:
        config.refuse(f"n_embd {hidden} is not a multiple of n_head {heads}")
    intermediate = config.integer("n_inner", 4 * hidden)
    top = "" if "wte.weight" in weights else "transformer."

    def linear(name: str, outputs: int, inputs: int, start: int = 0) -> Linear:
        return Linear(f"{name}.weight", f"{name}.bias", outputs, inputs, start, transposed=True)

    def norm(name: str) -> Norm:
        return Norm(f"{name}.weight", hidden, f"{name}.bias")

    def layer(index: int) -> Layer:
        prefix = f"{top}h.{index}"
        return Layer(
            attention_norm=norm(f"{prefix}.ln_1"),
            q=linear(f"{prefix}.attn.c_attn", hidden, hidden),
            k=linear(f"{prefix}.attn.c_attn", hidden, hidden, hidden),
            v=linear(f"{prefix}.attn.c_attn", hidden, hidden, 2 * hidden),
            o=linear(f"{prefix}.attn.c_proj", hidden, hidden),
            mlp_norm=norm(f"{prefix}.ln_2"),
            gate=None,
            up=linear(f"{prefix}.mlp.c_fc", intermediate, hidden),
            down=linear(f"{prefix}.mlp.c_proj", hidden, intermediate),
            rope=None,
        )

    return Decoder(
        architecture="GPT2LMHeadModel",
        gguf_architecture="gpt2",
        gguf_permutes_qk=False,
        vocab_size=config.integer("vocab_size", 50257),
        hidden_size=hidden,
        intermediate_size=intermediate,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        context_length=config.integer("n_positions", 1024),
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        rope=None,
        embedding=f"{top}wte.weight",
        final_norm=norm(f"{top}ln_f"),
        head=None if config.flag("tie_word_embeddings", True) else "lm_head.weight",
        layers=tuple(layer(index) for index in range(config.layers("n_layer", 12))),
        norm="layer",
        activation="gelu_tanh",
        positions=f"{top}wpe.weight",
    )
