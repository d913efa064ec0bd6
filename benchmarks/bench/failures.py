"""Does ``bench`` lose what it has measured? Its process is killed, the disk is full, the memory ends, Ctrl-C comes.

    python benchmarks/bench/failures.py CHECKPOINT [--only killed disk memory neighbour interrupted]

CHECKPOINT is a small Llama in a Hugging Face folder. Each case runs ``edgestill bench`` as a command, does the harm
from outside, prints the command, its exit status and what its result says, and checks the claims made of it:

- ``killed``: SIGKILL to the measured process. The finished repetitions stay, the row names the signal.
- ``disk``: ``--out`` on a full disk (a small tmpfs where mounting is allowed, else a limit on file sizes). The error
  names the file, the result is printed, the earlier file is still there whole.
- ``memory``: a model whose context doesn't fit the memory limit (a control group, else a limit of the address space).
  The other model's figures stay; the row says out of memory where the kernel's counter does.
- ``neighbour``: another process of the same control group takes the memory in the middle of the repetitions.
- ``interrupted``: Ctrl-C after the first of two models. What had finished is printed and written, exit status 130.

Exit status 1 when a claim doesn't hold, 0 when all do; a case that can't be made on this machine is said to be left
out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgestill.bench_results import BenchDocument
from edgestill.runtime.control_group import ControlGroup, control_group, memory_kills

LIMIT = 256 << 20
SPACE = 700 << 20
DISK = 48 << 10
SECONDS = 120.0
MANY = 20_000
BENCH = (sys.executable, "-m", "edgestill.cli", "bench")
SHORT = ("--prompt-tokens", "16", "--new-tokens", "16", "--threads", "1")
EATER = "import time\nheld = []\nwhile True:\n    held.append(bytearray(b'x') * (4 << 20))\n    time.sleep(0.02)\n"


@dataclass
class Case:
    """One case: what was claimed of it and whether it held."""

    name: str
    claims: list[tuple[str, bool]] = field(default_factory=list)

    def claim(self, what: str, holds: bool) -> None:
        """Print and keep one claim."""
        self.claims.append((what, holds))
        print(f"  {'holds' if holds else 'FAILS'}: {what}", flush=True)

    @property
    def holds(self) -> bool:
        return all(holds for _, holds in self.claims)


def started(command: list[str], setup: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """Start ``edgestill bench`` in a process group of its own, as a terminal does."""
    print("  $ edgestill bench", shlex.join(command), flush=True)
    return subprocess.Popen(
        [*BENCH, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=setup,
        start_new_session=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, BenchDocument | None, str]:
    """Return exit status, the document on stdout (None: there is none) and the last line of stderr."""
    out, err = process.communicate(timeout=SECONDS)
    last = (err.rstrip().splitlines() or [""])[-1]
    print(f"  exit status {process.returncode}; stderr ends: {last}", flush=True)
    document = BenchDocument.model_validate_json(out) if out.startswith("{") else None
    for record in document.results if document is not None else ():
        print(f"  row: {record.model}: {record.repetitions} repetitions; {record.failure or 'no failure'}", flush=True)
    for failure in document.failures if document is not None else ():
        print(f"  row: {failure.model}: {failure.error}", flush=True)
    return process.returncode, document, last


def worker_of(process: subprocess.Popen[str]) -> int:
    """Wait for the measured process below a bench and return its id."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and process.poll() is None:
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if b"bench_worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
        time.sleep(0.02)
    raise SystemExit("the measured process didn't begin")


