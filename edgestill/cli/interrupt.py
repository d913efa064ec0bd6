"""Ctrl-C that is never lost.

Python raises KeyboardInterrupt wherever it happens to be; inside a destructor or a library's callback it
is printed and forgotten. So the first Ctrl-C is remembered, and the next sign of progress raises it again.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_asked = threading.Event()


def remember_interrupts() -> None:
    """Handle SIGINT in this process as Python does, and remember it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupt)


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt when Ctrl-C was pressed and something swallowed it."""
    if _asked.is_set() and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    _asked.set()
    raise KeyboardInterrupt


def forget_interrupt() -> None:
    """Tell CPython that the interrupt was dealt with, so that the process ends with its own exit status.

    A KeyboardInterrupt that passes through ``exec`` of a string (dataclasses and namedtuple compile their
    methods so while a library is imported) leaves a mark in the interpreter, and ``python -m`` then dies of
    SIGINT at its end, whatever was caught. Only the next ``exec`` of a string takes the mark away.
    """
    exec("")  # noqa: S102 - the empty program: see above
