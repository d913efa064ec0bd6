"""Greedy answers beside a thread that computes in Python: the compiled token loop, and the one in Python.

    python benchmarks/bench/busy_thread.py MODEL [--new-tokens 64] [--rounds 9] [--threads 1]

``MODEL`` is a GGUF file. Two sessions of one process answer in turn, one with runtime/token_loop.c and one without;
first alone, then while another thread computes in Python without end, as a server's or an app's own code may. Printed
is the time of an answer through Python's loop by that through the compiled one, the median of the rounds with its 95%
interval. Exit status 1 when the answers differ, or Python's is the quicker one beside the thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import unittest.mock
from pathlib import Path

import edgestill.runtime.engines.llama_cpp as llama_cpp_engine
from edgestill.figure import Figure
from edgestill.runtime import Generation, GenerationOptions, Session

PROMPT = [5]


def open_both(model: Path, threads: int) -> tuple[Session, Session]:
    """Open the model with the compiled loop and without."""
    compiled = Session.open(model, threads=threads, context_length=256)
    with unittest.mock.patch.object(llama_cpp_engine, "token_loop_library", return_value=None):
        return compiled, Session.open(model, threads=threads, context_length=256)


def compute(ended: threading.Event) -> None:
    """Keep the interpreter's lock as much as Python lets a thread."""
    number = 0
    while not ended.is_set():
        for _ in range(100_000):
            number = (number * 7 + 1) % 1_000_003


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    generation = GenerationOptions(max_new_tokens=options.new_tokens, ignore_eos=True)
    compiled, python = open_both(options.model, options.threads)

    def answer(session: Session) -> Generation:
        session.reset()
        return session.generate(PROMPT, generation)

    if answer(compiled).token_ids != answer(python).token_ids:
        parser.exit(1, "the answers differ\n")
    if not getattr(compiled.engine, "decodes_greedily", False):
        parser.exit(1, "the token loop isn't compiled: install a C compiler, then edgestill once more\n")
    ended, missed = threading.Event(), False
    for name in ("alone", "beside a thread"):
        if name != "alone":
            threading.Thread(target=compute, args=(ended,), daemon=True).start()
        ratios, seconds = [], []
        for _ in range(options.rounds):
            one, other = (answer(session).statistics.total_seconds for session in (compiled, python))
            ratios.append(other / one)
            seconds.append(one)
        figure = Figure.median(ratios, "ratio", f"{name}: an answer through Python's loop by the compiled one")
        low, high = figure.ci95 or (float("nan"),) * 2
        print(
            f"{name:16s} {figure.value:.3f} ({low:.3f} to {high:.3f}) times as long through Python's loop; "
            f"{statistics.median(seconds):.3f} s compiled"
        )
        missed = name != "alone" and (figure.value or 0) < 1
    ended.set()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
