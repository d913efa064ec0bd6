"""What a benchmark found: the records of ``bench``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from edgestill.figure import Document, Figure, Record


class Latency(Record):
    """Inter-token latency percentiles in seconds; one that its samples don't carry is null."""

    p50: Figure
    p90: Figure
    p99: Figure = Figure.missing("seconds", "not measured")


class Limits(Record):
    """What a process may use of the machine: its CPUs by number, and the limits of its control groups.

    ``pinned`` is whether it may not run on every CPU that is online. ``cpu_quota`` is in cores, ``memory_bytes`` the
    least limit that holds for it; null where none does, or ``control_groups`` (v1, v2) is null: the system has none.
    """

    cpus: tuple[int, ...] | None = None
    online: tuple[int, ...] | None = None
    pinned: bool | None = None
    cpu_quota: float | None = None
    memory_bytes: int | None = None
    control_groups: Literal["v1", "v2"] | None = None


class Repository(Record):
    """The git revision that was checked out where the command ran; ``dirty`` when tracked files differ from it."""

    commit: str
    dirty: bool


class EngineBuild(Record):
    """What an engine says of itself, from inside the measured process.

    ``build`` is the library's own text on how it was built, ``features`` what that build uses (instruction sets,
    OpenMP), ``commit`` the revision it was built from, ``settings`` how it was opened (batches, providers), beside
    the record's own. ``architecture`` and ``parameters`` are the model's, as the engine counts them. Null or empty
    where it doesn't say.
    """

    version: str | None = None
    commit: str | None = None
    build: str | None = None
    features: tuple[str, ...] | None = None
    settings: dict[str, str] = Field(default_factory=dict)
    architecture: str | None = None
    parameters: int | None = None


class Environment(Record):
    """Where a measurement was taken, and in which state the processor was.

    ``memory_bytes`` is null where a browser doesn't tell it, ``python`` where none was there.

    ``governor`` is that of the cores this process may use, ``clock_mhz`` their clocks at that moment, ``temperatures``
    degrees Celsius by sensor, ``throttled`` how often the cores were slowed for heat since the system started; null
    or empty where the system doesn't say. ``features`` are the processor's vector extensions, ``huge_pages`` is the
    mode of transparent ones, ``virtualised`` whether a hypervisor runs it, ``container`` its kind, if it shows.
    """

    cpu: str
    cores: int
    memory_bytes: int | None
    system: str
    python: str | None
    versions: dict[str, str]
    load_average: float | None
    governor: str | None = None
    clock_mhz: tuple[float, ...] = ()
    temperatures: dict[str, float] = Field(default_factory=dict)
    throttled: int | None = None
    features: tuple[str, ...] | None = None
    limits: Limits | None = None
    swap_bytes: int | None = None
    swap_used_bytes: int | None = None
    virtualised: bool | None = None
    container: str | None = None
    huge_pages: str | None = None
    repository: Repository | None = None


class LoadTimes(Record):
    """How long the model takes to load, in seconds, a fresh process each: cold, its files dropped from the page cache
    before, and warm; and how long the first token takes after it, which is when mapped weights are first read.
    """

    cold_seconds: Figure
    cold_first_token_seconds: Figure
    warm_seconds: Figure
    warm_first_token_seconds: Figure
    raw: dict[str, list[float]]


class Concurrent(Record):
    """Several sessions of the model that answer at the same time in one process, each with its own threads.

    ``tokens_per_second`` is of all together; ``failure`` says why rounds are missing.
    """

    sessions: int
    answer_seconds: Figure
    tokens_per_second: Figure
    pss_bytes: Figure
    raw: dict[str, list[float]]
    failure: str | None = None


class TaskAnswers(Record):
    """Whole answers to prompts of the bundle's own task (its golden ones), greedy, each up to its eos."""

    prompts: int
    answer_seconds: Figure
    ttft_seconds: Figure
    new_tokens: Figure
    raw: dict[str, list[float]]


class Phases(Record):
    """The parts of an answer, each by itself, in seconds: of the whole prompt, or of one token.

    ``engine_prefill`` and ``engine_decode`` run the engine alone on the tokens of an answer; ``session_decode`` is a
    token end to end in the repetitions, and ``session_overhead`` the share of it that isn't the engine's.
    """

    tokenisation: Figure
    engine_prefill: Figure
    engine_decode: Figure
    session_decode: Figure
    session_overhead: Figure
    greedy: Figure
    top_k: Figure
    detokenisation: Figure
    raw: dict[str, list[float]]


