"""Our GGUF files beside those of llama.cpp's own convert_hf_to_gguf.py, from the same random checkpoints.

    python benchmarks/gguf_converter.py --converter .../llama.cpp/convert_hf_to_gguf.py --tokenizers FOLDER

The converter lies in llama-cpp-python's source distribution (vendor/llama.cpp) and wants sentencepiece
installed. FOLDER has ``tok-qwen2``, ``tok-llama3`` and ``llama2-spm``, each with ``tokenizer.built.json`` and, for
the last, ``tokenizer.model``. For every architecture and precision it prints how many tensors are equal byte for
byte, and every metadata key that differs; exit status 1 when a tensor differs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgestill.artifact import Checkpoint
from edgestill.errors import EdgestillError
from edgestill.export.gguf import export_gguf

SIZES = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 1024,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
    "short_factor": [1.0 + i / 10 for i in range(12)], "long_factor": [1.5 + 2.0 * i for i in range(12)],
    "original_max_position_embeddings": 1024,
}  # fmt: skip
GPT2 = {"n_embd": 256, "n_head": 8, "n_layer": 2, "n_positions": 1024, "n_ctx": 1024}
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 512}

# name: (configuration class, model class, tokenizer, settings)
CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "llama-3": ("LlamaConfig", "LlamaForCausalLM", "tok-llama3", {"rope_parameters": LLAMA3}),
    "llama-3 tied": ("LlamaConfig", "LlamaForCausalLM", "tok-llama3", {"tie_word_embeddings": True}),
    "llama-2": ("LlamaConfig", "LlamaForCausalLM", "llama2-spm", {}),
    "mistral": ("MistralConfig", "MistralForCausalLM", "tok-llama3", {"sliding_window": None}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", "tok-qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", "tok-qwen2", {"head_dim": 64}),
    "phi-3": ("Phi3Config", "Phi3ForCausalLM", "tok-qwen2", {"rope_parameters": LONGROPE, "sliding_window": 8192}),
    "gemma-2": ("Gemma2Config", "Gemma2ForCausalLM", "llama2-spm", GEMMA),
    "gemma-3": ("Gemma3TextConfig", "Gemma3ForCausalLM", "llama2-spm", {**GEMMA, "num_hidden_layers": 7}),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", "tok-llama3", {"num_hidden_layers": 4}),
    "gpt-2": ("GPT2Config", "GPT2LMHeadModel", "tok-qwen2", GPT2),
    "olmo-2": ("Olmo2Config", "Olmo2ForCausalLM", "tok-qwen2", {"tie_word_embeddings": False}),
    "granite": (
        "GraniteConfig",
        "GraniteForCausalLM",
        "tok-qwen2",
        {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.1, "logits_scaling": 3.0},
    ),
}


def make_checkpoint(case: str, tokenizers: Path, folder: Path) -> None:
    """Save random bfloat16 weights in the shape of ``case`` with a real tokenizer."""
    import torch
    import transformers

    config_name, model_name, tokenizer, settings = CASES[case]
    source = tokenizers / tokenizer
    described = json.loads((source / "tokenizer.built.json").read_text(encoding="utf-8"))
    added = [entry["id"] for entry in described["added_tokens"]]
    # Rows to spare: transformers may add a token of its own.
    vocab = max([*described["model"]["vocab"].values(), *added]) + 8
    end = next((entry["id"] for entry in described["added_tokens"] if "end" in entry["content"]), 2)
    sizes = {} if case == "gpt-2" else SIZES
    common = {"vocab_size": vocab, "bos_token_id": 1, "eos_token_id": end, "pad_token_id": None}
    config = getattr(transformers, config_name)(**{**sizes, **common, **settings})
    torch.manual_seed(0)
    model = getattr(transformers, model_name)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.to(torch.bfloat16).save_pretrained(folder)
    shutil.copyfile(source / "tokenizer.built.json", folder / "tokenizer.json")
    if (source / "tokenizer.model").is_file() and tokenizer == "llama2-spm":
        shutil.copyfile(source / "tokenizer.model", folder / "tokenizer.model")
    # The converter takes a Phi-3 for one with a SentencePiece tokenizer unless it is told so.
    kind = "GPT2Tokenizer" if case == "phi-3" else "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: [small, random]\nlanguage: en\n---\nA model.\n")


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (metadata, tensors as (type, shape, bytes)) of a GGUF file."""
    import gguf

    reader = gguf.GGUFReader(path)
    metadata = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    tensors = {
        tensor.name: (tensor.tensor_type.name, tuple(map(int, tensor.shape)), tensor.data.tobytes())
        for tensor in reader.tensors
    }
    return metadata, tensors


def shown(value: object) -> str:
    """Return a value's text, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def compare(case: str, precision: str, ours: Path, theirs: Path) -> int:
    """Print what differs and return how many tensors do."""
    (our_keys, our_tensors), (their_keys, their_tensors) = contents(ours), contents(theirs)
    names = sorted(our_tensors.keys() | their_tensors.keys())
    differing = [name for name in names if our_tensors.get(name) != their_tensors.get(name)]
    print(f"{case:13s} {precision:5s} {len(names) - len(differing)} of {len(names)} tensors equal", flush=True)
    for name in differing:
        kinds = [shown(tensors.get(name, ("absent",))[:2]) for tensors in (our_tensors, their_tensors)]
        print(f"    tensor {name}: ours {kinds[0]}, theirs {kinds[1]}")
    for key in sorted(our_keys.keys() | their_keys.keys()):
        mine, other = our_keys.get(key), their_keys.get(key)
        if mine != other:
            print(f"    {key}: ours {shown(mine)}, theirs {shown(other)}")
    return len(differing)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--converter", type=Path, required=True)
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--only", choices=sorted(CASES), nargs="*")
    parser.add_argument("--precisions", nargs="*", default=["f32", "f16", "bf16", "q8_0"])
    options = parser.parse_args()
    differing = 0
    for case in options.only or CASES:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "checkpoint"
            make_checkpoint(case, options.tokenizers, folder)
            for precision in options.precisions:
                theirs = Path(scratch) / f"theirs-{precision}.gguf"
                command = [sys.executable, options.converter, folder, "--outfile", theirs, "--outtype", precision]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                try:
                    ours = export_gguf(Checkpoint.open(folder), precision, Path(scratch)).model_path
                except EdgestillError as error:
                    print(f"{case:13s} {precision:5s} ours failed: {error}")
                    differing += 1
                    break
                if done.returncode:
                    print(f"{case:13s} {precision:5s} theirs failed: {done.stderr.strip().splitlines()[-1]}")
                    differing += 1
                    break
                differing += compare(case, precision, ours, theirs)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
