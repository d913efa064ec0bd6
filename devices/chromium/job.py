"""A job in a page of its own: when that is closed, its worker and what it started have ended."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import queue
from collections.abc import Callable, Mapping
from threading import Event
from typing import TYPE_CHECKING, Final

from edgestill.devices.chromium.files import encoded
from edgestill.devices.chromium.session import Chromium
from edgestill.devices.contract import DriverError, Job, JobFailed, RunResult, device_path
from edgestill.devices.jobs import Deadline, check_options
from edgestill.errors import UnsupportedError

if TYPE_CHECKING:
    from playwright.async_api import Page

COMMON: Final = frozenset({"threads", "context"})
BENCH: Final = {"prompt_tokens": 128, "new_tokens": 64, "repetitions": 5}
"""The runner's own defaults."""
_GENERATE: Final = {
    "prompt": "prompt",
    "messages": "messages",
    "max_new_tokens": "maxNewTokens",
    "temperature": "temperature",
    "ignore_eos": "ignoreEnds",
    "print_ids": "tokenIds",
    "stop": "stop",
    "statistics": "statistics",
}
"""The runner's options by name, and the page's."""

_POLL_SECONDS: Final = 0.1
_CLOSE_SECONDS: Final = 10.0


def page_job(name: str, job: Job, root: str, *, isolated: bool) -> dict[str, object]:
    """Return a job as the page's worker takes it.

    Raises ValueError for what is none of the runner's options, UnsupportedError for one that a browser hasn't.
    """
    check_options(job)
    if job.command == "probe":
        raise UnsupportedError(f"{name}: a browser doesn't measure the device itself; bench a bundle there")
    given = {option: value for option, value in job.options.items() if value is not False}
    own = {"bench": frozenset(BENCH), "generate": frozenset(_GENERATE)}.get(job.command, frozenset())
    for option in given:
        if option not in own | COMMON:
            there = ", ".join(sorted(own | COMMON))
            raise UnsupportedError(f"{name}: {job.command} has no option {option!r} in a browser; it has {there}")
    if not isolated and int(given.get("threads", 1)) > 1:
        raise UnsupportedError(f"{name}: a page that isn't isolated has one thread; set isolated = true for more")
    return {
        "command": job.command,
        "path": [*encoded(root), *encoded(device_path(job.bundle))],
        "shown": device_path(job.bundle),
        "artifact": job.artifact,
        "threads": given.get("threads"),
        "context": given.get("context"),
        "options": _options(name, job, given),
    }


def _options(name: str, job: Job, given: Mapping[str, int | float | str | bool]) -> dict[str, object]:
    if job.command == "bench":
        values = {**BENCH, **{option: value for option, value in given.items() if option in BENCH}}
        return {
            "promptTokens": values["prompt_tokens"],
            "newTokens": values["new_tokens"],
            "repetitions": values["repetitions"],
        }
    options: dict[str, object] = {_GENERATE[option]: value for option, value in given.items() if option in _GENERATE}
    if "stop" in options:
        options["stop"] = [options["stop"]]
    if job.command == "generate" and ("prompt" in options) == ("messages" in options):
        raise JobFailed(f"{name}: generate: give one of prompt and messages")
    if "messages" in options:
        try:
            options["messages"] = json.loads(str(options["messages"]))
        except ValueError as error:
            raise JobFailed(f"{name}: generate: messages: not JSON ({error})") from None
    return options


def run(
    chromium: Chromium,
    job: Job,
    message: Mapping[str, object],
    *,
    on_line: Callable[[str], None] | None,
    timeout_seconds: float | None,
    cancelled: Event | None,
) -> RunResult:
    """Run a job; see :meth:`edgestill.devices.contract.Driver.run`."""
    name = chromium.name
    chromium.start()
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    lines: list[str] = []
    deadline = Deadline(name, timeout_seconds, cancelled)

    def show(text: str) -> None:
        lines.append(text)
        if on_line is not None:
            on_line(text)

    page: Page | None = None
    opening = chromium.begin_coroutine(chromium.new_page("run.html", said.put))
    try:
        page = chromium.settled(opening, None, deadline.check)
        script = "(job) => window.edgestillRun(job)"
        running = chromium.begin_coroutine(page.evaluate(script, dict(message)))
        rest = ""
        while True:
            done = bool(concurrent.futures.wait([running], _POLL_SECONDS).done)
            rest = _shown(said, rest, show)
            if done:
                break
            deadline.check()
            if chromium.gone:
                raise chromium.lost(RuntimeError("closed"))
        answer = chromium.settled(running, None, deadline.check)
        seconds = deadline.seconds
        if (error := answer.get("error")) is not None:
            raise JobFailed(f"{name}: {job.command}: {' '.join(str(error).splitlines())}")
        errors = ""
        document: dict[str, object] | None = answer.get("document")
        if document is not None:
            show(json.dumps(document, ensure_ascii=False))
        else:
            found = answer["answer"]
            show(",".join(map(str, found["ids"])) if job.options.get("print_ids") else rest)
            if job.options.get("statistics"):
                errors = json.dumps({key: value for key, value in found.items() if key not in ("text", "ids")}) + "\n"
        return RunResult(tuple(lines), document, errors, seconds)
    finally:
        _close(chromium, opening, page)


def _shown(said: queue.SimpleQueue[str], rest: str, show: Callable[[str], None]) -> str:
    """Show the whole lines of what came, and return what is left."""
    with contextlib.suppress(queue.Empty):
        while True:
            rest += said.get_nowait()
    *whole, rest = rest.split("\n")
    for line in whole:
        show(line)
    return rest


def _close(chromium: Chromium, opening: concurrent.futures.Future[Page], page: Page | None) -> None:
    """Close the job's page, one that is only being opened too."""
    with contextlib.suppress(DriverError, concurrent.futures.CancelledError, concurrent.futures.TimeoutError):
        if page is None and not opening.cancel() and opening.exception(_CLOSE_SECONDS) is None:
            page = opening.result()
        if page is not None and not chromium.gone:
            chromium.wait(page.close(), seconds=_CLOSE_SECONDS)
