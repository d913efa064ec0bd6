"""The child process of :mod:`edgestill.quantize.gguf`: one call of llama.cpp's quantiser.

Run as ``python -m edgestill.quantize.llama_quantize SOURCE TARGET FILE_TYPE THREADS``. A process of its own,
because llama.cpp aborts on some errors and can't be interrupted. Its log goes to stderr.
"""

from __future__ import annotations

import ctypes
import sys


def main(source: str, target: str, file_type: int, threads: int) -> int:
    """Quantise ``source`` into ``target``; return llama.cpp's code (0: done)."""
    import llama_cpp

    def show(level: int, text: bytes, user_data: int | None) -> None:
        sys.stderr.buffer.write(text)
        sys.stderr.buffer.flush()

    callback = llama_cpp.llama_log_callback(show)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = file_type
    parameters.nthread = threads
    parameters.pure = False
    parameters.allow_requantize = False
    code: int = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
