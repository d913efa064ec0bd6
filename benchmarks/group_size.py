"""What larger groups of weights cost and bring: int4 with a scale for 32 and for 128 weights, beside the peer's.

    python benchmarks/group_size.py [--checkpoint FOLDER --text FILE] [--minutes 6] [--rounds 11] [--json]

Without a checkpoint a small Llama is trained on ../shared/data/tinystories-text (width 384, 4 layers, vocabulary
4,096), whose last 200 stories are kept apart; with one, ``--text`` is a text that it wasn't trained on. Each int4 file,
ours and those of onnxruntime-genai's builder in blocks of 32 (its default) and 128, is compared with the checkpoint in
torch on that text: mean KL(checkpoint || file) in nats with its standard error, top-1 agreement, perplexity, all under
our engine. Then each decodes in turn in processes of their own, ours under our engine and theirs in onnxruntime-genai's
loop; ratios are to the builder's file in blocks of 32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import export_small
import numpy as np
from numpy.typing import NDArray

from edgestill.figure import Figure
from edgestill.runtime.divergence import kl_divergence
from edgestill.runtime.session import Session

STORIES = Path(__file__).resolve().parents[2] / "shared" / "data" / "tinystories-text" / "tinystories_sample.txt"
HELD_OUT, TEXTS, LONGEST = 200, 60, 256
OURS = ("int4", "int4_g128")
THEIRS = {"builder, 32": "block_size=32", "builder, 128": "block_size=128"}


def stories() -> list[str]:
    return [story.strip() for story in STORIES.read_text(encoding="utf-8").split("<|endoftext|>") if story.strip()]


def train(folder: Path, minutes: float) -> None:
    """Train a byte-level BPE and a Llama on all stories but the last; stop after ``minutes``."""
    import tokenizers
    import torch
    import transformers

    texts = stories()[:-HELD_OUT]
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=4096, special_tokens=["<s>", "</s>"], show_progress=False)
    ids = torch.tensor([token for text in texts for token in (0, *tokenizer.encode(text).ids)])
    config = transformers.LlamaConfig(
        vocab_size=4096, hidden_size=384, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, weight_decay=0.05)
    begun, done, loss = time.monotonic(), 0.0, torch.tensor(0.0)
    while (done := (time.monotonic() - begun) / (60 * minutes)) < 1:
        # A linear warm-up over the first tenth of the time, then a cosine.
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(done / 0.1 + 0.01, 0.5 + 0.5 * float(np.cos(np.pi * done)))
        starts = torch.randint(0, len(ids) - 129, (16,))
        batch = torch.stack([ids[start : start + 128] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    print(f"trained for {minutes:g} minutes; last loss {loss.item():.2f}", flush=True)
    model.eval().save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def make_files(checkpoint: Path, out: Path) -> dict[str, Path]:
    """Export ours and build theirs; return name -> folder."""
    found = {}
    for precision in OURS:
        words = ["export", str(checkpoint), "--no-parity", "--out", str(out), "--precision", precision]
        command = [sys.executable, "-m", "edgestill.cli", *words, "--format", "onnx"]
        subprocess.run(command, check=True, capture_output=True)
        found[precision] = out / f"onnx-{precision}"
    for name, option in THEIRS.items():
        found[name] = out / name.replace(", ", "-")
        words = ["-m", str(checkpoint), "-e", "cpu", "-p", "int4", "-o", str(found[name]), "-c", str(out / "cache")]
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", *words, "--extra_options", option]
        subprocess.run(command, check=True, capture_output=True)
    return found


def token_ids(checkpoint: Path, texts: list[str]) -> list[list[int]]:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    return [tokenizer.encode(text).ids[:LONGEST] for text in texts[:TEXTS]]


def logits(model: Path, sequences: list[list[int]]) -> list[NDArray[np.float32]]:
    with Session.open(model) as session:
        return [session.logits(ids) for ids in sequences]


def perplexity(scores: list[NDArray[np.float32]], sequences: list[list[int]]) -> float:
    total, count = 0.0, 0
    for rows, ids in zip(scores, sequences, strict=True):
        shifted = rows[:-1].astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        normal = np.log(np.exp(shifted).sum(axis=1))
        total += float((normal - shifted[np.arange(len(ids) - 1), ids[1:]]).sum())
        count += len(ids) - 1
    return float(np.exp(total / count))


def compare_quality(checkpoint: Path, files: dict[str, Path], texts: list[str]) -> dict[str, dict[str, Any]]:
    sequences = token_ids(checkpoint, texts)
    reference = logits(checkpoint, sequences)
    print(
        f"checkpoint: perplexity {perplexity(reference, sequences):.3f} on {len(sequences)} held-out texts", flush=True
    )
    results: dict[str, dict[str, Any]] = {}
    for name, folder in files.items():
        found = logits(folder, sequences)
        divergences = np.concatenate([kl_divergence(a, b) for a, b in zip(reference, found, strict=True)])
        same = np.concatenate([a.argmax(1) == b.argmax(1) for a, b in zip(reference, found, strict=True)])
        error = float(divergences.std(ddof=1) / np.sqrt(len(divergences)))
        agreement = Figure.proportion(int(same.sum()), len(same), "held-out positions")
        results[name] = {
            "data_bytes": (folder / "model.onnx.data").stat().st_size,
            "mean_kl": float(divergences.mean()),
            "standard_error": error,
            "top1_agreement": agreement.model_dump(mode="json"),
            "perplexity": perplexity(found, sequences),
        }
        low, high = agreement.ci95 or (float("nan"),) * 2
        print(
            f"{name:13s} {results[name]['data_bytes'] / 1e6:6.2f} MB   KL {divergences.mean():.5f} (+- {error:.5f})   "
            f"top-1 {agreement.value:.2%} ({low:.2%} to {high:.2%})   perplexity {results[name]['perplexity']:.3f}",
            flush=True,
        )
    return results


def compare_speed(files: dict[str, Path], threads: int, rounds: int) -> dict[str, Any]:
    """Decode in turn; return tokens per second of each by those of the builder's default in its own loop."""
    samples: dict[str, list[float]] = {name: [] for name in files}
    for number in range(rounds):
        for name in list(files) if number % 2 else list(files)[::-1]:
            loop = "theirs" if name in THEIRS else "ours"
            command = [sys.executable, export_small.__file__, "--decode", loop, str(files[name]), str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            samples[name].append(float(done.stdout.split()[-1]))
    found = {}
    for name in files:
        pairs = zip(samples[name], samples["builder, 32"], strict=True)
        ratio = Figure.median([mine / other for mine, other in pairs], "ratio", f"{threads} threads, greedy")
        found[name] = {"tokens_per_second": samples[name], "ratio": ratio.model_dump(mode="json")}
        low, high = ratio.ci95 or (float("nan"),) * 2
        print(f"{threads} threads  {name:13s} {ratio.value:.3f} ({low:.3f} to {high:.3f}) of builder, 32", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--text", type=Path, help="held-out text: paragraphs apart by empty lines")
    parser.add_argument("--minutes", type=float, default=6.0, help="of training")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if (options.checkpoint is None) != (options.text is None):
        parser.error("--checkpoint and --text go together")
    if options.checkpoint is None and not STORIES.is_file():
        parser.error("../shared/data/tinystories-text isn't here; give --checkpoint and --text")
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = options.checkpoint or Path(scratch) / "checkpoint"
        if options.checkpoint is None:
            train(checkpoint, options.minutes)
            texts = stories()[-HELD_OUT:]
        else:
            texts = [part for part in options.text.read_text(encoding="utf-8").split("\n\n") if part.strip()]
        files = make_files(checkpoint, Path(scratch) / "files")
        quality = compare_quality(checkpoint, files, texts)
        speed = {threads: compare_speed(files, threads, options.rounds) for threads in options.threads}
    if options.json:
        print(json.dumps({"quality": quality, "decoding": speed}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
