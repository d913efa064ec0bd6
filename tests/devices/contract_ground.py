"""What the contract's cases share: the ground that each stands on, and the list of them by name."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edgestill.bundle import Bundle
from edgestill.devices.contract import (
    Driver,
    PushReport,
)
from edgestill.progress import Task
from tests.devices.contract_targets import Target


@dataclass
class Ground:
    """What a case works with: a target, an opened driver of it, a folder here and a bundle."""

    target: Target
    driver: Driver
    folder: Path
    bundle: Bundle
    _count: int = field(default=0)

    def local(self, contents: Mapping[str, bytes]) -> dict[str, Path]:
        """Write files here, under names of their own, for a push."""
        files = {}
        for name, content in contents.items():
            self._count += 1
            files[name] = self.folder / f"local-{self._count}"
            files[name].write_bytes(content)
        return files

    def push(self, contents: Mapping[str, bytes], folder: str = "box", **options: object) -> PushReport:
        return self.driver.push(self.local(contents), folder, **options)  # type: ignore[arg-type]

    def there(self, folder: str = "box") -> dict[str, bytes]:
        return self.target.files(folder)


class Watch:
    """A progress listener that calls ``act`` once, when ``after`` bytes are sent; ssh has 2 MB of them under way."""

    def __init__(self, act: Callable[[], None], after: int) -> None:
        self._act, self._after, self._sent = act, after, 0

    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        self._counts = unit == "bytes"
        yield self

    def advance(self, amount: float = 1, **fields: str) -> None:
        if self._counts and self._sent < self._after:
            self._sent += int(amount)
            if self._sent >= self._after:
                self._act()

    def set_total(self, total: float) -> None:
        pass

    def note(self, text: str) -> None:
        pass


Case = Callable[[Ground], None]
CASES: Final[dict[str, Case]] = {}


def case(function: Case) -> Case:
    """Add a case under its function's name."""
    CASES[function.__name__] = function
    return function


def some_bytes(size: int, seed: int = 0) -> bytes:
    """Return bytes that no transport can make smaller."""
    return hashlib.shake_128(seed.to_bytes(8, "little")).digest(size)


def one_line(error: BaseException) -> None:
    """See that an error is one line that begins with the device's name."""
    assert str(error).startswith("box: ")
    assert "\n" not in str(error)
