"""``edgestill compare`` of a store: what each device and artifact did last, against what it did before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgestill.cli import console

if TYPE_CHECKING:
    from edgestill.devices.store import Store
    from edgestill.store_results import StoreCompareDocument, StoreComparison, StoredPoint


def existing_store(path: Path | None) -> Store:
    """Return the store, opened. Raises InputError where there is none: a question makes no file."""
    from edgestill.devices.store import Store, store_path
    from edgestill.errors import InputError

    found = store_path() if path is None else path
    if not found.exists():
        raise InputError(f"{found}: no store of results there; edgestill bench BUNDLE --device NAME makes it")
    return Store(found)


def compare_stored(
    store: Path | None,
    *,
    devices: Sequence[str],
    artifacts: Sequence[str],
    metric: str,
    limit: float | None,
    baseline: str | None,
    as_json: bool,
) -> None:
    """Print a row for each device and artifact. With a limit raises GateError where one regressed, or a device has
    earlier results of which none could be compared: a gate that looked at nothing wouldn't be one.
    """
    from edgestill.devices.store_comparison import compare_store
    from edgestill.errors import GateError, InputError

    with existing_store(store) as opened:
        document = compare_store(
            opened, devices=devices, artifacts=artifacts, metric=metric, limit=limit, baseline=baseline
        )
        if not document.rows:
            raise InputError(f"{opened.path}: no results in it; edgestill bench BUNDLE --device NAME adds some")
    if as_json:
        console.print_json(document.to_json())
    else:
        _print(document)
    if limit is None:
        return
    refusals = [f"{_named(row)} is {row.why}, limit {limit:.1%}" for row in document.rows if row.regressed]
    refusals += _unseen(document)
    if refusals:
        raise GateError("; ".join(refusals))


def _unseen(document: StoreCompareDocument) -> list[str]:
    """Return the devices of which nothing could be compared though there were earlier results, and why."""
    said = []
    for device in dict.fromkeys(row.workload.device for row in document.rows):
        rows = [row for row in document.rows if row.workload.device == device]
        refused = [row for row in rows if row.state == "refused"]
        if refused and not any(row.state == "compared" for row in rows):
            said.append(f"{device}: nothing could be compared ({_named(refused[0])} {refused[0].why})")
    return said


def _print(document: StoreCompareDocument) -> None:
    from edgestill.report.history import change_text, way

    shared = len({way(row.workload) for row in document.rows}) == 1
    head = ["device", "artifact", *([] if shared else ["measured with"]), "before", "latest", "ratio", "p", "verdict"]
    rows = [
        [
            row.workload.device,
            row.workload.artifact,
            *([] if shared else [way(row.workload)]),
            _point(row.before, row, 0),
            _point(row.latest, row, 1),
            _ratio(row),
            "—" if row.adjusted_p is None else f"{row.adjusted_p:.3g}",
            ("REGRESSED: " if row.regressed else "") + change_text(row),
        ]
        for row in document.rows
    ]
    console.print_table(head, rows)
    console.say(f"compared by {document.metric}{f'; {way(document.rows[0].workload)}' if shared else ''}")
    for row in document.rows:
        if row.state in ("refused", "no figure"):
            console.say(f"{_named(row)}: {row.why}")
    if any(row.unit == "repetitions" for row in document.rows):
        console.say(
            "what was measured in one process is compared by its repetitions: two processes of one build differ too; "
            "bench --device with --processes 8 tells that apart"
        )


def _named(row: StoreComparison) -> str:
    return f"{row.workload.device}: {row.workload.artifact}"


def _point(point: StoredPoint | None, row: StoreComparison, side: int) -> str:
    """Return a value and when it was measured: the day, and the time too where both are of one day."""
    if point is None:
        return "—"
    same_day = row.before is not None and row.before.measured[:10] == row.latest.measured[:10]
    when = point.measured[: 16 if same_day else 10].replace("T", " ")
    if row.comparison is None:
        return when
    return f"{console.figure((row.comparison.first, row.comparison.second)[side])}, {when}"


def _ratio(row: StoreComparison) -> str:
    if row.comparison is None or row.comparison.ratio.value is None:
        return "—"
    interval = row.comparison.ratio.ci95
    shown = f"{row.comparison.ratio.value:.3f}"
    return shown if interval is None else f"{shown} ({interval[0]:.3f} to {interval[1]:.3f})"
