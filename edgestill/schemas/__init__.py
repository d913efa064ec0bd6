"""Published JSON schemas of every document that edgestill writes; ``python -m edgestill.schemas`` makes them again."""

from __future__ import annotations

import json
from pathlib import Path

from edgestill.bench_results import BenchDocument
from edgestill.bundle import Manifest
from edgestill.comparison import CompareDocument
from edgestill.figure import Record
from edgestill.results import ArtifactsDocument, EvalDocument, ParityDocument, ReportDocument

DOCUMENTS: dict[str, type[Record]] = {
    "artifacts": ArtifactsDocument,
    "bench": BenchDocument,
    "compare": CompareDocument,
    "eval": EvalDocument,
    "manifest": Manifest,
    "parity": ParityDocument,
    "report": ReportDocument,
}
"""File stem -> the model that is written."""

FOLDER = Path(__file__).parent


def schema_text(name: str) -> str:
    """Return the JSON schema (draft 2020-12) of one document as the text of its file."""
    model = DOCUMENTS[name]
    schema = model.model_json_schema(by_alias=True, mode="serialization")
    identity = schema["properties"]["schema"]["const"]
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:{identity.replace('.', ':').replace('/', ':')}",
    }
    return json.dumps({**head, **schema}, indent=2, ensure_ascii=False) + "\n"
