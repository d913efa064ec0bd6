"""Mutated bundles and GGUF headers under the C library: never a crash or a hang, always an error text.

    python benchmarks/native/fuzz.py --library LIBRARY --bundle BUNDLE [--cases 10000] [--seed 0]

Half of the cases change a bundle (its manifest, golden answers, configurations or model), half a GGUF file's header
without a manifest over it. Each batch runs in a process of its own, which opens what it made, answers three tokens and
tests itself; a process that dies or takes longer than 10 s a case is counted against the library, with the case's seed.
Exit status 1 when one was.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BATCH = 250
SECONDS_A_CASE = 10.0
NUMBERS = (0, 1, 127, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)


def spoil(data: bytes, draw: random.Random, most: int) -> bytes:
    """Change a few of the first ``most`` bytes: bits, numbers, and bytes left out or put in."""
    spoilt = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        at = draw.randrange(max(min(len(spoilt), most), 1))
        how = draw.randrange(5)
        if how == 0 and spoilt:
            spoilt[at % len(spoilt)] ^= 1 << draw.randrange(8)
        elif how == 1:
            spoilt[at : at + 8] = draw.choice(NUMBERS).to_bytes(8, "little")
        elif how == 2:
            del spoilt[at : at + draw.randrange(1, 9)]
        elif how == 3:
            spoilt[at:at] = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 9)))
        else:
            spoilt[at : at + 4] = draw.choice(NUMBERS[:8]).to_bytes(8, "little")[:4]
    return bytes(spoilt)


def header_bytes(model: bytes) -> int:
    """Return about how many bytes lie before a GGUF file's tensors."""
    last = model.rfind(b".weight", 0, 4 << 20)
    return min(len(model), last + 64)


def serve(library: Path, bundle: Path, scratch: Path, first: int, cases: int) -> None:
    """Run a batch; print a line for each case that is about to run, and at last what became of all."""
    from edgestill.errors import EdgestillError
    from edgestill.runtime.native.binding import NativeLibrary

    native = NativeLibrary(library)
    model = next(path for path in sorted((bundle / "artifacts").glob("*/model.gguf")))
    data = model.read_bytes()
    files = [path.relative_to(bundle) for path in sorted(bundle.rglob("*")) if path.is_file()]
    small = [name for name in files if name.suffix in (".json", ".jsonl")]
    opened = 0
    for seed in range(first, first + cases):
        print(f"case {seed}", flush=True)
        draw = random.Random(seed)
        copy = scratch / "bundle"
        if seed % 2:
            target, artifact = scratch / "spoilt.gguf", None
            target.write_bytes(spoil(data, draw, draw.choice((64, 1024, header_bytes(data)))))
        else:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(bundle, copy)
            name = Path("manifest.json") if draw.random() < 0.5 else draw.choice(small)
            target, artifact = copy, model.parent.name
            path = copy / name
            text = spoil(path.read_bytes(), draw, 1 << 20)
            path.write_bytes(text)
            if draw.random() < 0.5:
                seal(copy)
        try:
            with native.open(target, artifact, threads=1, context_length=32) as session:
                session.generate([1, 2, 3])
                if artifact is not None:
                    session.selftest()
                opened += 1
        except EdgestillError as error:
            if not str(error).strip():
                raise
    print(f"opened {opened}", flush=True)


def seal(bundle: Path) -> None:
    """Make the manifest's hashes right again, where it is still JSON: what lies behind them is to be reached."""
    from edgestill.bundle import _digest
    from edgestill.storage import sha256_file

    path = bundle / "manifest.json"
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        for entry in value["files"]:
            file = bundle / entry["path"]
            if file.is_file() and file.resolve().is_relative_to(bundle.resolve()):
                entry.update(size_bytes=file.stat().st_size, sha256=sha256_file(file))
        text = json.dumps({**value, "digest": "0" * 64}, indent=2)
        path.write_text(text.replace("0" * 64, _digest(text), 1), encoding="utf-8")
    except (ValueError, TypeError, KeyError, OSError, AttributeError, RecursionError):
        return


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        serve(options.library, options.bundle, Path(options.one[0]), int(options.one[1]), int(options.one[2]))
        return 0
    opened, bad = 0, []
    first, end = options.seed, options.seed + options.cases
    while first < end:
        cases = min(BATCH, end - first)
        with tempfile.TemporaryDirectory() as scratch:
            command = [sys.executable, __file__, "--library", str(options.library), "--bundle", str(options.bundle)]
            try:
                done = subprocess.run(
                    [*command, "--one", scratch, str(first), str(cases)],
                    capture_output=True,
                    text=True,
                    timeout=60 + cases * SECONDS_A_CASE / 10,
                    check=False,
                )
                said, status = done.stdout.split("\n"), done.returncode
                error = (done.stderr.strip().splitlines() or [""])[-1]
            except subprocess.TimeoutExpired as expired:
                said, status, error = (expired.stdout or b"").decode().split("\n"), -1, "it hangs"
        reached = [int(line.split()[1]) for line in said if line.startswith("case ")]
        opened += sum(int(line.split()[1]) for line in said if line.startswith("opened "))
        if status:
            bad.append((reached[-1], status, error))
            print(f"case {reached[-1]}: status {status} {error}", flush=True)
            first = reached[-1] + 1
            continue
        first += cases
        print(f"{first - options.seed} cases, {opened} opened, {len(bad)} bad", flush=True)
    print(f"{options.cases} cases: {opened} opened, {options.cases - opened - len(bad)} refused, {len(bad)} bad")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
