"""A 16M-parameter Llama from cold start: CPU time, memory and decode speed, the peers beside us.

    python benchmarks/export_small.py [--converter .../convert_hf_to_gguf.py] [--dynamo] [--rounds 5] [--json]

Makes a bfloat16 checkpoint (width 576, 3 layers, vocabulary 8,192, tied) with a tokenizer of its own. Exports: each
command in a process of its own, in turn, ``--rounds`` times; CPU seconds (user and system) and largest resident set
as the operating system accounts them. ``--dynamo`` adds torch.onnx's exporter, once. Decoding: our ONNX file and that
of onnxruntime-genai's builder (int4 in blocks of 32, its default) under our engine, and the latter in
onnxruntime-genai's own loop, greedy, the same threads, in turn; each in a process of its own, because what was loaded
first decodes up to a fifth slower where several models share a process. Ratios are of neighbours, with the 95% interval
of their median (order statistics).
Exit status 1 when a limit of the project is missed: 2 s (GGUF f16) and 3 s (ONNX fp32) of CPU time, 200 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edgestill.figure import Figure

LIMITS = {"gguf-f16": (2.0, 200.0), "onnx-fp32": (3.0, 200.0)}
PROMPT, WARM_UP, NEW, CONTEXT = 32, 40, 200, 512
DYNAMO = """
import sys, torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
model.config.use_cache = False
ids = torch.ones(1, 8, dtype=torch.long)
shapes = {"input_ids": {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}}
torch.onnx.export(model, kwargs={"input_ids": ids}, dynamic_shapes=shapes, dynamo=True).save(sys.argv[2])
"""


def make_checkpoint(folder: Path) -> int:
    """Save random weights and a byte-level BPE tokenizer; return the number of parameters."""
    import tokenizers
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=8192, hidden_size=576, intermediate_size=1536, num_hidden_layers=3, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    # SentencePiece's kind, with byte fallback: the converter refuses a byte-level one that it doesn't know.
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    spaces = [tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581")]
    tokenizer.normalizer = tokenizers.normalizers.Sequence(spaces)
    decoders = tokenizers.decoders
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=8192, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False
    )
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 123, rng.integers(2, 9)))) for _ in range(6000)]
    tokenizer.train_from_iterator([" ".join(rng.choice(words, 8)) for _ in range(8000)], trainer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = described["added_tokens"][:3]
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(described)), bos_token="<s>", eos_token="</s>"
    )
    fast.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def measure(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return (CPU seconds, wall seconds, largest resident MB) as the kernel accounts them."""
    begun = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command[:4])} failed: {said.read().decode(errors='replace')[-2000:]}")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - begun, usage.ru_maxrss * 1024 / 1e6


def export_commands(checkpoint: Path, out: Path, converter: Path | None) -> dict[str, dict[str, list[str]]]:
    """Return for each file the commands that make it: ours first, then the peer."""
    ours = [sys.executable, "-m", "edgestill.cli", "export", str(checkpoint), "--no-parity", "--out", str(out)]
    gguf = {"edgestill": [*ours, "--format", "gguf", "--precision", "f16"]}
    if converter is not None:
        peer = [sys.executable, str(converter), str(checkpoint), "--outtype", "f16"]
        gguf["convert_hf_to_gguf"] = [*peer, "--outfile", str(out / "peer.gguf")]
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", str(checkpoint), "-e", "cpu"]
    cache = ["-c", str(out / "cache")]
    return {
        "gguf-f16": gguf,
        "onnx-fp32": {
            "edgestill": [*ours, "--format", "onnx", "--precision", "fp32"],
            "onnxruntime-genai builder": [*builder, "-p", "fp32", "-o", str(out / "builder-fp32"), *cache],
        },
        "onnx-int4_g128": {"edgestill": [*ours, "--format", "onnx", "--precision", "int4_g128"]},
        "onnx-int4": {
            "edgestill": [*ours, "--format", "onnx", "--precision", "int4"],
            "onnxruntime-genai builder": [*builder, "-p", "int4", "-o", str(out / "builder-int4"), *cache],
        },
    }


def under_our_engine(model: Path, threads: int) -> Callable[[], None]:
    """Return a function that decodes one token greedily under our engine; the prompt has been read."""
    from edgestill.runtime.engines import open_engine
    from edgestill.runtime.model_source import locate_model

    engine = open_engine(locate_model(model), threads=threads, context_length=CONTEXT)
    logits = engine.append(list(range(100, 100 + PROMPT)))

    def step() -> None:
        nonlocal logits
        logits = engine.append([int(logits.argmax())])

    return step


