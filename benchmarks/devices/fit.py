"""Is the fit check right? Its verdicts against real control groups: who is killed, who pages, who runs.

    python benchmarks/devices/fit.py [--models FOLDER] [--sizes 260K 15M 135M 500M] [--cases N] [--json FILE]

Of random Llamas (made in FOLDER, and kept) an artifact is run with a context in a control group of limited memory, the
file's pages dropped from the page cache before. The child fills its context with a prompt and decodes some tokens, in
which the kernel finds out which pages are still read (those that were packed anew aren't; it takes some twenty); of the
last ones it counts the major faults. Killed, or refused memory: it doesn't fit. Two major faults a token or more, or
not done in --seconds while it pages: it thrashes, which counts as not fitting. What a group isn't charged for, as other
processes have it in memory already (Python, the engine's libraries), is measured once for each engine without a limit,
and given to the check on top of the limit.

How limits are drawn: around the border that the check itself gives, where it is wrong most easily. Of each combination
of model, artifact and context one limit is drawn below what it says is needed, by 8% to 25%, and one above, by 8% to
30% (uniformly, from a seed that is fixed for each combination); every third combination gets one at 2% to 8% instead,
where the check calls its own verdict close. Those are counted with the others, and once more by themselves.

With --json the finished cases are kept in FILE and a second run goes on from them. Exit status 1 when fewer than 95% of
the verdicts are right. Needs a control group that it may make (root, or a delegated one); swap is not given to the
children.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share
from kept import Kept
from random_models import make_models

from edgestill.devices.fit import Fit, Setting, fit
from edgestill.devices.limits import Cost, Group, make_group
from edgestill.devices.model_facts import read_facts
from edgestill.runtime.isa_features import isa_features
from edgestill.runtime.model_source import ModelSource, locate_model
from edgestill.runtime.page_cache import cached_share, evict

COMBINATIONS = {
    "260K": {"gguf-f16": (256, 2048), "gguf-q8_0": (2048,), "onnx-fp32": (256, 2048)},
    "15M": {"gguf-q4_0": (256, 2048), "gguf-f16": (1024,), "onnx-int8": (1024,), "onnx-int4": (2048,)},
    "135M": {
        "gguf-f16": (256, 1024), "gguf-q8_0": (256, 2048), "gguf-q4_0": (1024,),
        "onnx-fp32": (256,), "onnx-int8": (512,), "onnx-int4": (256, 1024),
    },
    "500M": {
        "gguf-f16": (128,), "gguf-q8_0": (128, 512), "gguf-q4_0": (512,),
        "onnx-int8": (128,), "onnx-int4": (256,),
    },
}  # fmt: skip
WARM_TOKENS, NEW_TOKENS = 40, 10
FAULTS_A_TOKEN = 2.0
READAHEAD_BYTES = 128 << 10
SHARE_RIGHT = 0.95
LEAST_LIMIT = 8 << 20
Outcome = tuple[str, float | None, int | None]


@dataclass(frozen=True)
class Case:
    """One combination, what was said of it and what happened."""

    model: str
    context: int
    number: int
    limit_bytes: int
    factor: float
    said: str
    likely: bool
    needed_bytes: float
    truth: str
    faults_a_token: float | None
    right: bool
    seconds: float


def child(model: str, context: int) -> None:
    """Run in the group: fill the context, decode, decode again; print what it cost."""
    from edgestill.runtime.session import Session

    engine = Session.open(model, threads=2, context_length=context).engine  # with its tokenizer, as an answer has it
    prompt = [5 + number % 200 for number in range(context - WARM_TOKENS - NEW_TOKENS - 1)]
    engine.append(prompt)
    for number in range(WARM_TOKENS):
        engine.append([7 + number])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    for number in range(NEW_TOKENS):
        engine.append([7 + number])
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt - before
    status = Path("/proc/self/status").read_text()
    resident = int(status.partition("RssFile:")[2].split()[0]) * 1024
    print(json.dumps({"faults": faults, "file_bytes": resident}), flush=True)
    sys.stdin.read()  # what the group is charged for is read while it lives


def run(source: ModelSource, context: int, limit_bytes: int | None, seconds: float) -> Outcome:
    """Return what happened, the major faults a token, and the bytes of files that the group has but doesn't pay."""
    evict(source.files())
    if (cached_share(source.files()) or 0.0) > 0.05:
        raise SystemExit(f"{source}: its pages stay in memory: another process has the file mapped; use a copy of it")
    group = make_group(limit_bytes, None)
    if group is None:
        raise SystemExit("no control group can be made here; run it as root")
    try:
        script = 'for file in "$@"; do [ "$file" = -- ] && break; echo 0 > "$file"; shift; done; shift; exec "$@"'
        command = [sys.executable, __file__, "--child", str(source.text), str(context)]
        process = subprocess.Popen(
            ["sh", "-c", script, "sh", *map(str, group.entering()), "--", *command],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()

        done = threading.Event()

        def stop_when_it_pages() -> None:
            # One that only computes is waited for: a busy machine is no reason for a verdict.
            while not done.wait(seconds):
                if read_again(group.cost()) > source.size_bytes:
                    late.set()
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    return

        watch = threading.Thread(target=stop_when_it_pages, daemon=True)
        watch.start()
        line = process.stdout.readline()
        done.set()
        watch.join()
        uncharged = None if not line else json.loads(line)["file_bytes"] - charged_files(group)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(timeout=60)
        if late.is_set() and not line:
            return "thrashes", None, None
        if not line:
            return "doesn't fit", None, None
        faults = json.loads(line)["faults"] / NEW_TOKENS
        return "thrashes" if faults >= FAULTS_A_TOKEN else "fits", faults, uncharged
    finally:
        group.remove()


def read_again(cost: Cost) -> int:
    """Return how many bytes were dropped and read again; where the kernel doesn't count them, from the major faults."""
    return cost.major_faults * READAHEAD_BYTES // 3 if cost.dropped_bytes is None else cost.dropped_bytes


def charged_files(group: Group) -> int:
    """Return the bytes of mapped files that a group is charged for."""
    words = dict(line.split() for line in (group.memory / "memory.stat").read_text().splitlines())
    return int(words.get("mapped_file", words.get("file_mapped", 0)))


def judge(source: ModelSource, context: int, free_bytes: float) -> Fit:
    """Return the check's verdict on this machine."""
    features = isa_features(Path("/proc/cpuinfo").read_text()) or ()
    return fit(read_facts(source), Setting(context), free_bytes, platform.machine(), features)


def factors(model: str, context: int, number: int) -> list[float]:
    """Return the limits of a combination as multiples of what the check says is needed."""
    draw = random.Random(f"{model} {context}")
    below, above = 1 - draw.uniform(0.08, 0.25), 1 + draw.uniform(0.08, 0.30)
    if number % 3 == 2:
        close = draw.uniform(0.02, 0.08)
        return [1 - close, above] if number % 2 else [below, 1 + close]
    return [below, above]


def combinations(sizes: list[str]) -> Iterator[tuple[str, str, int]]:
    """Yield size, artifact and context."""
    for size in sizes:
        for artifact, contexts in COMBINATIONS[size].items():
            for context in contexts:
                yield size, artifact, context


def say(case: Case) -> None:
    """Print one line."""
    faults = "" if case.faults_a_token is None else f", {case.faults_a_token:.1f} major faults a token"
    print(
        f"{'right' if case.right else 'WRONG'} {case.model:16s} context {case.context:5d} in "
        f"{case.limit_bytes / 2**20:6.0f} MiB ({case.factor:.2f} of the border): said {case.said}"
        f"{'' if case.likely else ' (close)'}, needs {case.needed_bytes / 2**20:.0f} MiB; {case.truth}{faults} "
        f"[{case.seconds:.0f} s]",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--sizes", nargs="+", default=list(COMBINATIONS), choices=list(COMBINATIONS))
    parser.add_argument("--cases", type=int, help="limits to try at most, spread over the combinations")
    parser.add_argument("--seconds", type=float, default=90.0, help="time of one run, after which it thrashes")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    kept = Kept(given.json)
    chosen = [(*one, number) for number, one in enumerate(combinations(given.sizes))]
    tries = [(*one, side) for one in chosen for side in (0, 1)]
    if given.cases is not None:
        step = max(1, len(tries) // given.cases)
        tries = tries[::step][: given.cases]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.models or Path(temporary)
        for size in dict.fromkeys(one[0] for one in tries):
            make_models(folder, (size,), tuple(dict.fromkeys(one[1] for one in tries if one[0] == size)))
        uncharged: dict[str, int] = {}
        for size, artifact, context, number, side in tries:
            model = f"{size}/{artifact}"
            if kept.find(model=model, context=context, number=side) is not None:
                continue
            source = locate_model(folder / size / artifact)
            begun = time.monotonic()
            if source.kind not in uncharged:
                uncharged[source.kind] = max(0, run(source, context, None, given.seconds)[2] or 0)
                print(f"{source.kind}: {uncharged[source.kind] / 1e6:.0f} MB of files that others have in memory")
            free = uncharged[source.kind]
            border = judge(source, context, 1e12).need.needed.value or 0.0
            factor = factors(model, context, number)[side]
            limit = max(LEAST_LIMIT, int(border * factor - free)) >> 12 << 12
            said = judge(source, context, limit + free)
            truth, faults, _ = run(source, context, limit, given.seconds)
            right = (said.verdict == "fits") == (truth == "fits")
            case = Case(
                model, context, side, limit, factor, said.verdict, said.likely, border, truth, faults, right,
                time.monotonic() - begun,
            )  # fmt: skip
            say(case)
            kept.add(asdict(case))
    rows = kept.rows
    rate = sum(row["right"] for row in rows) / max(len(rows), 1)
    close = [row for row in rows if not row["likely"]]
    print(
        f"{sum(row['right'] for row in rows)} of {len(rows)} right ({rate:.1%}); at least {SHARE_RIGHT:.0%} wanted; of "
        f"{len(close)} that the check called close {sum(row['right'] for row in close)}; "
        f"{sum(row['truth'] != 'fits' for row in rows)} didn't fit or thrashed"
    )
    return 0 if rate >= SHARE_RIGHT else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(main())
