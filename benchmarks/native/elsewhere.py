"""Bundles on other processors, emulated: the self-test on the oldest and the newest model of each, and on some between.

    python benchmarks/native/elsewhere.py --runner TARGET=FOLDER [TARGET=FOLDER ...] --bundle BUNDLE [BUNDLE ...]
        [--ends]

``FOLDER`` is what ``edgestill runner build --target TARGET`` wrote. Each of a bundle's GGUF artifacts is tested on each
model of processor by qemu-user: its golden answers, token by token, of which those that are nearly this processor's
choice are counted (see docs/embedding.md). Exit status 1 where a test fails, by an illegal instruction for one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from edgestill.bundle import open_bundle

MODELS = {
    # The first is the oldest that qemu knows of those that the target is for, the last the newest.
    "aarch64-linux-musl": ("cortex-a35", "cortex-a53", "cortex-a76", "neoverse-n1", "max"),
    "armv7-linux-musleabihf": ("cortex-a8", "cortex-a9", "cortex-a7", "cortex-a15", "max"),
    "riscv64-linux-musl": ("shakti-c", "sifive-u54", "rv64", "any"),
    "x86_64-linux-musl": ("qemu64", "Nehalem", "Haswell", "max"),
}


def emulator(target: str) -> str:
    """Return the name of qemu's program for a target."""
    machine = target.partition("-")[0]
    return f"qemu-{'arm' if machine == 'armv7' else machine}-static"


def known(program: str) -> str:
    """Return what a qemu says of the models that it knows."""
    return subprocess.run([program, "-cpu", "help"], capture_output=True, text=True, check=False).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runner", nargs="+", required=True, metavar="TARGET=FOLDER")
    parser.add_argument("--bundle", nargs="+", type=Path, required=True)
    parser.add_argument("--ends", action="store_true", help="the oldest and the newest model of each alone")
    options = parser.parse_args()
    failed = 0
    for words in options.runner:
        target, _, folder = words.partition("=")
        program, models = emulator(target), known(emulator(target))
        every = MODELS[target]
        for model in every[:: len(every) - 1] if options.ends else every:
            if model not in models:
                print(f"{target:24s} {model:12s} not known to this qemu")
                continue
            for bundle in options.bundle:
                names = [one.name for one in open_bundle(bundle).manifest.artifacts if one.format == "gguf"]
                for name in names:
                    command = [program, "-cpu", model, Path(folder) / "edgestill-run", "selftest", bundle]
                    begun = time.monotonic()
                    done = subprocess.run(
                        [*map(str, command), "--artifact", name], capture_output=True, text=True, check=False
                    )
                    if done.returncode == 0:
                        found = json.loads(done.stdout)
                        said = (
                            f"passes: {found['prompts']} answers, {found['close_tokens']} of {found['tokens']} tokens "
                        )
                        said += f"close (at most {found['largest_gap']:.4f})"
                    else:
                        failed += 1
                        lines = done.stderr.strip().splitlines() or ["it says nothing"]
                        said = f"FAILS, status {done.returncode}: {lines[-1]}"
                    seconds = time.monotonic() - begun
                    print(f"{target:24s} {model:12s} {bundle.name}#{name}: {said}, {seconds:.0f} s", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
