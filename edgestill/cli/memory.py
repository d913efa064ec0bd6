"""How ``bench`` prints a memory ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgestill.cli import console

if TYPE_CHECKING:
    from edgestill.bench_results import MemoryLedger


def say_ledger(model: str, ledger: MemoryLedger) -> None:
    """Print a ledger in one sentence: its largest lines, every copy of the weights, and what is unexplained."""
    lines = [line for line in ledger.lines if line.part in ("weights_mapped", "weights_copied", "kv_cache", "compute")]
    parts = "; ".join(f"{line.name} {console.figure(line.bytes)}" for line in [*lines, ledger.lines[-1]])
    share = f"{ledger.share_explained.value:.1%}" if ledger.share_explained.value is not None else "an unknown part"
    peak = console.figure(ledger.peak_pss_bytes)
    console.say(f"{model}: peak PSS {peak} {ledger.moment}, {share} of it explained (--ledger): {parts}")


def print_ledger(model: str, ledger: MemoryLedger) -> None:
    """Print a ledger line by line, the peak last."""
    total = ledger.peak_pss_bytes.value or 0.0
    rows = [
        [
            line.name,
            console.figure(line.bytes),
            f"{(line.bytes.value or 0.0) / total:.1%}" if total else "—",
            console.size(line.allocated_bytes),
            line.bytes.basis,
        ]
        for line in ledger.lines
    ]
    rows.append(
        [f"peak PSS {ledger.moment}", console.figure(ledger.peak_pss_bytes), "100%", "—", ledger.peak_pss_bytes.basis]
    )
    console.print_table([model, "in memory", "share", "allocated", "basis"], rows)
