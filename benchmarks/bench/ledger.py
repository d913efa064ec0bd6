"""Does the memory ledger add up? Of each model and engine: the lines against the peak PSS, and against other counts.

    python benchmarks/bench/ledger.py [--models FOLDER] [--threads 1] [--json FILE]

Makes a Llama of 135M random parameters with a tokenizer of 49,152 tokens (in FOLDER, kept; else a temporary one), has
it in seven forms by ``edgestill export`` and ``quantize``, and benches each in a fresh process, some with options.
Another thread of this process reads the PSS of that one from outside every few milliseconds until its last answer,
the load included: a peak between the ledger's moments is seen there. Counted besides: the KV cache by its formula,
the weights from the file's own tensors (GGUF by the ``gguf`` package, ONNX by ``onnx``), and where llama.cpp repacks
them, the tensors of that type. Exit status 1 when the lines but the unexplained one miss the peak by more than 3%, by
the ledger's peak or by the one seen from outside, and when a count differs. A second copy without a line would be 24%
of q4_0's peak, unexplained.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # what benchmarks share
from random_models import ARTIFACTS, make_models

from edgestill.bench_results import BenchRecord, MemoryLedger
from edgestill.runtime.bench import BenchOptions, bench_turns
from edgestill.runtime.engine_options import KV_BYTES, EngineOptions
from edgestill.runtime.model_source import locate_model
from edgestill.turns import finish

LAYERS, KV_HEADS, HEAD, CONTEXT = 30, 3, 64, 2048
TOLERANCE = 0.03
PERIOD = 0.005  # seconds
DEFAULT = EngineOptions()
PAIRS = (
    ("gguf-q4_0", DEFAULT), ("gguf-q8_0", DEFAULT), ("gguf-f16", DEFAULT),
    ("onnx-fp32", DEFAULT), ("onnx-int8", DEFAULT), ("onnx-int4", DEFAULT), ("checkpoint", DEFAULT),
    ("gguf-q4_0", EngineOptions(mmap=False)),
    ("gguf-q8_0", EngineOptions(kv_precision="q8_0")), ("gguf-q8_0", EngineOptions(kv_precision="q4_0")),
    ("onnx-int4", EngineOptions(huge_pages=False)),
)  # fmt: skip


@dataclass
class Outside:
    """Reads the PSS of this process's only child from outside, in a ``with`` block."""

    peak: int = 0
    samples: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Outside:
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.thread.join()

    def watch(self) -> None:
        """Read until it is over."""
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
        while not self.over.wait(PERIOD):
            with contextlib.suppress(OSError):  # it has just begun, or ended
                for child in children.read_text().split():
                    text = Path(f"/proc/{child}/smaps_rollup").read_text()
                    self.peak = max(self.peak, int(text.partition("Pss:")[2].split()[0]) * 1024)
                    self.samples += 1


def amount(ledger: MemoryLedger, part: str, *, allocated: bool = False) -> float:
    """Return the sum of a ledger's lines of a kind."""
    lines = [line for line in ledger.lines if line.part == part]
    return sum((line.allocated_bytes or 0) if allocated else (line.bytes.value or 0.0) for line in lines)


