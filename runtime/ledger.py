"""The memory ledger: a process's peak PSS in lines that add up to it, each with where it is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgestill.bench_results import LedgerLine, LedgerPart, MemoryLedger
from edgestill.figure import Basis, Figure
from edgestill.runtime.engine import MemoryPart
from edgestill.runtime.moments import IMPORTED, LOADED, START, TOKENIZER, Moment


def memory_ledger(moments: Mapping[str, Moment], bare: int | None, engine: str) -> MemoryLedger:
    """Return the ledger of a process at its peak.

    ``moments`` by name, in order; ``bare`` is how many bytes the model took when it was opened once more without its
    weights and caches (None: it can't be); ``engine`` is its name. The peak is at the moment with the largest RSS; what
    the kernel's high-water mark of RSS says beyond it is a line of its own. No line but ``unexplained`` is a remainder,
    unless its source says so.
    """
    peak, while_ = _peak(moments)
    beyond = peak.peak_rss - peak.rss
    total = peak.pss + beyond
    lines = [line for line in _lines(moments, peak, bare, engine) if line.bytes.value]
    if beyond:
        why = f"the kernel's high-water mark of RSS {while_} less RSS {peak.name}; taken as shared with nobody"
        lines.append(_line("temporary", f"temporary {while_}", beyond, "derived", why))
    explained = sum(line.bytes.value or 0.0 for line in lines)
    lines.append(
        _line("unexplained", "unexplained", total - int(explained), "derived", "peak PSS less all lines before it")
    )
    source = f"PSS {peak.name}, of /proc/self/smaps" + (", and what is temporary" if beyond else "")
    return MemoryLedger(
        moment=f"{while_}: {peak.name}" if beyond else peak.name,
        lines=tuple(lines),
        peak_pss_bytes=_figure(total, "derived" if beyond else "measured", source),
        share_explained=Figure(
            value=explained / total, unit="fraction", n=1, basis="derived", source="all lines but the last / peak PSS"
        ),
        huge_page_bytes=peak.huge_pages,
        swapped_bytes=peak.swapped,
    )


def _peak(moments: Mapping[str, Moment]) -> tuple[Moment, str]:
    """Return the moment nearest to the peak, and when that was.

    The high-water mark never falls: where it is still that of the load, the peak was in it.
    """
    loaded, *later = (moment for name, moment in moments.items() if name not in (START, IMPORTED, TOKENIZER))
    if not later or later[-1].peak_rss <= loaded.peak_rss:
        return loaded, "while loading"
    return max(later, key=lambda moment: moment.rss), "while answering"


def _lines(moments: Mapping[str, Moment], peak: Moment, bare: int | None, engine: str) -> Iterator[LedgerLine]:
    start, imported, loaded = moments[START], moments[IMPORTED], moments[LOADED]
    ready = moments.get(TOKENIZER, imported)
    yield _line("weights_mapped", "weights, mapped from the file", peak.model, "measured", "PSS of the model's files")
    for part in peak.parts:
        if part.kind == "weights" and part.allocated is not None:
            yield _part_line("weights_copied", f"weights, {part.name}", part)
        elif part.kind == "weights":
            known = loaded.held("kv_cache") + (bare or 0)
            why = "by subtraction: growth while loading less KV cache and structures, as " + part.source
            copied = max(0, loaded.in_use - ready.in_use - known)
            yield _line("weights_copied", f"weights, {part.name}", copied, "derived", why)
    for part in peak.parts:
        if part.kind == "kv_cache":
            yield _part_line("kv_cache", f"KV cache, {part.name}", part)
    yield _compute_line(loaded, peak)
    why = "growth when the model was opened once more after the end, without weights and caches"
    yield _line("structures", "vocabulary, graph and other structures", bare or 0, "derived", why)
    why = f"growth of anonymous memory in use from {imported.name} to {ready.name}"
    yield _line("tokenizer", "tokenizer", ready.in_use - imported.in_use, "derived", why)
    grown = imported.in_use - start.in_use
    why = f"PSS of its libraries, and {grown} bytes by which anonymous memory in use grew with its import"
    yield _line("engine", f"{engine}: libraries and import", peak.engine + grown, "measured", why)
    why = f"PSS of all other files, and {start.in_use} bytes of anonymous memory in use {start.name}"
    yield _line("python", "Python and other libraries", peak.python + start.in_use, "measured", why)
    why = "mallinfo2: freed by the program, not given back to the system; taken as resident"
    yield _line("freed", "freed, kept by the C library", peak.freed, "measured", why)


def _compute_line(loaded: Moment, peak: Moment) -> LedgerLine:
    grown = peak.in_use - loaded.in_use - (peak.held("kv_cache") - loaded.held("kv_cache"))
    buffers = [part.allocated for part in peak.parts if part.kind == "compute" and part.allocated is not None]
    why = "growth of anonymous memory in use since the load, less the KV cache's"
    if buffers:
        why += f"; at most the {sum(buffers)} bytes that the engine allocated"
    used = max(0, min([grown, *([sum(buffers)] if buffers else [])]))
    return _line("compute", "compute buffers", used, "derived", why, sum(buffers) if buffers else None)


def _part_line(kind: LedgerPart, name: str, part: MemoryPart) -> LedgerLine:
    if part.resident is not None:
        return _line(kind, name, part.resident, "measured", f"pages in memory, of {part.source}", part.allocated)
    return _line(kind, name, part.allocated or 0, "derived", f"{part.source}; taken as resident", part.allocated)


def _line(
    kind: LedgerPart, name: str, value: int, basis: Basis, source: str, allocated: int | None = None
) -> LedgerLine:
    return LedgerLine(part=kind, name=name, bytes=_figure(value, basis, source), allocated_bytes=allocated)


def _figure(value: int, basis: Basis, source: str) -> Figure:
    return Figure(value=value, unit="bytes", n=1, basis=basis, source=source)
