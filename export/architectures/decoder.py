"""What a decoder-only transformer is, said once; the GGUF and the ONNX writer both write this.

An architecture file (``llama.py``, ``qwen2.py`` ...) turns a config.json into a :class:`Decoder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

from edgestill.artifact import Checkpoint
from edgestill.errors import CheckpointError, UnsupportedError
from edgestill.export.weights import Weights


@dataclass(frozen=True)
class RopeScaling:
    """Rotary scaling: ``linear`` (positions divided by factor) or ``llama3`` (by wavelength).

    llama3: Llama 3.1's rule over ``low_freq_factor``, ``high_freq_factor`` and ``original_context``.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True)
class Linear:
    """A projection ``y = x @ weight.T + bias``: tensor names; weight is ``[outputs, inputs]``."""

    weight: str
    bias: str | None
    outputs: int
    inputs: int


@dataclass(frozen=True)
class Layer:
    """One block: attention, then a gated MLP. Norms are RMS norms, None where there is none.

    ``attention_norm`` and ``mlp_norm`` are of a branch's input, the ``post`` norms of what it adds, [hidden].
    ``q_norm`` and ``k_norm`` come before the rotary embedding: of each head, [head_dim], or, with
    ``norms_all_heads``, of all together, [heads * head_dim]. Without ``rotary`` the layer has no such embedding.
    """

    attention_norm: str | None
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    mlp_norm: str | None
    gate: Linear
    up: Linear
    down: Linear
    attention_post_norm: str | None = None
    mlp_post_norm: str | None = None
    q_norm: str | None = None
    k_norm: str | None = None
    norms_all_heads: bool = False
    rotary: bool = True

    def linears(self) -> Iterator[tuple[str, Linear]]:
        """Yield (role, projection) in order of use."""
        for role in ("q", "k", "v", "o", "gate", "up", "down"):
            yield role, getattr(self, role)


@dataclass(frozen=True)
class Scales:
    """Constant factors (Granite): of the embedding, of what each branch adds, of q k before softmax, of logits.

    ``attention`` None is 1 / sqrt(head_dim); logits are divided by ``logits``.
    """

    embedding: float = 1.0
    residual: float = 1.0
    attention: float | None = None
    logits: float = 1.0


@dataclass(frozen=True)
class Decoder:
    """Sizes, constants and tensor names of one model.

    ``head`` is None when the output projection is the embedding (tied). Rotary embedding is the
    half-split form of transformers (``rotate_half``) over the whole head; ``gguf_permutes_qk`` says
    that the GGUF architecture expects the interleaved form, with rows of q and k permuted.
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
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    embedding: str
    final_norm: str
    head: str | None
    layers: tuple[Layer, ...]
    scales: Scales = Scales()

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield the (name, shape) of every tensor that must be in the checkpoint."""
        yield self.embedding, (self.vocab_size, self.hidden_size)
        for layer in self.layers:
            q_size, k_size = (layer.q.outputs, layer.k.outputs) if layer.norms_all_heads else (self.head_dim,) * 2
            norms = [(norm, self.hidden_size) for norm in (layer.attention_norm, layer.attention_post_norm)]
            norms += [(norm, self.hidden_size) for norm in (layer.mlp_norm, layer.mlp_post_norm)]
            for norm, size in (*norms, (layer.q_norm, q_size), (layer.k_norm, k_size)):
                if norm is not None:
                    yield norm, (size,)
            for _, linear in layer.linears():
                yield linear.weight, (linear.outputs, linear.inputs)
                if linear.bias is not None:
                    yield linear.bias, (linear.outputs,)
        yield self.final_norm, (self.hidden_size,)
        if self.head is not None:
            yield self.head, (self.vocab_size, self.hidden_size)

    def parameters(self) -> int:
        """Number of weights, tied ones counted once."""
        total = 0
        for _, shape in self.tensors():
            size = 1
            for extent in shape:
                size *= extent
            total += size
        return total


class Config:
    """Typed access to a parsed config.json; every miss is a CheckpointError naming the key."""

    def __init__(self, values: dict[str, object], where: str) -> None:
        self._values = values
        self._where = where

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a positive integer (``default`` when the key is absent or null)."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 0 < value < 1 << 31:
            raise CheckpointError(f"{self._where}: {key} must be a positive integer, found {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a positive finite number (``default`` when the key is absent or null)."""
        value = self._values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise CheckpointError(f"{self._where}: {key} must be a positive number, found {value!r}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean (``default`` when the key is absent or null)."""
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise CheckpointError(f"{self._where}: {key} must be true or false, found {value!r}")
        return value

    def require(self, key: str, allowed: tuple[object, ...], default: object) -> None:
        """Refuse (UnsupportedError) a value that the architecture's description doesn't cover."""
        value = self._values.get(key, default)
        if value not in allowed:
            shown = ", ".join(repr(item) for item in allowed)
            raise UnsupportedError(f"{self._where}: {key} {value!r} is not supported (only {shown})")

    def refuse(self, reason: str) -> NoReturn:
        """Raise UnsupportedError that names the file."""
        raise UnsupportedError(f"{self._where}: {reason}")

    def rope(self) -> tuple[float, RopeScaling | None]:
        """Return (theta, scaling) from ``rope_parameters`` (transformers 5) or ``rope_theta`` + ``rope_scaling``."""
        parameters = self._values.get("rope_parameters") or self._values.get("rope_scaling") or {}
        if not isinstance(parameters, dict):
            raise CheckpointError(f"{self._where}: rope_parameters must be an object, found {parameters!r}")
        inner = Config(parameters, f"{self._where}: rope_parameters")
        theta = inner.number("rope_theta", self.number("rope_theta", 10000.0))
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        if kind == "default":
            return theta, None
        if kind == "linear":
            return theta, RopeScaling("linear", inner.number("factor"))
        if kind == "llama3":
            return theta, RopeScaling(
                "llama3",
                inner.number("factor"),
                inner.number("low_freq_factor"),
                inner.number("high_freq_factor"),
                inner.integer("original_max_position_embeddings"),
            )
        raise UnsupportedError(f"{self._where}: rotary scaling {kind!r} is not supported (only linear, llama3)")


Describe = Callable[[Config, Weights], Decoder]
_REGISTRY: Final[dict[str, Describe]] = {}


def register(architecture: str) -> Callable[[Describe], Describe]:
    """Register the function that describes ``architecture`` (the name in config.json's list)."""

    def add(describe: Describe) -> Describe:
        _REGISTRY[architecture] = describe
        return describe

    return add


def describe_checkpoint(checkpoint: Checkpoint, weights: Weights) -> Decoder:
    """Describe a checkpoint and check that every tensor is there in its shape.

    Raises UnsupportedError (with the list of what is supported) for another architecture, and
    CheckpointError for a missing tensor or a wrong shape.
    """
    values = checkpoint.config()
    where = str(checkpoint.path / "config.json")
    names = values.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    describe = _REGISTRY.get(str(name))
    if describe is None:
        known = ", ".join(sorted(_REGISTRY))
        raise UnsupportedError(f"{where}: architecture {name!r} is not supported; supported: {known}")
    if values.get("quantization_config") is not None:
        raise UnsupportedError(f"{where}: the weights are already quantised; give the unquantised checkpoint")
    decoder = describe(Config(values, where), weights)
    for tensor, shape in decoder.tensors():
        found = weights.info(tensor).shape
        if found != shape:
            raise CheckpointError(f"{checkpoint.path}: tensor {tensor!r} has shape {list(found)}, not {list(shape)}")
    return decoder
