"""Our engine, session and bench beside llama-bench and onnxruntime-genai's loop, on the same files.

    python benchmarks/bench/peers.py --llama-bench PATH [--threads 1 2] [--rounds 7] [--scratch FOLDER] [--json]

``PATH`` is llama-bench built from the source of the installed llama-cpp-python, best linked to its own libraries: then
both run the same kernels. Models: stories260K of ../shared/data (where it is) and a random Llama of 135 million
parameters. In turn, a fresh process each: llama-bench (128 tokens read at once; 64 one by one from an empty context);
our engine, the same calls and counts; our session, 64 tokens end to end (drawn greedily, written as text), and the same
through the worker of ``edgestill bench``. Each warms up as llama-bench does. Ratios are of neighbours, with the 95%
interval of their median. Then the same ONNX files under our session and in onnxruntime-genai's own loop.

The bench's instrumentation inside of a timed section is its clock readings: their cost, measured alone, is printed as a
share of a token. Exit status 1 when a median ratio misses what the project promises: 0.98 of llama-bench engine-only,
0.97 for the session, 0.5% for the instrumentation, 1.15 of onnxruntime-genai's loop.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prefix

from edgestill.figure import Figure

STORIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "stories260K-hf"
PROMPT, NEW, CONTEXT = 128, 64, 256
LEAST = {"engine_prefill": 0.98, "engine_decode": 0.98, "session_decode": 0.97, "genai": 1.15}
MOST_INSTRUMENTATION = 0.005


def ours(model: Path, threads: int, repetitions: int) -> dict[str, float]:
    """Measure in this process; return tokens per second, each the mean over repetitions as llama-bench has it."""
    from edgestill.runtime.session import GenerationOptions, Session

    options = GenerationOptions(max_new_tokens=NEW + 1, ignore_eos=True)
    with Session.open(model, threads=threads, context_length=CONTEXT) as session:
        engine = session.engine
        ids = [5 + number * 7 % (engine.vocab_size - 10) for number in range(PROMPT)]

        def read() -> float:
            engine.rewind(0)
            begun = time.perf_counter()
            engine.append(ids)
            return PROMPT / (time.perf_counter() - begun)

        def decode() -> float:
            engine.rewind(0)
            append = engine.append
            begun = time.perf_counter()
            for token in ids[:NEW]:
                append((token,))
            return NEW / (time.perf_counter() - begun)

        def answer() -> float:
            session.reset()
            gaps = session.generate(ids[:1], options).statistics.token_seconds
            return len(gaps) / sum(gaps)

        found = {}
        work: dict[str, Callable[[], float]] = {
            "engine_prefill": read, "engine_decode": decode, "session_decode": answer
        }  # fmt: skip
        for name, measure in work.items():
            measure()
            found[name] = statistics.mean(measure() for _ in range(repetitions))
    return found


def llama_bench(program: Path, model: Path, threads: int, repetitions: int) -> dict[str, float]:
    words = ["-m", model, "-t", threads, "-p", PROMPT, "-n", NEW, "-r", repetitions, "-ngl", 0, "-o", "json"]
    done = subprocess.run([str(program), *map(str, words)], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    found = {"engine_prefill" if row["n_prompt"] else "engine_decode": float(row["avg_ts"]) for row in rows}
    return {**found, "session_decode": found["engine_decode"]}


def genai(model: Path, threads: int, repetitions: int) -> float:
    """Decode in onnxruntime-genai's own loop; return tokens per second."""
    import numpy as np
    import onnxruntime_genai as og

    config = og.Config(str(model))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    loaded = og.Model(config)
    rates = []
    for _ in range(repetitions + 1):
        parameters = og.GeneratorParams(loaded)
        parameters.set_search_options(do_sample=False, max_length=NEW + 2, min_length=NEW + 2)
        generator = og.Generator(loaded, parameters)
        generator.append_tokens(np.array([[5]], np.int32))
        generator.generate_next_token()
        begun = time.perf_counter()
        for _ in range(NEW):
            generator.generate_next_token()
        rates.append(NEW / (time.perf_counter() - begun))
    return statistics.mean(rates[1:])


def in_a_process(way: str, model: Path, threads: int, repetitions: int) -> Any:
    command = [sys.executable, __file__, "--one", way, str(model), str(threads), str(repetitions)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way} on {model} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def clock_seconds() -> float:
    """Return what the session's clock readings cost a token: three of them, a subtraction each, and a list's append."""
    count, gaps, marked = 200_000, [0.0], time.perf_counter()
    begun = time.perf_counter()
    for _ in range(count):
        yielded = time.perf_counter()
        marked += time.perf_counter() - yielded
        now = time.perf_counter()
        gaps.append(now - marked)
        marked = now
    with_clock = time.perf_counter() - begun
    begun = time.perf_counter()
    for _ in range(count):
        pass
    return (with_clock - (time.perf_counter() - begun)) / count


