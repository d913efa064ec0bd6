"""``edgestill bench --device``: one bundle on several devices at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from edgestill.cli import console
from edgestill.cli.fleet_view import FleetView, artifact_name, failure_text, open_fleet_view
from edgestill.cli.given import option_text, written
from edgestill.cli.interrupt import forget_interrupt
from edgestill.cli.numbers import counts

if TYPE_CHECKING:
    from edgestill.bench_results import BenchFailure, BenchRecord, Environment
    from edgestill.bundle import Bundle
    from edgestill.devices.contract import Driver
    from edgestill.devices.fleet import Status
    from edgestill.devices.fleet_device import Option
    from edgestill.errors import StageError
    from edgestill.fleet_results import FleetDocument, FleetOptions

_DEVICE_ONLY: Final = ("store", "no_store", "runner", "timeout", "processes", "fit_check", "resume")
_HERE_ONLY: Final = {
    **{"depth": "0", "width": "0", "max_seconds": None, "loads": 0, "sessions": None, "task_prompts": 0},
    **{
        "engine": None,
        "gate_seconds": 0.0,
        "flash_attention": None,
        "huge_pages": None,
        "arena": None,
        "ledger": False,
    },
}
"""Options of the bench in Python -> the one value that says what a device's runner does anyway."""


@dataclass(frozen=True)
class FleetAsked:
    """What ``bench --device`` was given."""

    models: Sequence[str]
    devices: Sequence[str]
    prompt_tokens: str
    new_tokens: str
    threads: str | None
    repetitions: int
    processes: int
    mmap: bool
    kv_precision: str | None
    runner: Path | None
    timeout: float
    fit_check: bool
    store: Path | None
    no_store: bool
    resume: bool
    printed: str
    out: Path | None
    written: str


def refuse_device_options(context: typer.Context) -> None:
    """Raise InputError for an option that says something only with --device."""
    from edgestill.errors import InputError

    for name in written(context):
        if name in _DEVICE_ONLY:
            raise InputError(f"{option_text(name)} is for devices; name one with --device, or leave it out")


def refuse_local_options(context: typer.Context) -> None:
    """Raise InputError for an option that a device's runner hasn't."""
    from edgestill.errors import InputError

    for name in written(context):
        if name in _HERE_ONLY and context.params[name] != _HERE_ONLY[name]:
            raise InputError(f"{option_text(name)}: the bench of a device hasn't it; leave it out, or bench here")


def bench_on_devices(asked: FleetAsked) -> None:
    """Measure, print, keep. Exit status 1 when a device or an artifact failed, 130 after Ctrl-C."""
    from edgestill.bundle import verify_files
    from edgestill.devices.fleet import FleetWork, bench_fleet
    from edgestill.devices.store import Store, store_path
    from edgestill.errors import StageError
    from edgestill.fleet_formats import fleet_format, render_fleet
    from edgestill.fleet_results import FleetOptions
    from edgestill.runtime.engine_options import kv_precision_named

    for name in (asked.printed, asked.written):
        if name not in ("", "table"):
            fleet_format(name)
    drivers = _drivers(asked.devices)
    model, bundle, artifacts = _bundle(asked.models)
    options = FleetOptions(
        artifacts=artifacts,
        prompt_tokens=tuple(counts("--prompt-tokens", asked.prompt_tokens, 1)),
        new_tokens=tuple(counts("--new-tokens", asked.new_tokens, 2)),
        threads=None if asked.threads is None else tuple(counts("--threads", asked.threads, 1)),
        repetitions=asked.repetitions,
        processes=asked.processes,
        kv_precision=kv_precision_named(asked.kv_precision),
        mmap=asked.mmap,
    )
    earlier = _earlier(asked, bundle, options)
    work = FleetWork(
        bundle=bundle,
        model=model,
        artifacts=artifacts,
        variants=_variants(options),
        run=_now() if earlier is None else earlier.created,
        processes=options.processes,
        runner=asked.runner,
        timeout_seconds=asked.timeout,
        fit_check=asked.fit_check,
        kept=() if earlier is None else earlier.results,
        known=() if earlier is None else earlier.devices,
    )
    store = None if asked.no_store else asked.store or store_path()
    if store is not None:
        Store(store).close()  # a file that is none is found before the first device runs
    verify_files(bundle)
    with open_fleet_view(asked.devices) as view:
        keeper = _Keeper(view, store, bundle.manifest.content_sha256, asked.out, asked.written)
        document = bench_fleet(work, options, drivers, keeper)
    keeper.write(document)  # with the state in which each device ended
    if asked.printed == "table":
        _print(document)
    else:
        console.print_json(render_fleet(document, asked.printed))
    failed = [_told(one) for one in document.failures] + [str(error) for error in keeper.errors]
    if any(device.state == "cancelled" for device in document.devices):
        forget_interrupt()
        console.say("; ".join(["stopped; what had finished is kept, and nothing runs on the devices", *failed]))
        raise typer.Exit(130)
    if failed:
        raise StageError("; ".join(failed))


