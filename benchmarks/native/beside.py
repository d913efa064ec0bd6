"""Two programs on the same cores: what both compute at once, by what one computes alone.

    python benchmarks/native/beside.py MODEL.gguf --runner PATH [--runner PATH] [--threads 2] [--rounds 6]

Each runner is an ``edgestill-run``; two copies of it decode on as many threads as there are cores, started together.
Threads of one graph wait for each other hundreds of times a token, and where the thread that is waited for has no core,
a waiting one that doesn't give up its own keeps it from running. Printed is, for each runner, the sum of both rates by
the rate of one alone before it, of which 1 is all that there is to have; runners take turns. A pair that takes longer
than ``--limit`` seconds is ended and counts as nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from edgestill.bench_results import BenchDocument
from edgestill.figure import Figure


def rates(command: list[str], copies: int, limit: float) -> list[float]:
    """Run copies at once and return their decode rates; 0 for each that isn't done after ``limit`` seconds."""
    until = time.monotonic() + limit
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(copies)]
    found = []
    for process in processes:
        try:
            said, _ = process.communicate(timeout=max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            found.append(0.0)
            continue
        if process.returncode:
            raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
        (record,) = BenchDocument.model_validate_json(said).results
        found.append(record.decode_tokens_per_second.value or 0.0)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--runner", type=Path, action="append", required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--limit", type=float, default=60, help="seconds for a pair")
    options = parser.parse_args()
    shares: dict[Path, list[float]] = {runner: [] for runner in options.runner}
    for _ in range(options.rounds):
        for runner, each in shares.items():
            words = ["bench", options.model, "--context", 256, "--repetitions", 3, "--threads", options.threads]
            command = [str(runner.resolve()), *map(str, words)]
            (alone,) = rates(command, 1, options.limit)
            each.append(sum(rates(command, 2, options.limit)) / alone if alone else 0.0)
    for runner, each in shares.items():
        figure = Figure.median(each, "ratio", "both rates by one alone")
        low, high = figure.ci95 or (min(each), max(each))
        print(f"{runner}: both at once {figure.value:.3f} ({low:.3f} to {high:.3f}) of one alone")
    return 0


if __name__ == "__main__":
    sys.exit(main())
