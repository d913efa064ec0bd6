"""One file an architecture; importing this package registers them all."""

from edgestill.export.architectures import (
    gemma2,
    gemma3,
    gpt2,
    granite,
    llama,
    mistral,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    smollm3,
)
from edgestill.export.architectures.decoder import Decoder, Layer, Linear, Norm, describe_checkpoint, undescribed
from edgestill.export.architectures.rope import Rope, RopeScaling

__all__ = [
    "Decoder",
    "Layer",
    "Linear",
    "Norm",
    "Rope",
    "RopeScaling",
    "describe_checkpoint",
    "gemma2",
    "gemma3",
    "gpt2",
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "undescribed",
]
