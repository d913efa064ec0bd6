"""Asking a server: many requests at once, at the pace it allows, each answer recorded as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from edgestill.distill.ledger import Asking, Ledger, Question, Reply
from edgestill.distill.pace import Pace, backoff
from edgestill.distill.teachers import Limits
from edgestill.errors import InputError, StageError
from edgestill.progress import Progress, Task
from edgestill.sections import Price, RemoteTeacher
from edgestill.storage import sha256_json

_ATTEMPTS: Final = 8
_EMPTY_ATTEMPTS: Final = 3
_PATIENCE_SECONDS: Final = 1800.0
_MESSAGE_TOKENS: Final = 16
_LOOK_AGAIN: Final = 0.05
_OVERLOADED: Final = (503, 529)


class Busy(Exception):
    """The server refused for now (429); ``retry_after`` are the seconds that it named."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


class Overloaded(Exception):
    """The server is too busy with others (529, 503): that says nothing of our own quota."""


class Unavailable(Exception):
    """Something went wrong that may go right the next time."""


class Refused(Exception):
    """The server will never answer this question (too long, filtered)."""


@dataclass(frozen=True)
class Said:
    """One answer as it came from the server."""

    text: str
    finished: bool
    prompt_tokens: int
    new_tokens: int


class Client(Protocol):
    """One server: ``ask`` raises Busy, Overloaded, Unavailable, Refused, or InputError for what nothing cures."""

    async def ask(self, question: Question, asking: Asking) -> Said:
        """Ask once."""

    async def close(self) -> None:
        """Close all connections."""


class Remote:
    """A teacher behind a server; see :class:`edgestill.distill.teachers.Teacher`."""

    paid = True

    def __init__(self, section: RemoteTeacher, connect: Callable[[], Client]) -> None:
        self.name = section.name or section.model.rsplit("/", 1)[-1]
        kind = type(section).__name__
        self.identity = sha256_json([kind, section.base_url, section.model, section.body])
        self._section = section
        self._connect = connect

    def answer(
        self, questions: Sequence[Question], asking: Asking, ledger: Ledger, limits: Limits, progress: Progress
    ) -> dict[str, Reply]:
        keys = {Ledger.key(self.identity, question, asking): question for question in questions}
        found = ledger.find(keys)
        todo = {key: question for key, question in keys.items() if key not in found}
        replies = {keys[key].key: reply for key, reply in found.items()}
        if not todo:
            return replies
        # What is known already is no part of the rate, nor of the time left.
        known = f" ({len(found):,} known)" if found else ""
        with progress.task(f"{self.name} answers{known}", total=len(todo), unit="answers") as task:
            # What a run before this one paid for the same questions counts: a kill gives no fresh purse.
            spent = limits.spent + sum(reply.cost or 0.0 for reply in found.values())
            run = _Run(self, todo, asking, ledger, limits, spent, task)
            asyncio.run(run.ask_all(self._connect))
        replies.update({todo[key].key: reply for key, reply in run.replies.items()})
        return replies

    @property
    def price(self) -> Price | None:
        """What tokens cost."""
        return self._section.price


def secret(section: RemoteTeacher) -> str:
    """Return the key for a server from the environment. Raises InputError that names the variable."""
    if section.api_key_env is None:
        return "none"
    key = os.environ.get(section.api_key_env, "").strip()
    if not key:
        raise InputError(
            f"teacher {section.model}: the environment variable {section.api_key_env} has no key; set it "
            "(or api_key_env: null for a server that wants none)"
        )
    return key


def cost_of(price: Price | None, prompt_tokens: int, new_tokens: int) -> float | None:
    """Return what an answer costs."""
    if price is None:
        return None
    return (prompt_tokens * price.input + new_tokens * price.output) / 1e6


@dataclass(order=True)
class _Open:
    """A question that has no answer yet, and when it may be asked (again)."""

    at: float
    number: int
    key: str = field(compare=False)
    question: Question = field(compare=False)
    first: float | None = field(default=None, compare=False)
    failures: int = field(default=0, compare=False)
    overloads: int = field(default=0, compare=False)
    empty: int = field(default=0, compare=False)
    prompt_tokens: int = field(default=0, compare=False)
    new_tokens: int = field(default=0, compare=False)


def translated(error: Exception, errors: Any, section: RemoteTeacher) -> Exception:
    """Return what an error of a vendor's client means; ``errors`` is the client's module.

    OpenAI's and Anthropic's clients name their errors alike.
    """
    if isinstance(error, errors.RateLimitError):
        return Busy(retry_after(error))
    if getattr(error, "status_code", None) in _OVERLOADED:
        return Overloaded(f"status {getattr(error, 'status_code', None)}")
    if isinstance(error, errors.AuthenticationError | errors.PermissionDeniedError):
        return InputError(
            f"{section.model}: {section.base_url} refuses the key of {section.api_key_env} ({error.status_code})"
        )
    if isinstance(error, errors.NotFoundError):
        return InputError(f"{section.model}: no such model at {section.base_url} (404); correct model or base_url")
    if isinstance(error, errors.BadRequestError | errors.UnprocessableEntityError):
        code = getattr(error, "code", None)
        return Refused(code if isinstance(code, str) else f"status {error.status_code}")
    if isinstance(error, errors.APIStatusError):
        return Unavailable(f"status {error.status_code}")
    if isinstance(error, errors.APITimeoutError):
        return Unavailable(f"no answer in {section.timeout_seconds:g} s")
    if isinstance(error, errors.APIError | ValueError | OSError):  # cut connections, answers that aren't JSON
        return Unavailable(type(error).__name__)
    return error


