"""Time to the first token with a system prompt's computed state beside the model, and without.

    python benchmarks/bench/prefix.py [--checkpoint FOLDER] [--tokens 1000] [--rounds 9] [--questions 20] [--json]

Without a checkpoint a random Llama of 135 million parameters is made (30 layers, width 576, vocabulary 49,152). For
each file a system prompt of so many tokens gets its state (``prefix.state``). Then, in turn, a fresh process each: the
model is opened, the page cache as it is, and one question is asked after the system prompt; TTFT runs from the call to
the first token, and so has the state's reading and hashing in it. Every question is asked both ways, and the 32 greedy
tokens are compared. Exit status 1 when a median ratio is above 0.1 or a token differs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgestill.figure import Figure

FILES = (("gguf", "q8_0"), ("gguf", "f16"), ("onnx", "int4"), ("onnx", "int8"))
MOST, NEW, ASKED = 0.1, 32, 12


def make_checkpoint(folder: Path) -> None:
    """Save random weights of SmolLM2-135M's shapes and a byte-level BPE tokenizer of their vocabulary."""
    import tokenizers
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 123, rng.integers(2, 9)))) for _ in range(60000)]
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        (" ".join(words[at : at + 8]) for at in range(0, len(words), 8)),
        vocab_size=49152,
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def ask(model: Path, state: Path | None, prefix: list[int], question: list[int]) -> dict[str, Any]:
    """Answer in this process; return TTFT in seconds and the tokens."""
    from edgestill.runtime.session import GenerationOptions, Session

    with Session.open(model) as session:
        session.use_prefix(state)
        answer = session.generate([*prefix, *question], GenerationOptions(max_new_tokens=NEW, ignore_eos=True))
    return {
        "ttft": answer.statistics.ttft_seconds,
        "reused": answer.statistics.reused_tokens,
        "token_ids": answer.token_ids,
    }


def in_a_process(model: Path, state: Path | None, ids: Path, number: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--ask", str(model), str(state or "-"), str(ids), str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare(model: Path, state: Path, ids: Path, rounds: int, questions: int) -> dict[str, Any]:
    """Ask with and without the state in turn; return the figures."""
    with_state: list[float] = []
    without: list[float] = []
    same = 0
    for number in range(max(rounds, questions)):
        pair = {}
        for state_or_none in (state, None) if number % 2 else (None, state):
            pair[state_or_none] = in_a_process(model, state_or_none, ids, number)
        same += pair[state]["token_ids"] == pair[None]["token_ids"]
        with_state.append(pair[state]["ttft"])
        without.append(pair[None]["ttft"])
    ratios = [mine / other for mine, other in zip(with_state, without, strict=True)]
    return {
        "ratio": Figure.median(ratios, "ratio", "TTFT with the state by TTFT without, in turn").model_dump(mode="json"),
        "ttft_with": with_state,
        "ttft_without": without,
        "same_tokens": same,
        "questions": len(ratios),
        "state_bytes": state.stat().st_size,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--ask", nargs=4, metavar=("MODEL", "STATE", "IDS", "NUMBER"), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.ask is not None:
        model, state, ids, number = options.ask
        prompt = json.loads(Path(ids).read_text())
        question = prompt["questions"][int(number)]
        print(json.dumps(ask(Path(model), None if state == "-" else Path(state), prompt["prefix"], question)))
        return 0
    from edgestill.runtime.model_source import locate_model
    from edgestill.runtime.prefix_state import write_prefix_state
    from edgestill.runtime.session import Session

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = options.checkpoint or Path(scratch) / "checkpoint"
        if options.checkpoint is None:
            make_checkpoint(checkpoint)
        rng = np.random.default_rng(1)
        vocabulary = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
        count = max(options.rounds, options.questions)
        ids = Path(scratch) / "ids.json"
        prefix = rng.integers(3, vocabulary, options.tokens).tolist()
        questions = rng.integers(3, vocabulary, (count, ASKED)).tolist()
        ids.write_text(json.dumps({"prefix": prefix, "questions": questions}))
        for format, precision in FILES:
            words = ["export", str(checkpoint), "--no-parity", "--out", scratch, "--precision", precision]
            command = [sys.executable, "-m", "edgestill.cli", *words, "--format", format]
            subprocess.run(command, check=True, capture_output=True)
            folder = Path(scratch) / f"{format}-{precision}"
            model = locate_model(folder)
            state = Path(scratch) / "state"
            with Session.open(folder) as session:
                write_prefix_state(state, session.engine, prefix, model_sha256=model.sha256())
            found = results[folder.name] = compare(folder, state, ids, options.rounds, options.questions)
            low, high = found["ratio"]["ci95"] or (float("nan"),) * 2
            print(
                f"{folder.name:10s} TTFT {statistics.median(found['ttft_with']) * 1e3:7.1f} ms with, "
                f"{statistics.median(found['ttft_without']) * 1e3:7.1f} without: "
                f"{found['ratio']['value']:.3f} ({low:.3f} to {high:.3f}); the same {NEW} tokens in "
                f"{found['same_tokens']} of {found['questions']}; state of {found['state_bytes'] / 1e6:.1f} MB",
                flush=True,
            )
    if options.json:
        print(json.dumps(results, indent=2))
    failed = [
        name
        for name, found in results.items()
        if found["ratio"]["value"] > MOST or found["same_tokens"] < found["questions"]
    ]
    for name in failed:
        print(f"missed: {name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