class _Keeper:
    """Hears of results: shows them, writes the file, keeps them in the store, each at once.

    What can't be written stops no measurement: it is told at the end. The store is opened for each result, as it
    belongs to the thread that opened it.
    """

    def __init__(self, view: FleetView, store: Path | None, bundle: str, out: Path | None, written: str) -> None:
        self._view, self._store, self._bundle, self._out, self._written = view, store, bundle, out, written
        self._unstored: StageError | None = None
        self._unwritten: StageError | None = None

    @property
    def errors(self) -> list[StageError]:
        """What couldn't be kept in the end."""
        return [one for one in (self._unstored, self._unwritten) if one is not None]

    def status(self, device: str, status: Status) -> None:
        self._view.status(device, status)

    def stopping(self) -> None:
        self._view.stopping()

    def measured(self, document: FleetDocument, record: BenchRecord, environment: Environment) -> None:
        from edgestill.bench_results import BenchDocument
        from edgestill.devices.store import Store
        from edgestill.errors import EdgestillError, StageError

        self.write(document)
        if self._store is not None and record.device is not None:
            one = BenchDocument(environment=environment, results=(record,), created=record.measured)
            try:
                with Store(self._store) as store:
                    store.add(record.device, one, bundle=self._bundle)
            except (EdgestillError, OSError) as error:
                self._unstored = StageError(f"not in the store: {error}")
        self._view.told(record)

    def failed(self, document: FleetDocument, failure: BenchFailure) -> None:
        self.write(document)
        self._view.told(failure)

    def write(self, document: FleetDocument) -> None:
        """Write the file, if one was asked for."""
        from edgestill.bench_formats import write_rendered
        from edgestill.errors import StageError
        from edgestill.fleet_formats import render_fleet

        if self._out is None:
            return
        try:
            write_rendered(render_fleet(document, self._written), self._out)
            self._unwritten = None
        except StageError as error:
            self._unwritten = error


def _drivers(names: Sequence[str]) -> list[Driver]:
    """Return the devices' drivers, none of them connected. Raises InputError for one that is unknown or named twice."""
    from edgestill.devices.registry import open_device
    from edgestill.errors import InputError

    for name in names:
        if names.count(name) > 1:
            raise InputError(f"--device {name} is given {names.count(name)} times; name each device once")
    return [open_device(name) for name in names]


def _bundle(models: Sequence[str]) -> tuple[str, Bundle, tuple[str, ...]]:
    """Return the bundle as named, opened, and the artifacts asked for. Raises InputError."""
    from edgestill.bundle import open_bundle
    from edgestill.errors import InputError

    folders = [model.rpartition("#")[0] if "#" in model else model for model in models]
    if len(set(folders)) > 1:
        raise InputError(
            f"{folders[0]} and {next(one for one in folders if one != folders[0])}: --device takes one bundle"
        )
    bundle = open_bundle(Path(folders[0]))
    if folders[0] in models:
        return folders[0], bundle, tuple(one.name for one in bundle.manifest.artifacts)
    names = dict.fromkeys(bundle.manifest.artifact(artifact_name(model)).name for model in models)
    return folders[0], bundle, tuple(names)


