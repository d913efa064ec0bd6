"""What can enforce a constraint, and the choice between them.

A backend is one file in this folder. It registers itself with :func:`register` where it is defined, and imports
its heavy library only when a matcher is made.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from edgestill.errors import MissingDependencyError, UnsupportedError
from edgestill.runtime.constraint import Constraint, Matcher
from edgestill.runtime.constraints.vocabulary import Vocabulary
from edgestill.runtime.engine import Engine
from edgestill.runtime.tokenizer import Tokenizer

Compiler = Callable[[Constraint, Vocabulary], Callable[[], Matcher]]
"""Compiles a constraint: (constraint, vocabulary) -> a function that makes a matcher for one answer."""


@dataclass(frozen=True)
class _Registered:
    engines: tuple[str, ...]
    compile: Compiler


_backends: dict[str, _Registered] = {}


def register(name: str, *, engines: tuple[str, ...] = ()) -> Callable[[Compiler], Compiler]:
    """Register a compiler as backend ``name``, for the named engines (none: for every engine)."""

    def keep(compiler: Compiler) -> Compiler:
        _backends[name] = _Registered(engines, compiler)
        return compiler

    return keep


@dataclass(frozen=True)
class Compiled:
    """A constraint made ready for one model: by which backend, and why not by the engine's own."""

    backend: str
    note: str | None
    matcher: Callable[[], Matcher]


class ConstraintCompiler:
    """Compiles constraints for one engine and tokenizer, and keeps the last one."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer) -> None:
        self._engine = engine
        self._vocabulary = Vocabulary(engine, tokenizer)
        self._last: tuple[Constraint, Compiled] | None = None

    def compiled(self, constraint: Constraint) -> Compiled:
        """Return the constraint, compiled by the first backend that enforces all of it.

        Raises InputError for a schema or grammar that is malformed, UnsupportedError when no backend enforces it,
        MissingDependencyError when the one that would isn't installed.
        """
        if self._last is None or self._last[0] != constraint:
            self._last = (constraint, self._compile(constraint))
        return self._last[1]

    def _compile(self, constraint: Constraint) -> Compiled:
        for module in pkgutil.iter_modules(__path__, f"{__name__}."):
            importlib.import_module(module.name)
        note: str | None = None
        # An engine's own backend goes before one for every engine.
        for name, backend in sorted(_backends.items(), key=lambda item: not item[1].engines):
            if backend.engines and self._engine.name not in backend.engines:
                continue
            try:
                return Compiled(name, note, backend.compile(constraint, self._vocabulary))
            except UnsupportedError as error:
                note = str(error) if note is None else f"{note}; {error}"
            except MissingDependencyError as error:
                if note is None:
                    raise
                raise MissingDependencyError(f"{note}; {error}") from error
        raise UnsupportedError(note or f"no backend enforces a constraint on the {self._engine.name} engine")
