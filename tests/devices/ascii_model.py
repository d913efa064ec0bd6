"""A random model for a browser's engines: wllama's JSON carries no token that is a part of a character."""

from __future__ import annotations

from pathlib import Path


def speak_ascii(folder: Path) -> None:
    """Keep a checkpoint's untied model from tokens that aren't ASCII, or are special: wllama ends at other bytes."""
    import safetensors.torch
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    for number in range(tokenizer.get_vocab_size()):
        if not tokenizer.decode([number]).isascii() or number in (0, 2, 3, 4):
            tensors["lm_head.weight"][number] = 0
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
