"""A sequence classifier in ONNX, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgestill.errors import ModelFileError
from edgestill.runtime.engines import require
from edgestill.runtime.engines.onnxruntime import load_session

_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")


class OnnxRuntimeClassifier:
    """A graph from token ids to ``logits`` ``[batch, labels]``; see :class:`edgestill.runtime.classifier.Network`.

    Raises ModelFileError when onnxruntime refuses the file, or its inputs and outputs aren't a classifier's.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int) -> None:
        runtime = require("onnxruntime", engine="onnxruntime", extra="onnx")
        self._session: Any = load_session(runtime, path, threads)
        names = {one.name for one in self._session.get_inputs()}
        outputs = {one.name: one for one in self._session.get_outputs()}
        if "input_ids" not in names or names - set(_INPUTS) or "logits" not in outputs:
            wrong = ", ".join(sorted(names - set(_INPUTS))) or "no input_ids or no logits"
            raise ModelFileError(f"{path}: not a sequence classifier's inputs and outputs ({wrong}); export it again")
        shape = outputs["logits"].shape
        if len(shape) != 2 or not isinstance(shape[1], int):
            raise ModelFileError(f"{path}: logits have the shape {shape}, not [batch, labels]; export it again")
        self.labels: int = shape[1]
        self._names = [name for name in _INPUTS if name in names]
        files = [path, *path.parent.glob(f"{path.name}.*")]
        self.weights_bytes: int | None = sum(file.stat().st_size for file in files)

    def run(self, ids: NDArray[np.int64], mask: NDArray[np.int64], segments: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return logits ``[batch, labels]``."""
        given = dict(zip(_INPUTS, (ids, mask, segments), strict=True))
        found = self._session.run(["logits"], {name: given[name] for name in self._names})[0]
        logits: NDArray[np.float32] = found.astype(np.float32, copy=False)
        return logits

    def close(self) -> None:
        """Free the session."""
        self._session = None
