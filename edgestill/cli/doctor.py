"""``edgestill doctor``: what this machine has, what is missing, and how to mend it."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgestill.cli import console

_PARTS = (
    ("onnxruntime", "run and measure ONNX", "pip install 'edgestill[onnx]'"),
    ("llama_cpp", "run, quantise and measure GGUF", "pip install 'edgestill[gguf]'"),
    ("onnx_ir", "export to ONNX", "pip install 'edgestill[export]'"),
    ("onnxscript", "export to portable ONNX", "pip install 'edgestill[portable]'"),
    ("optimum", "export to portable ONNX", "pip install 'edgestill[portable]'"),
    ("gguf", "export to GGUF", "pip install 'edgestill[export]'"),
    ("torch", "distil, and check parity", "pip install 'edgestill[distill]'"),
    ("transformers", "distil, and check parity", "pip install 'edgestill[distill]'"),
    ("accelerate", "distil", "pip install 'edgestill[distill]'"),
    ("pyarrow", "read Parquet", "pip install 'edgestill[distill]'"),
    ("matplotlib", "draw the report's picture", "pip install 'edgestill[report]'"),
)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Check packages, engines, memory and disk; nothing is changed."""
    import json

    from edgestill.runtime.environment import describe_environment

    environment = describe_environment()
    checks = [
        {
            "part": name,
            "found": importlib.util.find_spec(name) is not None,
            "for": purpose,
            "mend": cure,
        }
        for name, purpose, cure in _PARTS
    ]
    free = shutil.disk_usage(Path.cwd()).free
    if as_json:
        document = {
            "schema": "edgestill.doctor/1",
            "environment": environment.model_dump(mode="json"),
            "free_disk_bytes": free,
            "checks": checks,
        }
        console.print_json(json.dumps(document, indent=2))
        return
    console.print_table(
        ["part", "", "for", "to mend"],
        [
            [
                str(check["part"]),
                "found" if check["found"] else "missing",
                str(check["for"]),
                "" if check["found"] else str(check["mend"]),
            ]
            for check in checks
        ],
    )
    memory = "unknown" if environment.memory_bytes is None else console.size(environment.memory_bytes)
    typer.echo(f"{environment.cpu}, {environment.cores} cores, {memory} memory")
    typer.echo(f"Python {sys.version.split()[0]}, {console.size(free)} free on this disk")
