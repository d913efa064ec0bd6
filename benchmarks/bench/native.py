"""libedgestill through its C ABI beside llama-bench and llama.cpp's simple example, on the same GGUF files.

    python benchmarks/bench/native.py --llama-bench PATH [--simple PATH] [--library build/native/libedgestill.so]
        [--shipped build/host/edgestill-run] [--threads 1 2] [--rounds 6] [--turns 4] [--only 260K] [--scratch FOLDER]

Both programs are built from the source of the installed llama-cpp-python and linked to its libraries, as the library of
``edgestill runner build --installed-llama`` is: all run the same kernels. Printed are

- by llama-bench, in turn as ``peers.py`` does it: reading 128 tokens, as ``es_bench`` measures it; decoding 64 from an
  empty KV cache on, with greedy sampling, as ``es_statistics`` times the tokens, a prompt of one token among them (one
  position further each token takes 1% longer with the smallest model); and the same 64 through Python's binding, with
  the text and all that Python does for it. Each is measured several times, of which the later half's median counts;
- load and first token: whole processes of ``edgestill-run generate`` and of ``simple`` that make one token, in turn
  (``simple`` has no option for threads: OMP_THREAD_LIMIT holds it to ours; it makes a context as long as what it
  reads and writes, which llama.cpp rounds up to 256 tokens, and ours is told those). What our default context, as long
  as the model was trained for, costs more is printed beside it: its KV cache is cleared at the start;
- memory: what a process with the mapped model has that is its own, as a share of the model; with ``--shipped``, what
  ``edgestill runner build`` made with llama.cpp compiled in, as devices have it, too, and that one is judged;
- checking: seconds for the hash of 100 MB of an artifact, es_open with it less es_open without.

Exit status 1 when a figure misses what the project promises: 0.98 of llama-bench (0.97 for Python's answer), 1.1 of
simple's time, 20% of the model, 0.5 s.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # what benchmarks share
import peers
from random_models import SIZES, make_checkpoint

from edgestill.bench_results import BenchDocument, BenchRecord
from edgestill.figure import Figure
from edgestill.runtime.generation import GenerationOptions
from edgestill.runtime.native.binding import NativeLibrary

LEAST = {"engine_prefill": 0.98, "engine_decode": 0.98, "session_decode": 0.97}
MOST_START, MOST_ANONYMOUS, MOST_CHECK_SECONDS = 1.1, 0.2, 0.5
PROMPT = "Once upon a time there was a lighthouse"
GGUF = ("gguf-f16", "gguf-q8_0", "gguf-q4_0")
missed: list[str] = []


def serve(library: Path, model: Path, threads: int) -> None:
    """In a process of its own: answer each line of stdin with the decode rate of one answer."""
    session = NativeLibrary(library).open(model, threads=threads, context_length=peers.CONTEXT)
    options = GenerationOptions(max_new_tokens=peers.NEW, ignore_eos=True)
    draw = random.Random(0)

    def measured(prompt_tokens: int, new_tokens: int) -> BenchRecord:
        return BenchDocument.model_validate(session.bench(prompt_tokens, new_tokens, 1)).results[0]

    def answer(whole: bool) -> float:
        # A token drawn as llama-bench draws its own, of which both vocabularies have 512.
        first = [draw.randrange(512)]
        session.reset()
        begun = time.perf_counter()
        session.generate(first, options)
        seconds = time.perf_counter() - begun
        said = session.statistics()
        return peers.NEW / (seconds if whole else said["ttft_seconds"] + sum(said["token_seconds"]))

    measures: dict[str, Callable[[], float]] = {
        "engine_prefill": lambda: measured(peers.PROMPT, 2).prefill_tokens_per_second.value or 0.0,
        "engine_decode": lambda: answer(whole=False),
        "session_decode": lambda: answer(whole=True),
    }
    for line in sys.stdin:
        time.sleep(peers.REST)
        rate = peers.settled([measures[line.strip()]() for _ in range(peers.repetitions(model))])
        print(rate, flush=True)


class Native(peers.Asked):
    """A process of the library."""

    def __init__(self, library: Path, model: Path, threads: int) -> None:
        command = [sys.executable, __file__, "--one", str(library), str(model), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.rates = {}


def show(name: str, figure: Figure, holds: Callable[[float], bool], unit: str = "") -> None:
    """Print a figure, marked where it misses."""
    low, high = figure.ci95 or (float("nan"),) * 2
    kept = figure.value is not None and holds(figure.value)
    if not kept:
        missed.append(name)
    print(f"{name:44s} {figure.value:.3f} ({low:.3f} to {high:.3f}){unit}{' ' if kept else '*'}", flush=True)


def decode(name: str, model: Path, threads: int, options: argparse.Namespace) -> None:
    """Let the library and llama-bench take turns at reading and decoding."""
    ratios: dict[str, list[float]] = {metric: [] for metric in LEAST}
    for number in range(options.rounds):
        bench = peers.LlamaBench(options.llama_bench, model, threads, options.turns, 0)
        ours = Native(options.library, model, threads)
        try:
            decoding = ["engine_decode", "session_decode"]
            for metrics in [["engine_prefill"]] * options.turns + [decoding] * options.turns:
                for side in (ours, bench) if number % 2 else (bench, ours):
                    side.turn(metrics)
            bench.finish()
        finally:
            ours.close()
            bench.close()
        for metric, each in ratios.items():
            pairs = zip(ours.rates[metric], bench.rates[metric], strict=True)
            each.append(statistics.median(one / other for one, other in pairs))
    for metric, each in ratios.items():
        figure = Figure.median(each, "ratio", f"{metric} rate by llama-bench's")
        show(f"{name} {metric}, {threads} threads", figure, lambda ratio, least=LEAST[metric]: ratio >= least)


def start(name: str, model: Path, threads: int, options: argparse.Namespace) -> None:
    """Let whole processes that make one token take turns."""
    program = options.library.parent / "edgestill-run"
    limited = {**os.environ, "OMP_THREAD_LIMIT": str(threads)}
    ours = [program, "generate", model, "--prompt", PROMPT, "--max-new-tokens", 1, "--threads", threads]
    theirs = [options.simple, "-m", model, "-n", 1, "-ngl", 0, PROMPT]
    commands = ([*ours, "--context", peers.CONTEXT], theirs, ours)
    ratios, longer = [], []
    for _ in range(4 * options.rounds + 1):
        seconds = []
        for command in commands:
            begun = time.perf_counter()
            subprocess.run([*map(str, command)], env=limited, check=True, capture_output=True)
            seconds.append(time.perf_counter() - begun)
        ratios.append(seconds[0] / seconds[1])
        longer.append(seconds[2] / seconds[0])
    figure = Figure.median(ratios[1:], "ratio", "process time by simple's")  # the first round fills the page cache
    show(f"{name} load and first token, by simple", figure, lambda ratio: ratio <= MOST_START)
    print(f"{name}: with the default context {statistics.median(longer[1:]):.3f} of that")


def memory(name: str, model: Path, options: argparse.Namespace) -> None:
    """Measure once with the weights mapped, and say what of the process is its own.

    llama.cpp packs 4-bit weights anew into memory of its own, where they are faster: such a model isn't a mapped one.
    It is measured with that, and without, and judged without; quantised ones with a quantised KV cache, too.
    """
    programs = [options.library.parent / "edgestill-run", *([options.shipped] if options.shipped else [])]
    ways: list[list[str]] = [[]]
    if "q4" in name:
        ways.append(["--no-repack"])
    if "f16" not in name:
        ways.append([*ways[-1], "--kv-precision", "q8_0"])
    for words, program in itertools.product(ways, programs):
        command = [program, "bench", model, "--context", peers.CONTEXT, "--repetitions", 3, *words]
        said = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True).stdout
        (record,) = BenchDocument.model_validate_json(said).results
        own, mapped = (max(record.raw[key]) for key in ("anonymous_rss_bytes", "file_rss_bytes"))
        what = " ".join([name, *words, *(["shipped"] if program == options.shipped else [])])
        print(
            f"{what}: {own / 1e6:.1f} MB its own, {mapped / 1e6:.1f} MB of files, the model "
            f"{record.size_bytes / 1e6:.1f}; {record.decode_tokens_per_second.value:.1f} tokens/s"
        )
        figure = Figure(value=own / record.size_bytes, unit="fraction", n=1)
        if program == programs[-1] and ("q4" not in name or "--no-repack" in words):
            show(f"{what}: its own by the model's size", figure, lambda share: share <= MOST_ANONYMOUS)


def check(model: Path, options: argparse.Namespace) -> None:
    """Open a bundle of the model with its hashes and without."""
    library = NativeLibrary(options.library)
    with tempfile.TemporaryDirectory() as scratch:
        prompts, bundle = Path(scratch) / "prompts.jsonl", Path(scratch) / "bundle"
        prompts.write_text(json.dumps({"text": PROMPT}) + "\n")
        words = ["bundle", "pack", options.scratch / "checkpoint-135M", model.parent, "--prompts", prompts]
        words += ["--out", bundle, "--golden-prompts", 1, "--max-new-tokens", 2]
        subprocess.run([sys.executable, "-m", "edgestill.cli", *map(str, words)], check=True, capture_output=True)
        size = model.stat().st_size
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(2 * options.rounds):
            for verify in seconds:
                begun = time.perf_counter()
                library.open(bundle, threads=1, context_length=512, verify=verify).close()
                seconds[verify].append(time.perf_counter() - begun)
    pairs = zip(seconds[True], seconds[False], strict=True)
    each = [(one - other) / size * 1e8 for one, other in pairs]
    figure = Figure.median(each, "seconds", "es_open with hashes less without, of 100 MB")
    show("hash of 100 MB", figure, lambda value: value <= MOST_CHECK_SECONDS, " s")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--llama-bench", type=Path)
    parser.add_argument("--simple", type=Path)
    parser.add_argument("--library", type=Path, default=Path("build/native/libedgestill.so"))
    parser.add_argument("--shipped", type=Path)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--only", default="", help="files whose name has this in it; hash: the checking")
    parser.add_argument("--scratch", type=Path, help="keeps the files that are made, and takes those that are there")
    parser.add_argument("--one", nargs=3, metavar=("LIBRARY", "MODEL", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        serve(Path(options.one[0]), Path(options.one[1]), int(options.one[2]))
        return 0
    if options.llama_bench is None or not options.llama_bench.is_file():
        parser.error("--llama-bench: the built program is wanted")
    options.library = options.library.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        options.scratch = options.scratch or Path(temporary)
        for size, checkpoint in peers.checkpoints(options.scratch).items():
            if not checkpoint.is_dir():
                make_checkpoint(checkpoint, SIZES["135M"])
            files = peers.make_files(checkpoint, options.scratch / size)
            for name in (one for one in GGUF if options.only in f"{size} {one}"):
                for threads in options.threads:
                    decode(f"{size} {name}", files[name], threads, options)
                if options.simple is not None:
                    start(f"{size} {name}", files[name], max(options.threads), options)
                if size == "135M":
                    memory(f"{size} {name}", files[name], options)
            if size == "135M" and options.only in f"{size} hash":
                check(files["gguf-f16"], options)
    print(f"missed: {', '.join(missed)}" if missed else "all hold")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
