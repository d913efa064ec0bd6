"""Is anything lost, or a device left unusable, when the host is killed? Killed at random moments of push and bench.

    python benchmarks/devices/kills.py [--models FOLDER] [--cases 1000] [--drivers local ssh ...] [--json FILE]

On each driver (local, limited; ssh: OpenSSH's server on loopback; adb: the adb program and a small device that speaks
its protocol; qemu: a static runner of another ISA, --qemu-runner or one that is built for aarch64) a host is started
that deploys an update of a bundle of five artifacts, or benches it and keeps each result in a store. Its process group
gets SIGKILL after a time that is drawn uniformly between nothing and what the same command took when nobody killed it.
One that was done before isn't counted. Then the next command, drawn too, must do its work: a bench or a self-test of
the version that is there, the same deployment again, or that of the other version. Every measurement that a killed host
had reported must be in its store, and nothing may run on on the device. Where the device says that what was killed
still holds it, as it may for half a minute, the command is tried again, and counted as having waited.

With --json the counts are kept in FILE after every kill and a second run goes on from them. Exit status 1 when a next
command failed, a measurement was lost, or a process was left.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[2]))  # for the tests' devices
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))  # what benchmarks share
from bundles import ARTIFACTS, make_bundles
from hosts import BUSY, Command, Host
from kept import Kept, Row

from edgestill.bundle import Bundle
from edgestill.devices.contract import RUNNER
from edgestill.devices.executable import machine_of
from edgestill.devices.registry import checked, make_driver
from edgestill.devices.store import Store
from edgestill.runtime.native.build import NativeBuild, build_native
from tests.devices.adb_target import AdbTarget
from tests.devices.contract_targets import LimitedTarget, LocalTarget, SshTarget, Target

PATIENCE_SECONDS = 45.0
ENDING_SECONDS = 10.0
SIZE = "260K"


class EmulatedTarget(LocalTarget):
    """A static runner of another ISA, by qemu-user."""

    program: Path

    @property
    def runner(self) -> dict[str, Path]:
        return {RUNNER: self.program}

    def settings(self) -> Row:
        machine = machine_of(self.program)
        return {"driver": "qemu", "root": str(self.root), "machine": "aarch64" if machine is None else machine.name}


TARGETS: dict[str, Callable[[Path, NativeBuild], Target]] = {
    "local": LocalTarget, "ssh": SshTarget, "adb": AdbTarget, "limited": LimitedTarget, "qemu": EmulatedTarget,
}  # fmt: skip


@dataclass
class Series:
    """The kills on one driver."""

    driver: str
    target: Target
    host: Host
    bundles: tuple[Bundle, Bundle]
    folder: Path
    kept: Kept
    draw: random.Random
    took: dict[str, list[float]] = field(default_factory=lambda: {"deploy": [], "bench": []})
    version: int = 0

    def command(self, action: str) -> Command:
        """Return a command for the version that is to be there."""
        bench = action in ("bench", "selftest")
        return Command(
            action=action,
            settings=self.target.settings(),
            bundle=str(self.bundles[self.version].folder),
            runner=str(self.target.runner_program),
            artifacts=ARTIFACTS[-3:] if bench else ("all",),
            store=str(self.folder / "store"),
            reported=str(self.folder / "reported"),
            errors=str(self.folder / "errors"),
        )

    def whole(self, action: str) -> tuple[int, float]:
        """Run a command to its end; return its status, and how long it took."""
        begun = time.monotonic()
        status = self.host.wait(self.host.start(self.command(action)))
        return status, time.monotonic() - begun

    def prepare(self) -> None:
        """Deploy and bench undisturbed, to know how long they take."""
        for _ in range(3):
            for action in ("deploy", "bench"):
                status, seconds = self.whole(action)
                if status:
                    raise SystemExit(f"{self.driver}: {action} without a kill: {(self.folder / 'errors').read_text()}")
                self.took[action].append(seconds)
            self.version = 1 - self.version
        self.version = 1 - self.version

    def kill_once(self) -> Row | None:
        """Kill a host, and look; None where it was done before."""
        action = self.draw.choice(("deploy", "bench"))
        fresh = action == "deploy" and self.draw.random() < 0.1
        before = self.version
        if fresh:
            with make_driver("box", checked("box", self.target.settings(), "kills")) as driver:
                driver.remove(".")
        if action == "deploy":
            self.version = 1 - self.version
        after = self.draw.uniform(0, statistics.median(self.took[action][-9:]))
        process = self.host.start(self.command(action))
        time.sleep(after)
        self.host.kill(process)
        done = self.host.wait(process) >= 0
        if action == "deploy" and not done and not fresh:
            next_action = self.draw.choice(("deploy", "other", "bench", "selftest"))
        else:
            next_action = "deploy" if fresh else self.draw.choice(("deploy", "bench", "selftest"))
        if next_action == "other":
            self.version = before
        asked = "deploy" if next_action == "other" else next_action
        status, waited, begun = BUSY, 0, time.monotonic()
        while status == BUSY and time.monotonic() - begun < PATIENCE_SECONDS:
            status, seconds = self.whole(asked)
            waited += status == BUSY
        error = (self.folder / "errors").read_text() if status else ""
        if asked in self.took and not status and not waited:
            self.took[asked].append(seconds)
        if asked != "deploy" and action == "deploy":  # what a cut update left staged is the next one's
            self.version = before
        row = {
            "driver": self.driver, "killed": action, "after": after, "fresh": fresh, "next": next_action,
            "failed": error, "waited": bool(waited), "lost": self.lost(), "left": self.left(),
        }  # fmt: skip
        return None if done and not (error or row["lost"] or row["left"]) else row

    def lost(self) -> int:
        """Return how many reported measurements aren't in the store."""
        reported = self.folder / "reported"
        said = reported.read_text().split() if reported.is_file() else []
        with Store(self.folder / "store") as store:
            there = {one.measured for one in store.query()}
        return len(set(said) - there)

    def left(self) -> list[str]:
        """Return what still runs on the device after a while."""
        until = time.monotonic() + ENDING_SECONDS
        while (running := self.target.processes()) and time.monotonic() < until:
            time.sleep(0.05)
        return running


