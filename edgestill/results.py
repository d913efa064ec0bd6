"""The result records of the stages and of a whole run, built from Figure (:mod:`edgestill.figure`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgestill.bench_results import BenchRecord, Environment
from edgestill.figure import Document, Figure, Record


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