class Throttling(Record):
    """Whether the device was slowed for heat while it was measured; ``throttled`` is null where that can't be told.

    ``burst`` is the rate before and ``sustained`` the rate from ``onset_seconds`` on (since the first sample); without
    a lasting fall both are the rate of the whole run. ``p_value`` is the chance of a fall as clear in a steady run;
    ``source`` says on which evidence the answer rests.
    """

    throttled: bool | None
    onset_seconds: float | None
    burst_tokens_per_second: Figure
    sustained_tokens_per_second: Figure
    p_value: float | None
    source: str


class Gate(Record):
    """How long repetitions waited for the device to cool down: in all, and how often each reason ended a wait."""

    waited_seconds: Figure
    ended: dict[str, int]


class PromptCeiling(Record):
    """What arithmetic allows a prompt: operations for each of its tokens, and what this device does in float32.

    The ceiling is missing where weights are multiplied as 8-bit integers, which may be faster: the share is then in
    terms of float32, and may pass 1.
    """

    operations_per_token: Figure
    float32_rate: Figure
    ceiling_tokens_per_second: Figure
    share_of_float32_rate: Figure


class Roofline(Record):
    """What memory allows: bytes that a decoded token reads, how fast this device reads, and the share that is reached.

    Without a share where the bytes lie in the last cache, or aren't known. ``prompt`` is arithmetic's side (null: the
    operations aren't known).
    """

    bytes_per_token: Figure
    read_bandwidth: Figure
    ceiling_tokens_per_second: Figure
    share_of_ceiling: Figure
    prompt: PromptCeiling | None = None


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

    Times are seconds, rates tokens per second, sizes bytes. ``answer_seconds`` is one whole answer of ``new_tokens``
    after ``prompt_tokens``, with ``depth`` tokens in the context before them. ``raw`` keeps every sample of every
    repetition. ``prompt_sha256`` is of the prompt's token ids, ``model_sha256`` of the model's files; null in documents
    from before they were kept, and the latter after Ctrl-C.
    ``means`` are of raw samples by name, ``outliers`` the places in them beyond Tukey's fences (1.5 times the
    interquartile range); they are marked, and stay in every figure. ``failure`` says how a run ended that died
    before its last repetition; the figures are of those that had finished. ``energy_per_token`` is in joules, of
    the whole answers over their new tokens. ``settings`` are the engine's options in effect. Of a measurement on a
    device of the user's, ``device`` is its name, ``measured`` when it began (UTC, by this machine's clock), ``run``
    when the command did, which several processes may share, and ``facts`` what its driver measured beside it (faults,
    whether it fits, battery).
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
    engine_build: EngineBuild | None = None
    depth: int = 0
    loads: LoadTimes | None = None
    phases: Phases | None = None
    concurrent: tuple[Concurrent, ...] = ()
    task_answers: TaskAnswers | None = None
    energy_per_token: Figure | None = None
    throttling: Throttling | None = None
    gate: Gate | None = None
    settings: dict[str, bool | str] = Field(default_factory=dict)
    ledger: MemoryLedger | None = None
    device: str | None = None
    measured: str | None = None
    run: str | None = None
    facts: dict[str, str | int | float | bool | None] = Field(default_factory=dict)

    @property
    def main_figures(self) -> dict[str, Figure]:
        """What tables show, by its heading."""
        return {
            "load": self.load_seconds,
            "TTFT": self.ttft_seconds,
            "prefill": self.prefill_tokens_per_second,
            "decode": self.decode_tokens_per_second,
            "token p50": self.inter_token_seconds.p50,
            "token p90": self.inter_token_seconds.p90,
            "peak PSS": self.peak_pss_bytes,
        }


def over_processes(figures: Sequence[Figure]) -> Figure:
    """Return one figure for the same of several processes: their median, with an interval over processes.

    A single one is returned as it is; where no process has a value, the first says why.
    """
    values = [one.value for one in figures if one.value is not None]
    if len(figures) == 1 or not values:
        return figures[0]
    return Figure.median(values, figures[0].unit, f"median of {len(values)} processes")


class BenchFailure(Record):
    """A model of which nothing could be measured, and why; ``device`` where it was to be measured on one of those."""

    model: str
    error: str
    device: str | None = None


class BenchDocument(Document):
    """What ``bench`` prints; ``created`` is when it began (UTC), ``environment_after`` the machine when it ended."""

    schema_: Annotated[Literal["edgestill.bench/1"], Field(alias="schema")] = "edgestill.bench/1"
    environment: Environment
    results: tuple[BenchRecord, ...]
    failures: tuple[BenchFailure, ...] = ()
    created: str | None = None
    environment_after: Environment | None = None
