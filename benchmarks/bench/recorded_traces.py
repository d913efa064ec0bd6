"""Runs of a real decoder whose speed is really cut from outside, recorded and read back.

A child process decodes with one thread on one core, answer after answer, and says when each piece of an answer was
done. Meanwhile its control group's CPU quota is lowered (cgroup v1, `cpu.cfs_quota_us` of 10 ms periods), at once, in
steps, or to and fro; or other work competes for the same core. Nothing of this is heat: what is recorded is how a real
run looks when it is slowed, with the noise of a real machine. The label is what was done, not what can be seen.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thermal_model import Labelled

from edgestill.runtime.throttling import Trace

FILE = Path(__file__).with_name("recorded_traces.json")
SCHEMA = "edgestill.recorded-traces/1"
GROUPS = Path("/sys/fs/cgroup/cpu")
PERIOD = 10_000  # microseconds
SECONDS = 10.0
MOST_SHARES, HOLDING_SHARES = 262_144, 2_048
ANSWER, LONG_ANSWER = 192, 440  # tokens; a sample is an answer, or a quarter of a long one
POSITIVE = ("cut at once", "cut in steps", "cut to and fro", "cut at once, growing cache", "cut, with a neighbour")
NEGATIVE = ("steady", "neighbour in bursts", "neighbour to the end", "cut from the start", "growing cache")
HOW = (
    "decodes of stories260K (ONNX int8, onnxruntime, one thread) on one core of a virtual machine of two, the other "
    "core of which was busy with other work; each sample an answer of 192 tokens or a quarter of one of 440; slowed by "
    "the CPU quota of a control group (periods of 10 ms), or by a busy process on the same core; the core is kept from "
    "other work by the group's share, and what the quota frees is taken by a process that counts as ours (heat frees "
    "nothing); other_cores from /proc/stat twice a second; no clock, no temperature, no counter there"
)
Rows = list[list[float]]


def read() -> list[Labelled]:
    """Return the recorded runs."""
    document = json.loads(FILE.read_text(encoding="utf-8"))
    if document["schema"] != SCHEMA:
        raise SystemExit(f"{FILE.name}: schema {document['schema']} isn't {SCHEMA}; record anew")
    return [_labelled(entry) for entry in document["traces"]]


def _labelled(entry: Mapping[str, Any]) -> Labelled:
    trace = Trace(
        seconds=entry["seconds"],
        token_seconds=[value / 1e6 for value in entry["token_microseconds"]],
        positions=entry["positions"],
        other_cores=entry["other_cores"],
    )
    return Labelled(trace, entry["throttled"], entry["kind"], "recorded", entry["onset"])


def record(model: str, count: int, seed: int) -> None:
    """Record ``count`` runs, half of them slowed, and write them to the file beside this one."""
    draw = random.Random(seed)
    kinds = [(POSITIVE, NEGATIVE)[at % 2][at // 2 % 5] for at in range(count)]
    traces: list[dict[str, object]] = []
    for number, kind in enumerate(kinds, 1):
        traces.append(_recorded(model, kind, draw))
        document = {"schema": SCHEMA, "how": HOW, "traces": traces}
        FILE.write_text(json.dumps(document).replace('{"kind"', '\n{"kind"') + "\n", encoding="utf-8")
        print(f"{number} of {count}: {kind} recorded", file=sys.stderr, flush=True)


def _recorded(model: str, kind: str, draw: random.Random) -> dict[str, object]:
    core = max(os.sched_getaffinity(0))
    onset = draw.uniform(0.25, 0.6) * SECONDS
    share = draw.uniform(0.5, 0.85)
    events: list[tuple[float, Callable[[], object]]] = []
    working: list[subprocess.Popen[bytes]] = []

    with _group("decode", MOST_SHARES) as group, _group("work", draw.randint(MOST_SHARES // 4, MOST_SHARES)) as others:

        def work(seconds: float) -> None:
            working.append(_spin(core, seconds, others))

        def cut(to: float) -> None:
            (group / "cpu.cfs_quota_us").write_text(str(int(to * PERIOD)))

        if kind in ("cut at once", "cut at once, growing cache", "cut, with a neighbour"):
            events.append((onset, lambda: cut(share)))
        elif kind == "cut in steps":
            steps = draw.randint(2, 4)
            events += [
                (onset + step * draw.uniform(0.3, 0.8), lambda to=1 - (1 - share) * (step + 1) / steps: cut(to))
                for step in range(steps)
            ]
        elif kind == "cut to and fro":
            at, low = onset, draw.uniform(0.4, 0.7)
            while at < SECONDS:
                events.append((at, lambda: cut(low)))
                at += draw.uniform(0.5, 1.0)
                events.append((at, lambda: cut(1.2)))
                at += draw.uniform(0.3, 0.7)
        elif kind == "cut from the start":
            cut(share)
        elif kind == "neighbour to the end":
            events.append((onset, lambda: work(SECONDS - onset + 1)))
        if kind in ("neighbour in bursts", "cut, with a neighbour"):
            events += [
                (draw.uniform(0.05, 0.8) * SECONDS, lambda: work(draw.uniform(0.03, 0.07) * SECONDS))
                for _ in range(draw.randint(1, 3))
            ]
        answer = LONG_ANSWER if "growing" in kind else ANSWER
        rows, busy = _decode(model, answer, core, group, sorted(events, key=_when))
        for process in working:
            process.wait()
    whole = "growing" in kind
    throttled = kind in POSITIVE
    return {
        "kind": kind,
        "throttled": throttled,
        "onset": round(onset, 2) if throttled else None,
        "seconds": [round(row[0], 3) for row in rows],
        "token_microseconds": [round(row[1] * 1e6) for row in rows],
        "positions": [int(row[2]) for row in rows] if whole else None,
        "other_cores": [round(_at(busy, row[0]), 2) for row in rows],
    }


def _when(event: tuple[float, Callable[[], object]]) -> float:
    return event[0]


def _at(busy: Rows, second: float) -> float:
    return next((value for until, value in busy if second <= until), busy[-1][1])


def _spin(core: int, seconds: float, group: Path) -> subprocess.Popen[bytes]:
    """Keep a core busy for some seconds, in a control group."""
    code = f"import os, time\nos.sched_setaffinity(0, [{core}])\nend = time.time() + {seconds}\n"
    process = subprocess.Popen([sys.executable, "-c", f"{code}while time.time() < end: pass"])
    (group / "cgroup.procs").write_text(str(process.pid))
    return process


@contextmanager
def _group(name: str, shares: int) -> Iterator[Path]:
    group = GROUPS / f"edgestill-{os.getpid()}-{name}"
    group.mkdir()
    try:
        (group / "cpu.shares").write_text(str(shares))
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        yield group
    finally:
        time.sleep(0.2)
        group.rmdir()


def _decode(
    model: str, answer: int, core: int, group: Path, events: list[tuple[float, Callable[[], object]]]
) -> tuple[Rows, Rows]:
    """Run the child in the control group, do what is due meanwhile; return its rows, and others' cores by second."""
    command = [sys.executable, __file__, model, str(answer), str(core)]
    with (
        _group("hold", HOLDING_SHARES) as hold,
        _spin(core, SECONDS + 4, hold) as holder,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child,
    ):
        (group / "cgroup.procs").write_text(str(child.pid))
        if child.stdout is None or child.stdout.readline() != "ready\n":
            raise SystemExit("the decoder didn't start")
        begun = time.monotonic()
        rows: Rows = []

        def collect(lines: Iterator[str]) -> None:
            rows.extend([float(word) for word in line.split()] for line in lines)

        reader = threading.Thread(target=collect, args=(child.stdout,))
        reader.start()
        busy: Rows = []
        before, own, sampled = _busy(), _own(child.pid) + _own(holder.pid), 0.0
        while (now := time.monotonic() - begun) < SECONDS:
            while events and events[0][0] <= now:
                events.pop(0)[1]()
            if now - sampled >= 0.5:
                after, mine = _busy(), _own(child.pid) + _own(holder.pid)
                busy.append([now, max(0.0, (after - before) - (mine - own)) / (now - sampled)])
                before, own, sampled = after, mine, now
            time.sleep(0.02)
        (group / "cpu.cfs_quota_us").write_text("-1")
        child.terminate()
        holder.kill()
        reader.join()
    return rows[:-1], busy


def _busy() -> float:
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    return sum(int(word) for place, word in enumerate(words) if place not in (3, 4)) / os.sysconf("SC_CLK_TCK")


def _own(process: int) -> float:
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def decode(model: str, answer: int, core: int) -> None:
    """In the child: decode for ever; a line for every piece: seconds since the first, seconds a token, position."""
    from edgestill.runtime.session import GenerationOptions, Session

    os.sched_setaffinity(0, [core])
    session = Session.open(model, threads=1)
    prompt, options = [1, 403, 407], GenerationOptions(max_new_tokens=answer, ignore_eos=True)
    session.generate(prompt, options)
    print("ready", flush=True)
    begun = time.perf_counter()
    while True:
        session.reset()
        started = time.perf_counter() - begun
        gaps = session.generate(prompt, options).statistics.token_seconds
        done = started + (time.perf_counter() - begun - started - sum(gaps))
        size = len(gaps) // (4 if answer == LONG_ANSWER else 1)
        for place in range(0, len(gaps) - size + 1, size):
            piece = gaps[place : place + size]
            done += sum(piece)
            print(done, sum(piece) / size, place + size, flush=True)


if __name__ == "__main__":
    decode(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
