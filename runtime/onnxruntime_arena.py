"""What onnxruntime takes for weights while loading, from the lines that its arena logs.

Its Python interface has no statistics of allocators. While a model is loaded its arena reserves one piece for each
initializer that isn't mapped and for each that a kernel packs anew, and logs it.
"""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any, Final

from edgestill.runtime.engine import MemoryPart

_INFO: Final = 1
_WARNING: Final = 2  # onnxruntime's default
_RESERVED: Final = re.compile(r"^Reserving memory in BFCArena for \S+ size: (\d+)")


class LoadTrace:
    """Listens, as a context manager around a load, to what the arena reserves; only where it is ``wanted``.

    It takes onnxruntime's one logging callback: for a process of ours, not inside someone's app.
    """

    def __init__(self, runtime: Any, wanted: bool) -> None:
        self._runtime = runtime
        # onnxruntime 1.24 has no callback.
        self.listens = wanted and hasattr(runtime, "set_default_logger_callback")
        self.reserved: list[int] = []

    def __enter__(self) -> LoadTrace:
        if self.listens:
            self._runtime.set_default_logger_callback(self.take, _INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.listens:
            self._runtime.set_default_logger_callback(None)
            self._runtime.set_default_logger_severity(_WARNING)

    def take(self, severity: int, category: str, logid: str, location: str, message: str) -> None:
        """Take one line of the log."""
        del severity, category, logid, location
        if found := _RESERVED.match(message):
            self.reserved.append(int(found[1]))

    def weights(self) -> MemoryPart:
        """Return the copies of weights that were made; of unknown size where nothing was heard."""
        name = "packed for this processor by onnxruntime"
        if not self.listens:
            return MemoryPart("weights", name, None, None, "onnxruntime doesn't say how much")
        source = f"onnxruntime's log: {len(self.reserved)} pieces that its arena reserved while loading"
        return MemoryPart("weights", name, sum(self.reserved), None, source)
