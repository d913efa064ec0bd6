"""``edgestill init``: a recipe to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_RECIPE = """\
version: 1
name: {name}
task: {task}
data:                     # JSONL rows: messages | prompt + completion | text; CSV and Parquet with `columns`
  train: train.jsonl
  test: test.jsonl
teachers:
  - {{kind: transformers, model: path/or/hub-name}}
  # or train one first from the gold answers:
  # - {{kind: trained, architecture: {{hidden_size: 256, intermediate_size: 768, layers: 8, heads: 8, kv_heads: 4}}}}
student: {{kind: pruned, layers: 4}}   # or {{kind: pretrained, model: ...}} or {{kind: config, architecture: ...}}
distill:
  losses: [{{kind: sft, weight: 0.5}}, {{kind: kl, weight: 0.5, temperature: 2.0}}]
  learning_rate: 2.0e-5
  batch_size: 2
  epochs: 3
export: [onnx, gguf]
quantize: [onnx-int8, onnx-int4, gguf-q8_0, gguf-q4_0, gguf-q4_k_m]
gates: {{min_top1_agreement: 0.98, max_kl: 0.05, min_accuracy_retention: 0.92}}
bench: {{devices: [local], prompt_tokens: 128, new_tokens: 64}}
"""


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("init")(init)


def init(
    path: Annotated[Path, typer.Argument(help="Recipe file to write.")] = Path("recipe.yaml"),
    name: Annotated[str, typer.Option(help="Name of the run.")] = "my-assistant",
    task: Annotated[str, typer.Option(help="json, classification, text ...")] = "json",
) -> None:
    """Write a commented recipe; nothing is overwritten."""
    from edgestill.errors import InputError
    from edgestill.storage import write_text

    if path.exists():
        raise InputError(f"{path}: already there; give another name")
    write_text(path, _RECIPE.format(name=name, task=task))
    typer.echo(f"wrote {path}; edit its data and models, then: edgestill run {path}")
