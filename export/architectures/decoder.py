"""What a decoder-only transformer is, said once; the GGUF and the ONNX writer both write this.

An architecture file (``llama.py``, ``qwen2.py`` ...) turns a config.json into a :class:`Decoder`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from edgestill.artifact import Checkpoint
from edgestill.errors import CheckpointError, UnsupportedError
from edgestill.export.architectures.config import Config
from edgestill.export.architectures.rope import Rope
from edgestill.export.weights import Weights


@dataclass(frozen=True)
class Norm:
    """A norm's tensors, one weight for each of ``size`` channels; layer norms have a bias, RMS norms none."""

    weight: str
    size: int
    bias: str | None = None


@dataclass(frozen=True)
class Linear:
    """A projection ``y = x @ weight.T + bias``, weight ``[outputs, inputs]``, bias ``[outputs]``: tensor names.

    ``start`` is its first output in a tensor that holds several projections one after the other. With
    ``transposed`` the checkpoint stores ``[inputs, outputs]`` (GPT-2's Conv1D).
    """

    weight: str
    bias: str | None
    outputs: int
    inputs: int
    start: int = 0
    transposed: bool = False


@dataclass(frozen=True)
class Layer:
    """One block: attention, then an MLP, gated where ``gate`` isn't None. A norm that isn't there is None.

    ``attention_norm`` and ``mlp_norm`` are of a branch's input, the ``post`` norms of what it adds, [hidden].
    ``q_norm`` and ``k_norm`` come before the rotary embedding: of each head, [head_dim], or, with
    ``norms_all_heads``, of all together, [heads * head_dim]. With a ``window`` a token sees itself and the
    ``window`` - 1 before it.
    """

    attention_norm: Norm | None
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    mlp_norm: Norm | None
    gate: Linear | None
    up: Linear
    down: Linear
    rope: Rope | None
    attention_post_norm: Norm | None = None
    mlp_post_norm: Norm | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    norms_all_heads: bool = False
    window: int | None = None

    def linears(self) -> Iterator[tuple[str, Linear]]:
        """Yield (role, projection) in order of use; what one tensor holds together comes as one, of the first role."""
        rest = {"q": ("qkv", (self.q, self.k, self.v)), "gate": ("gate_up", (self.gate, self.up))}
        for role in ("q", "k", "v", "o", "gate", "up", "down"):
            linear = getattr(self, role)
            if linear is None or linear.start:
                continue
            fused, parts = rest.get(role, (role, ()))
            together = [part for part in parts if part is not None and part.weight == linear.weight]
            if len(together) > 1:
                yield fused, replace(linear, outputs=sum(part.outputs for part in together))
            else:
                yield role, linear

    def norms(self) -> Iterator[Norm]:
        """Yield every norm that is there."""
        for norm in (self.attention_norm, self.q_norm, self.k_norm, self.attention_post_norm):
            if norm is not None:
                yield norm
        for norm in (self.mlp_norm, self.mlp_post_norm):
            if norm is not None:
                yield norm


@dataclass(frozen=True)
class Scales:
    """Constant factors: of the embedding, of what each branch adds, of q k before softmax, of logits.

    ``attention`` None is 1 / sqrt(head_dim); logits are divided by ``logits``. A softcap c makes c tanh(x / c)
    of attention scores or logits x.
    """

    embedding: float = 1.0
    residual: float = 1.0
    attention: float | None = None
    logits: float = 1.0
    attention_softcap: float | None = None
    logits_softcap: float | None = None


