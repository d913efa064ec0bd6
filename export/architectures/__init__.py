"""One file an architecture; importing this package registers them all."""

from edgestill.export.architectures import llama, mistral, qwen2, qwen3
from edgestill.export.architectures.decoder import Decoder, Layer, Linear, RopeScaling, describe_checkpoint

__all__ = ["Decoder", "Layer", "Linear", "RopeScaling", "describe_checkpoint", "llama", "mistral", "qwen2", "qwen3"]
