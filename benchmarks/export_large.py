"""Converting a large checkpoint: peak anonymous memory and wall time, the peers' converters beside us.

    python benchmarks/export_large.py --model 1.5b --scratch FOLDER --tokenizers FOLDER [--converter PATH] [--builder]

Makes a bfloat16 checkpoint of random weights in shards, in the shape of Qwen2.5-1.5B (``1.5b``, 3.1 GB) or
Phi-4-mini (``3.8b``, 7.7 GB), and converts it, each command in a process of its own, in turn, ``--rounds`` times.
Wall time is of the whole command, anonymous memory the largest RssAnon that was seen every 50 ms. Each begins when
the disk has what was written before it: ours waits for its file to be on the disk and would wait for that too, the
peers don't wait. Outputs are deleted at once, the checkpoint at the end.
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
from pathlib import Path

import numpy as np

SHAPES = {
    "1.5b": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960,
        "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "max_position_embeddings": 32768, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "vocab_size": 151936,
    },
    "3.8b": {
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192,
        "num_hidden_layers": 32, "num_attention_heads": 24, "num_key_value_heads": 8, "tie_word_embeddings": True,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
        "partial_rotary_factor": 0.75, "rope_theta": 10000.0, "sliding_window": 262144, "vocab_size": 200064,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.0 + i for i in range(48)]},
    },
}  # fmt: skip


def tensors(config: dict[str, object]) -> list[tuple[str, tuple[int, ...]]]:
    """Return (name, shape) of every tensor of the checkpoint."""
    from edgestill.export.architectures import describe_checkpoint  # noqa: F401  (registers the architectures)
    from edgestill.export.architectures.config import Config
    from edgestill.export.architectures.decoder import _REGISTRY

    describe = _REGISTRY[config["architectures"][0]]  # type: ignore[index]
    names: dict[str, tuple[int, ...]] = dict(describe(Config(config, "config.json"), {}).tensors())  # type: ignore[arg-type]
    return list(names.items())


def make_checkpoint(name: str, tokenizers: Path, folder: Path, shard_bytes: int = 2 << 30) -> None:
    """Write random bfloat16 weights (a few MiB of them, repeated) in shards, with Qwen2's tokenizer."""
    config = {
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        **SHAPES[name],
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copyfile(tokenizers / "tok-qwen2" / "tokenizer.built.json", folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    noise = (np.random.default_rng(0).standard_normal(1 << 22, np.float32) * 0.02).view(np.uint32) >> 16
    block = noise.astype("<u2").tobytes()
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled = 0
    for tensor, shape in tensors(config):
        size = 2 * int(np.prod(shape))
        if filled and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((tensor, shape))
        filled += size
    index = {}
    for number, members in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header, offset = {}, 0
        for tensor, shape in members:
            size = 2 * int(np.prod(shape))
            header[tensor] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
            index[tensor] = file
            offset += size
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            while offset > 0:
                stream.write(block[:offset])
                offset -= len(block)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def measure(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return (wall seconds, peak RssAnon, peak RSS in MB). Raises when it fails."""
    begun = time.monotonic()
    # To a file: a pipe that nobody reads would stop a command with much to say.
    said = tempfile.TemporaryFile()  # noqa: SIM115
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
    peaks = {"RssAnon": 0, "VmHWM": 0}
    while process.poll() is None:
        try:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                key, _, rest = line.partition(":")
                if key in peaks:
                    peaks[key] = max(peaks[key], int(rest.split()[0]))
        except (OSError, IndexError):
            pass
        time.sleep(0.05)
    wall = time.monotonic() - begun
    said.seek(0)
    message = said.read().decode(errors="replace")
    if process.returncode:
        raise SystemExit(f"{command[0]} failed: {message[-2000:]}")
    return wall, peaks["RssAnon"] / 1000, peaks["VmHWM"] / 1000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=sorted(SHAPES), required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--tokenizers", type=Path, required=True)
    parser.add_argument("--converter", type=Path, help="convert_hf_to_gguf.py")
    parser.add_argument("--builder", action="store_true", help="onnxruntime-genai's builder too, for onnx")
    parser.add_argument("--what", nargs="*", default=["gguf-f16", "gguf-q8_0"])
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    checkpoint, out = options.scratch / f"checkpoint-{options.model}", options.scratch / "out"
    if not checkpoint.is_dir():
        make_checkpoint(options.model, options.tokenizers, checkpoint)
    tool = [sys.executable, "-m", "edgestill.cli", "export", str(checkpoint), "--no-parity", "--out", str(out)]
    for what in options.what:
        format, _, precision = what.partition("-")
        commands = {"edgestill": [*tool, "--format", format, "--precision", precision]}
        if options.converter is not None and format == "gguf":
            peer = [sys.executable, str(options.converter), str(checkpoint), "--outtype", precision]
            commands["convert_hf_to_gguf"] = [*peer, "--outfile", str(out / "peer.gguf")]
        if options.builder and format == "onnx":
            peer = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", str(checkpoint), "-p", precision]
            commands["onnxruntime-genai"] = [*peer, "-e", "cpu", "-o", str(out / "peer"), "-c", str(out / "cache")]
        walls: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                out.mkdir(parents=True, exist_ok=True)
                os.sync()
                wall, anonymous, resident = measure(command)
                written = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
                shutil.rmtree(out)
                walls[name].append(wall)
                print(
                    f"{what:10s} {name:20s} {wall:7.1f} s, {anonymous:7.0f} MB anonymous, {resident:7.0f} MB resident, "
                    f"{written / 1e9:.2f} GB written",
                    flush=True,
                )
        if len(walls) == 2:
            ratios = [ours / theirs for ours, theirs in zip(*walls.values(), strict=True)]
            spread = f"from {min(ratios):.2f} to {max(ratios):.2f}"
            print(f"{what:10s} ours / theirs: median {statistics.median(ratios):.2f}, {spread}")
    shutil.rmtree(checkpoint)


if __name__ == "__main__":
    main()
