"""adb: an Android phone through the adb program, with the static runner below /data/local/tmp.

Nothing is installed on the phone and it isn't rooted. Needs Android 7 (a shell with an exit status) or later.
Sources: adb's OVERVIEW.TXT and SERVICES.TXT; https://developer.android.com/tools/adb.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import ClassVar, Final

from edgestill.devices import android
from edgestill.devices.contract import (
    RUNNER,
    Check,
    DeviceGone,
    DeviceUnreachable,
    DriverError,
    Job,
    JobFailed,
    Probe,
    RunResult,
)
from edgestill.devices.shell_device import ShellDevice, ShellSettings
from edgestill.devices.shell_words import quoted

_NETWORK: Final = re.compile(r"(\[[^\]]+\]|[^:\[\]]+):\d+")
_HELLO: Final = "edgestill-here"
_SECONDS: Final = 30.0
_LOW_PERCENT: Final = 20

# Android's shell is mksh: it keeps what ``exec 9>file`` opened from other programs, flock too, unless it is POSIX's.
_POSIX: Final = "(set -o posix) 2>/dev/null && set -o posix\n"

_CURES: Final = (
    ("unauthorized", "is locked to this computer", "unlock the phone and tap Allow at 'Allow USB debugging?'"),
    ("failed to authenticate", "is locked to this computer", "unlock the phone and tap Allow at its question"),
    ("permissions", "may not be opened by this user", "add yourself to the group plugdev, or a udev rule for it"),
    ("offline", "is offline", "unplug it and plug it in again, or switch USB debugging off and on"),
    ("refused", "refuses connections", "switch its wireless debugging on, and look at the port that it shows"),
    ("resolve", "has a name that nobody knows", "see host and port in its wireless debugging settings"),
    ("failed to connect", "doesn't answer", "see that it is on and in this network, with wireless debugging on"),
    ("not found", "isn't connected", "plug it in with USB debugging switched on; `adb devices` lists what is there"),
    ("no devices", "isn't connected", "plug it in with USB debugging switched on (Settings, Developer options)"),
    ("daemon", "can't be asked: adb's server doesn't start", "run `adb start-server` and read what it says"),
)
"""What adb says, what that means, what to do."""


class AdbSettings(ShellSettings):
    """The keys of an Android device's table."""

    serial: str | None = None
    """As ``adb devices`` lists it, or HOST:PORT of wireless debugging; None is the only one that is connected."""
    adb: Path | None = None
    """The adb program; None looks along PATH."""
    big_cores: bool = True
    """Keep jobs off the slowest kind of cores."""


