"""Plan: which artifact of a bundle, with how many threads and how much context, for a device and its limits.

Each way to run an artifact gets a row: measured where a result of that device is known, else derived from its profile
(:mod:`edgestill.devices.derive`, :mod:`edgestill.devices.fit`) and marked so, with its stated error. Of the rows that
fit and keep every limit the most accurate are left (those whose accuracy isn't shown to be lower), of these the
fastest in decoding is chosen, and of equals the smallest in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from edgestill.bench_results import BenchRecord
from edgestill.bundle import Bundle, BundleArtifact
from edgestill.devices.derive import derive_decode, derive_prefill, ttft
from edgestill.devices.fit import Fit, Host, Setting, fit, largest_context, need_of
from edgestill.devices.model_facts import ModelFacts, read_facts
from edgestill.devices.profile import Profile
from edgestill.devices.store import artifact_of
from edgestill.errors import EdgestillError, GateError
from edgestill.figure import Figure
from edgestill.plan_results import Limits, PlanDocument, PlanRow, Verdict
from edgestill.runtime.engine_options import KvPrecision
from edgestill.runtime.model_source import locate_model

__all__ = ["Asked", "Limits", "PlanDocument", "PlanRow", "choose", "make_plan", "primary_metric", "require_choice"]

DEFAULT_CONTEXT: Final = 4096
_NEW_TOKENS: Final = 64
_LOWER_IS_BETTER: Final = frozenset({"bits_per_byte", "perplexity"})


@dataclass(frozen=True)
class Asked:
    """What a plan is made for. ``context`` None: as long as the model and the device allow, at most 4,096 tokens."""

    limits: Limits = field(default_factory=Limits)
    prompt_tokens: int = 128
    context: int | None = None
    threads: tuple[int, ...] = ()
    kv_precision: KvPrecision | None = None
    host: Host = "native"
    quota: float | None = None


def make_plan(bundle: Bundle, profile: Profile, asked: Asked, results: Sequence[BenchRecord] = ()) -> PlanDocument:
    """Return the plan of a bundle for a device; ``results`` are records that were measured on that very device.

    An artifact that can't be read is a note. Raises nothing over limits: see :func:`require_choice`.
    """
    manifest = bundle.manifest
    metric = primary_metric(bundle)
    rows: list[PlanRow] = []
    notes: list[str] = []
    for artifact in manifest.artifacts:
        try:
            facts = read_facts(locate_model(f"{bundle.folder}#{artifact.name}"))
        except EdgestillError as error:
            notes.append(f"{artifact.name} is left out: {error}")
            continue
        measured = [one for one in results if _is_of(one, artifact)]
        accuracy = None if metric is None else artifact.metrics.get(metric)
        rows += _rows(artifact, facts, profile, asked, manifest.context_length, measured, accuracy)
    rows = choose(rows, asked.limits, metric)
    return PlanDocument(
        bundle=manifest.name,
        device=profile.name,
        title=profile.title,
        prompt_tokens=asked.prompt_tokens,
        limits=asked.limits,
        metric=metric,
        rows=tuple(rows),
        refusal=None if any(row.chosen for row in rows) else _refusal(manifest.name, profile, rows, notes),
        notes=tuple(notes),
    )


def require_choice(plan: PlanDocument) -> PlanRow:
    """Return the chosen row. Raises GateError with the one-line reason when there is none."""
    if plan.chosen is None:
        raise GateError(plan.refusal or "nothing to choose from")
    return plan.chosen


def primary_metric(bundle: Bundle) -> str | None:
    """Return the metric by which the bundle's artifacts are compared: its headline's, or the first they have."""
    if bundle.manifest.headline is not None:
        return bundle.manifest.headline.metric
    return next((name for artifact in bundle.manifest.artifacts for name in artifact.metrics), None)


def choose(rows: Sequence[PlanRow], limits: Limits, metric: str | None) -> list[PlanRow]:
    """Return the rows with misses, frontier and choice filled in: chosen first, then the frontier, then by rate."""
    judged = [_judged(row, limits, metric) for row in rows]
    able = [row for row in judged if row.fit in ("fits", None)]
    frontier = {id(row) for row in able if not any(_dominates(other, row, metric) for other in able)}
    best = _best([row for row in able if not row.misses], metric)
    marked = [row.model_copy(update={"frontier": id(row) in frontier, "chosen": row is best}) for row in judged]
    return sorted(marked, key=lambda row: (not row.chosen, not row.frontier, -(row.decode.value or 0.0), row.artifact))


def _rows(
    artifact: BundleArtifact,
    facts: ModelFacts,
    profile: Profile,
    asked: Asked,
    longest: int,
    measured: Sequence[BenchRecord],
    accuracy: Figure | None,
) -> Iterator[PlanRow]:
    host: Host = asked.host if facts.kind == "gguf" else "python"
    engine = "llama.cpp" if facts.kind == "gguf" else "onnxruntime"
    free = None if profile.free_ram_bytes is None else profile.free_ram_bytes.value
    context = min(longest, asked.context or DEFAULT_CONTEXT)
    setting = Setting(context, asked.kv_precision, host)
    if asked.context is None and free is not None:
        most = largest_context(facts, setting, free, profile.isa, profile.isa_features, longest=context)
        if most is not None and most > asked.prompt_tokens:
            setting = Setting(most, asked.kv_precision, host)
    judged = None
    if free is not None:
        judged = fit(facts, setting, free, profile.isa, profile.isa_features, longest=longest)
    verdict, why = _verdict(judged, setting.context, asked.prompt_tokens)
    for threads in asked.threads or _thread_counts(profile, measured):
        record = next((one for one in measured if one.threads == threads), None)
        if record is None and verdict in ("thrashes", "doesn't fit"):
            # A rate of what doesn't run there would be invented.
            decode, first = Figure.missing("tokens/s", why), Figure.missing("seconds", why)
            memory = need_of(facts, setting, profile.isa, profile.isa_features).peak
        else:
            decode, first, memory = _figures(facts, profile, asked, setting, threads, record)
        yield PlanRow(
            artifact=artifact.name,
            engine=engine,
            threads=threads,
            context=setting.context,
            decode=decode,
            ttft=first,
            memory=memory,
            accuracy=accuracy,
            size_bytes=artifact.size_bytes,
            fit=verdict,
            why=why,
            largest_context=None if judged is None else judged.largest_context,
        )


def _verdict(judged: Fit | None, context: int, prompt_tokens: int) -> tuple[Verdict | None, str]:
    if context <= prompt_tokens:
        return "doesn't fit", f"a context of {context} has no room after a prompt of {prompt_tokens}"
    if judged is None:
        return None, "the profile doesn't say how much memory is free"
    return judged.verdict, judged.reason if judged.likely else f"{judged.reason}; so close that it isn't sure"


def _thread_counts(profile: Profile, measured: Sequence[BenchRecord]) -> list[int]:
    counts = {1, 2, profile.fast_cores, *(one.threads for one in measured)}
    return sorted(count for count in counts if count <= profile.cores)


def _figures(
    facts: ModelFacts, profile: Profile, asked: Asked, setting: Setting, threads: int, record: BenchRecord | None
) -> tuple[Figure, Figure, Figure]:
    """Return decode rate, TTFT and peak memory: measured where there is a record, else derived."""
    memory = need_of(facts, setting, profile.isa, profile.isa_features).peak
    if record is not None and record.decode_tokens_per_second.value is not None:
        decode, prefill = record.decode_tokens_per_second, record.prefill_tokens_per_second
        first = record.ttft_seconds
        if record.prompt_tokens != asked.prompt_tokens or first.value is None:
            first = ttft(prefill, decode, asked.prompt_tokens)
        return decode, first, record.peak_pss_bytes if record.peak_pss_bytes.value else memory
    positions = min(setting.context, asked.prompt_tokens + _NEW_TOKENS / 2)
    decode = derive_decode(
        facts, profile, threads=threads, positions=positions, kv_precision=asked.kv_precision, quota=asked.quota
    )
    prefill = derive_prefill(facts, profile, threads=threads, prompt_tokens=asked.prompt_tokens, quota=asked.quota)
    return decode, ttft(prefill, decode, asked.prompt_tokens), memory


def _is_of(record: BenchRecord, artifact: BundleArtifact) -> bool:
    if record.failure is not None:
        return False
    if record.model_sha256 is not None:
        return record.model_sha256 == artifact.sha256
    return artifact_of(record) == artifact.name


def _judged(row: PlanRow, limits: Limits, metric: str | None) -> PlanRow:
    found = list(_misses(row, limits, metric))
    return row.model_copy(
        update={"misses": tuple(text for text, _ in found), "shortfall": max((by for _, by in found), default=0.0)}
    )


def _misses(row: PlanRow, limits: Limits, metric: str | None) -> Iterator[tuple[str, float]]:
    """Yield each limit that a row misses, as words, and by which fraction (infinite where the figure isn't known)."""
    named = metric or "accuracy"
    checks = (
        ("TTFT", row.ttft, limits.max_ttft, False, "--max-ttft", "s"),
        ("decode rate", row.decode, limits.min_decode_rate, True, "--min-decode-rate", "tokens/s"),
        ("peak memory", row.memory, limits.max_memory, False, "--max-memory", "MB"),
        (named, row.accuracy, limits.min_accuracy, True, "--min-accuracy", ""),
    )
    for what, figure, limit, at_least, option, unit in checks:
        if limit is None:
            continue
        value = None if figure is None else figure.value
        if value is None:
            why = "not measured" if figure is None else figure.source
            yield f"{what} isn't known ({why}), {option} can't be shown to be kept", float("inf")
            continue
        by = (limit - value) / limit if at_least else (value - limit) / limit
        if by > 0:
            scale = 1e6 if unit == "MB" else 1.0
            basis = "" if figure is None or figure.basis == "measured" else f" ({figure.basis})"
            said = f"{what} {value / scale:.3g}{' ' + unit if unit else ''}{basis}"
            yield f"{said} misses {option} {limit / scale:.3g} by {by:.0%}", by


def _accuracy(row: PlanRow, metric: str | None) -> float | None:
    if row.accuracy is None or row.accuracy.value is None:
        return None
    return -row.accuracy.value if metric in _LOWER_IS_BETTER else row.accuracy.value


def _dominates(other: PlanRow, row: PlanRow, metric: str | None) -> bool:
    """Tell whether a row is at least as good in everything and better in something; what isn't known is worst."""
    unknown = float("-inf")

    def worth(one: PlanRow) -> tuple[float, float, float]:
        accuracy = _accuracy(one, metric)
        memory = unknown if one.memory.value is None else -one.memory.value
        return (one.decode.value or 0.0, memory, unknown if accuracy is None else accuracy)

    theirs, ours = worth(other), worth(row)
    return theirs != ours and all(a >= b for a, b in zip(theirs, ours, strict=True))


def _best(rows: Sequence[PlanRow], metric: str | None) -> PlanRow | None:
    known = [(accuracy, row) for row in rows if (accuracy := _accuracy(row, metric)) is not None]
    left = list(rows)
    if known:
        top = max(known, key=lambda pair: pair[0])[1]
        left = [row for accuracy, row in known if accuracy >= _lowest(top, metric)]
    return min(
        left,
        key=lambda row: (-(row.decode.value or 0.0), row.memory.value or 0.0, row.threads, row.artifact),
        default=None,
    )


def _lowest(top: PlanRow, metric: str | None) -> float:
    """Return the accuracy from which on a row isn't shown to be worse than the best one."""
    figure = top.accuracy
    if figure is None or figure.value is None:
        return float("-inf")
    if metric in _LOWER_IS_BETTER:
        return -(figure.ci95[1] if figure.ci95 else figure.value)
    return figure.ci95[0] if figure.ci95 else figure.value


def _refusal(bundle: str, profile: Profile, rows: Sequence[PlanRow], notes: Sequence[str]) -> str:
    """Return in one line why nothing is chosen: the row that comes nearest, and what it misses."""
    bundle = " ".join(bundle.split())
    if not rows:
        return f"no artifact of {bundle} can be planned for: {'; '.join(notes) or 'it holds none'}"
    able = [row for row in rows if row.fit in ("fits", None)]
    if not able:
        nearest = min(rows, key=lambda row: row.memory.value or 0.0)
        return f"no artifact of {bundle} runs on {profile.name}; the smallest, {nearest.artifact}: {nearest.why}"
    nearest = min(able, key=lambda row: (row.shortfall, row.artifact))
    return (
        f"no artifact of {bundle} keeps every limit on {profile.name}: the nearest is {nearest.artifact} with "
        f"{nearest.threads} threads and a context of {nearest.context}: {'; '.join(nearest.misses)}"
    )
