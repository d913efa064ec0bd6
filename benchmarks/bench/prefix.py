"""Time to the first token with a system prompt's computed state beside the model, and without.

    python benchmarks/bench/prefix.py [--checkpoint FOLDER] [--tokens 1000] [--questions 20] [--json]

Without a checkpoint a random Llama of 135 million parameters is made (30 layers, width 576, vocabulary 49,152). For
each file a system prompt of so many tokens gets its state (``prefix.state``). Then, in turn, a fresh process each: the
model is opened, the page cache as it is, and one question is asked after the system prompt. TTFT is all the time to the
first token but the opening: reading and hashing the state, or computing the system prompt, then the question. The 32
greedy tokens of both are compared, and must be the same: the state is what the system prompt computes, to the bit. Some
questions are asked a third way, system prompt and question in one piece; engines round otherwise there, and two words
of a random model are often nearly as likely, so those are counted and need not be the same. Exit status 1 when a median
ratio is above 0.1 or a token of the first two ways differs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # what benchmarks share
from random_models import SIZES, make_checkpoint

from edgestill.figure import Figure

FILES = (("gguf", "q8_0"), ("gguf", "f16"), ("onnx", "int4"), ("onnx", "int8"))
MOST, NEW, ASKED, WHOLE = 0.1, 32, 12, 5


def ask(way: str, model: Path, state: Path, prefix: list[int], question: list[int]) -> dict[str, Any]:
    """Answer in this process; return TTFT in seconds and the tokens."""
    from edgestill.runtime.session import GenerationOptions, Session

    with Session.open(model) as session:
        begun = time.perf_counter()
        if way == "state":
            session.use_prefix(state)
        elif way == "computed":
            session.read(prefix)
        ready = time.perf_counter() - begun
        answer = session.generate([*prefix, *question], GenerationOptions(max_new_tokens=NEW, ignore_eos=True))
    reused = 0 if way == "whole" else len(prefix)
    if answer.statistics.reused_tokens != reused:
        raise SystemExit(f"{model}: {answer.statistics.reused_tokens} tokens reused, {reused} expected")
    return {"ttft": ready + answer.statistics.ttft_seconds, "token_ids": answer.token_ids}


def in_a_process(way: str, model: Path, state: Path, ids: Path, number: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--ask", way, str(model), str(state), str(ids), str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare(model: Path, state: Path, ids: Path, questions: int) -> dict[str, Any]:
    """Ask with and without the state in turn; return the figures."""
    ttft: dict[str, list[float]] = {"state": [], "computed": []}
    same = whole = 0
    for number in range(questions):
        answers = {}
        for way in list(ttft) if number % 2 else list(ttft)[::-1]:
            answers[way] = in_a_process(way, model, state, ids, number)
            ttft[way].append(answers[way]["ttft"])
        same += answers["state"]["token_ids"] == answers["computed"]["token_ids"]
        if number < WHOLE:
            whole += in_a_process("whole", model, state, ids, number)["token_ids"] == answers["state"]["token_ids"]
    ratios = [mine / other for mine, other in zip(ttft["state"], ttft["computed"], strict=True)]
    return {
        "ratio": Figure.median(ratios, "ratio", "TTFT with the state by TTFT without, in turn").model_dump(mode="json"),
        "ttft_with": ttft["state"],
        "ttft_without": ttft["computed"],
        "same_tokens": same,
        "same_as_in_one_piece": whole,
        "questions": questions,
        "state_bytes": state.stat().st_size,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--ask", nargs=5, metavar=("WAY", "MODEL", "STATE", "IDS", "NUMBER"), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.ask is not None:
        way, model, state, ids, number = options.ask
        prompt = json.loads(Path(ids).read_text())
        question = prompt["questions"][int(number)]
        print(json.dumps(ask(way, Path(model), Path(state), prompt["prefix"], question)))
        return 0
    from edgestill.runtime.model_source import locate_model
    from edgestill.runtime.prefix_state import write_prefix_state
    from edgestill.runtime.session import Session

    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = options.checkpoint or Path(scratch) / "checkpoint"
        if options.checkpoint is None:
            make_checkpoint(checkpoint, SIZES["135M"])
        rng = np.random.default_rng(1)
        vocabulary = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
        ids = Path(scratch) / "ids.json"
        prefix = rng.integers(3, vocabulary, options.tokens).tolist()
        questions = rng.integers(3, vocabulary, (options.questions, ASKED)).tolist()
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
            found = results[folder.name] = compare(folder, state, ids, options.questions)
            low, high = found["ratio"]["ci95"] or (float("nan"),) * 2
            with_state, without = (statistics.median(found[f"ttft_{way}"]) * 1e3 for way in ("with", "without"))
            print(f"{folder.name:10s} TTFT {with_state:7.1f} ms with, {without:7.1f} without: ", end="")
            print(
                f"{found['ratio']['value']:.3f} ({low:.3f} to {high:.3f}); state of {found['state_bytes'] / 1e6:.1f} MB"
            )
            print(f"{'':10s} the same {NEW} tokens in {found['same_tokens']} of {found['questions']} ", end="")
            asked = min(WHOLE, found["questions"])
            print(f"(asked in one piece: {found['same_as_in_one_piece']} of {asked})", flush=True)
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