def make_files(checkpoint: Path, out: Path) -> dict[str, Path]:
    """Export and quantise what isn't in ``out`` yet; return file name -> folder or file."""
    out.mkdir(parents=True, exist_ok=True)
    edgestill = [sys.executable, "-m", "edgestill.cli"]
    for words in (
        ["export", checkpoint, "--format", "gguf", "--precision", "f16"],
        ["export", checkpoint, "--format", "gguf", "--precision", "q8_0"],
        ["export", checkpoint, "--format", "onnx", "--precision", "fp32"],
        ["export", checkpoint, "--format", "onnx", "--precision", "int8"],
        ["export", checkpoint, "--format", "onnx", "--precision", "int4"],
    ):
        if (out / f"{words[3]}-{words[5]}" / "artifact.json").is_file():
            continue
        command = [*edgestill, *map(str, words), "--no-parity", "--out", str(out)]
        subprocess.run(command, check=True, capture_output=True)
    if not (out / "gguf-q4_0" / "artifact.json").is_file():
        source = next((out / "gguf-f16").glob("*.gguf"))
        command = [*edgestill, "quantize", str(source), "--to", "q4_0", "--out", str(out)]
        subprocess.run([*command, "--no-parity"], check=True, capture_output=True)
    return {folder.name: next(folder.glob("*.gguf"), folder) for folder in sorted(out.iterdir()) if folder.is_dir()}


def checkpoints(scratch: Path) -> dict[str, Path]:
    """Return the checkpoints by size: the random one is to be made."""
    return {"135M": scratch / "checkpoint-135M", **({"260K": STORIES} if STORIES.is_dir() else {})}


def ratio(pairs: list[tuple[float, float]], source: str) -> Figure:
    return Figure.median([mine / other for mine, other in pairs], "ratio", source)


def compare(name: str, model: Path, threads: int, rounds: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure ours and the peer in turn; return ratios by metric and every rate."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    peer = "llama-bench" if model.suffix == ".gguf" else "genai"
    for number in range(rounds):
        rates = {}
        for who in ("ours", peer) if number % 2 else (peer, "ours"):
            if who == "llama-bench":
                rates[who] = llama_bench(options.llama_bench, model, threads, options.repetitions)
            else:
                rates[who] = in_a_process(who, model, threads, options.repetitions)
        if peer == "genai":
            pairs.setdefault("genai", []).append((rates["ours"]["session_decode"], rates["genai"]))
            continue
        for metric, rate in rates["ours"].items():
            pairs.setdefault(metric, []).append((rate, rates[peer][metric]))
    found: dict[str, Any] = {}
    for metric, both in pairs.items():
        figure = ratio(both, f"{name}, {threads} threads: ours by {peer}, tokens/s")
        found[metric] = {"ratio": figure.model_dump(mode="json"), "ours_and_peer": both}
        low, high = figure.ci95 or (float("nan"),) * 2
        mark = " " if (figure.value or 0) >= LEAST[metric] else "*"
        print(
            f"{name:20s} {threads} threads {metric:15s} {figure.value:.3f} ({low:.3f} to {high:.3f}){mark} "
            f"{statistics.median(mine for mine, _ in both):10,.0f} tokens/s",
            flush=True,
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--llama-bench", type=Path)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--small-rounds", type=int, default=25, help="for the small model: two processes differ more")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--scratch", type=Path, help="keeps the files that are made, and takes those that are there")
    parser.add_argument("--only", default="", help="files whose name has this in it")
    parser.add_argument("--one", nargs=4, metavar=("WAY", "MODEL", "THREADS", "REPETITIONS"), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.one is not None:
        way, model, threads, repetitions = options.one
        measure: Callable[[Path, int, int], Any] = ours if way == "ours" else genai
        print(json.dumps(measure(Path(model), int(threads), int(repetitions))))
        return 0
    if options.llama_bench is None or not options.llama_bench.is_file():
        parser.error("--llama-bench: the built program is wanted")
    results: dict[str, Any] = {}
    missed = []
    clock = clock_seconds()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = options.scratch or Path(temporary)
        for size, checkpoint in checkpoints(scratch).items():
            if not checkpoint.is_dir():
                prefix.make_checkpoint(checkpoint)
            rounds = options.small_rounds if checkpoint == STORIES else options.rounds
            for file, model in make_files(checkpoint, scratch / size).items():
                name = f"{size} {file}"
                if options.only not in name:
                    continue
                for threads in options.threads:
                    found = results[f"{name}, {threads} threads"] = compare(name, model, threads, rounds, options)
                    missed += [
                        f"{name}, {threads} threads, {metric}: {one['ratio']['value']:.3f}"
                        for metric, one in found.items()
                        if one["ratio"]["value"] < LEAST[metric]
                    ]
                    if "session_decode" not in found:
                        continue
                    rate = max(mine for mine, _ in found["session_decode"]["ours_and_peer"])
                    if clock * rate > MOST_INSTRUMENTATION:
                        missed.append(f"{name}: clock readings take {clock * rate:.2%} of a token")
    print(f"clock readings: {clock * 1e9:.0f} ns a token")
    if options.json:
        print(json.dumps({"clock_seconds": clock, "results": results, "missed": missed}, indent=2))
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
