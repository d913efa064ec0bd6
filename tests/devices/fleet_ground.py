"""What the fleet's tests share: a bundle of two GGUF files and an ONNX one, and runners that answer what they are told.

A stand-in runner is a shell script: it computes nothing, and reports the record that it was made with.
"""

from __future__ import annotations

import json
import sqlite3
import stat
from pathlib import Path

from edgestill.artifact import Checkpoint
from edgestill.bundle import Bundle, Contents, GenerationDefaults, pack_bundle
from edgestill.export import export_checkpoint
from edgestill.packing import describe
from edgestill.runtime.golden import make_golden
from tests.devices.made_up import made_up_document, made_up_record

RUNNER = """#!/bin/sh
{before}
case "$1" in
  selftest) {selftest}
    echo '{{"schema": "edgestill.selftest/1", "tokens": 3}}';;
  bench) {bench}
    cat <<'EOF'
{document}
EOF
    ;;
esac
"""


def make_bundle(checkpoint: Path, folder: Path) -> Bundle:
    """Pack gguf-f32, gguf-f16 and onnx-fp32 of a tiny checkpoint."""
    opened = Checkpoint.open(checkpoint)
    kinds = (("gguf", "f32"), ("gguf", "f16"), ("onnx", "fp32"))
    artifacts = [export_checkpoint(opened, form, precision, folder / "artifacts") for form, precision in kinds]
    contents = Contents(
        name="fleet",
        created="2026-01-01",
        task="conversation",
        ship="gguf-f32",
        chat_template=None,
        generation=GenerationDefaults(max_new_tokens=8, eos_token_ids=(1,)),
        context_length=256,
        headline=None,
        artifacts=[(artifact, describe(artifact, None, {}, None)) for artifact in artifacts],
        tokenizer_files={"tokenizer.json": checkpoint / "tokenizer.json"},
        golden=make_golden({one.name: one.folder for one in artifacts}, ("Once upon a time",), 8),
        report_html="<html></html>",
        licenses={"LICENSE": "Apache-2.0"},
        provenance={},
    )
    return pack_bundle(contents, folder / "bundle")


def stand_in(
    folder: Path, *, seconds: float = 1.0, before: str = "", selftest: str = "", bench: str = "", cpu: str = "cpu"
) -> Path:
    """Write a runner that reports answers of about so many seconds; the rest are lines of shell.

    Its record is of 128 + 64 tokens and 2 threads, whatever it is asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "edgestill-run"
    document = made_up_document(made_up_record("x#y", seconds), cpu=cpu).to_json()
    program.write_text(RUNNER.format(before=before, selftest=selftest, bench=bench, document=document))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


class Devices:
    """The user's file of devices, in the making; each device's folder lies below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "devices.toml"

    def add(self, name: str, driver: str, runner: Path | None, **settings: object) -> Path:
        """Add a device, without a runner where that is None, and return its folder."""
        root = self.folder / f"root-{name}"
        program = {} if runner is None else {"runner": str(runner)}
        table = {"driver": driver, **program, "root": str(root), **settings}
        lines = [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
        with self.file.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        return root

    def add_three(self, runner: Path, *others: Path) -> None:
        """Add ``here`` (local), ``small`` (limited) and ``other`` (qemu, which gets a shell as its emulator)."""
        programs = [runner, *others, runner, runner]
        self.add("here", "local", programs[0])
        self.add("small", "limited", programs[1], memory_bytes=256 << 20, cores=1)
        self.add("other", "qemu", programs[2], machine="x86_64", program="sh")


def stored(path: Path) -> list[tuple[str, str]]:
    """Return device and artifact of each result in a store, read past our own code, in the order they came."""
    with sqlite3.connect(path) as connection:
        return [(str(a), str(b)) for a, b in connection.execute("SELECT device, artifact FROM results ORDER BY id")]
