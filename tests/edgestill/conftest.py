"""A recipe so small that the whole road takes seconds."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

RECIPE = """\
version: 1
name: tiny
task: json
data: {train: train.jsonl, validation: validation.jsonl, test: test.jsonl}
teachers:
  - kind: trained
    architecture: {hidden_size: 64, intermediate_size: 128, layers: 2, heads: 4, kv_heads: 2, context: 128}
    vocab_size: 400
    epochs: 2
    batch_size: 16
    learning_rate: 4.0e-3
synthesize: {prompts: prompts.jsonl, max_new_tokens: 24}
student:
  kind: config
  architecture: {hidden_size: 32, intermediate_size: 64, layers: 2, heads: 2, kv_heads: 1, context: 128}
distill:
  losses: [{kind: sft, weight: 0.3}, {kind: kl, weight: 0.7, temperature: 1.0}]
  learning_rate: 4.0e-3
  batch_size: 16
  epochs: 2
  max_length: 96
  save_every_seconds: 1
gates: {min_top1_agreement: 0.5, max_kl: 1}
bench: {repetitions: 3, prompt_tokens: 16, new_tokens: 8}
bundle: {golden_prompts: 4}
"""


def write_tiny(folder: Path, rows: int = 320) -> Path:
    """Write the recipe and its data; return the recipe's path."""
    rng = random.Random(0)

    def row(number: int, gold: bool) -> dict[str, str]:
        state, device = rng.choice(["on", "off"]), rng.choice(["lamp", "fan"])
        prompt = (
            f"{rng.choice(['please ', '', 'now '])}turn {state} the {rng.choice(['hall', 'attic'])} {device} {number}"
        )
        answer = json.dumps({"action": state, "device": device}, separators=(",", ":"))
        return {"prompt": prompt, "completion": answer} if gold else {"prompt": prompt}

    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"train": rows, "validation": 16, "test": 20, "prompts": rows * 3 // 4}
    for split, count in sizes.items():
        lines = [json.dumps(row(number, split != "prompts")) for number in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder / "recipe.yaml"


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    """The path of a tiny recipe in a folder of its own."""
    return write_tiny(tmp_path / "input")
