"""Figure, and the result records built from it.

Every JSON document that a command prints or writes is one of the ``*Document`` models here, so the
published schemas (``edgestill/schemas/*.json``) are generated from what is really written.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Basis = Literal["measured", "derived", "estimated"]


class Record(BaseModel):
    """Base of all records: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, ser_json_inf_nan="null")


class Figure(Record):
    """A value that never travels alone.

    ``value`` is null when nothing was measured; ``n`` is how many samples are behind it; ``ci95`` is
    its 95% confidence interval where one was computed; ``source`` says what produced it.
    """

    value: float | None
    unit: str
    n: int = Field(ge=0)
    ci95: tuple[float, float] | None = None
    basis: Basis = "measured"
    source: str = ""

    @classmethod
    def missing(cls, unit: str, source: str) -> Figure:
        """Return a figure that was not measured; ``source`` says why."""
        return cls(value=None, unit=unit, n=0, source=source)

    @classmethod
    def median(cls, samples: Sequence[float], unit: str, source: str) -> Figure:
        """Return the median of samples with its distribution-free 95% interval (order statistics).

        The interval is the pair of order statistics whose binomial coverage is at least 95%
        (Conover, Practical Nonparametric Statistics, 3.2); null when n < 6, where none exists.
        """
        ordered = sorted(samples)
        n = len(ordered)
        if n == 0:
            return cls.missing(unit, source)
        interval = None
        tail = 0.0
        for rank in range(n // 2):
            tail += math.comb(n, rank) / 2**n
            if 2 * tail > 0.05:
                break
            interval = (ordered[rank], ordered[n - 1 - rank])
        return cls(value=statistics.median(ordered), unit=unit, n=n, ci95=interval, source=source)

    @classmethod
    def proportion(cls, hits: int, n: int, source: str) -> Figure:
        """Return hits/n as a fraction with the Wilson score interval (Wilson, 1927)."""
        if n == 0:
            return cls.missing("fraction", source)
        z = 1.959963984540054
        p = hits / n
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        interval = (max(0.0, centre - half), min(1.0, centre + half))
        return cls(value=p, unit="fraction", n=n, ci95=interval, source=source)


class ParityCase(Record):
    """One case of the parity check: a kind of text, or a way to feed it, with the figures of :class:`Parity`.

    ``passed`` is null for a case that wasn't run; ``note`` says why, or what differs by design and so was left out.
    """

    name: str
    texts: int
    positions: int
    top1_agreement: Figure
    mean_kl: Figure
    max_abs_diff: Figure
    passed: bool | None
    reasons: tuple[str, ...] = ()
    note: str = ""


class TokenizerMismatch(Record):
    """A text that the artifact's tokenizer takes otherwise than the original.

    ``text`` is cut short; ``expected`` and ``found`` are ids around the first difference (a place in the whole
    text's ids), equal when only the decoded bytes differ. ``announced`` is the artifact's note that says so, if any.
    """

    text: str
    first_difference: int
    expected: tuple[int, ...]
    found: tuple[int, ...]
    announced: str | None


class TokenizerParity(Record):
    """The tokenizer that the artifact's ``runtime`` uses against the original, on a corpus of hard texts.

    ``ids_equal`` counts texts with equal ids, with and without the special tokens that are added; ``round_trips``
    those that decode to the same bytes as the original's ids; ``announced`` those that differ as the artifact's notes
    say. ``same_file``: both read tokenizer.json, byte for byte the same. ``mismatches`` are the first few.
    """

    reference: str
    runtime: str
    same_file: bool
    texts: int
    ids_equal: int
    round_trips: int
    announced: int
    mismatches: tuple[TokenizerMismatch, ...] = ()
    passed: bool
    reasons: tuple[str, ...] = ()


class Parity(Record):
    """How closely a file computes what its reference computes, on the same token ids.

    Logits are compared position by position: ``top1_agreement`` (fraction), ``mean_kl``
    (KL(reference || file), nats), ``max_abs_diff`` (largest |logit difference|). These are of the first case, the
    held-out (or built-in) text; ``cases`` are all. ``tokenizer`` is null where the reference has none.
    """

    reference: str
    texts: int
    positions: int
    top1_agreement: Figure
    mean_kl: Figure
    max_abs_diff: Figure
    passed: bool
    reasons: tuple[str, ...] = ()
    cases: tuple[ParityCase, ...] = ()
    tokenizer: TokenizerParity | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def refused(cls, file: str, reference: str, texts: int, reason: str, cases: tuple[ParityCase, ...] = ()) -> Parity:
        """Return the parity of a ``file`` whose logits can't be had, with the ``cases`` compared before."""
        why = f"{file} was refused: {reason}"
        return cls(
            reference=reference,
            texts=texts,
            positions=0,
            top1_agreement=Figure.missing("fraction", why),
            mean_kl=Figure.missing("nats", why),
            max_abs_diff=Figure.missing("logits", why),
            passed=False,
            reasons=(reason,),
            cases=cases,
        )


class ArtifactRecord(Record):
    """One file set as ``export`` and ``quantize`` print it."""

    name: str
    path: str
    format: str
    precision: str
    size_bytes: int
    sha256: str
    parity: Parity | None
    notes: tuple[str, ...] = ()


class EvalRecord(Record):
    """One model's task metrics: metric name -> Figure.

    Sizes in bytes: ``weights_bytes`` as the engine holds them, ``peak_rss_bytes`` and ``peak_pss_bytes`` of
    the process that scored this model alone. ``retention`` is the primary metric as a fraction of the first
    model's, ``difference`` what it is above it, both over the same rows.
    """

    model: str
    metrics: dict[str, Figure]
    engine: str | None = None
    size_bytes: int | None = None
    weights_bytes: Figure | None = None
    peak_pss_bytes: Figure | None = None
    peak_rss_bytes: Figure | None = None
    retention: Figure | None = None
    difference: Figure | None = None


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
    temperatures: dict[str, float] = {}
    throttled: int | None = None


class Roofline(Record):
    """What memory allows: bytes that a decoded token reads, how fast this device reads, and the share that is reached.

    Without a share where the bytes lie in the last cache, or aren't known.
    """

    bytes_per_token: Figure
    read_bandwidth: Figure
    ceiling_tokens_per_second: Figure
    share_of_ceiling: Figure


class BenchRecord(Record):
    """One model measured in a fresh process.

    Times are seconds, rates tokens per second, sizes bytes. ``answer_seconds`` is one whole answer
    of ``new_tokens`` after ``prompt_tokens``. ``raw`` keeps every sample of every repetition. ``prompt_sha256`` is of
    the prompt's token ids, ``model_sha256`` of the model's files; null in documents from before they were kept.
    ``means`` are of raw samples by name, ``outliers`` the places in them beyond Tukey's fences (1.5 times the
    interquartile range); they are marked, and stay in every figure. ``failure`` says how a run ended that died before
    its last repetition; the figures are of those that had finished.
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
    means: dict[str, Figure] = {}
    outliers: dict[str, tuple[int, ...]] = {}
    prompt_sha256: str | None = None
    model_sha256: str | None = None


Role = Literal["teacher", "student", "baseline", "artifact"]


class ModelRecord(Record):
    """One row of the report: a model, what it scored, how it was checked, how fast it is."""

    name: str
    role: Role
    metrics: dict[str, Figure]
    parity: Parity | None
    bench: BenchRecord | None
    size_bytes: int | None
    parameters: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def answer_seconds(self) -> Figure | None:
        """Seconds for one whole answer: to the task's own prompts, or else to the bench's fixed lengths."""
        own = self.metrics.get("answer_seconds")
        if own is not None or self.bench is None:
            return own
        return self.bench.answer_seconds


class Headline(Record):
    """The shipped artifact against the teacher, as fractions.

    ``accuracy_retention`` = artifact / teacher; ``latency_reduction`` = 1 - artifact / teacher seconds
    for one answer, both on the same engine; ``memory_reduction`` = 1 - artifact / teacher weight bytes.
    """

    artifact: str
    teacher: str
    metric: str
    accuracy_retention: Figure
    latency_reduction: Figure
    memory_reduction: Figure


class Refused(Record):
    """A file that a gate refused, and why."""

    name: str
    reasons: tuple[str, ...]


class Document(Record):
    """What a command writes as JSON; its first key names schema and version."""

    def to_json(self) -> str:
        """Return the document as JSON text, schema first."""
        return self.model_dump_json(indent=2, by_alias=True)


class ArtifactsDocument(Document):
    """What ``export`` and ``quantize`` print."""

    schema_: Annotated[Literal["edgestill.artifacts/1"], Field(alias="schema")] = "edgestill.artifacts/1"
    artifacts: tuple[ArtifactRecord, ...]
    refused: tuple[Refused, ...] = ()


class ParityDocument(Document):
    """``parity.json`` in an artifact's folder: what the parity check of that file found."""

    schema_: Annotated[Literal["edgestill.parity/1"], Field(alias="schema")] = "edgestill.parity/1"
    name: str
    format: str
    precision: str
    sha256: str
    parity: Parity


class EvalDocument(Document):
    """What ``eval`` prints."""

    schema_: Annotated[Literal["edgestill.eval/1"], Field(alias="schema")] = "edgestill.eval/1"
    task: str
    primary_metric: str | None = None
    results: tuple[EvalRecord, ...]


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


class ReportDocument(Document):
    """``report.json``: the whole run.

    ``distilling_gain`` is the student's primary metric less that of the same student trained on gold alone.
    """

    schema_: Annotated[Literal["edgestill.report/1"], Field(alias="schema")] = "edgestill.report/1"
    name: str
    created: str
    task: str
    headline: Headline | None
    distilling_gain: Figure | None = None
    models: tuple[ModelRecord, ...]
    refused: tuple[Refused, ...]
    environment: Environment | None
    recipe: dict[str, object]
    provenance: dict[str, object]
