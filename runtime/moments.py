"""The moments at which a process looks at its memory for the ledger; never inside a timed section."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgestill.errors import EdgestillError
from edgestill.runtime.c_heap import freed_bytes
from edgestill.runtime.engine import AccountsForMemory, Engine, MemoryPart
from edgestill.runtime.memory import read_memory
from edgestill.runtime.model_source import ModelSource
from edgestill.runtime.smaps import group_of, read_smaps

START: Final = "before the engine's import"
IMPORTED: Final = "before load"
TOKENIZER: Final = "after the tokenizer"
LOADED: Final = "after load"
WARM: Final = "after warm-up"
END: Final = "at the end"


@dataclass(frozen=True)
class Moment:
    """This process's memory at one moment, in bytes.

    PSS of mapped files: ``model``, ``engine`` (its libraries), ``python`` (all others); of no file: ``anonymous``,
    of which ``freed`` lies in the C library's lists of free memory (0: it doesn't say). ``rss`` and ``peak_rss``
    are the kernel's VmRSS and VmHWM. ``parts`` is what the engine held by its own account.
    """

    name: str
    model: int
    engine: int
    python: int
    anonymous: int
    freed: int
    rss: int
    peak_rss: int
    huge_pages: int
    swapped: int
    parts: tuple[MemoryPart, ...] = ()

    @property
    def pss(self) -> int:
        """The whole PSS."""
        return self.model + self.engine + self.python + self.anonymous

    @property
    def in_use(self) -> int:
        """Anonymous memory without what was freed."""
        return self.anonymous - self.freed

    def held(self, kind: str) -> int:
        """Return the bytes in memory of the engine's parts of a kind; what has no address counts as wholly there."""
        return sum(_in_memory(part) for part in self.parts if part.kind == kind)


def _in_memory(part: MemoryPart) -> int:
    return part.resident if part.resident is not None else part.allocated or 0


def look(name: str, model: frozenset[str], engine: tuple[str, ...], parts: tuple[MemoryPart, ...] = ()) -> Moment:
    """Read this process's memory now; ``model`` and ``engine`` as in :func:`edgestill.runtime.smaps.group_of`."""
    counters = read_memory()
    pss = {"model": 0, "engine": 0, "python": 0, "anonymous": 0, "stack": 0}
    huge = swapped = 0
    for mapping in read_smaps():
        pss[group_of(mapping, model, engine)] += mapping.pss
        huge += mapping.anon_huge_pages
        swapped += mapping.swap
    freed = freed_bytes() or 0
    anonymous = pss["anonymous"] + pss["stack"]
    return Moment(
        name=name,
        model=pss["model"],
        engine=pss["engine"],
        python=pss["python"],
        anonymous=anonymous,
        freed=freed,
        rss=counters.rss or 0,
        peak_rss=counters.peak_rss or 0,
        huge_pages=huge,
        swapped=swapped,
        parts=parts,
    )


class MemoryLog:
    """Takes the moments of one process, where it is ``wanted``; ``packages`` are the modules of the model's engine."""

    def __init__(self, source: ModelSource, packages: Sequence[str], wanted: bool) -> None:
        self.wanted = wanted and sys.platform == "linux"
        self._model = frozenset(str(file.resolve()) for file in source.files())
        self._packages = tuple(packages)
        self._moments: list[Moment] = []

    def take(self, name: str, engine: Engine | None = None) -> None:
        """Look at the memory now; ``engine`` is asked what it holds."""
        if self.wanted:
            parts = engine.memory() if isinstance(engine, AccountsForMemory) else ()
            self._moments.append(look(name, self._model, self._folders(), parts))

    def close(self, engine: Engine) -> dict[str, object] | None:
        """Take the last moment and return all as JSON (see :func:`moments_of`); None where nothing was taken.

        Afterwards the model is opened once more without its weights, to measure what a load needs besides.
        """
        self.take(END, engine)
        if not self.wanted:
            return None
        return {"moments": [dataclasses.asdict(moment) for moment in self._moments], "bare": self._bare(engine)}

    def _bare(self, engine: Engine) -> int | None:
        if not isinstance(engine, AccountsForMemory):
            return None
        before = look("", self._model, self._folders()).in_use
        try:
            close = engine.open_bare()
        except EdgestillError:
            return None  # what it would have shown stays in the unexplained line: no reason to lose the measurement
        if close is None:
            return None
        grown = look("", self._model, self._folders()).in_use - before
        close()
        return grown

    def _folders(self) -> tuple[str, ...]:
        """Return where the engine's libraries lie: its packages' folders, and those that wheels put beside them."""
        found = []
        for name in self._packages:
            file = getattr(sys.modules.get(name), "__file__", None)
            if file is not None:
                folder = Path(file).resolve().parent
                found += [f"{folder}/", f"{folder}.libs/"]
        return tuple(found)


def moments_of(document: Mapping[str, Any]) -> tuple[dict[str, Moment], int | None]:
    """Return the moments by name, in order, and the bytes of a bare load, from :meth:`MemoryLog.close`."""
    moments = {}
    for fields in document["moments"]:
        parts = tuple(MemoryPart(**part) for part in fields["parts"])
        moments[fields["name"]] = Moment(**{**fields, "parts": parts})
    return moments, document["bare"]
