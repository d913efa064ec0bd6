"""A job on a device with a shell: started so that it can be killed whole, and that it dies with its host.

Its first line is the shell's pid and the program's. Beside the program waits a reader of the shell's stdin: when that
ends (we let go of it, were killed, or the connection broke) the program is killed. ``timeout`` bounds it where the
device has that.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event
from typing import TYPE_CHECKING, Final

from edgestill.devices.contract import (
    RUNNER,
    DeviceBusy,
    DeviceGone,
    DeviceUnreachable,
    DriverError,
    Job,
    JobFailed,
    JobTimeout,
    RunResult,
    device_path,
)
from edgestill.devices.file_scripts import BENCH_LOCK, restoring, unless_pushing
from edgestill.devices.jobs import Deadline, check_options
from edgestill.devices.shell_words import quoted

if TYPE_CHECKING:
    from edgestill.devices.shell_device import ShellDevice
    from edgestill.devices.talk import Talk

_NO_RUNNER, _BUSY = 71, 75
_GRACE_SECONDS: Final = 5.0
_MAX_LINE: Final = 64 << 20


def arguments(job: Job) -> list[str]:
    """Return the runner's arguments, its working directory our folder. Raises ValueError for an unknown option."""
    check_options(job)
    words: list[str] = [job.command] if job.command == "probe" else [job.command, f"./{device_path(job.bundle)}"]
    if job.artifact is not None:
        words += ["--artifact", job.artifact]
    for name, value in job.options.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        elif value is not False:
            words += [option, str(value)]
    return words


def script(
    root: str, job: Job, nonce: str, seconds: float, before_program: Sequence[str] = (), before_script: str = ""
) -> str:
    """Return the script that runs a job."""
    runner = f"./{device_path(job.runner)}/{RUNNER}"
    program = quoted(*before_program, runner, *arguments(job))
    lock = f"""if command -v flock >/dev/null; then
  exec 9>>{BENCH_LOCK}
  flock -n 9 || {{ sleep 1; flock -n 9; }} || exit {_BUSY}
fi
""" if job.command in ("bench", "probe") else ""  # fmt: skip
    folders = [device_path(folder) for folder in (job.runner, job.bundle) if folder]
    return f"""cd {quoted(root)} 2>/dev/null || exit {_NO_RUNNER}
{unless_pushing(restoring(folders))}
[ -x {quoted(runner)} ] || exit {_NO_RUNNER}
{lock}exec 3<&0
set --
command -v timeout >/dev/null && set -- timeout -s KILL {int(seconds + _GRACE_SECONDS)}
{before_script}
sh -c 'printf "edgestill-pid %s %s %s\\n" {nonce} "$1" "$$"; shift; exec "$@"' sh "$$" "$@" {program} </dev/null 3<&- &
p=$!
(read -r x <&3; kill -9 -"$p"; kill -9 -"$$"; kill -9 "$p") >/dev/null 2>&1 9>&- &
w=$!
exec 3<&-
wait "$p" 2>/dev/null
s=$?
kill -9 "$w" 2>/dev/null
exit "$s\""""


def run(
    device: ShellDevice,
    job: Job,
    *,
    before_program: Sequence[str],
    before_script: str,
    on_line: Callable[[str], None] | None,
    timeout_seconds: float | None,
    cancelled: Event | None,
) -> RunResult:
    """Run a job on a device; see :meth:`edgestill.devices.contract.Driver.run`."""
    deadline = Deadline(device.name, timeout_seconds, cancelled)
    nonce = secrets.token_hex(8)
    text = script(device.root, job, nonce, deadline.limit, before_program, before_script)
    lines: list[str] = []
    pids: list[int] = []
    talk = device.start(text)
    done = False
    try:
        for line in _lines(device.name, talk, deadline):
            if line.startswith(f"edgestill-pid {nonce} "):
                pids = [int(word) for word in line.split()[2:]]
                continue
            lines.append(line)
            if on_line is not None:
                on_line(line)
        status, errors = device.ended(talk)
        done = True
    finally:
        if not done:
            _kill(device, talk, pids)
        device.end(talk)
    seconds = deadline.seconds
    if status != 0:
        raise _failure(device.name, job, status, errors, seconds, deadline)
    return RunResult(tuple(lines), _document(lines), errors, seconds)


def _lines(name: str, talk: Talk, deadline: Deadline) -> Iterator[str]:
    pending = b""
    while (piece := talk.read()) != b"":
        deadline.check()
        pending += piece or b""
        if len(pending) > _MAX_LINE:
            raise JobFailed(f"{name}: the program printed a line of more than {_MAX_LINE} bytes")
        *whole, pending = pending.split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in whole)
    if pending:
        yield pending.decode("utf-8", "replace")


def _kill(device: ShellDevice, talk: Talk, pids: Sequence[int]) -> None:
    """End what runs on the device: by the end of its stdin, and by its pids over a second channel."""
    talk.close_input()
    talk.finish(1.0)
    talk.kill_group()
    if not pids:
        return
    # What the shell started has ended with its stdin, or never heard of that (an old adb): then this finds it. The
    # program may lead a group of its own: timeout makes one.
    lines = "".join(f"kill -9 -{pid} 2>/dev/null; kill -9 {pid} 2>/dev/null\n" for pid in reversed(pids)) + "exit 0"
    with contextlib.suppress(DeviceGone, DeviceUnreachable, JobTimeout):
        device.shell(lines, seconds=10.0)


def _failure(name: str, job: Job, status: int, errors: str, seconds: float, deadline: Deadline) -> DriverError:
    if status == _BUSY:
        return DeviceBusy(f"{name}: another bench runs there; wait for it, as two would spoil each other's times")
    if status == _NO_RUNNER:
        return JobFailed(f"{name}: no {RUNNER} there; edgestill deploy brings it (--runner names the one for its ISA)")
    if status in (137, 124) and seconds >= deadline.limit:
        return deadline.passed()
    said = [line.removeprefix("error: ") for line in errors.splitlines() if line.startswith("error: ")]
    if said:
        return JobFailed(f"{name}: {job.command}: {said[-1]}")
    if status > 128:
        killed = " (often: out of memory)" if status == 137 else ""
        return JobFailed(f"{name}: {job.command}: the program was ended by signal {status - 128}{killed}")
    last = [line.strip() for line in errors.splitlines() if line.strip()]
    return JobFailed(f"{name}: {job.command}: {last[-1] if last else 'no word of why'} (status {status})")


def _document(lines: Sequence[str]) -> Mapping[str, object] | None:
    """Return the JSON document that ends the output: its last line, or all of it."""
    for text in ([lines[-1]] if lines else []) + ["\n".join(lines)]:
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(value := json.loads(text), dict):
                return value
    return None
