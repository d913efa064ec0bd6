"""Our engine, session and bench beside llama-bench and onnxruntime-genai's loop, on the same files.

    python benchmarks/bench/peers.py --llama-bench PATH [--threads 1 2] [--rounds 8] [--turns 6] [--scratch FOLDER]
    python benchmarks/bench/peers.py --llama-bench PATH --depth 1000 --only gguf

``PATH`` is llama-bench built from the source of the installed llama-cpp-python, best linked to its own libraries: then
both run the same kernels. Models: stories260K of ../shared/data (where it is) and a random Llama of 135 million
parameters. Measured are 128 tokens read at once; 64 one by one from an empty context, ours by the engine's own loop,
which chooses the likeliest each time (llama-bench draws any); and by our session 64 tokens end to end, written as text,
as the worker of ``edgestill bench`` does. Then the same ONNX files under our session and in onnxruntime-genai's own
loop. With ``--depth`` so many tokens are in the KV cache before (llama-bench's ``-d``): there the two differ, as each
engine chooses its attention itself, and only our engine is measured.

A round is a fresh process of each, which live at once and take ``--turns`` turns; who has the first turn alternates. So
other work on the machine meets neighbours alike. In a turn each measures several times, and the later half's median
counts: a processor that waited for its turn is 2 to 7% slower for 15 milliseconds, and 1% for 15 more. A round's ratio
is the median over its neighbours, and the figure is the median over rounds with its 95% interval.
(llama-bench takes turns without knowing: what it prints goes to a pipe that is kept full, see :class:`LlamaBench`.)
With GOMP_SPINCOUNT=300000, OpenMP's own default, both wait for their threads alike; without it ours spin for less time
(see :mod:`edgestill.threads`), and while our process has the turn llama-bench's may still spin.

The bench's instrumentation inside of a timed section is its clock readings: their cost, measured alone, is printed as a
share of a token. Exit status 1 when a ratio misses what the project promises: 0.98 of llama-bench engine-only, 0.97 for
the session, 0.5% for the instrumentation, 1.15 of onnxruntime-genai's loop.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # what benchmarks share
from random_models import SIZES, make_checkpoint

from edgestill.figure import Figure

STORIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "stories260K-hf"
PROMPT, NEW, CONTEXT = 128, 64, 256
PAGE = 4096
SMALL, REPETITIONS = 10 << 20, (2, 4)  # how often a turn measures: a large model, and one of fewer bytes than that
REST = 0.03  # seconds: threads of the other's pool spin on for some milliseconds
LEAST = {"engine_prefill": 0.98, "engine_decode": 0.98, "session_decode": 0.97, "genai": 1.15}
MOST_INSTRUMENTATION = 0.005


def repetitions(model: Path) -> int:
    """Return how often a turn measures a GGUF file, or an ONNX folder, which counts as a large one."""
    return REPETITIONS[model.is_file() and model.stat().st_size < SMALL]


def settled(rates: Sequence[float]) -> float:
    """Return the median of the later half of a turn's rates."""
    return statistics.median(rates[len(rates) // 2 :])


def ours(model: Path, threads: int, depth: int) -> dict[str, Callable[[], float]]:
    """Open the model in this process; return what measures it once, each in tokens per second."""
    from edgestill.runtime.session import GenerationOptions, Session

    # llama-bench counts 64 tokens from an empty KV cache on, the loop beside onnxruntime-genai those after the first:
    # one position further each token of the smallest model takes 1% longer.
    from_empty = model.suffix == ".gguf"
    options = GenerationOptions(max_new_tokens=NEW if from_empty else NEW + 1, ignore_eos=True)
    warm_up = GenerationOptions(max_new_tokens=2, ignore_eos=True)
    session = Session.open(model, threads=threads, context_length=CONTEXT + depth)
    engine: Any = session.engine
    draw = random.Random(0)

    def drawn(count: int) -> list[int]:
        """Return tokens as llama-bench has them: the vocabulary's first one if it wants one, then any at random.

        Which they are isn't all the same: some sequences of tokens take 5% longer than these.
        """
        first = session.tokenizer.encode("", add_special=True)[:1]
        return [*first, *(draw.randrange(engine.vocab_size) for _ in range(count - len(first)))]

    engine.append(drawn(depth) if depth else drawn(1))
    if from_empty and not engine.decodes_greedily:
        raise SystemExit("the token loop isn't compiled: install a C compiler, then edgestill once more")

    def read() -> float:
        ids = drawn(PROMPT)
        engine.rewind(depth)
        begun = time.perf_counter()
        engine.append(ids)
        return PROMPT / (time.perf_counter() - begun)

    def decode() -> float:
        engine.rewind(depth)
        token, left = drawn(1)[0], NEW
        begun = time.perf_counter()
        while left:
            taken, _ = engine.decode_greedily(token, left, (), bytearray(1))
            token, left = taken[-1], left - len(taken)
        return NEW / (time.perf_counter() - begun)

    def answer() -> float:
        if not from_empty:
            session.generate(drawn(1), warm_up)
        session.reset()
        statistics = session.generate(drawn(1), options).statistics
        begun = 0.0 if from_empty else statistics.ttft_seconds
        return NEW / (statistics.total_seconds - begun)  # the text's writing is in it

    def again(measure: Callable[[], float], more: int = 0) -> Callable[[], float]:
        count = repetitions(model)
        return lambda: settled([measure() for _ in range(more + count)][more:])

    def run_alone() -> float:
        run, inside = engine._run_one, []

        def timed() -> None:
            begun = time.perf_counter()
            run()
            inside.append(time.perf_counter() - begun)

        engine._run_one = timed
        answer()
        engine._run_one = run
        return NEW / sum(inside[-NEW:])

    if not from_empty:
        return {"session_decode": answer, "run_alone": run_alone}
    # llama-bench reads a prompt once more before it measures.
    return {"engine_prefill": again(read, 1), "engine_decode": again(decode), "session_decode": again(answer)}


def genai(model: Path, threads: int, _depth: int) -> dict[str, Callable[[], float]]:
    """Open the model in onnxruntime-genai; return what measures its own loop once, in tokens per second."""
    import numpy as np
    import onnxruntime_genai as og

    config = og.Config(str(model))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    loaded = og.Model(config)

    def answer() -> float:
        parameters = og.GeneratorParams(loaded)
        parameters.set_search_options(do_sample=False, max_length=NEW + 2, min_length=NEW + 2)
        generator = og.Generator(loaded, parameters)
        generator.append_tokens(np.array([[5]], np.int32))
        generator.generate_next_token()
        begun = time.perf_counter()
        for _ in range(NEW):
            generator.generate_next_token()
        return NEW / (time.perf_counter() - begun)

    return {"session_decode": answer}


def serve(way: str, model: Path, threads: int, depth: int) -> None:
    """In a process of its own: measure what each line of stdin names, and answer it with a rate in a line."""
    measures = (ours if way == "ours" else genai)(model, threads, depth)
    for line in sys.stdin:
        time.sleep(REST)
        print(measures[line.strip()](), flush=True)


class Asked:
    """A process of ours or of onnxruntime-genai: measures in its turn what it is asked for."""

    def __init__(self, way: str, model: Path, threads: int, depth: int = 0) -> None:
        command = [sys.executable, __file__, "--one", way, str(model), str(threads), str(depth)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.rates: dict[str, list[float]] = {}

    def turn(self, metrics: Sequence[str]) -> None:
        """Measure each once."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for metric in metrics:
            self._process.stdin.write(f"{metric}\n")
            self._process.stdin.flush()
            self.rates.setdefault(metric, []).append(float(self._process.stdout.readline()))

    def finish(self) -> None:
        """Do nothing: each turn's rates are there."""

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


class LlamaBench:
    """A process of llama-bench that tests once a turn: ``turns`` of the prompt, then ``turns`` of decoding.

    It prints a row after each test. Its stdout is a pipe of one page that is full, so it waits in the writing of that
    row, after the test's last clock reading; emptying the pipe gives it the next turn. ``rates`` are complete after
    ``finish``.
    """

    def __init__(self, program: Path, model: Path, threads: int, turns: int, depth: int) -> None:
        self._out, self._plug = os.pipe()
        fcntl.fcntl(self._plug, fcntl.F_SETPIPE_SZ, PAGE)
        prompts, tokens = (",".join([str(count)] * turns) for count in (PROMPT, NEW))
        words = ["-m", model, "-t", threads, "-p", prompts, "-n", tokens, "-d", depth, "-r", repetitions(model)]
        words += ["-ngl", 0, "-o", "jsonl"]
        self._command = [str(program), *map(str, words)]
        self._process: subprocess.Popen[bytes] | None = None
        self.rates: dict[str, list[float]] = {}

    def turn(self, metrics: Sequence[str]) -> None:
        """Let it do the next test. It starts in its first turn."""
        if self._process is None:
            os.write(self._plug, b"\n" * PAGE)
            self._process = subprocess.Popen(self._command, stdout=self._plug, stderr=subprocess.DEVNULL)
        else:
            self._take_row()
            os.write(self._plug, b"\n" * PAGE)
        time.sleep(REST)
        syscall = Path(f"/proc/{self._process.pid}/syscall")
        while syscall.read_text().split()[:2] != ["1", "0x1"]:  # write, to stdout
            if self._process.poll() is not None:
                raise SystemExit(f"{' '.join(self._command)} ended early, with status {self._process.returncode}")
            time.sleep(0.001)

    def _take_row(self) -> None:
        os.read(self._out, PAGE)  # what the pipe was filled with
        row = json.loads(os.read(self._out, PAGE))
        rate = settled(row["samples_ts"])
        if row["n_prompt"]:
            self.rates.setdefault("engine_prefill", []).append(rate)
        else:
            for metric in ("engine_decode", "session_decode"):
                self.rates.setdefault(metric, []).append(rate)

    def finish(self) -> None:
        """Take the last test's row."""
        self._take_row()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._plug)


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


def one_round(model: Path, threads: int, number: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Let a process of ours and of the peer take turns; return every ratio of neighbours by metric, and our rates."""
    peer: Asked | LlamaBench
    if model.suffix == ".gguf":
        peer = LlamaBench(options.llama_bench, model, threads, options.turns, options.depth)
        decode = ["engine_decode"] if options.depth else ["engine_decode", "session_decode"]
        turns = [["engine_prefill"]] * options.turns + [decode] * options.turns
    else:
        peer = Asked("genai", model, threads)
        turns = [["session_decode"]] * options.turns
    alone = ["run_alone"] if model.suffix != ".gguf" else []
    our = Asked("ours", model, threads, options.depth)
    try:
        for metrics in turns:
            for side in (our, peer) if number % 2 else (peer, our):
                side.turn([*metrics, *alone] if side is our else metrics)
        peer.finish()
    finally:
        our.close()
        peer.close()
    theirs = {"run_alone": peer.rates["session_decode"], **peer.rates}
    pairs = {name: list(zip(rates, theirs[name], strict=True)) for name, rates in our.rates.items()}
    ratios = {name: [mine / other for mine, other in both] for name, both in pairs.items()}
    return {**ratios, **{f"{name} tokens/s": rates for name, rates in our.rates.items()}}


def compare(name: str, model: Path, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure ours and the peer in turn; return ratios by metric and every rate."""
    rounds = [one_round(model, threads, number, options) for number in range(options.rounds)]
    peer = "llama-bench" if model.suffix == ".gguf" else "genai"
    found: dict[str, Any] = {}
    for metric in (metric for metric in rounds[0] if f"{metric} tokens/s" in rounds[0]):
        ratios = [statistics.median(one[metric]) for one in rounds]
        figure = Figure.median(ratios, "ratio", f"{name}, {threads} threads: ours by {peer}, tokens/s")
        rates = [rate for one in rounds for rate in one[f"{metric} tokens/s"]]
        wanted = "genai" if peer == "genai" and metric != "run_alone" else metric
        least = 0.0 if options.depth else LEAST.get(wanted, 0.0)
        found[metric] = {
            "ratio": figure.model_dump(mode="json"),
            "least": least,
            "ratios": [one[metric] for one in rounds],
            "tokens_per_second": rates,
        }
        low, high = figure.ci95 or (float("nan"),) * 2
        mark = " " if (figure.value or 0) >= least else "*"
        print(
            f"{name:20s} {threads} threads {wanted:15s} "
            f"{figure.value:.3f} ({low:.3f} to {high:.3f}){mark} {statistics.median(rates):10,.0f} tokens/s",
            flush=True,
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--llama-bench", type=Path)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=8, help="processes of each")
    parser.add_argument("--turns", type=int, default=6, help="of each metric in a process")
    parser.add_argument("--scratch", type=Path, help="keeps the files that are made, and takes those that are there")
    parser.add_argument("--depth", type=int, default=0, help="tokens in the KV cache before; GGUF files only")
    parser.add_argument("--only", default="", help="files whose name has this in it")
    parser.add_argument("--one", nargs=4, metavar=("WAY", "MODEL", "THREADS", "DEPTH"), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.one is not None:
        way, model, threads, depth = options.one
        serve(way, Path(model), int(threads), int(depth))
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
                make_checkpoint(checkpoint, SIZES["135M"])
            for file, model in make_files(checkpoint, scratch / size).items():
                name = f"{size} {file}"
                if options.only not in name or (options.depth and model.suffix != ".gguf"):
                    continue
                for threads in options.threads:
                    found = results[f"{name}, {threads} threads"] = compare(name, model, threads, options)
                    missed += [
                        f"{name}, {threads} threads, {metric}: {one['ratio']['value']:.3f}"
                        for metric, one in found.items()
                        if one["ratio"]["value"] < one["least"]
                    ]
                    if options.depth:
                        continue
                    rate = max(found["session_decode"]["tokens_per_second"])
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
