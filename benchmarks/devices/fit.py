"""Is the fit check right? Its verdicts against real control groups: who is killed, who pages, who runs.

    python benchmarks/devices/fit.py [--models FOLDER] [--sizes 3M 60M 135M 500M] [--only TEXT] [--most N] [--json FILE]

Of random Llamas (made in FOLDER, and kept) each artifact is run with contexts of 256 and 1,024 tokens in a control
group that is limited to the sizes of a fixed list which lie around its file's, with the file's pages dropped from the
page cache before. The child fills its context with a prompt and decodes 48 tokens, in which the kernel finds out which
pages are still read (those that were packed anew aren't; it takes some twenty tokens); of the last 12 it counts the
major faults. Killed, or refused memory: it doesn't fit. Two major faults a token or more: it thrashes, which counts as
not fitting. What a group isn't charged for, as other processes have it in memory already (Python, the engine's
libraries), is measured once for each engine without a limit, and given to the check on top of the limit.

Exit status 1 when fewer than 95% of the verdicts are right. Needs a control group that it may make (root, or a
delegated one); swap is not given to the children.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from random_models import ARTIFACTS, make_models

from edgestill.devices.fit import Fit, Setting, fit
from edgestill.devices.limits import Group, make_group
from edgestill.devices.model_facts import read_facts
from edgestill.runtime.isa_features import isa_features
from edgestill.runtime.model_source import ModelSource, locate_model
from edgestill.runtime.page_cache import cached_share, evict

LIMITS = (48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 640, 768, 1024, 1536, 2048, 3072)  # MiB
CONTEXTS = (256, 1024)
WARM_TOKENS, NEW_TOKENS = 48, 12
FAULTS_A_TOKEN = 2.0
SHARE_RIGHT = 0.95
SECONDS = 600.0


@dataclass(frozen=True)
class Case:
    """One combination, what was said of it and what happened."""

    model: str
    context: int
    limit_bytes: int
    said: str
    likely: bool
    needed_bytes: float
    truth: str
    faults_a_token: float | None
    right: bool


def child(model: str, context: int) -> None:
    """Run in the group: fill the context, decode, decode again; print what it cost."""
    from edgestill.runtime.engines import open_engine

    engine = open_engine(locate_model(model), threads=1, context_length=context)
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


def run(source: ModelSource, context: int, limit_bytes: int | None) -> tuple[str, float | None, int | None]:
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
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        uncharged = None if not line else json.loads(line)["file_bytes"] - charged_files(group)
        process.stdin.close()
        process.wait(timeout=SECONDS)
        if not line:
            return "doesn't fit", None, None
        faults = json.loads(line)["faults"] / NEW_TOKENS
        return "thrashes" if faults >= FAULTS_A_TOKEN else "fits", faults, uncharged
    finally:
        group.remove()


def charged_files(group: Group) -> int:
    """Return the bytes of mapped files that a group is charged for."""
    words = dict(line.split() for line in (group.memory / "memory.stat").read_text().splitlines())
    return int(words.get("mapped_file", words.get("file_mapped", 0)))


def judge(source: ModelSource, context: int, free_bytes: float) -> Fit:
    """Return the check's verdict on this machine."""
    features = isa_features(Path("/proc/cpuinfo").read_text()) or ()
    return fit(read_facts(source), Setting(context), free_bytes, platform.machine(), features)


def limits_for(source: ModelSource) -> list[int]:
    """Return the limits around a file: from half of it to three times, and what a program takes anyway."""
    size = source.size_bytes / 2**20
    return [limit << 20 for limit in LIMITS if 0.5 * size + 30 <= limit <= 3 * size + 100]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--sizes", nargs="+", default=["3M", "60M", "135M", "500M"])
    parser.add_argument("--only", default="", help="artifacts with this in their name")
    parser.add_argument("--most", type=int, help="combinations at most")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        wanted = tuple(artifact for artifact in ARTIFACTS if given.only in artifact)
        folders = make_models(given.models or Path(temporary), tuple(given.sizes), wanted)
        sources = [locate_model(folder) for folder in folders]
        combinations = [
            (source, context, limit) for source in sources for context in CONTEXTS for limit in limits_for(source)
        ]
        if given.most is not None:
            step = max(1, len(combinations) // given.most)
            combinations = combinations[::step][: given.most]
        cases: list[Case] = []
        uncharged: dict[str, int] = {}
        for source, context, limit in combinations:
            if source.kind not in uncharged:
                uncharged[source.kind] = max(0, run(source, context, None)[2] or 0)
                print(
                    f"{source.kind}: {uncharged[source.kind] / 1e6:.0f} MB of files that others have in memory",
                    flush=True,
                )
            said = judge(source, context, limit + uncharged[source.kind])
            truth, faults, _ = run(source, context, limit)
            right = (said.verdict == "fits") == (truth == "fits")
            needed = said.need.needed.value or 0.0
            cases.append(Case(source.text, context, limit, said.verdict, said.likely, needed, truth, faults, right))
            print(
                f"{'right' if right else 'WRONG'} {'/'.join(source.folder.parts[-2:]):20s} context {context:5d} in "
                f"{limit >> 20:5d} MiB: said {said.verdict}{'' if said.likely else ' (close)'}, needs "
                f"{needed / 2**20:.0f} MiB; {truth}{'' if faults is None else f', {faults:.1f} major faults a token'}",
                flush=True,
            )
    rate = sum(case.right for case in cases) / max(len(cases), 1)
    print(f"{sum(case.right for case in cases)} of {len(cases)} right ({rate:.1%}); at least {SHARE_RIGHT:.0%} wanted")
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(case) for case in cases], indent=2) + "\n")
    return 0 if rate >= SHARE_RIGHT else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]))
    else:
        sys.exit(main())
