"""Published JSON schemas of every document that edgestill writes; ``python -m edgestill.schemas`` makes them again."""

from __future__ import annotations

import json
from pathlib import Path

from edgestill.bench_results import BenchDocument
from edgestill.bundle import Manifest
from edgestill.comparison import CompareDocument
from edgestill.device_documents import (
    DeployDocument,
    DeviceDocument,
    DevicesCheckDocument,
    DevicesDocument,
    DevicesProbeDocument,
)
from edgestill.figure import Record
from edgestill.fleet_results import FleetDocument
from edgestill.plan_results import PlanDocument
from edgestill.results import ArtifactsDocument, EvalDocument, ParityDocument, ReportDocument
from edgestill.store_results import HistoryDocument, StoreCompareDocument

DOCUMENTS: dict[str, type[Record]] = {
    "artifacts": ArtifactsDocument,
    "bench": BenchDocument,
    "compare": CompareDocument,
    "compare-store": StoreCompareDocument,
    "deploy": DeployDocument,
    "device": DeviceDocument,
    "devices": DevicesDocument,
    "devices-check": DevicesCheckDocument,
    "devices-probe": DevicesProbeDocument,
    "eval": EvalDocument,
    "fleet": FleetDocument,
    "history": HistoryDocument,
    "manifest": Manifest,
    "parity": ParityDocument,
    "plan": PlanDocument,
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
