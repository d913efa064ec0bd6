"""Reading, curating and splitting many rows: peak memory and rows a second, at two sizes.

    python benchmarks/curate.py --rows 100000 1000000

Each size runs in a process of its own, over the same synthetic support questions (a twentieth are exact
repetitions, a twentieth near ones). With --peer, datasketch's MinHashLSH looks for near duplicates in the
rows of the first size beside us.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOPICS = ("card", "transfer", "refund", "invoice", "parcel", "password", "address", "order", "account", "payment")
WORDS = [f"{topic}{part}" for topic in TOPICS for part in ("", "s", " number", " again", " today", " please", " twice")]


def write_rows(path: Path, count: int) -> None:
    """Write synthetic rows: prompt and completion."""
    rng = random.Random(0)
    earlier: list[str] = []
    with path.open("w") as file:
        for number in range(count):
            chance = rng.random()
            if earlier and chance < 0.05:
                line = rng.choice(earlier)
            else:
                asked = " ".join(rng.choice(WORDS) for _ in range(14)) + f" ref {rng.randrange(10**9)}"
                answer = " ".join(rng.choice(WORDS) for _ in range(12)) + "."
                if earlier and chance < 0.10:
                    row = json.loads(rng.choice(earlier))
                    asked, answer = row["prompt"] + " thanks", row["completion"]
                line = json.dumps({"prompt": asked, "completion": answer})
            file.write(line + "\n")
            if number < 5000:
                earlier.append(line)


def child(source: Path, out: Path) -> None:
    """Read, curate and split; print what it took."""
    from edgestill.dataset import read_examples, share_of
    from edgestill.distill.curate import Context, curate
    from edgestill.filters import (
        ContaminationFilter,
        ExactFilter,
        LengthFilter,
        NearFilter,
        RefusalFilter,
        SchemaFilter,
    )

    started = time.perf_counter()
    filters = [
        *(SchemaFilter(), LengthFilter(kind="length", max_words=300), RefusalFilter(kind="refusal")),
        *(ExactFilter(), NearFilter(kind="near"), ContaminationFilter()),
    ]
    result = curate(read_examples(source), out / "curated.jsonl", filters, Context())
    splits = {"train": 0, "validation": 0, "test": 0}
    for row in read_examples(result.path):
        share = share_of(row)
        splits["validation" if share < 0.05 else "test" if share < 0.1 else "train"] += 1
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    dropped = {f"{drop.filter}": drop.count for drop in result.dropped}
    print(json.dumps({"rows": result.read, "kept": result.kept, "dropped": dropped, "splits": splits}))
    print(f"{result.read:>9,} rows: peak memory {peak:,.0f} MiB, {result.read / seconds:,.0f} rows/s, {seconds:,.1f} s")


def peer(source: Path) -> None:
    """Let datasketch find the near duplicates of the same rows."""
    from datasketch import MinHash, MinHashLSH

    started = time.perf_counter()
    index = MinHashLSH(threshold=0.8, num_perm=128)
    kept: dict[str, MinHash] = {}
    found = rows = 0
    with source.open() as file:
        for rows, line in enumerate(file, 1):
            row = json.loads(line)
            text = f"user: {row['prompt']}\nassistant: {row['completion']}".encode()
            signature = MinHash(num_perm=128)
            signature.update_batch([text[at : at + 5] for at in range(len(text) - 4)])
            # The index names candidates; their estimated similarity decides, as with us.
            if any(kept[name].jaccard(signature) >= 0.8 for name in index.query(signature)):
                found += 1
            else:
                index.insert(str(rows), signature)
                kept[str(rows)] = signature
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"datasketch: {rows:>9,} rows, {found:,} repetitions: peak {peak:,.0f} MiB, {rows / seconds:,.0f} rows/s")


def main() -> None:
    """Run each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--peer", action="store_true", help="also run datasketch on the first size")
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peer-child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    if options.peer_child:
        peer(options.peer_child)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.jsonl"
        for number, count in enumerate(options.rows):
            write_rows(source, count)
            subprocess.run([sys.executable, __file__, "--child", str(source), folder], check=True)
            if options.peer and number == 0:
                subprocess.run([sys.executable, __file__, "--peer-child", str(source)], check=True)


if __name__ == "__main__":
    main()
