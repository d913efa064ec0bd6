"""Do derived decode rates hold? Each against the measured one on this machine, by the error that it states.

    python benchmarks/devices/derived_rates.py [--models FOLDER] [--sizes 28M 35M] [--threads 1 2] [--cases N]
                                               [--json FILE]

The machine's read bandwidth and float32 rate are measured first, with nothing else of ours running, and again at the
end (a neighbour on a shared machine shows as a difference). Then random Llamas (made in FOLDER, and kept) are benched
as GGUF f16, q8_0 and q4_0 and as ONNX fp32, int8 and int4: with each number of threads, and with the last number under
a CPU quota of half of it, in a control group. The constants in edgestill/devices/derive.py were set by 260K, 3M, 8M,
15M, 60M and 135M, the last of them with an eye on 35M's GGUF on one thread; 28M, the other default, they have not seen.

With --json the finished rates are kept in FILE and a second run goes on from them. Exit status 1 when fewer than 90% of
the measured rates lie in the stated interval.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # what benchmarks share
from kept import Kept
from random_models import ARTIFACTS, make_models

from edgestill.devices.derive import derive_decode, derive_prefill
from edgestill.devices.limits import make_group
from edgestill.devices.model_facts import read_facts
from edgestill.devices.profile import Profile
from edgestill.devices.profile_here import profile_here
from edgestill.runtime.bench import bench_model
from edgestill.runtime.bench_options import BenchOptions
from edgestill.runtime.control_group import control_group
from edgestill.runtime.model_source import locate_model

PROMPT, LEAST, MOST = 128, 48, 1800
SHARE_HELD = 0.9


@dataclass(frozen=True)
class Pair:
    """One rate, derived and measured."""

    model: str
    threads: int
    quota: float | None
    derived: float
    low: float
    high: float
    measured: float
    held: bool
    prefill_derived: float | None
    prefill_measured: float | None
    prefill_held: bool | None


@contextlib.contextmanager
def held_to(quota: float | None) -> Iterator[None]:
    """Hold this process and its children to a CPU quota, in cores, for the block."""
    if quota is None:
        yield
        return
    before = [found.folder for name in ("memory", "cpu") if (found := control_group(name)) is not None]
    group = make_group(None, quota)
    if group is None:
        raise SystemExit("no control group with a CPU quota can be made here; run it as root")
    try:
        for file in group.entering():
            file.write_text(str(os.getpid()))
        yield
    finally:
        for folder in before:
            with contextlib.suppress(OSError):
                (folder / "cgroup.procs").write_text(str(os.getpid()))
        group.remove()


def measure(folder: Path, profile: Profile, threads: int, quota: float | None, repetitions: int) -> Pair:
    """Derive, then measure one artifact's rates."""
    facts = read_facts(locate_model(folder))
    guess = derive_decode(facts, profile, threads=threads, positions=PROMPT, quota=quota).value or 0.0
    # An answer of about a second: a CPU quota is kept over periods of 0.1 seconds, not within one.
    new_tokens = int(min(MOST, max(LEAST, guess)))
    decode = derive_decode(facts, profile, threads=threads, positions=PROMPT + new_tokens / 2, quota=quota)
    prefill = derive_prefill(facts, profile, threads=threads, prompt_tokens=PROMPT, quota=quota)
    options = BenchOptions(prompt_tokens=PROMPT, new_tokens=new_tokens, repetitions=repetitions, threads=threads)
    with held_to(quota):
        record = bench_model(str(folder), options)
    measured, read = record.decode_tokens_per_second.value, record.prefill_tokens_per_second.value
    if decode.value is None or decode.ci95 is None or measured is None:
        raise SystemExit(f"{folder}: no rate ({decode.source or record.failure})")
    low, high = decode.ci95
    prompt_held = None if read is None or prefill.ci95 is None else prefill.ci95[0] <= read <= prefill.ci95[1]
    return Pair(
        name_of(folder), threads, quota, decode.value, low, high, measured, low <= measured <= high,
        prefill.value, read, prompt_held,
    )  # fmt: skip


def name_of(folder: Path) -> str:
    """Return a model's name: its size and artifact."""
    return "/".join(folder.parts[-2:])


def say(pair: Pair) -> None:
    """Print one line."""
    quota = "" if pair.quota is None else f", quota {pair.quota:g}"
    name = pair.model
    print(
        f"{'held' if pair.held else 'MISS'} {name:20s} {pair.threads} threads{quota}: derived {pair.derived:,.1f} "
        f"({pair.low:,.1f} to {pair.high:,.1f}), measured {pair.measured:,.1f} tokens/s, "
        f"{pair.derived / pair.measured:.2f}"
        f"; prefill {pair.prefill_derived or math.nan:,.0f} and {pair.prefill_measured or math.nan:,.0f}"
        f"{'' if pair.prefill_held else ' (MISS)'}",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--sizes", nargs="+", default=["28M", "35M"])
    parser.add_argument("--artifacts", nargs="+", default=list(ARTIFACTS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--no-quota", action="store_true")
    parser.add_argument("--repetitions", type=int, default=6)
    parser.add_argument("--cases", type=int, help="rates to measure at most, spread over all")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    kept = Kept(given.json)
    settings: list[tuple[int, float | None]] = [(threads, None) for threads in given.threads]
    if not given.no_quota:
        settings.append((given.threads[-1], given.threads[-1] / 2))
    with tempfile.TemporaryDirectory() as temporary:
        folders = make_models(given.models or Path(temporary), tuple(given.sizes), tuple(given.artifacts))
        wanted = [(folder, threads, quota) for folder in folders for threads, quota in settings]
        if given.cases is not None:
            wanted = wanted[:: max(1, len(wanted) // given.cases)][: given.cases]
        profile = profile_here()
        say_profile("before", profile)
        for folder, threads, quota in wanted:
            if kept.find(model=name_of(folder), threads=threads, quota=quota) is None:
                pair = measure(folder, profile, threads, quota, given.repetitions)
                say(pair)
                kept.add(asdict(pair))
        say_profile("after", profile_here())
    pairs = [Pair(**row) for row in kept.rows]
    held = sum(pair.held for pair in pairs)
    errors = sorted(abs(math.log(pair.derived / pair.measured)) for pair in pairs)
    middle = math.exp(errors[len(errors) // 2]) - 1
    models = len({pair.model for pair in pairs})
    print(
        f"{held} of {len(pairs)} rates of {models} models held ({held / len(pairs):.1%}; at least {SHARE_HELD:.0%} "
        f"wanted); median off {middle:.0%}"
    )
    return 0 if held / len(pairs) >= SHARE_HELD else 1


def say_profile(when: str, profile: Profile) -> None:
    """Print the machine's rates."""
    rates = {key: one.value / 1e9 for key, one in profile.figures().items() if key.endswith("per_second")}
    print(f"{when}: {', '.join(f'{key} {value:.1f}e9' for key, value in rates.items())}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