def run(series: Series, wanted: int) -> None:
    """Kill until there are so many kills on this driver."""
    series.prepare()
    done = sum(row["driver"] == series.driver for row in series.kept.rows)
    while done < wanted:
        row = series.kill_once()
        if row is None:
            continue
        series.kept.add(row)
        done += 1
        if bad := row["failed"] or row["lost"] or row["left"]:
            print(f"{series.driver}: BAD after {row['killed']} killed at {row['after']:.3f} s: {bad}", flush=True)
        elif done % 50 == 0:
            print(f"{series.driver}: {done} of {wanted}", file=sys.stderr, flush=True)


def summary(rows: list[Row]) -> int:
    """Print a count by driver; return how many are bad."""
    bad = 0
    for driver in dict.fromkeys(row["driver"] for row in rows):
        mine = [row for row in rows if row["driver"] == driver]
        failed, lost, left = (sum(bool(row[name]) for row in mine) for name in ("failed", "lost", "left"))
        kinds = Counter(row["killed"] for row in mine)
        waited = sum(row["waited"] for row in mine)
        print(
            f"{driver}: {len(mine)} kills ({kinds['deploy']} of a deployment, {kinds['bench']} of a bench): {failed} "
            f"next commands failed, {waited} waited; {lost} lost a measurement; {left} left a process"
        )
        bad += sum(bool(row["failed"] or row["lost"] or row["left"]) for row in mine)
    print(f"{len(rows)} kills, {bad} bad")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--cases", type=int, default=1000, help="kills, spread evenly over the drivers")
    parser.add_argument("--drivers", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--qemu-runner", type=Path, help="edgestill-run of another ISA (default: built for aarch64)")
    parser.add_argument("--at-once", type=int, default=2, help="drivers at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    kept = Kept(given.json)
    room = threading.Semaphore(given.at_once)
    errors: list[BaseException] = []
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bundles = make_bundles(given.models or scratch, SIZE)
        native = build_native("host", scratch / "native", installed_llama=True)
        if "qemu" in given.drivers:
            emulated = given.qemu_runner or build_native("aarch64-linux-musl", scratch / "emulated").program
            if emulated is None:
                raise SystemExit("no program was built for qemu")
            EmulatedTarget.program = emulated

        def one(driver: str, wanted: int) -> None:
            folder = scratch / driver
            folder.mkdir()
            with room, contextlib.ExitStack() as own:
                try:
                    target = TARGETS[driver](folder, native)
                    own.callback(target.close)
                    draw = random.Random(f"{given.seed} {driver} {len(kept.rows)}")
                    host = own.enter_context(Host())
                    run(Series(driver, target, host, bundles, folder, kept, draw), wanted)
                except BaseException as error:  # noqa: BLE001 - raised again below, in the main thread
                    errors.append(error)

        share, more = divmod(given.cases, len(given.drivers))
        shares = [share + (number < more) for number in range(len(given.drivers))]
        threads = [threading.Thread(target=one, args=pair) for pair in zip(given.drivers, shares, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    bad = summary(kept.rows)
    for error in errors:
        raise error
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
