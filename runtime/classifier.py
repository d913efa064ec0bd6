"""Classifier: a loaded sequence classifier that gives each text its label, over onnxruntime or torch.

A checkpoint whose architecture ends in ``ForSequenceClassification`` is one, and so is an ONNX file made of it:
it reads a whole text at once and keeps no KV cache, so it is no :class:`~edgestill.runtime.session.Session`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from edgestill.artifact import read_json_object
from edgestill.errors import CheckpointError, InputError, ModelFileError
from edgestill.runtime.engines import DEFAULT_CONTEXT, default_threads
from edgestill.runtime.model_source import ModelSource, locate_model
from edgestill.runtime.tokenizer import FastTokenizer

ARCHITECTURE_SUFFIX: Final = "ForSequenceClassification"

_POSITIONS_AFTER_PADDING: Final = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "data2vec-text")
"""Model types whose first position is the one after the padding token's number: they read so many tokens less."""


class Network(Protocol):
    """The loaded network of one engine, ``onnxruntime`` or ``torch``.

    ``labels`` is how many logits it gives a text; ``weights_bytes`` the bytes of the weights as loaded.
    """

    name: str
    labels: int
    weights_bytes: int | None

    def run(self, ids: NDArray[np.int64], mask: NDArray[np.int64], segments: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return logits ``[batch, labels]``; the inputs are ``[batch, time]``, padded on the right."""

    def close(self) -> None:
        """Free the network; it must not be used after."""


@dataclass(frozen=True)
class ClassifierInput:
    """One text as the network reads it; ``cut`` tells that its end is missing, for it was too long."""

    ids: list[int]
    segments: list[int]
    cut: bool = False


class Classifier:
    """One loaded sequence classifier with its tokenizer.

    ``labels`` are the names of its logits, in order; ``longest`` is the most tokens that it reads of a text.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: FastTokenizer,
        source: ModelSource,
        config: Mapping[str, object],
        longest: int,
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.source = source
        self.longest = longest
        self.labels = _labels(source, config, network.labels)
        padding = config.get("pad_token_id")
        self._padding = padding if isinstance(padding, int) and padding >= 0 else None
        vocabulary = config.get("vocab_size")
        self._vocabulary = vocabulary if isinstance(vocabulary, int) else tokenizer.vocab_size

    @classmethod
    def open(
        cls, model: str | Path | ModelSource, *, threads: int | None = None, context_length: int | None = None
    ) -> Classifier:
        """Load a MODEL argument (see :func:`locate_model`): a checkpoint with torch, an ONNX file with onnxruntime.

        ``threads`` None fits the model; ``context_length`` is the most tokens to read of a text (None: 4096),
        never more than the model was trained for. Raises InputError for a model that is no classifier, and
        what opening a session raises.
        """
        source = model if isinstance(model, ModelSource) else locate_model(model)
        if not is_classifier(source):
            raise InputError(f"{source}: not a sequence classifier: its config.json names no *{ARCHITECTURE_SUFFIX}")
        if source.tokenizer_folder is None:
            raise CheckpointError(f"{source}: no tokenizer.json beside the model; put its tokenizer there")
        config = read_json_object(source.folder / "config.json")
        tokenizer = FastTokenizer(source.tokenizer_folder)
        longest = _longest(config, source.tokenizer_folder, context_length)
        threads = threads or default_threads(source)
        network: Network
        if source.kind == "transformers":
            from edgestill.runtime.classifier_torch import TorchClassifier

            network = TorchClassifier(source, threads)
        else:
            from edgestill.runtime.classifier_onnxruntime import OnnxRuntimeClassifier

            network = OnnxRuntimeClassifier(source.path, threads)
        return cls(network, tokenizer, source, config, longest)

    def __enter__(self) -> Classifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        self.network.close()

    def encode(self, text: str) -> ClassifierInput:
        """Return a text's ids with the tokens that the model expects around it, at most ``longest`` of them."""
        ids, segments, cut = self.tokenizer.encode_within(text, self.longest)
        return ClassifierInput(ids, segments, cut)

    def logits(
        self, inputs: Sequence[str] | Sequence[Sequence[int]] | Sequence[ClassifierInput]
    ) -> NDArray[np.float32]:
        """Return the logits of a batch of texts, or of their token ids: ``[batch, labels]``, float32.

        Shorter ones are padded on the right; a model without a padding token reads one after the other.
        Raises InputError for an empty batch or text, or an id outside the vocabulary.
        """
        batch = [self._input(one) for one in inputs]
        if not batch:
            raise InputError("no texts to classify; at least one is expected")
        if self._padding is None and len(batch) > 1:
            return np.concatenate([self.logits([one]) for one in batch])
        time = max(len(one.ids) for one in batch)
        ids = np.full((len(batch), time), self._padding or 0, np.int64)
        mask, segments = np.zeros_like(ids), np.zeros_like(ids)
        for row, one in enumerate(batch):
            ids[row, : len(one.ids)] = one.ids
            mask[row, : len(one.ids)] = 1
            segments[row, : len(one.ids)] = one.segments
        return self.network.run(ids, mask, segments)

    def label(self, text: str) -> str:
        """Return the label with the largest logit."""
        return self.labels[int(self.logits([text])[0].argmax())]

    def _input(self, one: str | Sequence[int] | ClassifierInput) -> ClassifierInput:
        if isinstance(one, str):
            one = self.encode(one)
        elif not isinstance(one, ClassifierInput):
            ids = [int(number) for number in one]
            one = ClassifierInput(ids, [0] * len(ids))
        if not one.ids:
            raise InputError("a text to classify is empty; at least one token is expected")
        if len(one.ids) > self.longest:
            raise InputError(f"a text to classify has {len(one.ids)} tokens; the model reads {self.longest}")
        if min(one.ids) < 0 or max(one.ids) >= self._vocabulary:
            raise InputError(f"a text's token id is outside the vocabulary of {self._vocabulary}")
        return one


def is_classifier(source: ModelSource) -> bool:
    """Tell whether a model is a sequence classifier, by the architecture that its config.json names."""
    path = source.folder / "config.json"
    if source.kind == "gguf" or not path.is_file():
        return False
    names = read_json_object(path).get("architectures")
    return isinstance(names, list) and any(str(name).endswith(ARCHITECTURE_SUFFIX) for name in names)


def refuse_classifier(source: ModelSource) -> None:
    """Raise InputError when a model is a sequence classifier, and so writes no text."""
    if is_classifier(source):
        raise InputError(
            f"{source}: a sequence classifier, which gives labels and writes no text; "
            "score it with edgestill eval --task classification"
        )


def _labels(source: ModelSource, config: Mapping[str, object], count: int) -> tuple[str, ...]:
    """Return the names of the logits; transformers leaves ``LABEL_0``, ``LABEL_1`` out of config.json."""
    named = config.get("id2label")
    if named is None:
        return tuple(f"LABEL_{number}" for number in range(count))
    labels = {str(key): value for key, value in named.items()} if isinstance(named, dict) else {}
    found = [labels.get(str(number)) for number in range(count)]
    if len(labels) != count or not all(isinstance(label, str) for label in found):
        raise ModelFileError(
            f"{source.folder / 'config.json'}: id2label names {len(labels)} labels and the model gives {count}; "
            "put the config.json there that it was trained with"
        )
    return tuple(str(label) for label in found)


def _longest(config: Mapping[str, object], tokenizer: Path, asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise InputError(f"context_length: {asked} is out of range; at least 1 is expected")
    positions = config.get("max_position_embeddings", config.get("n_positions"))
    limits = [asked or DEFAULT_CONTEXT]
    if isinstance(positions, int) and positions > 0:
        padding = config.get("pad_token_id")
        after = config.get("model_type") in _POSITIONS_AFTER_PADDING and isinstance(padding, int)
        limits.append(positions - cast("int", padding) - 1 if after else positions)
    path = tokenizer / "tokenizer_config.json"
    longest = read_json_object(path).get("model_max_length") if path.is_file() else None
    if isinstance(longest, int) and longest > 0:
        limits.append(longest)
    return min(limits)
