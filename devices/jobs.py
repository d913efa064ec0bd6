"""What jobs of every driver keep to: the runner's options, a time limit, and the caller's word to stop."""

from __future__ import annotations

import time
from threading import Event
from typing import Final

from edgestill.devices.contract import RUN_SECONDS, Job, JobCancelled, JobTimeout

OPTIONS: Final = frozenset(
    {"threads", "context", "kv_precision", "no_mmap", "no_repack", "prompt_tokens", "new_tokens", "repetitions"}
    | {"prompt", "messages", "ids", "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "stop"}
    | {"ignore_eos", "print_ids", "statistics"}
)
"""edgestill-run's options, with ``_`` for ``-``."""


def check_options(job: Job) -> None:
    """Raise ValueError for what is none of the runner's options."""
    for name in job.options:
        if name not in OPTIONS:
            raise ValueError(f"{name!r} is none of the runner's options: {', '.join(sorted(OPTIONS))}")


class Deadline:
    """How long a job of a device may run: ``limit`` seconds from now on, and until the caller cancels."""

    def __init__(self, device: str, timeout_seconds: float | None, cancelled: Event | None) -> None:
        self.limit = RUN_SECONDS if timeout_seconds is None else timeout_seconds
        self._device = device
        self._cancelled = cancelled
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self._started

    def check(self) -> None:
        """Raise JobCancelled or JobTimeout when the job must end."""
        if self._cancelled is not None and self._cancelled.is_set():
            raise JobCancelled(f"{self._device}: cancelled; nothing of it runs on there")
        if self.seconds > self.limit:
            raise self.passed()

    def passed(self) -> JobTimeout:
        """Return the error of a job that ran past it."""
        return JobTimeout(
            f"{self._device}: the job took longer than its {self.limit:g} s and was stopped; allow it more"
        )
