"""Sequence classifiers from checkpoint to int8, each kind on BANKING77's 77 intents: accuracy, size, parity, latency.

    python benchmarks/classifiers.py --data FOLDER [--scratch FOLDER] [--kinds bert,llama]

For each kind a small model is trained from scratch on ``FOLDER/train.csv`` (torch, a minute or two on one core), with a
tokenizer trained on it too: WordPiece for the encoders, byte-level BPE for the decoders. Then the commands
``edgestill export --format onnx-portable``, ``edgestill quantize --to int8`` and ``edgestill eval`` on all of
``FOLDER/test.csv`` run as a user runs them. The scratch folder is deleted unless it was given; a model that is there
already isn't trained again.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY = 4000
LENGTH = 64
BATCH = 64
KINDS = ("bert", "distilbert", "minilm", "llama", "qwen2", "qwen3")
ENCODERS = ("bert", "distilbert", "minilm")
EPOCHS = {"bert": 7, "distilbert": 7, "minilm": 9, "llama": 4, "qwen2": 4, "qwen3": 4}


def read(path: Path) -> tuple[list[str], list[str]]:
    """Return texts and labels of one split."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["category"] for row in rows]


def make_tokenizer(kind: str, texts: list[str]) -> Any:
    """Train the kind's tokenizer on the texts."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    if kind in ENCODERS:
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
        return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=LENGTH, **names)
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|pad|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", model_max_length=LENGTH
    )


def make_model(kind: str, vocabulary: int, labels: list[str]) -> Any:
    """Return an untrained model of the kind, small enough to be trained in a minute or two."""
    import transformers

    names = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
        "vocab_size": vocabulary,
        "pad_token_id": 0,
        "max_position_embeddings": LENGTH,
    }
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512, **names}
    decoder = {**sizes, "intermediate_size": 384, "num_key_value_heads": 2, "eos_token_id": 1, "bos_token_id": None}
    config: Any = {
        "bert": lambda: transformers.BertConfig(**sizes),
        # DistilBERT has its own names; MiniLM is a BERT: narrow, and deeper for it.
        "distilbert": lambda: transformers.DistilBertConfig(dim=128, n_layers=2, n_heads=4, hidden_dim=512, **names),
        "minilm": lambda: transformers.BertConfig(
            **{**sizes, "hidden_size": 96, "num_hidden_layers": 3, "intermediate_size": 384}
        ),
        "llama": lambda: transformers.LlamaConfig(**decoder),
        "qwen2": lambda: transformers.Qwen2Config(**decoder),
        "qwen3": lambda: transformers.Qwen3Config(**decoder, head_dim=32),
    }[kind]()
    return transformers.AutoModelForSequenceClassification.from_config(config)


def batches(ids: list[list[int]], labels: np.ndarray, generator: np.random.Generator) -> Iterator[tuple[Any, Any, Any]]:
    """Yield shuffled batches of rows of like length, padded on the right: ids, mask, labels."""
    import torch

    order = generator.permutation(len(ids))
    pools = [order[at : at + 32 * BATCH] for at in range(0, len(order), 32 * BATCH)]
    cut = [
        part[at : at + BATCH]
        for pool in pools
        for part in [sorted(pool, key=lambda row: len(ids[row]))]
        for at in range(0, len(part), BATCH)
    ]
    for number in generator.permutation(len(cut)):
        rows = cut[number]
        time_steps = max(len(ids[row]) for row in rows)
        padded, mask = np.zeros((len(rows), time_steps), np.int64), np.zeros((len(rows), time_steps), np.int64)
        for place, row in enumerate(rows):
            padded[place, : len(ids[row])] = ids[row]
            mask[place, : len(ids[row])] = 1
        yield torch.from_numpy(padded), torch.from_numpy(mask), torch.from_numpy(labels[rows])


def train(kind: str, data: Path, folder: Path) -> float:
    """Train one model and save it; return the seconds it took."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    started = time.perf_counter()
    texts, categories = read(data / "train.csv")
    labels = sorted(set(categories))
    torch.manual_seed(0)
    tokenizer = make_tokenizer(kind, texts)
    model = make_model(kind, len(tokenizer), labels).train()
    ids = [row[:LENGTH] for row in tokenizer(texts)["input_ids"]]
    gold = np.array([labels.index(category) for category in categories])
    steps = EPOCHS[kind] * -(-len(ids) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps + EPOCHS[kind] * 32)
    generator = np.random.default_rng(0)
    for _ in range(EPOCHS[kind]):
        for batch, mask, wanted in batches(ids, gold, generator):
            loss = model(input_ids=batch, attention_mask=mask, labels=wanted).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return time.perf_counter() - started


def edgestill(*words: str | Path) -> dict[str, Any]:
    """Run a command and return its JSON document."""
    command = [sys.executable, "-m", "edgestill.cli", *map(str, words), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def run(kind: str, data: Path, scratch: Path) -> dict[str, Any]:
    """Take one kind from the checkpoint to its figures."""
    checkpoint, out = scratch / kind / "checkpoint", scratch / kind / "files"
    seconds = None if (checkpoint / "config.json").is_file() else train(kind, data, checkpoint)
    exported = edgestill("export", checkpoint, "--format", "onnx-portable", "--out", out)["artifacts"][0]
    quantized = edgestill("quantize", exported["path"], "--to", "int8", "--out", out)["artifacts"][0]
    models = [str(checkpoint), exported["path"], quantized["path"]]
    columns = ["--column", "prompt=text", "--column", "completion=category"]
    scored = edgestill(
        "eval", *models, "--task", "classification", "--data", data / "test.csv", *columns, "--threads", "1"
    )
    return {"kind": kind, "train_seconds": seconds, "artifacts": [exported, quantized], "eval": scored["results"]}


def table(found: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown."""
    head = [
        "model",
        "accuracy",
        "95%",
        "macro F1",
        "size MB",
        "top-1",
        "max diff",
        "KL nats",
        "ms an answer",
        "peak MB",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in found:
        parities = [None, *(artifact["parity"] for artifact in one["artifacts"])]
        names = ["checkpoint (torch)", "onnx-portable-fp32", "onnx-portable-int8"]
        for name, parity, record in zip(names, parities, one["eval"], strict=True):
            metrics = record["metrics"]
            low, high = metrics["accuracy"]["ci95"]
            faith = ["", "", ""]
            if parity is not None:
                faith = [
                    f"{parity['top1_agreement']['value']:.3f}",
                    f"{parity['max_abs_diff']['value']:.2g}",
                    f"{parity['mean_kl']['value']:.2g}",
                ]
            row = [
                f"{one['kind']} {name}",
                f"{100 * metrics['accuracy']['value']:.2f}%",
                f"{100 * low:.1f}-{100 * high:.1f}",
                f"{100 * metrics['macro_f1']['value']:.2f}%",
                f"{record['size_bytes'] / 1e6:.2f}",
                *faith,
                f"{1e3 * metrics['answer_seconds']['value']:.2f}",
                f"{record['peak_rss_bytes']['value'] / 1e6:.0f}",
            ]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv and test.csv")
    parser.add_argument("--scratch", type=Path, help="keep the models here")
    parser.add_argument("--kinds", default=",".join(KINDS), help="some of " + ",".join(KINDS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgestill-classifiers-") as temporary:
        found = []
        for kind in options.kinds.split(","):
            found.append(run(kind, options.data, options.scratch or Path(temporary)))
            print(f"{kind}: done, trained in {found[-1]['train_seconds'] or 0:.0f} s", file=sys.stderr, flush=True)
    print(table(found))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
