"""Does ``bench`` know a run that was slowed for heat from one that wasn't, on labelled traces?

    python benchmarks/bench/throttling.py [--seed 2000] [--synthetic 70] [--json]
    python benchmarks/bench/throttling.py --record 30 --model ONNX_FOLDER

Synthetic traces come from a thermal model with a governor (see ``thermal_model.py``), half of them throttled; recorded
ones are real decodes whose speed was really cut from outside, and such as weren't (see ``recorded_traces.py``), kept in
``recorded_traces.json``. The detector was tuned on synthetic seeds 0 to 19. The first look at others, seed 1000 and the
recorded ones, gave F1 0.949 and led to two sizes of blocks instead of four (with which that seed still gives 0.949);
seeds from 2000 on were looked at after that. A draw of 70 is a small one: ``--synthetic 700 --seed 3000`` says more.
``--record`` makes the recorded traces anew. Exit status 1 when F1 over all is below 0.95.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import recorded_traces
from thermal_model import NEGATIVE, POSITIVE, Labelled, draw

from edgestill.bench_results import Throttling
from edgestill.runtime.throttling import find_throttling

WANTED = 0.95


@dataclass
class Confusion:
    """Counts of labels against findings; a trace that can't be told counts as not throttled."""

    hits: int = 0
    misses: int = 0
    alarms: int = 0
    quiet: int = 0

    def add(self, throttled: bool, found: bool) -> None:
        if throttled:
            self.hits, self.misses = self.hits + found, self.misses + (not found)
        else:
            self.alarms, self.quiet = self.alarms + found, self.quiet + (not found)

    def summary(self) -> dict[str, float | int | None]:
        share = lambda part, whole: part / whole if whole else None  # noqa: E731
        return {
            "traces": self.hits + self.misses + self.alarms + self.quiet,
            "true_positives": self.hits,
            "false_negatives": self.misses,
            "false_positives": self.alarms,
            "true_negatives": self.quiet,
            "precision": share(self.hits, self.hits + self.alarms),
            "recall": share(self.hits, self.hits + self.misses),
            "f1": share(2 * self.hits, 2 * self.hits + self.alarms + self.misses),
        }


def synthetic(count: int, seed: int) -> list[Labelled]:
    """Return ``count`` traces of the thermal model, half of them throttled."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(count):
        kinds = (POSITIVE, NEGATIVE)[number % 2]
        place = number // 2
        kind = kinds[place % len(kinds)]
        found.append(draw(kind, generator, place // len(kinds) + seed + kinds.index(kind)))
    return found


def sensors(traces: Iterable[Labelled]) -> dict[str, int]:
    """Count the traces by what was read beside their rates."""
    counts: dict[str, int] = defaultdict(int)
    for labelled in traces:
        trace = labelled.trace
        names = [
            name
            for name, column in (
                ("clock", trace.clock_mhz),
                ("temperature", trace.temperatures),
                ("counter", trace.throttle_counts),
            )
            if column is not None
        ]
        counts[" + ".join(names) or "none"] += 1
    return dict(counts)


def dated(pairs: Iterable[tuple[Labelled, Throttling]]) -> float | None:
    """Return the median distance of the onset from the true one, as a share of the run."""
    distances = [
        abs(found.onset_seconds - labelled.onset) / (labelled.trace.seconds[-1] - labelled.trace.seconds[0])
        for labelled, found in pairs
        if labelled.onset is not None and found.onset_seconds is not None
    ]
    return statistics.median(distances) if distances else None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=2000)
    parser.add_argument("--synthetic", type=int, default=70)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="print every trace that was taken for the other kind")
    parser.add_argument("--record", type=int, metavar="N", help="record N runs anew (Linux, cgroup v1, root)")
    parser.add_argument("--model", help="what --record decodes with: stories260K as ONNX int8")
    options = parser.parse_args()
    if options.record:
        if options.model is None:
            parser.error("--record needs --model")
        recorded_traces.record(options.model, options.record, options.seed)
    drawn, recorded = synthetic(options.synthetic, options.seed), recorded_traces.read()
    results: dict[str, dict[str, float | int | None]] = {}
    overall, by_kind = Confusion(), defaultdict(Confusion)
    pairs = []
    for origin, traces in (("synthetic", drawn), ("recorded", recorded)):
        for labelled in traces:
            found = find_throttling(labelled.trace)
            pairs.append((labelled, found))
            for confusion in (overall, by_kind[origin], by_kind[f"{origin}: {labelled.kind}"]):
                confusion.add(labelled.throttled, bool(found.throttled))
            if options.verbose and bool(found.throttled) != labelled.throttled:
                print(
                    f"{origin}, {labelled.device}, {labelled.kind}: p {found.p_value}, {found.source}", file=sys.stderr
                )
    results = {kind: by_kind[kind].summary() for kind in sorted(by_kind)} | {"all": overall.summary()}
    document = {
        "seed": options.seed,
        "results": results,
        "sensors": {"synthetic": sensors(drawn), "recorded": sensors(recorded)},
        "onset_off_by_median_share_of_run": dated(pairs),
    }
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        show(document, results)
    f1 = results["all"]["f1"]
    return int(f1 is None or f1 < WANTED)


def show(document: dict[str, object], results: dict[str, dict[str, float | int | None]]) -> None:
    """Print the table."""
    print(f"{'kind':45s} traces  TP  FN  FP  TN  precision  recall     F1")
    for kind, row in results.items():
        counts = "".join(
            f"{row[name]:4d}" for name in ("true_positives", "false_negatives", "false_positives", "true_negatives")
        )
        shares = "  ".join(
            f"{'-':>7s}" if row[name] is None else f"{row[name]:7.3f}" for name in ("precision", "recall", "f1")
        )
        print(f"{kind:45s} {row['traces']:6d}{counts}  {shares}")
    print(f"read beside the rates: {document['sensors']}")
    print(f"onset off by {document['onset_off_by_median_share_of_run']:.1%} of the run in the median")


if __name__ == "__main__":
    sys.exit(main())
