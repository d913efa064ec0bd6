"""Small things of ctypes around llama.cpp's functions."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgestill.errors import StageError


def refuse_closed(_context: object, _batch: object) -> int:
    """Stand where llama_decode was, after the model was freed. Raises StageError."""
    raise StageError("the model was closed; open it again")


def returning_an_address(function: Any) -> Callable[[object, int], int | None]:
    """Return llama.cpp's function of a context and a row with its pointer as a number: no object is made of it."""
    prototype = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None  # a function of a loaded library
    return prototype(address)


def bytes_of(array: NDArray[np.uint8]) -> Any:
    """Return a pointer to an array's bytes, which must outlive it."""
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
