"""Every error that edgestill raises on purpose, as one tree.

    EdgestillError                  exit status 1 unless said otherwise
    ├── InputError                  exit status 2: what the user gave can't be used
    │   ├── RecipeError             a key or value of a recipe
    │   ├── DataError               a row of a data file (file and line named)
    │   ├── CheckpointError         a Hugging Face model folder
    │   ├── ModelFileError          a GGUF or ONNX file, or an artifact's folder
    │   ├── UnsupportedError        an architecture, tokenizer or precision we don't have
    │   └── BundleError             a bundle: manifest, hash, missing or extra file
    └── StageError                  the work itself failed
        ├── GateError               a check refused a result (parity, golden tokens)
        ├── ContextFullError        the tokens don't fit the model's context
        ├── DiskFullError           no room left; nothing half-written is kept
        └── MissingDependencyError  an optional package is needed; the message says which

A message names the thing, the value and the cure in one line. ``KeyboardInterrupt`` is not ours:
the command line turns it into exit status 130.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator


class EdgestillError(Exception):
    """Base of the tree; ``str(error)`` is the one line a user reads."""

    exit_status = 1


class InputError(EdgestillError):
    """What the user gave can't be used."""

    exit_status = 2


class RecipeError(InputError):
    """A recipe has a wrong key, value or combination."""


class DataError(InputError):
    """A data file is missing or one of its rows is bad."""


class CheckpointError(InputError):
    """A Hugging Face model folder is missing a file, or a file in it is damaged."""


class ModelFileError(InputError):
    """A GGUF file, an ONNX file or an artifact's folder can't be read."""


class UnsupportedError(InputError):
    """An architecture, tokenizer, precision or format that edgestill doesn't have."""


class BundleError(InputError):
    """A bundle doesn't match its manifest."""


class StageError(EdgestillError):
    """A stage failed while working."""


class GateError(StageError):
    """A check refused a result."""


class ContextFullError(StageError):
    """The tokens don't fit the model's context length."""


class DiskFullError(StageError):
    """The disk is full."""


class MissingDependencyError(StageError):
    """An optional package is needed and not installed."""


@contextlib.contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turn "no space left" and "quota exceeded" into :class:`DiskFullError` that says what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"disk full while {doing}; free some room and run the same command again") from error
        raise
