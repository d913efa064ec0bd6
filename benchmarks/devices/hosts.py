"""A host that can be killed at any moment: a process that has everything imported and forks one child for each command.

A child leads a process group of its own, as a command does that a shell started. Each measurement that it has in the
store it reports, as one line of a file; what was reported must never be lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUSY = 75


@dataclass(frozen=True)
class Command:
    """What a host does: ``deploy``, ``bench`` or ``selftest`` of a bundle, on the device of some settings."""

    action: str
    settings: dict[str, Any]
    bundle: str
    runner: str
    artifacts: tuple[str, ...]
    store: str
    reported: str
    errors: str


class Host:
    """The process that forks; a context manager."""

    def __enter__(self) -> Host:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def start(self, command: Command) -> int:
        """Start a command; returns its process group's id."""
        return int(self._ask({"start": command.__dict__})["process"])

    def wait(self, process: int) -> int:
        """Return a command's exit status, negative where a signal ended it."""
        return int(self._ask({"wait": process})["status"])

    def kill(self, process: int) -> None:
        """Kill the whole group at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def serve() -> None:
    """Fork a child for each question on stdin."""
    import edgestill.devices.drivers.adb
    import edgestill.devices.drivers.limited
    import edgestill.devices.drivers.qemu
    import edgestill.devices.drivers.ssh
    import edgestill.devices.store  # noqa: F401

    for line in sys.stdin:
        question = json.loads(line)
        if "wait" in question:
            _, status = os.waitpid(question["wait"], 0)
            answer = {"status": os.waitstatus_to_exitcode(status)}
        else:
            process = os.fork()
            if process == 0:
                _child(Command(**question["start"]))
            with contextlib.suppress(OSError):
                os.setpgid(process, process)
            answer = {"process": process}
        print(json.dumps(answer), flush=True)


def _child(command: Command) -> None:
    status = 1
    try:
        os.setpgid(0, 0)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):
            os.dup2(nothing, number)
        _act(command)
        status = 0
    except BaseException as error:  # noqa: BLE001 - whatever it was, the parent has to know
        from edgestill.devices.contract import DeviceBusy

        status = BUSY if isinstance(error, DeviceBusy) else 1
        Path(command.errors).write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
    finally:
        os._exit(status)


def _act(command: Command) -> None:
    from edgestill.bench_results import BenchDocument
    from edgestill.bundle import open_bundle
    from edgestill.devices.bringing import bundle_folder
    from edgestill.devices.contract import Job
    from edgestill.devices.deploy import deploy
    from edgestill.devices.registry import checked, make_driver
    from edgestill.devices.store import Store

    bundle = open_bundle(Path(command.bundle))
    folder = bundle_folder(bundle.manifest.name)
    with make_driver("box", checked("box", command.settings, "kills")) as driver:
        if command.action == "deploy":
            deploy(bundle, driver, command.artifacts, runner=Path(command.runner))
            return
        for artifact in command.artifacts:
            if command.action == "selftest":
                driver.run(Job("selftest", folder, artifact))
                continue
            options = {"repetitions": 1, "prompt_tokens": 8, "new_tokens": 4}
            document = driver.run(Job("bench", folder, artifact, options)).document
            # A time of its own, so that each is a row of its own.
            found = BenchDocument.model_validate(document).model_copy(update={"created": f"{time.time():.6f}"})
            with Store(Path(command.store)) as store:
                if store.add("box", found) != 1:
                    raise RuntimeError("the store didn't take it")
            with open(command.reported, "a", encoding="utf-8") as file:
                file.write(f"{found.created}\n")


if __name__ == "__main__":
    serve()