class Adb(ShellDevice):
    """An Android phone."""

    kind: ClassVar[str] = "adb"
    summary: ClassVar[str] = "an Android phone through the adb program"
    settings_type = AdbSettings
    default_root = "/data/local/tmp/edgestill"

    def __init__(self, name: str, settings: AdbSettings) -> None:
        super().__init__(name, settings)
        self._program = settings.adb
        self._serial = settings.serial
        self._wants_big_cores = settings.big_cores
        self._connected = False
        self._known: android.Phone | None = None
        self._pins: bool | None = None  # may a program be kept to the big cores

    # How a script reaches the phone.

    def _transport(self, script: str) -> list[str]:
        assert self._serial is not None
        return [self._adb_program(), "-s", self._serial, "shell", _POSIX + script]

    def _connect(self) -> None:
        if self._connected:
            return
        if self._serial is None:
            found = self._adb("get-serialno")
            if "more than one" in found:
                raise DeviceUnreachable(
                    f"{self.name}: several are connected ({self._serials()}); give one as its serial"
                )
            if "error:" in found or not found:
                raise self._unreachable(found)
            self._serial = found
        said = self._greeting(self._serial)
        if said != _HELLO and _NETWORK.fullmatch(self._serial):
            # adb keeps a lost one as "offline" for minutes, and answers "already connected".
            self._adb("disconnect", self._serial)
            told = self._adb("connect", self._serial)
            said = self._greeting(self._serial)
            said = told if said != _HELLO and "failed" in told else said
        if said != _HELLO:
            raise self._unreachable(said)
        if "shell_v2" not in self._adb("-s", self._serial, "features").split():
            raise DeviceUnreachable(f"{self.name}: its Android is too old: use one with Android 7 or later")
        self._connected = True

    def _greeting(self, serial: str) -> str:
        # adb's own word for its state comes late after a loss; a word from the phone doesn't.
        return self._adb("-s", serial, "shell", f"echo {_HELLO}")

    def _lost(self, status: int | None, errors: str) -> DriverError:
        self._connected = False
        said = [line.removeprefix("error: ") for line in errors.splitlines() if line.startswith("error: ")]
        why = f" ({said[-1]})" if said else ""
        return DeviceGone(f"{self.name}: the phone went away in the middle{why}; connect it and run the same again")

    def _unreachable(self, said: str) -> DeviceUnreachable:
        name = self.name if self._serial is None else f"{self.name}: the phone {self._serial}"
        for word, state, cure in _CURES:
            if word in said:
                subject = f"{self.name}: the phone" if self._serial is None else name
                return DeviceUnreachable(f"{subject} {state}; {cure}")
        lines = said.splitlines() or ["nothing"]
        return DeviceUnreachable(f"{name} can't be used: adb says '{lines[0]}'; see `adb devices`")

    def _serials(self) -> str:
        lines = [line.split() for line in self._adb("devices").splitlines()[1:]]
        return ", ".join(words[0] for words in lines if len(words) > 1)

    def _adb_program(self) -> str:
        found = shutil.which(self._program or "adb")
        if found is not None:
            return found
        if self._program is not None:
            raise DeviceUnreachable(f"{self.name}: {self._program} isn't a program; give adb's path as adb, or none")
        raise DeviceUnreachable(
            f"{self.name}: there is no adb program here; install it (Debian: apt install adb; elsewhere Android's "
            "platform-tools), or give its path as adb"
        )

    def _adb(self, *words: str) -> str:
        """Return what adb says, errors too."""
        command = [self._adb_program(), *words]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            cure = "run `adb kill-server`, and the same command again"
            raise DeviceUnreachable(f"{self.name}: adb gave no answer for {_SECONDS:g} s; {cure}") from None
        except OSError as error:
            raise DeviceUnreachable(f"{self.name}: {command[0]} can't be started: {error.strerror}") from None
        lines = done.stdout.decode("utf-8", "replace").splitlines()
        return "\n".join(line for line in lines if not line.startswith(("* daemon", "adb server version"))).strip()

    # What the phone says of itself.

    def _phone(self) -> android.Phone:
        if self._known is None:
            self._known = android.parsed_phone(self.shell(android.PHONE_SCRIPT).text)
        return self._known

    def _state(self) -> android.State:
        return android.parsed_state(self.shell(android.STATE_SCRIPT).text)

    def _machine(self, found: Probe) -> Probe:
        phone, abi = self._phone(), self._phone().abi or ""
        version, level = phone["ro.build.version.release"], phone["ro.build.version.sdk"]
        big = phone.big_cores()
        return replace(
            found,
            system=f"Android {version or '?'} (API {level or '?'})",
            machine=android.MACHINES.get(abi, found.machine),
            model=phone.model,
            cpu=phone["ro.soc.model"] or found.cpu,
            facts={
                **found.facts,
                "serial": self._serial,
                "abi": abi or None,
                "kernel": found.system,
                "runner_target": android.TARGETS.get(abi),
                "big_cores": len(big) if phone.has_taskset else None,
                **self._state().facts(),
            },
        )

    def check(self) -> list[Check]:
        """Walk the contract, and see that the phone is cool and has power enough to measure."""
        steps = super().check()
        if any(step.ok is False and step.name in ("reach", "connection") for step in steps):
            return steps
        try:
            state = self._state()
        except DriverError as error:
            return [*steps, Check("heat and battery", None, str(error))]
        heat, percent = state.thermal_status, state.battery_percent
        cool = None if heat is None else not state.throttled
        steps.append(Check("heat", cool, heat or "not said", "" if cool is not False else "let it cool down"))
        power = None if percent is None else bool(state.charging) or percent >= _LOW_PERCENT
        found = "not said" if percent is None else f"{percent}%{', charging' if state.charging else ''}"
        return [*steps, Check("battery", power, found, "" if power is not False else "charge it: it saves power now")]

    # Jobs.

    def run(
        self,
        job: Job,
        *,
        on_line: Callable[[str], None] | None = None,
        timeout_seconds: float | None = None,
        cancelled: Event | None = None,
    ) -> RunResult:
        """Run a job on the big cores; a bench's result says battery and heat before and after it."""
        before = self._state() if job.command == "bench" else None
        result = super().run(job, on_line=on_line, timeout_seconds=timeout_seconds, cancelled=cancelled)
        mask = self._mask(job)
        facts = {**result.facts, "affinity_mask": mask}
        if before is None:
            return replace(result, facts=facts)
        notes = list(result.notes)
        try:
            after = self._state()
        except DriverError as error:  # what was measured isn't lost by that
            after = android.State(None, None, None, None)
            notes.append(f"battery and heat after the bench are unknown: {error}")
        if before.throttled or after.throttled:
            heat = f"{before.thermal_status} before, {after.thermal_status or 'unknown'} after"
            notes.append(f"the phone was hot (thermal status {heat}): its clocks were lowered; let it cool, and repeat")
        facts |= {**before.facts("_before"), **after.facts("_after")}
        return replace(result, facts=facts, notes=tuple(notes))

    def _before_script(self, job: Job) -> str:
        mask = self._mask(job)
        # The job's shell is a subshell: only a child of it can tell its number, as its own parent's.
        return "" if mask is None else f"sh -c 'taskset -p {mask} \"$PPID\"' >/dev/null 2>&1"

    def _mask(self, job: Job) -> str | None:
        """Return the big cores for a job; None where all are meant, it has more threads, or Android forbids them."""
        cores = self._phone().big_cores() if self._wants_big_cores and self._phone().has_taskset else []
        threads = job.options.get("threads", 1)
        if not cores or (isinstance(threads, int) and threads > len(cores)):
            return None
        mask = android.affinity_mask(cores)
        if self._pins is None:
            self._pins = self.shell(f"taskset {mask} true").status == 0
        return mask if self._pins else None

    def _explain(self, job: Job, error: JobFailed) -> JobFailed:
        try:
            abi = self._phone().abi or ""
            header = self.shell(f"od -A n -t u1 -N 20 {quoted(f'{self.root}/{job.runner}/{RUNNER}')}").text
        except DriverError:
            return error
        target = android.TARGETS.get(abi)
        if target is None or android.may_run(abi, bytes(int(word) for word in header.split())):
            return error
        cure = f"build it by `edgestill runner build --target {target}` and deploy with that --runner"
        return JobFailed(f"{self.name}: {job.command}: the runner there isn't for this phone ({abi}); {cure}")
