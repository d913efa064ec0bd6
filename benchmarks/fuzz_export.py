"""Export of damaged checkpoints: never a crash, a hang or a wrong artifact, always an error that names the file.

    python benchmarks/fuzz_export.py CHECKPOINT --cases 10000

Every case copies a small checkpoint and damages one file: bytes of the safetensors header, of config.json, or of
tokenizer.json, or values and keys of their JSON. Each is exported to GGUF or ONNX in a worker process; one that dies
or takes more than 10 s is a failure, so is an exception that isn't an EdgestillError, a message that doesn't name
a file of the checkpoint, and a file left behind. A damage that leaves the checkpoint whole (a byte of a chat
template, say) may be exported: then llama.cpp or onnxruntime must open the artifact. Exit status 1 with a failure.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import multiprocessing.connection
import random
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import tokenizers

FILES = ("model.safetensors", "config.json", "tokenizer.json")
LIMIT_SECONDS = 10
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 1 << 31, 1 << 63, -(1 << 63), 10**40, 0.0, -0.5, 1e308, float("inf"),
    float("nan"), "", "x", "\0", "\ud800", "../../etc", [], [[]], {}, {"a": {}}, [1, 2, 3], ["a"], "BPE", "F16", "I64",
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of everything inside a JSON value, of long lists and objects the first and last few."""
    found = [path] if path else []
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, inner in items if len(items) <= 24 else (*items[:8], *items[-8:]):
        found += places(inner, (*path, key))
    return found


def damage_json(value: Any, rng: random.Random) -> Any:
    """Change, remove, rename or repeat one to three things in a JSON value, in place."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        known = places(value)
        if not known:
            break
        *parents, last = rng.choice(known)
        inner = value
        for key in parents:
            inner = inner[key]
        how = rng.randrange(5)
        if how == 0:
            del inner[last]
        elif how == 1 and isinstance(inner, dict):
            inner[rng.choice(("", "x", "type", f"{last}2"))] = inner.pop(last)
        elif how == 2 and isinstance(inner[last], int) and not isinstance(inner[last], bool):
            inner[last] += rng.choice((-1, 1, 8, -8, 1 << 20, -(1 << 33)))
        elif how == 3:
            other = value
            for key in rng.choice(known):
                other = other[key] if isinstance(other, list | dict) else other
            inner[last] = json.loads(json.dumps(other))
        else:
            inner[last] = rng.choice(ODD)
    return value


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut out, repeat or insert bytes, or cut the end off."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(max(len(changed), 1))
        how = rng.randrange(5)
        if how == 0 and changed:
            changed[at % len(changed)] = rng.randrange(256)
        elif how == 1:
            del changed[at : at + rng.choice((1, 2, 8, 64))]
        elif how == 2:
            changed[at:at] = changed[at : at + rng.choice((1, 8, 64))]
        elif how == 3:
            changed[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 4))))
        elif rng.random() < 0.2:
            del changed[at:]
    return bytes(changed)


def damage(folder: Path, rng: random.Random) -> str:
    """Damage one file of the checkpoint and return which and how."""
    name = rng.choice(FILES)
    path = folder / name
    data = path.read_bytes()
    in_json = rng.random() < 0.6
    if name == "model.safetensors":
        size = int.from_bytes(data[:8], "little")
        header, rest = data[8 : 8 + size], data[8 + size :]
        if in_json:
            text = json.dumps(damage_json(json.loads(header), rng)).encode()
            path.write_bytes(len(text).to_bytes(8, "little") + text + rest)
        else:
            path.write_bytes(damage_bytes(data[: 8 + size], rng) + rest)
    elif in_json:
        path.write_text(json.dumps(damage_json(json.loads(data), rng)))
    else:
        path.write_bytes(damage_bytes(data, rng))
    return f"{name} ({'json' if in_json else 'bytes'})"


def run_case(source: Path, seed: int) -> tuple[str, str]:
    """Return (outcome, detail) of one case: refused, exported, or why it is a failure."""
    from edgestill.artifact import Checkpoint
    from edgestill.errors import EdgestillError
    from edgestill.export import export_checkpoint
    from edgestill.runtime.engines import open_engine
    from edgestill.runtime.model_source import locate_model

    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "damaged", Path(scratch) / "out"
        shutil.copytree(source, folder)
        what = damage(folder, rng)
        format, precision = rng.choice((("gguf", "f16"), ("gguf", "q8_0"), ("onnx", "fp32"), ("onnx", "int4")))
        try:
            artifact = export_checkpoint(Checkpoint.open(folder), format, precision, out)  # type: ignore[arg-type]
        except EdgestillError as error:
            if out.exists() and any(out.rglob("*")):
                return "left files behind", f"{what}: {error}"
            if str(folder) not in str(error):
                return "names no file", f"{what}: {error}"
            if "\n" in str(error):
                return "more than a line", f"{what}: {error}"
            return "refused", what
        except BaseException:  # noqa: BLE001  (what is looked for)
            return "crashed", f"{what} to {format}: {traceback.format_exc()[-1500:]}"
        try:
            engine = open_engine(locate_model(artifact.model_path))
            engine.append([0])
            if format == "onnx":
                tokenizers.Tokenizer.from_file(str(artifact.folder / "tokenizer.json"))
            engine.close()
        except BaseException as error:  # noqa: BLE001  (what is looked for)
            return "wrote what won't run", f"{what} to {format}: {type(error).__name__} {error}"
        return "exported", what


def work(source: Path, pipe: multiprocessing.connection.Connection) -> None:
    """Run the cases that come through the pipe."""
    while (seed := pipe.recv()) is not None:
        pipe.send(run_case(source, seed))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first case")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    outcomes: collections.Counter[str] = collections.Counter()
    worker: Any = None
    pipe: Any = None
    for seed in range(options.first, options.first + options.cases):
        if worker is None:
            pipe, other = context.Pipe()
            worker = context.Process(target=work, args=(options.checkpoint, other), daemon=True)
            worker.start()
            other.close()
            fresh = 20
        pipe.send(seed)
        try:
            outcome, detail = pipe.recv() if pipe.poll(LIMIT_SECONDS + fresh) else ("hung", "")
        except EOFError:
            outcome, detail = "died", ""
        fresh = 0
        if outcome in ("hung", "died"):
            worker.kill()
            worker.join()
            worker = None
        outcomes[outcome] += 1
        if outcome not in ("refused", "exported"):
            print(f"case {seed} {outcome}: {detail}", flush=True)
    if worker is not None:
        pipe.send(None)
        worker.join()
    print(", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common()))
    return 0 if set(outcomes) <= {"refused", "exported"} else 1


if __name__ == "__main__":
    sys.exit(main())
