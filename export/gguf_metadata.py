"""A GGUF file's metadata: what the architecture needs, and what the model card says of the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgestill.artifact import Checkpoint, read_json_object
from edgestill.export.architectures import Decoder

if TYPE_CHECKING:
    import gguf

_FILE_TYPES: Final = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
_MAX_CARD_BYTES: Final = 1 << 20
_MOST_SAMPLING: Final = 1 << 20


def add_metadata(
    writer: gguf.GGUFWriter,
    checkpoint: Checkpoint,
    decoder: Decoder,
    precision: str,
    sha256: str,
    rename: Callable[[str], str] = lambda name: name,
) -> None:
    """Add every key but the tokenizer's.

    ``sha256`` is the checkpoint's, kept as ``edgestill.checkpoint_sha256``; ``rename`` has the last word on the
    model's name.
    """
    import gguf

    architecture = decoder.gguf_architecture
    _add_general(writer, checkpoint, decoder, rename)
    with contextlib.suppress(metadata.PackageNotFoundError):  # a checkout that isn't installed
        writer.add_string("edgestill.version", metadata.version("edgestill"))
    writer.add_string("edgestill.checkpoint_sha256", sha256)
    writer.add_file_type(_FILE_TYPES[precision])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(decoder.context_length)
    writer.add_embedding_length(decoder.hidden_size)
    writer.add_block_count(len(decoder.layers))
    writer.add_feed_forward_length(decoder.intermediate_size)
    writer.add_head_count(decoder.heads)
    writer.add_head_count_kv(decoder.kv_heads)
    writer.add_key_length(decoder.head_dim)
    writer.add_value_length(decoder.head_dim)
    writer.add_vocab_size(decoder.vocab_size)
    if decoder.norm == "rms":
        writer.add_layer_norm_rms_eps(decoder.norm_eps)
    else:
        writer.add_layer_norm_eps(decoder.norm_eps)
    if decoder.rope is not None:
        writer.add_rope_dimension_count(decoder.rope.dims)
        writer.add_rope_freq_base(decoder.rope.theta)
        if decoder.rope.scaling is not None and decoder.rope.scaling.kind == "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(decoder.rope.scaling.factor)
    for key, value in decoder.gguf_keys:
        if isinstance(value, int):
            writer.add_uint32(f"{architecture}.{key}", value)
        else:
            writer.add_float32(f"{architecture}.{key}", value)


def _add_general(
    writer: gguf.GGUFWriter, checkpoint: Checkpoint, decoder: Decoder, rename: Callable[[str], str]
) -> None:
    """Add ``general.*``: the license, base models, tags and so on of the model card's front matter."""
    import gguf

    label: str = gguf.size_label(decoder.parameters(), 0, 0, 0)
    parameters = {key: value for key, value in checkpoint.config().items() if key == "_name_or_path"}
    if not isinstance(parameters.get("_name_or_path"), str):
        parameters = {}
    card = gguf.Metadata.apply_metadata_heuristic(
        gguf.Metadata(), _model_card(checkpoint.path), parameters, None, decoder.parameters()
    )
    # Not the folder's name: the same checkpoint gives the same bytes wherever it lies.
    card.name = rename(card.name or f"{decoder.gguf_architecture} {label}")
    card.size_label = card.size_label or label
    _add_sampling(card, checkpoint)
    writer.add_type("model")
    card.set_gguf_meta_model(writer)


def _model_card(folder: Path) -> dict[str, object]:
    """Return what the front matter says in strings and lists of strings, nothing where it can't be read."""
    import gguf
    import yaml

    path = folder / "README.md"
    if not path.is_file() or path.stat().st_size > _MAX_CARD_BYTES:
        return {}
    try:
        card = gguf.Metadata.load_model_card(folder)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return {key: value for key, value in card.items() if isinstance(key, str) and _is_text(value)}


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _add_sampling(card: gguf.Metadata, checkpoint: Checkpoint) -> None:
    """Set ``general.sampling.*`` to what generation_config.json says, where it is a number that can be."""
    path = checkpoint.path / "generation_config.json"
    found = read_json_object(path) if path.is_file() else {}

    def number(key: str) -> float | None:
        value = found.get(key)
        usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _MOST_SAMPLING
        return float(value) if usable and isinstance(value, int | float) else None

    top_k = found.get("top_k")
    if type(top_k) is int and 0 < top_k < _MOST_SAMPLING:
        card.sampling_top_k = top_k
    card.sampling_top_p = number("top_p")
    card.sampling_min_p = number("min_p")
    card.sampling_temp = number("temperature")
    card.sampling_penalty_repeat = number("repetition_penalty")
