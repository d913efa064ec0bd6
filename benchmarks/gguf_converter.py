"""Every architecture: our GGUF beside llama.cpp's own convert_hf_to_gguf.py, our GGUF and ONNX beside torch.

    python benchmarks/gguf_converter.py --converter .../llama.cpp/convert_hf_to_gguf.py --tokenizers FOLDER

The converter lies in llama-cpp-python's source distribution (vendor/llama.cpp) and wants sentencepiece
installed. FOLDER has ``tok-qwen2``, ``tok-llama3``, ``tok-gpt2`` and ``llama2-spm``, each with
``tokenizer.built.json`` (GPT-2: vocab.json and merges.txt) and, for the last, ``tokenizer.model``. Checkpoints are
random, bfloat16. For every architecture and precision it prints how many tensors are equal byte for byte, and the
metadata that differ: those that are stated in ``STATED``, with why, and any others. Then the logits of our GGUF f32
and ONNX fp32 beside torch's, over a text, and beyond the original context where rotary embedding is scaled. Exit
status 1 when a tensor differs, a key that isn't stated differs, a logit is off by more than 1e-3, or a top-1 token
differs.
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

import numpy as np
from numpy.typing import NDArray

from edgestill.artifact import Checkpoint
from edgestill.errors import EdgestillError
from edgestill.export.gguf import export_gguf
from edgestill.export.onnx import export_onnx
from edgestill.runtime.engine import Engine

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
    "phi-3": (
        "Phi3Config",
        "Phi3ForCausalLM",
        "tok-qwen2",
        {"rope_parameters": LONGROPE, "original_max_position_embeddings": 1024, "sliding_window": 8192},
    ),
    "gemma-2": ("Gemma2Config", "Gemma2ForCausalLM", "llama2-spm", GEMMA),
    "gemma-3": ("Gemma3TextConfig", "Gemma3ForCausalLM", "llama2-spm", {**GEMMA, "num_hidden_layers": 7}),
    "phi-4-mini": (
        "Phi3Config",
        "Phi3ForCausalLM",
        "tok-qwen2",
        {
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 1024,
            "sliding_window": 262144,
            "tie_word_embeddings": True,
        },
    ),
    "phi-3 4k": ("Phi3Config", "Phi3ForCausalLM", "llama2-spm", {"sliding_window": None}),
    "smollm-2": (
        "LlamaConfig",
        "LlamaForCausalLM",
        "tok-gpt2",
        {"tie_word_embeddings": True, "num_key_value_heads": 8},
    ),
    "qwen2.5": ("Qwen2Config", "Qwen2ForCausalLM", "tok-qwen2", {"tie_word_embeddings": False}),
    "smollm3": ("SmolLM3Config", "SmolLM3ForCausalLM", "tok-llama3", {"num_hidden_layers": 4}),
    "gpt-2": ("GPT2Config", "GPT2LMHeadModel", "tok-gpt2", GPT2),
    "olmo-2": ("Olmo2Config", "Olmo2ForCausalLM", "tok-qwen2", {"tie_word_embeddings": False}),
    "granite": (
        "GraniteConfig",
        "GraniteForCausalLM",
        "tok-qwen2",
        {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.1, "logits_scaling": 3.0},
    ),
}


STATED = {
    "general.name": "theirs is the folder's name; ours doesn't depend on where the checkpoint lies",
    "edgestill.version": "ours: where the file comes from",
    "edgestill.checkpoint_sha256": "ours: where the file comes from",
    "general.sampling.penalty_repeat": "ours: generation_config.json's repetition_penalty",
    "*.vocab_size": "ours is always said; llama.cpp counts the tokens otherwise",
    "*.rope.dimension_count": "ours is always said; llama.cpp derives the same",
    "*.rope.freq_base": "ours is always said; llama.cpp derives the same",
    "*.attention.key_length": "ours is always said; llama.cpp derives the same",
    "*.attention.value_length": "ours is always said; llama.cpp derives the same",
    "gpt2.attention.head_count_kv": "ours is always said; llama.cpp derives the same",
    "tokenizer.ggml.add_bos_token": "ours is said when false too",
    "tokenizer.ggml.add_eos_token": "ours is said when false too",
    "tokenizer.ggml.add_sep_token": "theirs is said when false too; no such token is ever added",
    "tokenizer.ggml.add_space_prefix": "ours says what tokenizer.json does",
    "tokenizer.ggml.unknown_token_id": "ours is always said; llama.cpp assumes the same",
    "tokenizer.ggml.scores": "ours are the order of tokenizer.json's merges, theirs SentencePiece's own or zeros",
    "tokenizer.ggml.token_type": "ours has the unknown token as such, theirs as a control token",
    "tokenizer.ggml.pre": "a name of the same splitting: ours is found by behaviour, theirs by a hash",
}
"""Metadata that differ on purpose, and why; ``*`` is the architecture."""

TEXT_TOKENS, BOUNDARY_TOKENS = 300, 1100
MAX_ABS_DIFF = 1e-3


def make_checkpoint(case: str, tokenizers: Path, folder: Path) -> None:
    """Save random bfloat16 weights in the shape of ``case`` with a real tokenizer."""
    import torch
    import transformers

    config_name, model_name, tokenizer, settings = CASES[case]
    source = tokenizers / tokenizer
    folder.mkdir(parents=True)
    write_tokenizer(source, folder)
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
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
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name or name.endswith("bias"):
                # As made, they are ones and zeros, which hide a mistake.
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(source, folder)
    if (source / "tokenizer.model").is_file() and tokenizer == "llama2-spm":
        shutil.copyfile(source / "tokenizer.model", folder / "tokenizer.model")
    # The converter takes a Phi-3 for one with a SentencePiece tokenizer unless it is told so.
    kind = "GPT2Tokenizer" if case.startswith("phi") and tokenizer != "llama2-spm" else "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: [small, random]\nlanguage: en\n---\nA model.\n")


def write_tokenizer(source: Path, folder: Path) -> None:
    """Write tokenizer.json of a real tokenizer."""
    import tokenizers

    if (source / "tokenizer.built.json").is_file():
        shutil.copyfile(source / "tokenizer.built.json", folder / "tokenizer.json")
        return
    model = tokenizers.models.BPE.from_file(str(source / "vocab.json"), str(source / "merges.txt"))
    built = tokenizers.Tokenizer(model)
    built.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = tokenizers.decoders.ByteLevel()
    built.add_special_tokens([tokenizers.AddedToken("<|endoftext|>", special=True)])
    built.save(str(folder / "tokenizer.json"))


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
    unstated = 0
    for key in sorted(our_keys.keys() | their_keys.keys()):
        mine, other = our_keys.get(key), their_keys.get(key)
        if mine != other:
            why = STATED.get(key) or STATED.get("*." + key.partition(".")[2])
            unstated += why is None
            print(f"    {key}: ours {shown(mine)}, theirs {shown(other)} ({why or 'NOT STATED'})")
    return len(differing) + unstated


def compare_logits(case: str, folder: Path, scratch: Path) -> int:
    """Print how far GGUF f32 and ONNX fp32 are from torch, and return how many of the checks fail."""
    from edgestill.runtime.engines import open_engine
    from edgestill.runtime.model_source import locate_model

    config = json.loads((folder / "config.json").read_text())
    scaling = config.get("rope_parameters") or {}
    original = scaling.get("original_max_position_embeddings") if isinstance(scaling, dict) else None
    lengths = [TEXT_TOKENS] + ([BOUNDARY_TOKENS] if original else [])
    files = [
        export_gguf(Checkpoint.open(folder), "f32", scratch).model_path,
        export_onnx(Checkpoint.open(folder), "fp32", scratch).model_path,
    ]
    failed = 0
    for length in lengths:
        ids = np.random.default_rng(length).integers(0, config["vocab_size"], length)
        # llama.cpp takes LongRoPE's factors by the room of its session, transformers by the sequence's length.
        room = min(original or 4096, 4096) if length == TEXT_TOKENS else None
        expected = logits_of(open_engine(locate_model(folder)), ids)
        for path in files:
            found = logits_of(open_engine(locate_model(path), context_length=room), ids)
            largest = float(np.abs(found - expected).max())
            agreed = int((found.argmax(-1) == expected.argmax(-1)).sum())
            verdict = "" if largest <= MAX_ABS_DIFF and agreed == length else "  FAILED"
            failed += bool(verdict)
            print(
                f"{case:13s} {path.parent.name if path.is_file() else path.name:9s} {length:5d} positions: "
                f"largest |logit difference| {largest:.2e}, top-1 {agreed / length:.2%}{verdict}",
                flush=True,
            )
    return failed


def logits_of(engine: Engine, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return an engine's logits and close it."""
    try:
        return engine.logits(ids)
    finally:
        engine.close()


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
            differing += compare_logits(case, folder, Path(scratch))
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