def killed(case: Case, model: Path, _deep: Path, folder: Path) -> None:
    """SIGKILL in the middle; the wait is doubled until a repetition had finished by then."""
    for wait in (2.0, 4.0, 8.0, 16.0):
        out = folder / "killed.json"
        process = started([str(model), *SHORT, "--repetitions", str(MANY), "--json", "--out", str(out)])
        worker = worker_of(process)
        time.sleep(wait)
        os.kill(worker, signal.SIGKILL)
        status, document, last = ended(process)
        if document is not None and document.results:
            break
    assert document is not None
    record = document.results[0]
    case.claim("exit status 1", status == 1)
    finished = 0 < record.repetitions < MANY and len(record.raw["answer_seconds"]) == record.repetitions
    case.claim(f"the {record.repetitions} finished repetitions stay, with their samples", finished)
    case.claim("the row and the error name the signal", "SIGKILL" in (record.failure or "") and "SIGKILL" in last)
    case.claim("the row doesn't guess at memory", "not for want of memory" in (record.failure or ""))
    case.claim("the file says the same", BenchDocument.model_validate_json(out.read_bytes()).results == (record,))


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None] | None]:
    """Mount a small tmpfs on a folder; where that isn't allowed, yield what limits a process's files."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        print("  no right to mount: a limit on the size of files instead")
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (DISK, DISK))
        return
    try:
        yield None
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def disk(case: Case, model: Path, _deep: Path, folder: Path) -> None:
    """A result that fits the disk, then one that doesn't."""
    with small_disk(folder / "disk") as setup:
        out = folder / "disk" / "result.json"
        # As many repetitions as asked for: a busy machine would have more, which the small result's disk may not hold.
        given = [str(model), *SHORT, "--width", "0", "--json", "--out", str(out)]
        status, _, _ = ended(started([*given, "--repetitions", "3"], setup))
        case.claim("a small result is written", status == 0 and out.is_file())
        before = out.read_bytes()
        status, document, last = ended(started([*given, "--repetitions", "400"], setup))
        case.claim("exit status 1", status == 1)
        case.claim("the error names the file", str(out) in last and ("disk full" in last or "too large" in last))
        case.claim("all 400 repetitions are printed", document is not None and document.results[0].repetitions == 400)
        case.claim("the earlier file is there, whole and alone",
                   out.read_bytes() == before and [out] == list(out.parent.iterdir()))  # fmt: skip


@contextlib.contextmanager
def memory_box() -> Iterator[ControlGroup | None]:
    """Make a control group with a memory limit; None where that isn't allowed."""
    own = control_group("memory")
    group = None
    if own is not None:
        parent = own.folder if own.version == "v1" else own.mount  # a v2 group with processes has no children
        group = ControlGroup(own.version, parent / f"edgestill-failures-{os.getpid()}", own.mount)
    try:
        if group is not None:
            group.folder.mkdir()
            limit = "memory.limit_in_bytes" if group.version == "v1" else "memory.max"
            (group.folder / limit).write_text(str(LIMIT))
    except OSError as error:
        print(f"  no control group with a limit can be made here ({error})")
        group = None
    try:
        yield group
    finally:
        if group is not None:
            for _ in range(50):
                with contextlib.suppress(OSError):
                    group.folder.rmdir()
                    break
                time.sleep(0.1)


def inside(group: ControlGroup) -> Callable[[], None]:
    """Return what moves the process that calls it into a control group."""

    def move() -> None:
        (group.folder / "cgroup.procs").write_text("0")

    return move


def limited_space() -> None:
    """Limit the address space of the process that calls it."""
    resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))


def memory(case: Case, model: Path, deep: Path, _folder: Path) -> None:
    """A model that fits the limit, then one whose context doesn't."""
    with memory_box() as group:
        if group is None:
            print("  a limit of the address space instead")
        setup = limited_space if group is None else inside(group)
        status, document, last = ended(started([str(model), str(deep), *SHORT, "--json"], setup))
        assert document is not None
        case.claim("exit status 1", status == 1)
        good = [record.model for record in document.results if record.failure is None]
        case.claim("the model that fits is measured", good == [str(model)])
        rows = [failure for failure in document.failures if failure.model == str(deep)]
        case.claim("the one that doesn't is a row", len(rows) == 1)
        said = "memory"  # who can't have it says so
        if group is not None:
            case.claim("the kernel's counter of the group rose", (memory_kills(group) or 0) > 0)
            said = f"out of memory: the kernel killed it, the limit of its control group is {LIMIT / 1e6:,.0f} MB"
        case.claim(f"the row says {said}", said in rows[0].error and said in last)


