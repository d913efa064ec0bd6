"""The learnt pace against simulated servers, in virtual time: the quota is used, and an idle server isn't spared."""

from __future__ import annotations

import asyncio
import collections
import heapq
import random
from typing import Any

import pytest

from edgestill.distill.pace import Pace

SERVERS: dict[str, dict[str, Any]] = {
    "bucket": {"rate": 60, "burst": 5},
    "bucket, whole seconds": {"rate": 60, "burst": 60, "retry_after": 1},
    "small bucket, whole seconds": {"rate": 60, "burst": 5, "retry_after": 1},
    "bucket without a header": {"rate": 60, "burst": 5, "retry_after": None},
    "window of a second": {"window": 1, "quota": 60},
    "window of a minute": {"window": 60, "quota": 500, "delay": 1.0, "count": 2400},
    "window of a minute without a header": {
        **{"window": 60, "quota": 500, "delay": 1.0, "count": 2400, "retry_after": None}
    },
    "slow": {"rate": 5, "burst": 5, "delay": 2.0, "retry_after": 1, "count": 300},
    "no limit": {"rate": 1000, "burst": 1000, "delay": 1.0},
    "many at once": {"rate": 300, "burst": 300, "delay": 0.5, "retry_after": 1, "count": 6000, "concurrency": 256},
}


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which sleeping takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        selector: Any = self._selector  # type: ignore[attr-defined]
        select = selector.select

        def skip(timeout: float | None = None) -> Any:
            ready = select(0)
            if not ready and timeout:
                self.now += timeout
            return ready

        selector.select = skip

    def time(self) -> float:
        return self.now


class Simulated:
    def __init__(self, loop: VirtualLoop, rules: dict[str, Any]) -> None:
        self.loop, self.rules = loop, rules
        self.tokens, self.filled = float(rules.get("burst", 0)), 0.0
        self.window, self.used = 0, 0
        self.answered: list[float] = []
        self.refused = 0

    def wait(self) -> float | None:
        """Seconds until this request would be accepted, or None: it is."""
        rules, now = self.rules, self.loop.time()
        if "rate" in rules:
            self.tokens = min(float(rules["burst"]), self.tokens + (now - self.filled) * rules["rate"])
            self.filled = now
            if self.tokens < 1:
                return (1 - self.tokens) / float(rules["rate"])
            self.tokens -= 1
            return None
        window = int(now // rules["window"])
        if window != self.window:
            self.window, self.used = window, 0
        if self.used >= rules["quota"]:
            return float((window + 1) * rules["window"] - now)
        self.used += 1
        return None

    def allowed(self) -> float:
        rules, end = self.rules, self.answered[-1]
        if "rate" in rules:
            return float(rules["rate"] * end + rules["burst"])
        return float(rules["quota"] * (end / rules["window"] + 1))


async def drive(pace: Pace, server: Simulated, count: int, concurrency: int) -> None:
    chance = random.Random(1)
    fresh, later, left = collections.deque(range(count)), [], count

    async def work() -> None:
        nonlocal left
        while left:
            now = server.loop.time()
            if later and later[0][0] <= now:
                number = heapq.heappop(later)[1]
            elif fresh:
                number = fresh.popleft()
            else:
                await asyncio.sleep(max(later[0][0] - now, 0.001) if later else 0.01)
                continue
            sent = await pace.wait()
            await asyncio.sleep(0.002)
            wait = server.wait()
            if wait is None:
                await asyncio.sleep(chance.uniform(0.5, 1.5) * server.rules.get("delay", 0.02))
                server.answered.append(server.loop.time())
                pace.accepted()
                left -= 1
            else:
                server.refused += 1
                after = server.rules.get("retry_after", "exact")
                again = pace.refused(sent, wait if after == "exact" else after)
                heapq.heappush(later, (server.loop.time() + again * chance.uniform(1.0, 1.1), number))

    await asyncio.gather(*[work() for _ in range(concurrency)])


@pytest.mark.parametrize("name", SERVERS)
def test_nine_tenths_of_what_a_server_allows_are_used(name: str) -> None:
    rules = SERVERS[name]
    count, concurrency = rules.get("count", 1200), rules.get("concurrency", 32)
    loop = VirtualLoop()
    try:
        server = Simulated(loop, rules)
        loop.run_until_complete(drive(Pace(clock=loop.time), server, count, concurrency))
    finally:
        loop.close()
    assert len(server.answered) == count
    possible = min(server.allowed(), concurrency / rules.get("delay", 0.02) * server.answered[-1])
    assert count / possible >= 0.88
    assert server.refused <= count / 2


def test_while_a_server_refuses_everything_it_is_left_alone() -> None:
    loop = VirtualLoop()
    sent: list[float] = []

    async def ask() -> None:
        pace = Pace(clock=loop.time)
        while loop.time() < 300:
            at = await pace.wait()
            sent.append(at)
            await asyncio.sleep(pace.refused(at, None))

    try:
        loop.run_until_complete(ask())
    finally:
        loop.close()
    assert len(sent) < 20