def in_their_loop(model: Path, threads: int) -> Callable[[], None]:
    """Return a function that decodes one token greedily in onnxruntime-genai's own loop."""
    import onnxruntime_genai as genai

    config = genai.Config(str(model))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    loaded = genai.Model(config)
    parameters = genai.GeneratorParams(loaded)
    parameters.set_search_options(do_sample=False, max_length=CONTEXT, min_length=CONTEXT)
    generator = genai.Generator(loaded, parameters)
    generator.append_tokens(np.arange(100, 100 + PROMPT, dtype=np.int32)[None])
    step: Callable[[], None] = generator.generate_next_token
    return step


def decode(loop: str, model: Path, threads: int) -> None:
    """Decode and print tokens per second: what the processes of :func:`compare_decoding` do."""
    step = {"ours": under_our_engine, "theirs": in_their_loop}[loop](model, threads)
    for _ in range(WARM_UP):
        step()
    begun = time.perf_counter()
    for _ in range(NEW):
        step()
    print(NEW / (time.perf_counter() - begun))


def compare_decoding(ours: Path, theirs: Path, threads: int, rounds: int) -> dict[str, Figure]:
    """Decode in turn; return our tokens per second divided by those of each peer."""
    runs = {
        "ours": ("ours", ours),
        "their graph, our engine": ("ours", theirs),
        "their graph, their loop": ("theirs", theirs),
    }
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs) if number % 2 else list(runs)[::-1]:
            loop, model = runs[name]
            command = [sys.executable, __file__, "--decode", loop, str(model), str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            samples[name].append(float(done.stdout.split()[-1]))
    found = {}
    for name, rates in samples.items():
        ratios = [mine / other for mine, other in zip(samples["ours"], rates, strict=True)]
        print(f"    {name:26s} median {statistics.median(rates):8.0f} tokens/s", flush=True)
        if name != "ours":
            found[name] = Figure.median(ratios, "ratio", f"our tokens/s divided by {name}, {threads} threads, greedy")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--converter", type=Path, help="convert_hf_to_gguf.py of a llama.cpp source tree")
    parser.add_argument("--dynamo", action="store_true", help="torch.onnx's dynamo exporter too (a minute)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--decode", nargs=3, metavar=("LOOP", "MODEL", "THREADS"), help=argparse.SUPPRESS)
    parser.add_argument("--decode-rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.make is not None:
        print(f"{make_checkpoint(options.make):,} parameters")
        return 0
    if options.decode is not None:
        decode(options.decode[0], Path(options.decode[1]), int(options.decode[2]))
        return 0
    missed, results = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint, out = Path(scratch) / "checkpoint", Path(scratch) / "out"
        # In a process of its own: a child's largest resident set begins with its parent's.
        subprocess.run([sys.executable, __file__, "--make", checkpoint], check=True)
        for file, commands in export_commands(checkpoint, out, options.converter).items():
            costs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
            for _ in range(options.rounds):
                for name, command in commands.items():
                    shutil.rmtree(out / "cache", ignore_errors=True)
                    out.mkdir(exist_ok=True)
                    costs[name].append(measure(command))
            for name, rows in costs.items():
                cpu, wall, resident = (statistics.median(column) for column in zip(*rows, strict=True))
                results[f"{file} {name}"] = {"cpu_seconds": cpu, "wall_seconds": wall, "resident_mb": resident}
                print(f"{file:10s} {name:26s} {cpu:6.2f} s CPU, {wall:6.2f} s, {resident:5.0f} MB", flush=True)
                if (
                    name == "edgestill"
                    and file in LIMITS
                    and any(found > most for found, most in zip((cpu, resident), LIMITS[file], strict=True))
                ):
                    missed.append(f"{file}: {cpu:.2f} s CPU and {resident:.0f} MB")
        if options.dynamo:
            cpu, wall, resident = measure([sys.executable, "-c", DYNAMO, str(checkpoint), str(out / "dynamo.onnx")])
            print(f"onnx-fp32  torch.onnx dynamo          {cpu:6.2f} s CPU, {wall:6.2f} s, {resident:5.0f} MB")
        ratios = {}
        for precision, theirs in (("fp32", "fp32"), ("int4", "int4"), ("int4_g128", "int4")):
            for threads in options.threads:
                print(f"decoding {precision}, {threads} threads")
                found = compare_decoding(
                    out / f"onnx-{precision}", out / f"builder-{theirs}", threads, options.decode_rounds
                )
                for name, figure in found.items():
                    low, high = figure.ci95 or (float("nan"),) * 2
                    print(f"    ours / {name}: {figure.value:.3f} ({low:.3f} to {high:.3f})", flush=True)
                    ratios[f"{precision} {threads} threads, {name}"] = figure.model_dump(mode="json")
    if options.json:
        print(json.dumps({"exports": results, "decoding": ratios, "missed": missed}, indent=2))
    for line in missed:
        print(f"limit missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
