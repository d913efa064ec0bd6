"""Does ``compare`` call a build different from itself, and does it find a true slowdown, on a machine with other work?

    python benchmarks/bench/differences.py MODEL [--same 200] [--slower 20] [--slowdown 0.10] [--load 1]

``--same`` comparisons of the model with itself, then ``--slower`` of it with itself slowed down (a busy wait after
every run of the engine, see ``slow_worker.py``), each as ``edgestill compare`` does it within ``--max-seconds``.
Meanwhile ``--load`` processes of other work (matrix products in bursts of random length) compete for the cores. Each
comparison is printed as it ends. Exit status 1 when more than 5% of the first kind are called different, or fewer
than 90% of the second kind are called slower.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgestill.bench_results import BenchRecord
from edgestill.figure import Figure
from edgestill.runtime.bench_comparison import CompareOptions, bench_alternately, compare_in_turn, find
from edgestill.runtime.bench_options import BenchOptions

HERE = Path(__file__).resolve().parent
SLOW = "slow#"


def work(seed: int) -> None:
    """Keep a core busy in bursts, for ever."""
    import numpy as np

    draw = random.Random(seed)
    matrix = np.random.default_rng(seed).standard_normal((512, 512), np.float32)
    while True:
        until = time.monotonic() + draw.expovariate(1 / 1.5)
        while time.monotonic() < until:
            matrix @ matrix
        time.sleep(draw.expovariate(1 / 1.5))


def bench_either(models: Sequence[tuple[str, BenchOptions]]) -> list[BenchRecord]:
    """Bench models as ``compare`` does, those marked ``slow#`` by the slow worker."""
    return bench_alternately(
        [
            (model.removeprefix(SLOW), replace(options, worker="slow_worker" if model.startswith(SLOW) else None))
            for model, options in models
        ]
    )


def compared(model: str, second: str, options: CompareOptions, what: str) -> str:
    """Compare, print one line, and return the verdict."""
    begun = time.monotonic()
    document = compare_in_turn(model, second, options, bench=bench_either)
    ratio = find(document.metrics, options.metric).ratio
    low, high = ratio.ci95 or (float("nan"),) * 2
    print(
        f"{what}: {document.verdict:20s} {ratio.value:.3f} ({low:.3f} to {high:.3f}), {document.rounds} rounds, "
        f"{time.monotonic() - begun:.0f} s",
        flush=True,
    )
    return document.verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--same", type=int, default=200)
    parser.add_argument("--slower", type=int, default=20)
    parser.add_argument("--slowdown", type=float, default=0.10)
    parser.add_argument("--load", type=int, default=1)
    parser.add_argument("--max-seconds", type=float, default=120.0)
    parser.add_argument("--same-seconds", type=float, default=30.0, help="for the model with itself")
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        work(options.work)
    os.environ["EDGESTILL_SLOWDOWN"] = str(options.slowdown)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
    bench = BenchOptions(prompt_tokens=options.prompt_tokens, new_tokens=options.new_tokens, threads=options.threads)
    others = [subprocess.Popen([sys.executable, __file__, "--work", str(seed)]) for seed in range(options.load)]
    try:
        within = CompareOptions(bench=bench, max_seconds=options.same_seconds)
        same = [
            compared(options.model, options.model, within, f"same {number}") for number in range(1, options.same + 1)
        ]
        within = CompareOptions(bench=bench, max_seconds=options.max_seconds)
        slower = [
            compared(options.model, SLOW + options.model, within, f"slower by {options.slowdown:.0%} {number}")
            for number in range(1, options.slower + 1)
        ]
    finally:
        for process in others:
            process.kill()
            process.wait()
    called = Figure.proportion(sum(one != "no difference shown" for one in same), len(same), "")
    found = Figure.proportion(sum(one == "slower" for one in slower), len(slower), "")
    for what, figure in (("called different from itself", called), ("slowdown found", found)):
        if figure.value is not None and figure.ci95 is not None:
            print(f"{what}: {figure.value:.1%} of {figure.n} ({figure.ci95[0]:.1%} to {figure.ci95[1]:.1%})")
    return int((called.value or 0) > 0.05 or (found.value is not None and found.value < 0.9))


if __name__ == "__main__":
    sys.exit(main())
