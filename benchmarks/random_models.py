"""Random Llamas of several sizes as GGUF and ONNX, for the benchmarks here and beside; made once, then kept."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FIRST = {"gguf": "f16", "onnx": "fp32"}
"""What the others are quantised from."""

EXPORTED = {"gguf": ("f16", "f32", "bf16"), "onnx": ("fp32", "fp16")}
ARTIFACTS = ("gguf-f16", "gguf-q8_0", "gguf-q4_0", "onnx-fp32", "onnx-int8", "onnx-int4")


@dataclass(frozen=True)
class Size:
    """The shape of a Llama; its embedding is its head too."""

    vocabulary: int
    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    context: int = 2048


SIZES = {
    "260K": Size(512, 64, 172, 5, 8, 4),  # the shape of stories260K
    "3M": Size(4_096, 256, 704, 4, 4, 2),
    "8M": Size(8_192, 256, 1024, 6, 8, 8),
    "15M": Size(16_384, 320, 896, 8, 5, 5),
    "28M": Size(10_000, 640, 1600, 5, 8, 4),
    "35M": Size(24_000, 512, 1408, 8, 4, 2),
    "60M": Size(32_000, 512, 1536, 14, 8, 4),
    "135M": Size(49_152, 576, 1536, 30, 9, 3),  # of SmolLM2-135M
    "500M": Size(49_152, 1024, 2816, 36, 16, 8),
}


def make_models(folder: Path, names: tuple[str, ...], artifacts: tuple[str, ...] = ARTIFACTS) -> list[Path]:
    """Return the artifacts' folders of the named sizes, made where they aren't there yet: ``folder/SIZE/ARTIFACT``."""
    made = []
    for name in names:
        of_size = folder / name
        pairs = [one.partition("-")[::2] for one in artifacts]
        needed = dict.fromkeys(
            f"{format}-{FIRST[format]}" for format, precision in pairs if precision not in EXPORTED[format]
        )
        for artifact in dict.fromkeys((*needed, *artifacts)):
            if (of_size / artifact / "artifact.json").is_file():
                continue
            format, _, precision = artifact.partition("-")
            if precision in EXPORTED[format]:
                checkpoint = of_size / "checkpoint"
                if not (checkpoint / "config.json").is_file():
                    print(f"making a random model of {name}", file=sys.stderr, flush=True)
                    make_checkpoint(checkpoint, SIZES[name])
                how = ["export", str(checkpoint), "--format", format, "--precision", precision]
            else:
                how = ["quantize", str(of_size / f"{format}-{FIRST[format]}"), "--to", precision]
            print(f"making {name}/{artifact}", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "edgestill.cli", *how, "--no-parity", "--out", str(of_size)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        made += [of_size / artifact for artifact in artifacts]
    return made


def make_checkpoint(folder: Path, size: Size) -> None:
    """Save random weights in bfloat16 and a byte-level BPE tokenizer trained on random words."""
    import tokenizers
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.hidden, intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.kv_heads,
        max_position_embeddings=size.context, tie_word_embeddings=True, bos_token_id=None, eos_token_id=1,
        pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size.vocabulary,
        special_tokens=["<|pad|>", "<|end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    draw = np.random.default_rng(0)
    words = ["".join(map(chr, draw.integers(97, 123, draw.integers(3, 11)))) for _ in range(60_000)]
    tokenizer.train_from_iterator([" ".join(words[at : at + 50]) for at in range(0, len(words), 50)] * 2, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")
    fast.save_pretrained(folder)
