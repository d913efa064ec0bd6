"""``edgestill plan``: which artifact of a bundle for a device, before anything is sent there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgestill.cli import console
from edgestill.cli.numbers import counts, fraction

if TYPE_CHECKING:
    from edgestill.bench_results import BenchRecord
    from edgestill.bundle import Bundle

_UNITS = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 1024.0, "mib": 1024.0**2, "gib": 1024.0**3, "b": 1.0, "": 1.0}


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan")(plan)


def plan(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    device: Annotated[
        str, typer.Option(help="A profile's name, a profile file (.toml), a device of yours, or local: this machine.")
    ],
    max_ttft: Annotated[float | None, typer.Option(min=0, help="Most seconds to the first token.")] = None,
    min_decode_rate: Annotated[float | None, typer.Option(min=0, help="Least tokens a second in decoding.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Most memory at its peak, e.g. 400MB.")] = None,
    min_accuracy: Annotated[str | None, typer.Option(help="Least accuracy, e.g. 0.9 or 90%.")] = None,
    context: Annotated[
        int | None, typer.Option(min=2, help="Tokens of context (default: what the model and the device hold).")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 128,
    threads: Annotated[str | None, typer.Option(help="Threads to look at; several: 1,2,4.")] = None,
    kv_precision: Annotated[str | None, typer.Option(help="KV cache in f32, f16, q8_0 or q4_0 (GGUF).")] = None,
    python: Annotated[
        bool, typer.Option("--python", help="GGUF files run by Python on the device, not by the native runner.")
    ] = False,
    results: Annotated[
        Path | None,
        typer.Option(help="Results measured on that device: of bench (.json), or a store (default: the store)."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the frontier as a picture (.svg) or a page (.html).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Choose artifact, engine, threads and context for a device: measured where known, else derived, marked so.

    Exit status 1 when nothing fits and keeps every limit; it says which limit is missed, and by how much.
    """
    from edgestill.bundle import open_bundle
    from edgestill.devices.plan import Asked, Limits, make_plan, require_choice
    from edgestill.devices.plan_page import cells, choice_text, heading, write_plan
    from edgestill.devices.profile import find_profile
    from edgestill.errors import InputError
    from edgestill.runtime.engine_options import kv_precision_named

    if out is not None and out.suffix not in (".svg", ".html", ".htm"):
        raise InputError(f"--out {out}: suffix {out.suffix!r} is not .svg or .html; name one of them")
    limits = Limits(
        max_ttft=max_ttft,
        min_decode_rate=min_decode_rate,
        max_memory=None if max_memory is None else _bytes(max_memory),
        min_accuracy=None if min_accuracy is None else fraction("--min-accuracy", min_accuracy),
    )
    asked = Asked(
        limits=limits,
        prompt_tokens=prompt_tokens,
        context=context,
        threads=() if threads is None else tuple(counts("--threads", threads, 1)),
        kv_precision=kv_precision_named(kv_precision),
        host="python" if python else "native",
    )
    opened = open_bundle(bundle)
    if device == "local":
        from edgestill.devices.profile_here import profile_here

        with console.open_progress(quiet=as_json) as progress, progress.task("measuring this machine, some 20 seconds"):
            profile = profile_here(note=progress.note)
    else:
        profile = find_profile(device)
    document = make_plan(opened, profile, asked, _known(opened, device, profile.name, results))
    if out is not None:
        write_plan(document, out)
    if as_json:
        console.print_json(document.to_json())
    else:
        marks = ["→" if row.chosen else "•" if row.frontier else "" for row in document.rows]
        rows = [
            [f"{mark} {first}".strip(), *rest]
            for mark, (first, *rest) in zip(marks, map(cells, document.rows), strict=True)
        ]
        console.print_table(heading(), rows)
        for note in document.notes:
            console.say(note)
    chosen = require_choice(document)
    if not as_json:
        console.print_line(choice_text(chosen))
        console.say(f"{chosen.artifact}: {chosen.why}; {chosen.decode.source}")


def _known(bundle: Bundle, device: str, profile: str, results: Path | None) -> list[BenchRecord]:
    """Return what was measured on the device: in a file or a store; of this machine in the manifest too.

    A file of several devices holds results of others as well; one of a single bench is taken as the device's.
    """
    from edgestill.bench_results import BenchDocument
    from edgestill.devices.store import Store, store_path
    from edgestill.documents import read_document
    from edgestill.fleet_results import FleetDocument

    records: list[BenchRecord] = []
    if results is not None and results.suffix == ".json":
        cure = "give a file that bench --json wrote, or a store"
        if _is_of_a_fleet(results):
            fleet = read_document(results, FleetDocument, what="a fleet's result", cure=cure)
            records += [one for one in fleet.results if one.device in (device, profile)]
        else:
            records += read_document(results, BenchDocument, what="a bench result", cure=cure).results
    else:
        path = store_path() if results is None else results
        if results is not None or path.is_file():
            with Store(path) as store:
                names = dict.fromkeys((device, profile))
                records += [one.record for name in names for one in store.query(device=name)]
    if device == "local":
        records += [artifact.bench for artifact in bundle.manifest.artifacts if artifact.bench is not None]
    return records


def _is_of_a_fleet(path: Path) -> bool:
    """Tell whether a JSON file's schema is a fleet's; one that can't be read is for its reader to refuse."""
    import json

    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and str(found.get("schema", "")).startswith("edgestill.fleet/")


def _bytes(text: str) -> float:
    """Return ``400MB`` or ``1.5GiB`` in bytes. Raises InputError."""
    from edgestill.errors import InputError

    number = text.rstrip("abgikmABGIKM").strip()
    unit = text[len(text.rstrip("abgikmABGIKM")) :].strip().lower()
    try:
        value = float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        value = 0.0
    if not 0 < value < 1e15:
        raise InputError(f"--max-memory {text!r} is not a size; give it like 400MB or 1.5GiB")
    return value
