"""The runtime: engines, tokenizers, sampling, and the session that people embed in their app.

Importing it is cheap: names are loaded when first used, engines when a model is opened.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgestill.runtime.classifier import Classifier
    from edgestill.runtime.constraint import ConstraintOutcome, Grammar, JsonSchema
    from edgestill.runtime.engine import Engine, Logits
    from edgestill.runtime.engines import engine_names, open_engine
    from edgestill.runtime.model_source import ModelSource, locate_model
    from edgestill.runtime.sampling import Sampler, Sampling
    from edgestill.runtime.session import (
        Chunk,
        FinishReason,
        Generation,
        GenerationOptions,
        GenerationStatistics,
        Session,
    )
    from edgestill.runtime.tokenizer import FastTokenizer, GgufTokenizer, StreamDecoder, Tokenizer

_HOMES = {
    "classifier": ("Classifier",),
    "constraint": ("ConstraintOutcome", "Grammar", "JsonSchema"),
    "engine": ("Engine", "Logits"),
    "engines": ("engine_names", "open_engine"),
    "model_source": ("ModelSource", "locate_model"),
    "sampling": ("Sampler", "Sampling"),
    "session": ("Chunk", "FinishReason", "Generation", "GenerationOptions", "GenerationStatistics", "Session"),
    "tokenizer": ("FastTokenizer", "GgufTokenizer", "StreamDecoder", "Tokenizer"),
}

__all__ = [
    "Chunk",
    "Classifier",
    "ConstraintOutcome",
    "Engine",
    "FastTokenizer",
    "FinishReason",
    "Generation",
    "GenerationOptions",
    "GenerationStatistics",
    "GgufTokenizer",
    "Grammar",
    "JsonSchema",
    "Logits",
    "ModelSource",
    "Sampler",
    "Sampling",
    "Session",
    "StreamDecoder",
    "Tokenizer",
    "engine_names",
    "locate_model",
    "open_engine",
]


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
