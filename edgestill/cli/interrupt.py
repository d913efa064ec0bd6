"""Ctrl-C that is never lost, and never comes at a moment that can't bear it.

Python raises KeyboardInterrupt wherever it happens to be. Inside a destructor or a library's callback it is
printed and forgotten: so it is remembered instead of printed, and raised again. While a compiled
module is being imported it may abort the process (of 60 interrupted runs, 5 died of a signal in the imports
of onnx, ml_dtypes and torch): so it waits until the import is over.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from types import FrameType
from typing import Final

_RETRY_SECONDS: Final = 0.02
_LONGEST_IMPORT_SECONDS: Final = 15.0
_IMPORTLIB: Final = "<frozen importlib"

_asked = threading.Event()
_since = 0.0


def remember_interrupts() -> None:
    """Handle SIGINT in this process as Python does, but between imports, and remember it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupt)
        sys.unraisablehook = _unraisable


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt when Ctrl-C was pressed and something swallowed it."""
    if _asked.is_set() and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _since
    if not _asked.is_set():
        _asked.set()
        _since = time.monotonic()
    if _importing(frame) and time.monotonic() - _since < _LONGEST_IMPORT_SECONDS:
        _soon()
        return
    raise KeyboardInterrupt


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    """Take note of an interrupt where Python can't raise (a callback from C, a destructor): it comes again soon."""
    if unraisable.exc_type is not None and issubclass(unraisable.exc_type, KeyboardInterrupt):
        _soon()
    else:
        sys.__unraisablehook__(unraisable)


def _soon() -> None:
    retry = threading.Timer(_RETRY_SECONDS, _press_again)
    retry.daemon = True
    with contextlib.suppress(RuntimeError):  # no thread starts while the interpreter shuts down
        retry.start()


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(_IMPORTLIB):
            return True
        frame = frame.f_back
    return False


def _press_again() -> None:
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, signal.SIGINT)  # to that thread: it may sit in a system call


def forget_interrupt() -> None:
    """Tell CPython that the interrupt was dealt with, so that the process ends with its own exit status.

    A KeyboardInterrupt that passes through ``exec`` of a string (namedtuple and dataclasses compile their
    methods so) leaves a mark in the interpreter, and ``python -m`` then dies of SIGINT at its end, whatever
    was caught. Only the next ``exec`` of a string takes the mark away. A retry that is still to come finds
    nobody who cares.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exec("")  # noqa: S102 - the empty program: see above