def retry_after(error: Any) -> float | None:
    """Return the seconds of a Retry-After or retry-after-ms header, at most ten minutes; None without one."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * scale
        except (KeyError, ValueError, TypeError):
            continue
        if 0 <= seconds <= 600:
            return seconds
    return None


class _Run:
    """The questions of one call, under way. A question that must wait lies in the heap and holds nobody up."""

    def __init__(
        self,
        teacher: Remote,
        todo: dict[str, Question],
        asking: Asking,
        ledger: Ledger,
        limits: Limits,
        spent: float,
        task: Task,
    ) -> None:
        self.replies: dict[str, Reply] = {}
        self._teacher, self._asking, self._ledger, self._limits = teacher, asking, ledger, limits
        self._task = task
        self._open = [_Open(0.0, number, key, question) for number, (key, question) in enumerate(todo.items())]
        self._unanswered = len(todo)
        self._chance = random.Random()
        self._pace = Pace()
        self._spent, self._promised = spent, 0.0
        self._stopped = False

    async def ask_all(self, connect: Callable[[], Client]) -> None:
        """Ask until every question has its reply, or no more may be asked."""
        client = connect()
        workers = [
            asyncio.create_task(self._work(client)) for _ in range(min(self._limits.concurrency, self._unanswered))
        ]
        try:
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
            for worker in done:
                if (error := worker.exception()) is not None:
                    raise error
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            with contextlib.suppress(Exception):
                await client.close()
        if self._stopped:
            raise StageError(
                f"max_cost {self._limits.max_cost:g} would be exceeded: {self._spent:.4f} spent, {self._unanswered:,} "
                f"questions to {self._teacher.name} not asked; what was answered is kept, raise synthesize.max_cost"
            )

    async def _work(self, client: Client) -> None:
        while self._unanswered and not self._stopped:
            now = time.monotonic()
            if not self._open or self._open[0].at > now:
                # Others are under way, and may come back; or the next repetition isn't due yet.
                soonest = self._open[0].at - now if self._open else _LOOK_AGAIN
                await asyncio.sleep(min(max(soonest, 0.001), _LOOK_AGAIN))
                continue
            one = heapq.heappop(self._open)
            worst = self._worst_cost(one.question)
            if self._limits.max_cost is not None and self._spent + self._promised + worst > self._limits.max_cost:
                self._stopped = True
                return
            self._promised += worst
            try:
                reply = await self._try(client, one)
            finally:
                self._promised -= worst
            if reply is None:
                heapq.heappush(self._open, one)
                continue
            self._spent += reply.cost or 0.0
            self._ledger.record(self._teacher.identity, {one.key: reply})
            self.replies[one.key] = reply
            self._unanswered -= 1
            shown = {} if reply.cost is None else {"cost": f"{self._spent:.4f}"}
            if self._pace.refusals:
                shown["refused"] = f"{self._pace.refusals:,}"
            self._task.advance(1, **shown)

    async def _try(self, client: Client, one: _Open) -> Reply | None:
        """Ask once; return the reply, or None when ``one`` must be asked again, from ``one.at`` on."""
        sent = await self._pace.wait()
        one.first = one.first or sent
        try:
            said = await client.ask(one.question, self._asking)
        except Busy as busy:
            wait = self._pace.refused(sent, busy.retry_after)
            self._later(one, wait * self._chance.uniform(1.0, 1.1), "refused (429)")
            return None
        except Overloaded as error:
            self._pace.failed()
            one.overloads += 1
            self._later(one, backoff(one.overloads, self._chance), f"was overloaded ({error})")
            return None
        except Refused as error:
            self._pace.failed()
            cost = cost_of(self._teacher.price, one.prompt_tokens, one.new_tokens)
            return Reply("", False, one.prompt_tokens, one.new_tokens, cost, f"refused by the server: {error}")
        except Unavailable as error:
            self._pace.failed()
            one.failures += 1
            if one.failures >= _ATTEMPTS:
                raise StageError(
                    f"{self._teacher.name}: no answer after {one.failures} attempts ({error}); "
                    "what was answered is kept, run again when the server is well"
                ) from None
            one.at = time.monotonic() + backoff(one.failures, self._chance)
            return None
        except BaseException:
            self._pace.failed()
            raise
        self._pace.accepted()
        # An empty answer is paid for, and asked again.
        one.prompt_tokens += said.prompt_tokens
        one.new_tokens += said.new_tokens
        one.empty += not said.text.strip()
        if not said.text.strip() and one.empty < _EMPTY_ATTEMPTS:
            return None
        cost = cost_of(self._teacher.price, one.prompt_tokens, one.new_tokens)
        return Reply(said.text, said.finished, one.prompt_tokens, one.new_tokens, cost)

    def _later(self, one: _Open, wait: float, what: str) -> None:
        """Ask again after ``wait`` seconds. Raises StageError when it has been tried for half an hour."""
        one.at = time.monotonic() + wait
        if one.first is not None and one.at - one.first > _PATIENCE_SECONDS:
            minutes = f"{_PATIENCE_SECONDS / 60:.0f} minutes"
            raise StageError(
                f"{self._teacher.name}: the server {what} for {minutes}; what was answered is kept, run again later"
            )

    def _worst_cost(self, question: Question) -> float:
        """A token has at least one byte; the answer may take all that it may."""
        size = sum(len(message.content.encode()) + _MESSAGE_TOKENS for message in question.messages)
        return cost_of(self._teacher.price, size, self._asking.max_new_tokens) or 0.0
