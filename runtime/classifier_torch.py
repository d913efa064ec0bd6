"""A sequence classifier's checkpoint, run by torch in float32: the reference that its files are compared with."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgestill.runtime.engines import require
from edgestill.runtime.model_source import ModelSource
from edgestill.runtime.torch_model import load_torch_model


class TorchClassifier:
    """A transformers model; see :class:`edgestill.runtime.classifier.Network`.

    ``threads`` is set for the whole process, as torch has no narrower setting. Raises CheckpointError when a
    file is damaged or a weight is missing.
    """

    name = "torch"

    def __init__(self, source: ModelSource, threads: int) -> None:
        self._model: Any = load_torch_model(source.path, "AutoModelForSequenceClassification", name=str(source))
        self._torch: Any = require("torch", engine="torch", extra="distill")
        self._torch.set_num_threads(threads)
        self.labels: int = self._model.config.num_labels
        self.weights_bytes: int | None = sum(weight.nbytes for weight in self._model.parameters())
        # One kind of segment alone (RoBERTa) is no choice to be given.
        segments = getattr(self._model.config, "type_vocab_size", 0) or 0
        self._segments = segments > 1 and "token_type_ids" in inspect.signature(self._model.forward).parameters

    def run(self, ids: NDArray[np.int64], mask: NDArray[np.int64], segments: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return logits ``[batch, labels]``."""
        given = {"input_ids": ids, "attention_mask": mask}
        if self._segments:
            given["token_type_ids"] = segments
        tensors = {name: self._torch.from_numpy(array) for name, array in given.items()}
        with self._torch.inference_mode():
            logits: NDArray[np.float32] = self._model(**tensors).logits.float().numpy()
        return logits

    def close(self) -> None:
        """Free the model."""
        self._model = None
