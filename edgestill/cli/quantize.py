"""``edgestill quantize``: an exported file to int8 or int4, checked against what it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgestill.cli import console


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("quantize")(quantize)


def quantize(
    model: Annotated[
        Path, typer.Argument(help="A .gguf file, an ONNX folder or an artifact's folder (fp32, f32 or f16).")
    ],
    to: Annotated[
        str, typer.Option(help="onnx: int8, int4, int4_g128; gguf: q8_0, q4_0, q4_k_m; onnx-portable: int8.")
    ],
    out: Annotated[Path, typer.Option(help="Folder that receives <format>-<precision>/.")],
    reference: Annotated[
        Path | None, typer.Option(help="Checkpoint to compare with (default: the model that is quantised).")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Held-out rows for the parity check (default: built-in text).")
    ] = None,
    parity: Annotated[bool, typer.Option(help="Compare the file's logits with the reference's.")] = True,
    min_top1: Annotated[float, typer.Option(min=0, max=1, help="Gate: least top-1 agreement.")] = 0.0,
    max_kl: Annotated[float, typer.Option(min=0, help="Gate: largest mean KL in nats.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Quantise an exported model; its figures against the original are printed with it."""
    from edgestill.artifact import Checkpoint
    from edgestill.parity_gate import quantize_checked
    from edgestill.quantize import artifact_from_path
    from edgestill.recipe import Gates

    source = artifact_from_path(model)
    with console.open_progress() as progress:
        document = quantize_checked(
            source,
            to.removeprefix(f"{source.format}-"),
            out,
            reference=None if reference is None else Checkpoint.open(reference),
            gates=Gates(min_top1_agreement=min_top1, max_kl=max_kl) if parity else None,
            data=data,
            progress=progress,
        )
    console.print_artifacts(document, as_json)