def counts(folder: Path, record: BenchRecord, ledger: MemoryLedger) -> Iterator[tuple[str, float, float, float]]:
    """Yield what is counted independently: its name, the ledger's bytes, ours, and how far they may be apart."""
    values = 2 * LAYERS * KV_HEADS * HEAD * CONTEXT
    if record.engine != "torch":  # its cache grows with the answer
        ours = values * KV_BYTES[str(record.settings["kv_precision"])]
        yield (
            "KV cache, allocated: 2 x layers x heads x size x context",
            amount(ledger, "kv_cache", allocated=True),
            ours,
            0.001,
        )
    mapped, copied = amount(ledger, "weights_mapped"), amount(ledger, "weights_copied")
    source = locate_model(folder)
    if source.kind == "gguf":
        import gguf

        tensors = gguf.GGUFReader(source.path).tensors
        whole = sum(int(tensor.n_bytes) for tensor in tensors)
        q4_0 = [tensor for tensor in tensors if tensor.tensor_type == gguf.GGMLQuantizationType.Q4_0]
        repacked = (
            sum(int(tensor.n_bytes) for tensor in q4_0) if any("REPACK" in line.name for line in ledger.lines) else 0
        )
        if record.settings["mmap"]:
            yield "mapped weights: all tensors of the file", mapped, whole, 0.01
            yield "second copy: the file's tensors in Q4_0", copied, repacked, 0.001
        else:
            # A tied table is in it once.
            yield "weights read into memory: all tensors of the file", copied, whole, 0.01
    elif source.kind == "onnx" and folder.name == "onnx-fp32":
        import onnx

        graph = onnx.load(str(source.path), load_external_data=False).graph
        sizes = {tensor.name: 4 * int(np.prod(tensor.dims)) for tensor in graph.initializer}
        read = [name for node in graph.node if node.op_type.endswith("MatMul") for name in node.input]
        packed = sum(sizes.get(name, 0) for name in read)
        yield "packed weights: all that a MatMul reads", copied, packed, 0.02
    elif source.kind == "transformers":
        with next(folder.glob("*.safetensors")).open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        parameters = sum(int(np.prod(one["shape"])) for name, one in header.items() if name != "__metadata__")
        yield "parameters x 4", copied, 4 * parameters, 0.01


def measure(folder: Path, engine: EngineOptions, threads: int) -> tuple[BenchRecord, Outside]:
    """Bench one model in a fresh process, watched from outside."""
    options = BenchOptions(
        prompt_tokens=128, new_tokens=32, repetitions=3, warmup=1, threads=threads, engine_options=engine, ledger=True
    )
    work = bench_turns(folder, options)
    # By turns, so that the process waits after its last answer: what comes then is the ledger's own work.
    with Outside() as outside:
        for _ in range(1 + options.warmup + options.repetitions):
            next(work)
    return finish(work), outside


def report(folder: Path, engine: EngineOptions, record: BenchRecord, outside: Outside) -> bool:
    """Print a ledger beside the other counts; tell whether all is as it should be."""
    ledger = record.ledger
    if ledger is None:
        print(f"{folder.name}: no ledger on this platform")
        return False
    asked = "".join(f" {name}={getattr(engine, name)}" for name in engine.asked())
    peak = ledger.peak_pss_bytes.value or 0.0
    print(f"\n{folder.name}{asked} on {record.engine}, peak {ledger.moment}; {record.settings}")
    for line in ledger.lines:
        held = f" of {line.allocated_bytes / 1e6:.1f} allocated" if line.allocated_bytes else ""
        print(f"  {(line.bytes.value or 0) / 1e6:8.2f} MB  {line.bytes.basis:8s}  {line.name}{held}")
    explained = sum(line.bytes.value or 0.0 for line in ledger.lines[:-1])
    whole = sum(line.bytes.value or 0.0 for line in ledger.lines)
    fine = whole == peak and abs(explained / peak - 1) <= TOLERANCE and abs(explained / outside.peak - 1) <= TOLERANCE
    print(
        f"  explained {explained / 1e6:.2f} MB: {explained / peak:.1%} of the ledger's peak of {peak / 1e6:.2f} MB, "
        f"{explained / outside.peak:.1%} of the {outside.peak / 1e6:.2f} MB seen from outside ({outside.samples} times)"
    )
    for what, found, ours, apart in counts(folder, record, ledger):
        near = abs(found - ours) <= apart * max(ours, 1)
        fine &= near
        print(f"  {what}: {found / 1e6:.2f} MB, counted {ours / 1e6:.2f}{'' if near else '  DIFFERS'}")
    if not fine:
        print("  NOT as it should be")
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="Write every record to a file.")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.models or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = make_models(folder, ("135M",), ARTIFACTS)[0].parent
        fine, records = [], []
        for name, engine in PAIRS:
            record, outside = measure(folder / name, engine, options.threads)
            fine.append(report(folder / name, engine, record, outside))
            records.append(record)
            sys.stdout.flush()
            time.sleep(0.1)
    if options.json is not None:
        options.json.write_text(json.dumps([record.model_dump(mode="json") for record in records], indent=2))
    print(f"\n{sum(fine)} of {len(fine)} ledgers within {TOLERANCE:.0%}")
    return int(not all(fine))


if __name__ == "__main__":
    sys.exit(main())
