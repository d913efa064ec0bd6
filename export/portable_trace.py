"""A transformers model traced into an ONNX graph of flat tensors, by torch.export and torch.onnx's dynamo exporter.

Imports torch: import it inside a function.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch  # noqa: TID253
from optimum.utils import DummyTextInputGenerator, NormalizedConfigManager, NormalizedTextConfig  # noqa: TID253
from transformers.cache_utils import DynamicCache, DynamicLayer  # noqa: TID253

from edgestill.errors import StageError, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET: Final = 18
"""The oldest opset that torch writes: what most runtimes read."""

# The sizes that the graph is traced with. torch.export takes 0 and 1 for constants, and equal ones for one axis.
_BATCH: Final = 2
_SEQUENCE: Final = 5
_PAST: Final = 7
_REASON_LETTERS: Final = 240
_BATCHED: Final = {0: "batch", 1: "sequence"}

WRAPPER_PREFIX: Final = "model."
"""What the names of parameters begin with in the graph, before the checkpoint's own names."""


class _Cached(NamedTuple):
    """Heads and sizes of one layer's keys and values in the cache."""

    heads: int
    key_size: int
    value_size: int


def trace_decoder(model: Any) -> ir.Model:
    """Return the graph of a causal language model with its KV cache as inputs and outputs.

    Inputs: ``input_ids`` ``[batch, sequence]``, ``attention_mask`` ``[batch, past + sequence]`` and, where the
    model has them, ``position_ids`` ``[batch, sequence]`` (int64), ``past_key_values.{i}.key/value`` ``[batch,
    kv_heads, past, head_dim]``. Outputs: ``logits`` ``[batch, sequence, vocab]``, ``present.{i}.key/value`` with
    past + sequence rows. A layer with a sliding window keeps its whole past: the mask does the sliding, so that
    one graph serves any length. Raises UnsupportedError for a model that keeps another state than keys and values.
    """
    layers = _cache_of(model)
    names = ["input_ids", "attention_mask"]
    if "position_ids" in inspect.signature(model.forward).parameters:
        names.append("position_ids")
    text = _text_inputs(model.config, "text-generation", ("input_ids", "position_ids"))
    text["attention_mask"] = torch.ones((_BATCH, _PAST + _SEQUENCE), dtype=torch.int64)
    past = [
        torch.rand((_BATCH, layer.heads, _PAST, size), dtype=model.dtype)
        for layer in layers
        for size in (layer.key_size, layer.value_size)
    ]
    axes = {"attention_mask": {0: "batch", 1: "total_sequence"}}
    cache_names = [f"{index}.{part}" for index in range(len(layers)) for part in ("key", "value")]
    return _export(
        _Decoder(model, names),
        (*(text[name] for name in names), past),
        (*(axes.get(name, _BATCHED) for name in names), [{0: "batch", 2: "past_sequence"} for _ in past]),
        [*names, *(f"past_key_values.{name}" for name in cache_names)],
        ["logits", *(f"present.{name}" for name in cache_names)],
    )


def trace_classifier(model: Any) -> ir.Model:
    """Return the graph of a sequence classifier.

    Inputs: ``input_ids``, ``attention_mask`` and, where the model tells segments apart, ``token_type_ids``,
    int64 ``[batch, sequence]``. Output: ``logits`` ``[batch, labels]``.
    """
    names = ["input_ids", "attention_mask"]
    segments = getattr(model.config, "type_vocab_size", 0) or 0
    if segments > 1 and "token_type_ids" in inspect.signature(model.forward).parameters:
        names.append("token_type_ids")
    text = _text_inputs(model.config, "text-classification", tuple(names))
    inputs = tuple(text[name] for name in names)
    return _export(_Classifier(model, names), inputs, tuple(_BATCHED for _ in names), names, ["logits"])


class _Decoder(torch.nn.Module):
    """Takes and returns the cache as flat tensors."""

    model: Any

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self._names = names

    def forward(self, *inputs: Any) -> Any:
        *text, past = inputs
        # Without the model's configuration every layer of the cache is a plain one, sliding windows too.
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        given = dict(zip(self._names, text, strict=True))
        output = self.model(**given, past_key_values=cache, use_cache=True)
        return output.logits, [part for layer in cache.layers for part in (layer.keys, layer.values)]


class _Classifier(torch.nn.Module):
    model: Any

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self._names = names

    def forward(self, *text: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(**dict(zip(self._names, text, strict=True))).logits
        return logits


def _cache_of(model: Any) -> list[_Cached]:
    """Return what each layer keeps, as the model itself fills a cache: no configuration says it for all of them."""
    kind = model.config.model_type
    with torch.no_grad():
        try:
            output = model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=True)
        except Exception as error:  # a state of its own that its cache doesn't have, and what else its code raises
            raise StageError(f"torch can't run {kind} ({_reason(error)})") from error
    cache = getattr(output, "past_key_values", None)
    layers = []
    for layer in getattr(cache, "layers", ()):
        if not isinstance(layer, DynamicLayer) or not isinstance(layer.keys, torch.Tensor) or layer.keys.ndim != 4:
            raise UnsupportedError(
                f"{kind}: it keeps {type(layer).__name__} beside keys and values, which a decoder with a plain KV "
                "cache can't hold; onnx-portable has no form for it"
            )
        layers.append(_Cached(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]))
    if not layers:
        raise UnsupportedError(f"{kind}: it has no KV cache of keys and values; onnx-portable has no form for it")
    if any(layer.key_size != layer.value_size or layer != layers[0] for layer in layers):
        raise UnsupportedError(f"{kind}: the shapes of keys and values differ in it; onnx-portable has no form for it")
    return layers


def _text_inputs(config: Any, task: str, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return one tensor for each name, int64 ``[batch, sequence]``, made by optimum."""
    known = config.model_type in NormalizedConfigManager._conf
    normalized = NormalizedConfigManager.get_normalized_config_class(config.model_type) if known else None
    generator = DummyTextInputGenerator(
        task, (normalized or NormalizedTextConfig)(config), batch_size=_BATCH, sequence_length=_SEQUENCE
    )
    return {name: generator.generate(name) for name in names}


def _export(
    module: _Decoder | _Classifier, inputs: tuple[Any, ...], axes: tuple[Any, ...], names: list[str], outputs: list[str]
) -> ir.Model:
    """Trace ``module``; raises StageError with torch's own reason when it can't be traced."""
    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module.eval(),
                inputs,
                dynamo=True,
                input_names=names,
                output_names=outputs,
                dynamic_shapes=(axes,),  # one entry: the inputs are one variadic argument
                opset_version=OPSET,
                optimize=False,
                verbose=False,
            )
        except Exception as error:
            reason = _reason(error.__cause__ or error)
            raise StageError(f"torch can't trace {module.model.config.model_type} ({reason})") from error
    assert program is not None
    return program.model


def _reason(error: BaseException) -> str:
    """Return the beginning of an error's message on one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= _REASON_LETTERS else f"{words[:_REASON_LETTERS]}..."


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notices (torchvision isn't installed, axes that share a name) off the console."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
