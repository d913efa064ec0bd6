"""genai_config.json: what onnxruntime-genai needs to load our graph.

Key names: https://onnxruntime.ai/docs/genai/reference/config.html
"""

from __future__ import annotations

from typing import Final

from edgestill.artifact import Checkpoint, read_json_object
from edgestill.export.architectures.decoder import Decoder

GENAI_CONFIG_FILE: Final = "genai_config.json"
_MODEL_TYPES: Final = {
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3_text",
    "GraniteForCausalLM": "granite",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Olmo2ForCausalLM": "olmo",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "SmolLM3ForCausalLM": "smollm3",
}


def genai_config(checkpoint: Checkpoint, decoder: Decoder, filename: str, head_size: int) -> dict[str, object]:
    """Return the configuration for the graph ``filename``, whose KV cache has heads of ``head_size``.

    onnxruntime-genai has no model without a begin token: where the checkpoint has none, its end token
    stands there; it is only a name, no token is put in front of a prompt because of it.
    """
    ids = _special_ids(checkpoint)
    ends = ids["eos_token_id"]
    first_end = ends[0] if isinstance(ends, list) and ends else ends
    fallback = first_end if isinstance(first_end, int) else 0
    begin = ids["bos_token_id"] if isinstance(ids["bos_token_id"], int) else fallback
    pad = ids["pad_token_id"] if isinstance(ids["pad_token_id"], int) else fallback
    return {
        "model": {
            "type": _MODEL_TYPES.get(decoder.architecture, "llama"),
            "bos_token_id": begin,
            "eos_token_id": fallback if ends is None else ends,
            "pad_token_id": pad,
            "context_length": decoder.context_length,
            "vocab_size": decoder.vocab_size,
            "decoder": {
                "filename": filename,
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "head_size": head_size,
                "hidden_size": decoder.hidden_size,
                "num_attention_heads": decoder.heads,
                "num_hidden_layers": len(decoder.layers),
                "num_key_value_heads": decoder.kv_heads,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "early_stopping": True,
            "max_length": decoder.context_length,
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": True,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
        },
    }


def _special_ids(checkpoint: Checkpoint) -> dict[str, object]:
    """Return begin, end and pad ids: generation_config.json's where it has them, else config.json's."""
    config = checkpoint.config()
    path = checkpoint.path / "generation_config.json"
    generation = read_json_object(path) if path.is_file() else {}
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {key: config.get(key) if generation.get(key) is None else generation[key] for key in keys}
