"""What does an update send? One artifact of five changed, deployed over ssh, counted on the wire between.

    python benchmarks/devices/wire.py [--models FOLDER] [--size 15M] [--json FILE]

A bundle of five artifacts of a random model (made in FOLDER, and kept) is deployed to OpenSSH's server on loopback by
way of a TCP proxy that counts the bytes to the server and back, then a version in which one artifact is another, then
that one again. Counted is all of it: keys, hosts' talk, scripts, hashes, manifest and golden answers. Exit status 1
when the update takes more than 1.05 times the bytes of the changed artifact, both ways together, or what was deployed
isn't what was packed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))  # for the tests' devices
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # what benchmarks share
from bundles import CHANGED, make_bundles

from edgestill.bundle import Bundle
from edgestill.devices.bringing import bundle_files
from edgestill.devices.deploy import ALL, deploy
from edgestill.devices.registry import checked, make_driver
from edgestill.runtime.native.build import build_native
from edgestill.storage import sha256_file
from tests.devices.contract_targets import SshTarget

MOST = 1.05


def send(target: SshTarget, bundle: Bundle) -> dict[str, Any]:
    """Deploy all artifacts of a bundle; return what went over the wire, and whether it is there."""
    sent, received = target.wire.sent, target.wire.received
    with make_driver("board", checked("board", target.settings(), "wire")) as driver:
        done = deploy(bundle, driver, [ALL], runner=target.runner_program)
    there = target.root / done.folder
    names = [one.name for one in bundle.manifest.artifacts]
    wanted = {name: sha256_file(path) for name, path in bundle_files(bundle, names).items()}
    found = {path.relative_to(there).as_posix(): sha256_file(path) for path in there.rglob("*") if path.is_file()}
    return {
        "sent_bytes": target.wire.sent - sent,
        "received_bytes": target.wire.received - received,
        "files_sent": done.push.files_sent,
        "files_kept": done.push.files_kept,
        "whole": wanted == found,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--size", default="15M")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        first, second = make_bundles(given.models or scratch, given.size)
        (scratch / "board").mkdir()
        target = SshTarget(scratch / "board", build_native("host", scratch / "native", installed_llama=True))
        try:
            steps = {"first": send(target, first), "update": send(target, second), "again": send(target, second)}
        finally:
            target.close()
        size = sum(
            entry.size_bytes for entry in second.manifest.files if entry.path.startswith(f"artifacts/{CHANGED}/")
        )
    update = steps["update"]
    ratio = (update["sent_bytes"] + update["received_bytes"]) / size
    whole = all(step["whole"] for step in steps.values())
    for name, step in steps.items():
        print(
            f"{name}: {step['sent_bytes']:,} bytes to the device, {step['received_bytes']:,} back; "
            f"{step['files_sent']} files sent, {step['files_kept']} kept"
            f"{'' if step['whole'] else '; NOT what was packed'}"
        )
    print(f"{CHANGED} has {size:,} bytes: the update took {ratio:.4f} times that on the wire (at most {MOST} wanted)")
    if given.json is not None:
        given.json.write_text(json.dumps({"artifact_bytes": size, "ratio": ratio, **steps}, indent=1) + "\n")
    return 0 if whole and ratio <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())
