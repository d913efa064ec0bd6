"""The engines, and the one function that opens a model with the right one.

An engine is one file in this folder. It registers itself with :func:`register` where it is defined, and
imports its heavy library only when it is opened, so listing the engines costs nothing.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Final, Protocol

from edgestill.errors import InputError, MissingDependencyError
from edgestill.runtime.engine import Engine
from edgestill.runtime.engine_options import DEFAULTS, EngineOptions
from edgestill.runtime.model_source import Kind, ModelSource

BYTES_PER_THREAD: Final = 4 << 20
"""Weights that keep one more thread busy. Below it, waiting for each other after every small operator costs
the threads more than they gain (measured on models of 0.04 to 1.3 MB: one thread beat two on both engines,
the more so on a busy machine)."""

DEFAULT_CONTEXT: Final = 4096
"""The most tokens that a KV cache is made for unless more are asked for: long-context models would take gigabytes."""


class Opener(Protocol):
    """Opens a model: (source, threads, the asked context length or None, options that the engine has) -> Engine."""

    def __call__(
        self, source: ModelSource, threads: int, context_length: int | None, options: EngineOptions = DEFAULTS
    ) -> Engine: ...


@dataclass(frozen=True)
class _Registered:
    kinds: tuple[Kind, ...]
    open: Opener
    options: tuple[str, ...]


_engines: dict[str, _Registered] = {}


def register(name: str, *, kinds: tuple[Kind, ...], options: tuple[str, ...] = ()) -> Callable[[Opener], Opener]:
    """Register a function as the opener of engine ``name``, which runs models of ``kinds`` and has ``options``."""

    def keep(opener: Opener) -> Opener:
        _engines[name] = _Registered(kinds, opener, options)
        return opener

    return keep


def engine_names() -> tuple[str, ...]:
    """Return the names of all engines, sorted; their libraries needn't be installed."""
    return tuple(sorted(_load()))


def engine_name(text: str) -> str:
    """Return ``text`` when it names an engine. Raises InputError that lists them."""
    if text not in _load():
        raise InputError(f"engine {text!r} is unknown; choose one of {', '.join(engine_names())}")
    return text


def open_engine(
    source: ModelSource,
    *,
    engine: str | None = None,
    threads: int | None = None,
    context_length: int | None = None,
    options: EngineOptions = DEFAULTS,
) -> Engine:
    """Load a model into an engine.

    ``engine`` is ``torch``, ``onnxruntime`` or ``llama.cpp`` (None: the one for the model's kind);
    ``threads`` None fits the model, up to every CPU that this process may run on (see
    :func:`default_threads`); ``context_length`` is the most tokens to
    make room for (None: 4096), never more than the model was trained for. Raises InputError for an
    impossible combination and an option that the engine hasn't got, MissingDependencyError when the engine's package
    isn't installed, and ModelFileError or CheckpointError when the model can't be read.
    """
    engines = _load()
    if engine is None:
        engine = next(name for name in sorted(engines) if source.kind in engines[name].kinds)
    engine = engine_name(engine)
    if source.kind not in engines[engine].kinds:
        able = ", ".join(name for name in sorted(engines) if source.kind in engines[name].kinds)
        raise InputError(f"{source}: the {engine} engine doesn't run a {source.kind} model; use {able}")
    for name, value in (("threads", threads), ("context_length", context_length)):
        if value is not None and value < 1:
            raise InputError(f"{name}: {value} is out of range; at least 1 is expected")
    for name in options.asked():
        if name not in engines[engine].options:
            able = ", ".join(other for other in sorted(engines) if name in engines[other].options)
            raise InputError(
                f"{source}: the {engine} engine has no option {name} (it was {getattr(options, name)!r}); "
                f"leave it out: only {able} has it"
            )
    return engines[engine].open(source, threads or default_threads(source), context_length, options)


def default_threads(source: ModelSource) -> int:
    """Return a thread for each ``BYTES_PER_THREAD`` of the model's files, at least 1, at most the CPUs there are."""
    if source.kind == "transformers":
        return available_cpus()
    return max(1, min(available_cpus(), -(-source.size_bytes // BYTES_PER_THREAD)))


def available_cpus() -> int:
    """Return how many CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def require(module: str, *, engine: str, extra: str) -> ModuleType:
    """Import an engine's library. Raises MissingDependencyError that names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"the {engine} engine needs {module}, which can't be imported ({error}); pip install 'edgestill[{extra}]'"
        ) from error


def _load() -> dict[str, _Registered]:
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return _engines
