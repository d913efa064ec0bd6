"""The native runtime: a C library (include/edgestill.h), a program over it, their build, and a binding to Python.

The C++ in ``src`` stands on llama.cpp, whose source comes out of llama-cpp-python's source distribution: the version
that the Python runtime uses (:mod:`edgestill.runtime.native.source`).
"""
