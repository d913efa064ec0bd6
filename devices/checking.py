"""``devices check``: walk what a device with a shell needs, one step after the other, each with its cure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgestill.devices.contract import RUNNER, RUNNER_FOLDER, Check, DriverError
from edgestill.devices.shell_words import quoted

if TYPE_CHECKING:
    from edgestill.devices.shell_device import ShellDevice

NEEDED: Final = (
    *("sha256sum", "cat", "cp", "find", "wc", "mv", "rm", "rmdir", "mkdir", "chmod", "df", "dirname", "dd", "grep"),
    *("head", "tail"),
)
WANTED: Final = {
    "timeout": "without it a job whose host is lost may run on; install coreutils, BusyBox or toybox with it",
    "sync": "without it a power cut may leave half a file of a push; install coreutils, BusyBox or toybox with it",
    "flock": "without it two benches may run at once and spoil each other; install util-linux or BusyBox",
}
_ROOM: Final = 64 << 20


def walk(device: ShellDevice) -> list[Check]:
    """Return each step; the first that makes the others impossible ends the walk."""
    try:
        found = device.probe()
    except DriverError as error:
        message, _, cure = str(error).partition("; ")
        return [Check("reach", False, message, cure or "see that it is on, and that its name and port are right")]
    cores = f"{found.cores} core{'' if found.cores == 1 else 's'}"
    checks = [Check("reach", True, f"{found.system}, {found.machine}, {cores}")]
    try:
        checks += _tools(device)
        checks.append(_folder(device))
        room = found.free_disk_bytes
        free = "unknown" if room is None else f"{room / 1e6:,.0f} MB free"
        checks.append(Check("room", None if room is None else room >= _ROOM, free, "free some room there"))
        checks.append(_runner(device))
    except DriverError as error:
        checks.append(Check("connection", False, str(error), "run the check again"))
    return checks


def _tools(device: ShellDevice) -> list[Check]:
    names = (*NEEDED, *WANTED)
    answer = device.shell(f'for t in {quoted(*names)}; do command -v "$t" >/dev/null || echo "$t"; done; exit 0')
    missing = answer.text.split()
    needed = [name for name in NEEDED if name in missing]
    cure = f"install {', '.join(needed)} (coreutils, BusyBox or toybox has them)" if needed else ""
    checks = [Check("programs", not needed, f"no {', '.join(needed)}" if needed else "all there", cure)]
    for name, why in WANTED.items():
        there = name not in missing
        checks.append(Check(name, there, "there" if there else "missing", "" if there else why))
    return checks


def _folder(device: ShellDevice) -> Check:
    root = quoted(device.root)
    answer = device.shell(
        f'd={root}; [ -d "$d" ] && made= || made=1; mkdir -p "$d" && : >"$d"/.check && rm -f "$d"/.check || exit 1\n'
        'if [ -n "$made" ]; then rmdir "$d"; fi; exit 0'
    )
    if answer.status == 0:
        return Check("folder", True, device.root)
    return Check("folder", False, f"{device.root}: {answer.complaint}", 'name another: root = "..." in its table')


def _runner(device: ShellDevice) -> Check:
    program = f"{device.root}/{RUNNER_FOLDER}/{RUNNER}"
    words = quoted(*device.program_words(), program, "--help")
    answer = device.shell(f"[ -x {quoted(program)} ] || exit 71\n{words} >/dev/null </dev/null", seconds=60)
    if answer.status == 0:
        return Check("runner", True, program)
    if answer.status == 71:
        return Check("runner", None, "not there yet", "edgestill deploy brings it")
    cure = "edgestill runner build --target for its ISA, then deploy with that --runner"
    return Check("runner", False, f"{RUNNER} doesn't start: {answer.complaint}", cure)
