"""pyperf's JSON (version 1.0): ``pyperf.BenchmarkSuite.load``, ``python -m pyperf stats`` and ``compare_to`` read it.

One benchmark a model and metric, named ``MODEL METRIC``, with one run: our one process, its values the raw samples in
order. Units are pyperf's ``second`` and ``byte``; it has none for a rate and takes less for better, so rates aren't in
it: ``prefill_seconds`` and ``inter_token_seconds`` carry them. It takes no value of 0; how many were left out for that
is in ``edgestill_zeros_left_out``. Failed models have no form in pyperf: each is named in ``edgestill_failures``.
The machine's name isn't written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from edgestill.bench_formats import register
from edgestill.bench_results import BenchDocument, BenchRecord, Environment
from edgestill.errors import StageError

_UNITS: Final = {"_seconds": "second", "_bytes": "byte"}
_WARM_UPS: Final = "warmup_answer_seconds"
Metadata = dict[str, str | int | float]


@register("pyperf")
def render_pyperf(document: BenchDocument) -> str:
    """Return the suite. Raises StageError when nothing was measured: pyperf refuses an empty one."""
    benchmarks = [one for name, record in _named(document.results) for one in _benchmarks(name, record)]
    if not benchmarks:
        why = f" ({failed})" if (failed := _failures(document)) else ""
        raise StageError(f"nothing was measured{why}, and pyperf has no form for that; take another format")
    suite = {"version": "1.0", "metadata": _machine(document), "benchmarks": benchmarks}
    return json.dumps(suite, indent=1) + "\n"


def _named(records: Sequence[BenchRecord]) -> Iterator[tuple[str, BenchRecord]]:
    """Yield the records with names of their own: pyperf refuses two of the same name."""
    seen: Counter[str] = Counter()
    for record in records:
        seen[record.model] += 1
        yield record.model + (f" ({seen[record.model]})" if seen[record.model] > 1 else ""), record


def _benchmarks(name: str, record: BenchRecord) -> Iterator[Mapping[str, object]]:
    for metric, samples in record.raw.items():
        unit = next((unit for suffix, unit in _UNITS.items() if metric.endswith(suffix)), None)
        values = [value for value in samples if value > 0]
        if unit is None or metric == _WARM_UPS or not values:
            continue
        run: dict[str, object] = {"values": values}
        if metric == "answer_seconds" and record.raw.get(_WARM_UPS):
            run["warmups"] = [[1, value] for value in record.raw[_WARM_UPS]]
        about: Metadata = {"name": _line(f"{name} {metric}"), "unit": unit, "loops": 1}
        about |= {"edgestill_engine": record.engine, "edgestill_threads": record.threads}
        about |= {"edgestill_prompt_tokens": record.prompt_tokens, "edgestill_new_tokens": record.new_tokens}
        if record.model_sha256:
            about["edgestill_model_sha256"] = record.model_sha256
        if unit == "byte":  # pyperf would take their sum for seconds
            about["duration"] = sum(record.raw.get("answer_seconds", []))
        if record.failure:
            about["edgestill_failure"] = _line(record.failure)
        if len(values) < len(samples):
            about["edgestill_zeros_left_out"] = len(samples) - len(values)
        yield {"metadata": about, "runs": [run]}


def _machine(document: BenchDocument) -> Metadata:
    environment = document.environment
    about: Metadata = {
        "cpu_model_name": _line(environment.cpu),
        "cpu_count": environment.cores,
        "platform": _line(environment.system),
    }
    if environment.python:
        about["python_version"] = _line(environment.python)
    if environment.load_average is not None:
        about["load_avg_1min"] = environment.load_average
    if environment.governor:
        about["cpu_config"] = _line(f"governor:{environment.governor}")
    if affinity := _affinity(environment):
        about["cpu_affinity"] = affinity
    for package, version in sorted(environment.versions.items()):
        about[f"{package.replace('-', '_')}_version"] = _line(version)
    if document.created:
        about["date"] = document.created.removesuffix("Z").replace("T", " ")
    if document.failures:
        about["edgestill_failures"] = _failures(document)
    return {name: value for name, value in about.items() if value != ""}


def _failures(document: BenchDocument) -> str:
    return _line("; ".join(f"{one.model}: {one.error}" for one in document.failures))


def _affinity(environment: Environment) -> str:
    limits = environment.limits
    return "" if limits is None or not limits.pinned else ",".join(map(str, limits.cpus or ()))


def _line(text: str) -> str:
    """Return text as pyperf's metadata want it: on one line."""
    return " ".join(text.split())
