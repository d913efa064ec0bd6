"""``edgestill export``: a checkpoint to ONNX or GGUF, checked against the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgestill.cli import console


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Hugging Face model folder.")],
    out: Annotated[Path, typer.Option(help="Folder that receives <format>-<precision>/.")],
    format: Annotated[str, typer.Option(help="onnx, gguf or onnx-portable.")] = "gguf",
    precision: Annotated[
        str | None,
        typer.Option(
            help="onnx: fp32, fp16, int8, int4, int4_g128; gguf: f32, f16, bf16, q8_0; onnx-portable: fp32, fp16."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Held-out rows for the parity check (default: built-in text).")
    ] = None,
    parity: Annotated[bool, typer.Option(help="Compare the file's logits with the checkpoint's.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Export a checkpoint to one file set and prove that it computes the same."""
    from edgestill.artifact import FORMATS, Checkpoint
    from edgestill.errors import InputError
    from edgestill.parity_gate import built_in_gates, export_checked

    chosen = next((known for known in FORMATS if known == format), None)
    if chosen is None:
        raise InputError(f"--format {format!r} is not one of {', '.join(FORMATS)}")
    wanted = precision or {"onnx": "fp32", "gguf": "f16", "onnx-portable": "fp32"}[chosen]
    with console.open_progress() as progress:
        document = export_checked(
            Checkpoint.open(checkpoint),
            chosen,
            wanted,
            out,
            gates=built_in_gates(wanted) if parity else None,
            data=data,
            progress=progress,
        )
    console.print_artifacts(document, as_json)
