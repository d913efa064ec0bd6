"""Finding stop strings in text that arrives in pieces."""

from __future__ import annotations


class StopStrings:
    """Passes text through up to the first stop string; ``found`` says that one was met.

    What may be the beginning of a stop string is held back until more text decides.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """Take the next piece; return the text that is certainly before any stop string."""
        held = self._held + text
        starts = [start for stop in self._stops if (start := held.find(stop)) >= 0]
        if starts:
            self.found = True
            self._held = ""
            return held[: min(starts)]
        keep = max(self._overlap(held, stop) for stop in self._stops)
        cut = len(held) - keep
        self._held = held[cut:]
        return held[:cut]

    def finish(self) -> str:
        """Return what was held back: no more text follows."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Return the length of the longest end of ``text`` that begins ``stop``, less than all of it."""
        for size in range(min(len(text), len(stop) - 1), 0, -1):
            if stop.startswith(text[-size:]):
                return size
        return 0
