"""What a benchmark runs, and how often."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final

from edgestill.errors import InputError
from edgestill.runtime.engine_options import DEFAULTS, EngineOptions


@dataclass(frozen=True)
class BenchOptions:
    """What is run: ``repetitions`` measured after ``warmup`` unmeasured ones, each from a KV cache of ``depth`` tokens.

    ``engine``, ``threads`` and ``context_length`` are the session's own choice where None;
    With ``width`` warm-ups go on until they are steady, and repetitions until the 95% interval of the median answer
    reaches at most this fraction of it to either side, or ``max_seconds`` of them are over. ``loads`` are counted
    loads, cold and warm, each in a process of its own; ``phases`` are measured after the repetitions.
    ``sessions`` are numbers of sessions that answer at the same time; ``task_prompts`` is how many of a bundle's golden
    prompts are answered whole, up to their eos.
    ``timeout_seconds`` limits the whole process. With ``roofline`` the device's read bandwidth is measured afterwards;
    with ``ledger`` the process looks at its memory in between, and opens the model once more after the end.
    ``worker`` is the module that is measured in the place of ours (:mod:`edgestill.runtime.bench_worker`).
    ``gate_seconds`` is how long a repetition may wait for the device to be as cool as at the start (0: not at all).
    """

    prompt_tokens: int = 128
    new_tokens: int = 64
    repetitions: int = 10
    warmup: int = 2
    depth: int = 0
    threads: int | None = None
    engine: str | None = None
    context_length: int | None = None
    timeout_seconds: float = 1800.0
    width: float | None = None
    max_seconds: float = 30.0
    loads: int = 0
    phases: bool = False
    engine_options: EngineOptions = DEFAULTS
    ledger: bool = False
    sessions: tuple[int, ...] = ()
    task_prompts: int = 0
    roofline: bool = False
    worker: str | None = None
    gate_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name, lowest in (("prompt_tokens", 1), ("new_tokens", 2), ("repetitions", 1), ("warmup", 0), ("depth", 0)):
            if getattr(self, name) < lowest:
                raise InputError(f"{name} {getattr(self, name)} is too small; give at least {lowest}")
        for name in ("loads", "task_prompts"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} {getattr(self, name)} is below 0; give 0 for none")
        if self.sessions and min(self.sessions) < 1:
            raise InputError(f"sessions {min(self.sessions)} is too small; give at least 1")
        if self.width is not None and self.width <= 0:
            raise InputError(f"width {self.width} is too small; give a fraction such as 0.05")
        if self.max_seconds <= 0:
            raise InputError(f"max_seconds {self.max_seconds} is too small; give more than 0")
        if self.gate_seconds < 0:
            raise InputError(f"gate_seconds {self.gate_seconds} is below 0; give 0 for no waiting, or more")
        if self.timeout_seconds <= 0:
            raise InputError(f"timeout_seconds {self.timeout_seconds} is too small; give more than 0")


DEFAULT_OPTIONS: Final = BenchOptions()


def options_json(options: EngineOptions) -> dict[str, object]:
    """Return an engine's options; what to trace is the worker's own choice."""
    return {name: value for name, value in asdict(options).items() if name != "trace"}
