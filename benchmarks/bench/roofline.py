"""Bytes and operations of a token against counts of their own, and the shares that the bench prints of them.

    python benchmarks/bench/roofline.py [--threads 1 2] [--scratch FOLDER]

Benches stories260K of ../shared/data (where it is) and a random Llama of 135 million parameters as GGUF f16, q8_0 and
q4_0 and as ONNX fp32, int8 and int4. Bytes are counted again by the ``gguf`` package's reader, or from the arrays of
every initializer with its external data read by ``onnx``; keys and values from the checkpoint's configuration;
operations by torch's counter of floating-point operations over a run of the checkpoint (an ONNX file whose heads are
padded has more: there the ratio is printed only).

Exit status 1 when a count is off by more than 1%, when a file larger than the last cache gets no share of the memory's
ceiling, when another one gets one, and when the large model never got one.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # what benchmarks share
import peers
from random_models import SIZES, make_checkpoint

from edgestill.bench_results import BenchRecord
from edgestill.runtime.bandwidth import last_level_cache
from edgestill.runtime.bench import bench_model
from edgestill.runtime.bench_options import BenchOptions
from edgestill.runtime.model_source import locate_model

TOLERANCE = 0.01
PROMPT, NEW = 64, 32
LOOKED_UP = ("Gather", "GatherBlockQuantized")


def gguf_bytes(path: Path) -> float:
    """Return the bytes of every tensor, the embedding once as a head, and one row of it."""
    import gguf

    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    embedding = tensors["token_embd.weight"]
    row = float(embedding.n_bytes) / float(embedding.shape[1])
    total = sum(int(tensor.n_bytes) for tensor in tensors.values()) + row
    return total - (int(embedding.n_bytes) if "output.weight" in tensors else 0)


def onnx_bytes(path: Path) -> float:
    """Return the bytes of every initializer that isn't only looked up in, and a row of those that are."""
    import onnx

    graph = onnx.load(path).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    read = {name for node in graph.node if node.op_type not in LOOKED_UP for name in node.input}
    rows = [name for node in graph.node if node.op_type in LOOKED_UP for name in node.input if name in arrays]
    whole = sum(array.nbytes for name, array in arrays.items() if name in read)
    return whole + sum(arrays[name].nbytes / len(arrays[name]) for name in rows if arrays[name].ndim > 1)


@functools.cache
def torch_operations(checkpoint: Path) -> tuple[int, int, int]:
    """Return operations of a token, of the head among them, and of a pair of positions, by torch's counter."""
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager").eval()
    config = model.config

    def counted(tokens: int) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros((1, tokens), dtype=torch.long))
        return int(counter.get_total_flops())

    one, four = counted(1), counted(4)
    pair = (four - 4 * one) // 12  # 4 a + 16 p - 4 (a + p)
    return one - pair, 2 * config.vocab_size * config.hidden_size, pair


def kv_bytes(checkpoint: Path, kind: str) -> tuple[int, bool]:
    """Return the bytes of one position's keys and values, and whether the heads are padded."""
    config = json.loads((checkpoint / "config.json").read_text())
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    stored = -(-head // 16) * 16 if kind == "onnx" else head  # its attention rotates 16 at a time
    item = 4 if kind == "onnx" else 2
    return int(2 * config["num_hidden_layers"] * config["num_key_value_heads"] * stored * item), stored != head


def check(name: str, model: Path, checkpoint: Path, record: BenchRecord) -> list[str]:
    """Print one line; return what is wrong."""
    limit = record.roofline
    if limit is None or limit.prompt is None:
        return [f"{name}: no roofline"]
    kind = "onnx" if name.startswith("onnx") else "gguf"
    path = locate_model(model).path
    bytes_ = onnx_bytes(path) if kind == "onnx" else gguf_bytes(path)
    cached, padded = kv_bytes(checkpoint, kind)
    bytes_ += cached * (PROMPT + NEW / 2)
    token, head, pair = torch_operations(checkpoint)
    operations = token + pair * (PROMPT + 1) / 2 - (head * (1 - 1 / PROMPT) if kind == "gguf" else 0)
    found = (limit.bytes_per_token.value or 0.0, limit.prompt.operations_per_token.value or 0.0)
    ratios = found[0] / bytes_, found[1] / operations
    share, prompt = limit.share_of_ceiling, limit.prompt.share_of_float32_rate
    said = f"{share.value:.0%} of the memory's ceiling" if share.value is not None else f"refused: {share.source}"
    print(
        f"{name:10s} {record.threads} threads: {found[0] / 1e6:.3f} MB a token ({ratios[0]:.4f} of the other count), "
        f"{said}; {found[1] / 1e6:.2f} million operations ({ratios[1]:.4f}{', heads padded' if padded else ''}), "
        f"{prompt.value or 0:.0%} of float32's rate",
        flush=True,
    )
    wrong = []
    if any(abs(ratio - 1) > TOLERANCE for ratio in ratios[: 1 if padded else 2]):
        wrong.append(f"{name}: the counts differ")
    inside = found[0] <= (last_level_cache() or 0)
    if inside is (share.value is not None):
        wrong.append(f"{name}: a share of the ceiling, in the last cache" if inside else f"{name}: no share")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--scratch", type=Path, help="keeps the files that are made, and takes those that are there")
    options = parser.parse_args()
    wrong, shown = [], False
    with tempfile.TemporaryDirectory() as temporary:
        scratch = options.scratch or Path(temporary)
        for size, checkpoint in peers.checkpoints(scratch).items():
            if not checkpoint.is_dir():
                make_checkpoint(checkpoint, SIZES["135M"])
            print(f"{size}, beside a last cache of {(last_level_cache() or 0) / 1e6:.1f} MB:")
            for name, model in peers.make_files(checkpoint, scratch / size).items():
                for threads in options.threads:
                    bench = BenchOptions(prompt_tokens=PROMPT, new_tokens=NEW, threads=threads, roofline=True)
                    record = bench_model(model, bench)
                    wrong += check(name, model, checkpoint, record)
                    limit = record.roofline
                    shown |= size == "135M" and limit is not None and limit.share_of_ceiling.value is not None
    if not shown:
        wrong.append("the large model never got a share")
    for line in wrong:
        print(f"wrong: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