def _variants(options: FleetOptions) -> tuple[dict[str, Option], ...]:
    """Return each combination as options of the runner's bench."""
    shared: dict[str, Option] = {"repetitions": options.repetitions}
    if options.kv_precision is not None:
        shared["kv_precision"] = options.kv_precision
    if not options.mmap:
        shared["no_mmap"] = True
    grid = itertools.product(options.threads or (None,), options.prompt_tokens, options.new_tokens)
    return tuple(
        {"prompt_tokens": prompt, "new_tokens": new, **({} if threads is None else {"threads": threads}), **shared}
        for threads, prompt, new in grid
    )


def _earlier(asked: FleetAsked, bundle: Bundle, options: FleetOptions) -> FleetDocument | None:
    """Return what --out holds of an earlier run of the same command. Raises InputError where that is of another one."""
    from edgestill.documents import read_document
    from edgestill.errors import InputError
    from edgestill.fleet_results import FleetDocument

    if not asked.resume:
        return None
    if asked.out is None or asked.written != "json":
        raise InputError("--resume goes on from what --out FILE.json holds; give that file")
    if not asked.out.is_file():
        return None
    cure = "leave --resume out to measure all again"
    found = read_document(asked.out, FleetDocument, what="a fleet's result", cure=cure)
    if found.bundle_sha256 != bundle.manifest.content_sha256:
        raise InputError(f"{asked.out}: of another bundle ({found.bundle}, {found.bundle_sha256[:12]}); {cure}")
    if found.options != options:
        changed = [
            name for name in type(options).model_fields if getattr(found.options, name) != getattr(options, name)
        ]
        raise InputError(f"{asked.out}: measured with other {', '.join(changed).replace('_', ' ')}; {cure}")
    return found


def _now() -> str:
    import datetime

    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _told(failure: BenchFailure) -> str:
    return f"{failure.device}: {failure_text(failure)}"


def _print(document: FleetDocument) -> None:
    from edgestill.bench_results import over_processes

    options = document.options
    several = len(options.prompt_tokens) * len(options.new_tokens) > 1
    head = ["device", "artifact", *(["tokens"] if several else []), "threads"]
    figures = ["load", "TTFT", "prefill", "decode", "token p50", "token p90", "peak PSS"]
    alike: dict[tuple[str, str, str, int], list[BenchRecord]] = {}
    for record in document.results:
        tokens = f"{record.prompt_tokens} + {record.new_tokens}"
        alike.setdefault((record.device or "", artifact_name(record.model), tokens, record.threads), []).append(record)
    rows = [
        [
            device,
            artifact,
            *([tokens] if several else []),
            str(threads),
            *(
                console.figure(over_processes([one.main_figures[name] for one in processes]))
                for name in processes[0].main_figures
            ),
        ]
        for (device, artifact, tokens, threads), processes in alike.items()
    ]
    for failure in document.failures:
        artifact = artifact_name(failure.model) if "#" in failure.model else "all"
        rows.append([failure.device or "", artifact, "failed", *["—"] * (len(head) - 3 + len(figures))])
    if rows:
        console.print_table([*head, *figures], rows)
    for failure in document.failures:
        console.print_line(f"failed: {_told(failure)}")
    skipped: dict[str, list[str]] = {}
    for device in document.devices:
        for one in device.skipped:
            skipped.setdefault(f"{one.artifact} skipped: {one.why}", []).append(device.name)
    for said, names in skipped.items():
        console.say(f"{', '.join(names)}: {said}")
    for device in document.devices:
        for note in device.notes:
            console.say(f"{device.name}: {note}")
    if options.processes > 1:
        console.say(f"medians of {options.processes} processes each")
    for (device_name, artifact, _, _), processes in alike.items():
        record = processes[-1]
        if record.facts.get("fits") is not None:
            fits = "fits" if record.facts["fits"] else "thrashes" if record.facts.get("thrashes") else "doesn't fit"
            console.say(f"{device_name}: {artifact} {fits}")
        for warning in record.warnings:
            if not any(warning.endswith(note) for one in document.devices for note in one.notes):
                console.say(f"{device_name}: {artifact}: {warning}")