def neighbour(case: Case, model: Path, _deep: Path, _folder: Path) -> None:
    """Another process takes the memory; the kernel's choice falls on the measured one, as it's told to."""
    with memory_box() as group:
        if group is None:
            print("  left out: this case needs a control group")
            return
        process = started([str(model), *SHORT, "--repetitions", str(MANY), "--json"], inside(group))
        worker = worker_of(process)
        time.sleep(4.0)
        Path(f"/proc/{worker}/oom_score_adj").write_text("1000")
        eater = subprocess.Popen([sys.executable, "-c", EATER], preexec_fn=inside(group))
        until = time.monotonic() + SECONDS
        while not memory_kills(group) and time.monotonic() < until:
            time.sleep(0.01)
        eater.kill()
        eater.wait()
        status, document, _ = ended(process)
        assert document is not None
        case.claim("exit status 1", status == 1)
        rows = [record for record in document.results if 0 < record.repetitions < MANY]
        case.claim("the finished repetitions stay", len(rows) == 1)
        case.claim(
            "the row says out of memory", "out of memory: the kernel" in (rows[0].failure or "") if rows else False
        )


def interrupted(case: Case, model: Path, _deep: Path, folder: Path) -> None:
    """Ctrl-C, to the whole process group as a terminal sends it, while the second of two models runs."""
    out = folder / "interrupted.json"
    process = started([str(model), str(model), *SHORT, "--repetitions", "2000", "--json", "--out", str(out)])
    until = time.monotonic() + SECONDS
    while not out.is_file() and time.monotonic() < until:
        time.sleep(0.05)
    worker_of(process)
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)
    status, document, _ = ended(process)
    assert document is not None
    case.claim("exit status 130", status == 130)
    first = document.results[0]
    case.claim("the first model is whole", first.repetitions == 2000 and first.failure is None)
    second = [record.failure or "" for record in document.results[1:]] + [one.error for one in document.failures]
    case.claim("the second is a row that says Ctrl-C", len(second) == 1 and "stopped by Ctrl-C" in second[0])
    case.claim("the file says the same", BenchDocument.model_validate_json(out.read_bytes()) == document)


CASES = {one.__name__: one for one in (killed, disk, memory, neighbour, interrupted)}


def models(checkpoint: Path, folder: Path) -> tuple[Path, Path]:
    """Export the checkpoint, and one of its kind whose KV cache takes 537 MB: GGUF files in float16."""
    import transformers

    from edgestill.artifact import Checkpoint
    from edgestill.export import export_checkpoint

    small = export_checkpoint(Checkpoint.open(checkpoint), "gguf", "f16", folder / "small")
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    config.update({"head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 16})
    config.max_position_embeddings = 4096
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder / "deep")
    transformers.AutoTokenizer.from_pretrained(checkpoint).save_pretrained(folder / "deep")
    deep = export_checkpoint(Checkpoint.open(folder / "deep"), "gguf", "f16", folder / "deep-gguf")
    return small.model_path, deep.model_path


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    cases = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, deep = models(options.checkpoint, folder)
        for chosen in options.only:
            print(f"{chosen}: {(CASES[chosen].__doc__ or '').splitlines()[0]}", flush=True)
            cases.append(Case(chosen))
            CASES[chosen](cases[-1], small, deep, folder)
    failed = [case.name for case in cases if not case.holds]
    print(
        f"{sum(len(case.claims) for case in cases)} claims; {'FAILED: ' + ', '.join(failed) if failed else 'all hold'}"
    )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
