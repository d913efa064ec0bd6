"""What a benchmark found: the records of ``bench``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgestill.figure import Document, Figure, Record


class Latency(Record):
    """Inter-token latency percentiles in seconds; one that its samples don't carry is null."""

    p50: Figure
    p90: Figure
    p99: Figure = Figure.missing("seconds", "not measured")


class Environment(Record):
    """Where a measurement was taken, and in which state the processor was.

    ``governor`` is that of the cores this process may use, ``clock_mhz`` their clocks at that moment, ``temperatures``
    degrees Celsius by sensor, ``throttled`` how often the cores were slowed for heat since the system started; null
    or empty where the system doesn't say.
    """

    cpu: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    versions: dict[str, str]
    load_average: float | None
    governor: str | None = None
    clock_mhz: tuple[float, ...] = ()
    temperatures: dict[str, float] = Field(default_factory=dict)
    throttled: int | None = None


class Roofline(Record):
    """What memory allows: bytes that a decoded token reads, how fast this device reads, and the share that is reached.

    Without a share where the bytes lie in the last cache, or aren't known.
    """

    bytes_per_token: Figure
    read_bandwidth: Figure
    ceiling_tokens_per_second: Figure
    share_of_ceiling: Figure


LedgerPart = Literal[
    "weights_mapped", "weights_copied", "kv_cache", "compute", "structures", "tokenizer", "engine", "python", "freed",
    "temporary", "unexplained",
]  # fmt: skip


class LedgerLine(Record):
    """One line of a memory ledger: bytes in memory, and how many were allocated for it where that is known."""

    part: LedgerPart
    name: str
    bytes: Figure
    allocated_bytes: int | None = None


class MemoryLedger(Record):
    """What a process's memory consists of at its peak: ``lines``, the last one unexplained, add up to the peak PSS.

    ``moment`` says when that was. ``huge_page_bytes`` of its anonymous memory lie in huge pages; ``swapped_bytes`` are
    in no line.
    """

    moment: str
    lines: tuple[LedgerLine, ...]
    peak_pss_bytes: Figure
    share_explained: Figure
    huge_page_bytes: int
    swapped_bytes: int


class BenchRecord(Record):
    """One model measured in a fresh process.

    Times are seconds, rates tokens per second, sizes bytes. ``answer_seconds`` is one whole answer
    of ``new_tokens`` after ``prompt_tokens``. ``raw`` keeps every sample of every repetition. ``prompt_sha256`` is of
    the prompt's token ids, ``model_sha256`` of the model's files; null in documents from before they were kept.
    ``means`` are of raw samples by name, ``outliers`` the places in them beyond Tukey's fences (1.5 times the
    interquartile range); they are marked, and stay in every figure. ``failure`` says how a run ended that died before
    its last repetition; the figures are of those that had finished. ``settings`` are the engine's options in effect.
    """

    model: str
    engine: str
    threads: int
    prompt_tokens: int
    new_tokens: int
    repetitions: int
    load_seconds: Figure
    ttft_seconds: Figure
    prefill_tokens_per_second: Figure
    decode_tokens_per_second: Figure
    inter_token_seconds: Latency
    answer_seconds: Figure
    peak_pss_bytes: Figure
    peak_rss_bytes: Figure
    weights_bytes: Figure
    size_bytes: int
    warnings: tuple[str, ...] = ()
    raw: dict[str, list[float]]
    roofline: Roofline | None = None
    failure: str | None = None
    means: dict[str, Figure] = Field(default_factory=dict)
    outliers: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    prompt_sha256: str | None = None
    model_sha256: str | None = None
    settings: dict[str, bool | str] = Field(default_factory=dict)
    ledger: MemoryLedger | None = None


class BenchFailure(Record):
    """A model of which nothing could be measured, and why."""

    model: str
    error: str


class BenchDocument(Document):
    """What ``bench`` prints."""

    schema_: Annotated[Literal["edgestill.bench/1"], Field(alias="schema")] = "edgestill.bench/1"
    environment: Environment
    results: tuple[BenchRecord, ...]
    failures: tuple[BenchFailure, ...] = ()
