"""A pool of threads that llama.cpp keeps from token to token."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final

_SETTINGS_BYTES: Final = 4096
"""More than ``ggml_threadpool_params`` has (a mask of 512 cores and five numbers); ggml fills it in itself."""


def attach_threads(llama: Any, context: Any, threads: int) -> Callable[[], None] | None:
    """Make a pool for a context of the module ``llama_cpp``; return what frees it, for after the context's end.

    Without one llama.cpp makes a pool for every graph that it computes: threads of its own, where it was built without
    OpenMP, and a microsecond's work with it. llama-cpp-python doesn't bind these functions; None where its libraries
    don't show them, and for one thread, which needs no pool.
    """
    if threads == 1:
        return None
    try:
        library = llama.llama_cpp._lib
        attach, init = library.llama_attach_threadpool, library.ggml_threadpool_params_init
        new, free = library.ggml_threadpool_new, library.ggml_threadpool_free
    except AttributeError:
        return None
    attach.argtypes, attach.restype = [ctypes.c_void_p] * 3, None
    init.argtypes, init.restype = [ctypes.c_void_p, ctypes.c_int], None
    new.argtypes, new.restype = [ctypes.c_void_p], ctypes.c_void_p
    free.argtypes, free.restype = [ctypes.c_void_p], None
    settings = ctypes.create_string_buffer(_SETTINGS_BYTES)
    init(settings, threads)
    pool = new(settings)
    if not pool:
        return None
    attach(context, pool, None)
    return lambda: free(pool)