@dataclass(frozen=True)
class Decoder:
    """Sizes, constants and tensor names of one model.

    ``head`` is None when the output projection is the embedding (tied). Norms divide by the root mean square
    (``rms``) or also subtract the mean (``layer``), and multiply by their weight + ``norm_offset``.
    ``positions`` is a learned embedding of positions, ``[context_length, hidden_size]``. Rotary embedding is the
    half-split form of transformers (``rotate_half``); ``gguf_permutes_qk`` says that the GGUF architecture
    expects the interleaved form, with rows of q and k permuted. ``gguf_keys`` are the metadata that only this
    GGUF architecture has, ``gguf_notes`` say where llama.cpp computes something else than the checkpoint does;
    with a ``gguf_refusal`` it can't be written as GGUF.
    """

    architecture: str
    gguf_architecture: str
    gguf_permutes_qk: bool
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    context_length: int
    norm_eps: float
    rope: Rope | None
    embedding: str
    final_norm: Norm
    head: str | None
    layers: tuple[Layer, ...]
    scales: Scales = Scales()
    norm: Literal["rms", "layer"] = "rms"
    norm_offset: float = 0.0
    activation: Literal["silu", "gelu_tanh"] = "silu"
    positions: str | None = None
    gguf_keys: tuple[tuple[str, int | float], ...] = ()
    gguf_notes: tuple[str, ...] = ()
    gguf_refusal: str | None = None

    @property
    def longrope_original(self) -> int | None:
        """The original context of LongRoPE where the context is longer, None elsewhere."""
        scaling = None if self.rope is None else self.rope.scaling
        if scaling is None or scaling.kind != "longrope" or scaling.original_context >= self.context_length:
            return None
        return scaling.original_context

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the (name, shape) of every tensor that must be in the checkpoint."""
        yield self.embedding, (self.vocab_size, self.hidden_size)
        if self.positions is not None:
            yield self.positions, (self.context_length, self.hidden_size)
        for norm in (self.final_norm, *(norm for layer in self.layers for norm in layer.norms())):
            yield norm.weight, (norm.size,)
            if norm.bias is not None:
                yield norm.bias, (norm.size,)
        for layer in self.layers:
            for _, linear in layer.linears():
                shape = (linear.outputs, linear.inputs)
                yield linear.weight, shape[::-1] if linear.transposed else shape
                if linear.bias is not None:
                    yield linear.bias, (linear.outputs,)
        if self.head is not None:
            yield self.head, (self.vocab_size, self.hidden_size)

    def parameters(self) -> int:
        """Number of weights, tied ones counted once."""
        return sum(math.prod(shape) for _, shape in self.tensors())


Describe = Callable[[Config, Weights], Decoder]
_REGISTRY: Final[dict[str, Describe]] = {}
_EXPERT_KEYS: Final = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def register(architecture: str) -> Callable[[Describe], Describe]:
    """Register the function that describes ``architecture`` (the name in config.json's list)."""

    def add(describe: Describe) -> Describe:
        _REGISTRY[architecture] = describe
        return describe

    return add


def undescribed(checkpoint: Checkpoint) -> str | None:
    """Return why no file describes the checkpoint's architecture, with those that are described; None if one does."""
    values = checkpoint.config()
    name = _architecture(values)
    if name in _REGISTRY:
        return None
    experts = next((values[key] for key in _EXPERT_KEYS if isinstance(values.get(key), int)), None)
    why = "" if experts is None else f" (a mixture of {experts} experts)"
    known = ", ".join(sorted(_REGISTRY))
    other = "; any other decoder, and sequence classifiers, with --format onnx-portable" if experts is None else ""
    return f"{checkpoint.path / 'config.json'}: architecture {name!r} is not supported{why}; supported: {known}{other}"


def _architecture(values: Mapping[str, object]) -> str:
    names = values.get("architectures")
    return str(names[0] if isinstance(names, list) and names else None)


def describe_checkpoint(checkpoint: Checkpoint, weights: Weights) -> Decoder:
    """Describe a checkpoint and check that every tensor is there in its shape.

    Raises UnsupportedError for another architecture (see :func:`undescribed`) or a value that its description doesn't
    cover, and CheckpointError for a missing tensor or a wrong shape.
    """
    values = checkpoint.config()
    where = str(checkpoint.path / "config.json")
    refusal = undescribed(checkpoint)
    if refusal is not None:
        raise UnsupportedError(refusal)
    if values.get("quantization_config") is not None:
        raise UnsupportedError(f"{where}: the weights are already quantised; give the unquantised checkpoint")
    describe = _REGISTRY[_architecture(values)]
    decoder = describe(Config(values, where), weights)
    for tensor, shape in decoder.tensors():
        found = weights.info(tensor).shape
        if found != shape:
            raise CheckpointError(f"{checkpoint.path}: tensor {tensor!r} has shape {list(found)}, not {list(shape)}")
    return decoder
