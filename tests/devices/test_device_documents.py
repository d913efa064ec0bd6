"""Each ``--json`` of ``devices``, ``deploy`` and ``plan`` is one document that its published schema describes."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from edgestill.bundle import Bundle
from edgestill.cli import main
from edgestill.schemas import schema_text
from tests.devices.fleet_ground import stand_in


def test_every_document_is_described_by_its_schema(
    hostile_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGESTILL_DEVICES", str(tmp_path / "devices.toml"))
    monkeypatch.setenv("EDGESTILL_STORE", str(tmp_path / "store.sqlite"))
    bundle, runner = str(hostile_bundle.folder), str(stand_in(tmp_path / "runner"))
    table = ["--driver", "limited", "--runner", runner, "--root", str(tmp_path / "root"), "--set", "cores=1"]
    commands = {
        "device": ["devices", "add", "me", *table],
        "devices": ["devices", "list"],
        "deploy": ["deploy", bundle, "--device", "me"],
        "devices-check": ["devices", "check", "me"],
        "devices-probe": ["devices", "probe", "me"],
        "plan": ["plan", bundle, "--device", "raspberry-pi-5", "--prompt-tokens", "16"],
        "device, removed": ["devices", "remove", "me"],
    }
    for name, words in commands.items():
        with pytest.raises(SystemExit) as ended:
            main([*words, "--json"])
        printed = capsys.readouterr()
        assert not ended.value.code, printed.err
        document = json.loads(printed.out)
        assert next(iter(document)) == "schema"
        schema = json.loads(schema_text(name.partition(",")[0]))
        jsonschema.validate(document, schema, jsonschema.Draft202012Validator)
    assert document["removed"] is True
