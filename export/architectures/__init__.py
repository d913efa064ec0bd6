"""One file an architecture; importing this package registers them all."""

from edgestill.export.architectures import granite, llama, mistral, olmo2, qwen2, qwen3, smollm3
from edgestill.export.architectures.decoder import Decoder, Layer, Linear, RopeScaling, describe_checkpoint

__all__ = [
    "Decoder",
    "Layer",
    "Linear",
    "RopeScaling",
    "describe_checkpoint",
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "qwen2",
    "qwen3",
    "smollm3",
]
