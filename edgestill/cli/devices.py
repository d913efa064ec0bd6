"""``edgestill devices``: the user's devices: added, listed, checked, probed, removed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgestill.cli import console

if TYPE_CHECKING:
    from edgestill.device_documents import Setting
    from edgestill.devices.registry import Value

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Name = Annotated[str, typer.Argument(help="The device's name.")]


def add_to(app: typer.Typer) -> None:
    """Add the group of commands."""
    group = typer.Typer(help="Devices that a bundle runs on.", no_args_is_help=True)
    for name, command in (("add", add), ("list", list_), ("check", check), ("probe", probe), ("remove", remove)):
        group.command(name)(command)
    app.add_typer(group, name="devices")


def add(
    name: Name,
    driver: Annotated[str, typer.Option(help="Kind: limited, ssh, adb, browser, qemu (local is always there).")],
    host: Annotated[str | None, typer.Option(help="ssh: name or address.")] = None,
    port: Annotated[int | None, typer.Option(help="ssh: port.")] = None,
    user: Annotated[str | None, typer.Option(help="ssh: user.")] = None,
    identity: Annotated[Path | None, typer.Option(help="ssh: a private key's file (default: the agent).")] = None,
    jump: Annotated[list[str] | None, typer.Option(help="ssh: user@host:port on the way; several times.")] = None,
    serial: Annotated[str | None, typer.Option(help="adb: the phone's serial number.")] = None,
    runner: Annotated[Path | None, typer.Option(help="edgestill-run for the device, or its folder.")] = None,
    web_modules: Annotated[
        Path | None, typer.Option(help="browser: node_modules with the engines (default: devices check names it).")
    ] = None,
    emulate: Annotated[str | None, typer.Option(help="browser: a phone's screen and user agent: 'Pixel 7'.")] = None,
    profile: Annotated[str | None, typer.Option(help="A profile by name or file.")] = None,
    root: Annotated[str | None, typer.Option(help="Our folder on the device.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Another of the driver's keys: KEY=VALUE; several times.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a device of that name.")] = False,
    accept_host_key: Annotated[
        bool, typer.Option("--accept-host-key", help="ssh: show the host's key and keep it as right.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Add a device to the user's file. No password is kept there."""
    from edgestill.devices import registry
    from edgestill.errors import InputError

    given: dict[str, Value | None] = {
        "driver": driver,
        "host": host,
        "port": port,
        "user": user,
        "identity": None if identity is None else str(identity.expanduser().absolute()),
        "jump": jump or None,
        "serial": serial,
        "runner": None if runner is None else str(runner.expanduser().absolute()),
        "web_modules": None if web_modules is None else str(web_modules.expanduser().absolute()),
        "emulate": emulate,
        "profile": profile,
        "root": root,
    }
    table = {key: value for key, value in given.items() if value is not None}
    table |= dict(_pair(text) for text in set_ or [])
    settings = registry.checked(name, table, "devices add")
    fingerprints: list[str] = []
    if accept_host_key:
        from edgestill.devices.drivers import ssh

        if not isinstance(settings, ssh.SshSettings):
            raise InputError(f"--accept-host-key is for ssh, not {driver}; leave it out")
        lines = ssh.host_keys(name, settings)
        path = registry.add_device(name, table, replace=replace)
        ssh.accept_host_keys(lines, settings)
        fingerprints = [f"{line.split()[0]} {ssh.fingerprint(line)}" for line in lines]
        for line in fingerprints:
            console.say(f"host key of {line}: kept; compare it with the board's own (ssh-keygen -lf)")
    else:
        path = registry.add_device(name, table, replace=replace)
    if as_json:
        from edgestill.device_documents import DeviceDocument

        kept: dict[str, Setting] = {
            key: list(one) if isinstance(one, Sequence) and not isinstance(one, str) else one
            for key, one in table.items()
        }
        document = DeviceDocument(name=name, file=str(path), settings=kept, host_keys=tuple(fingerprints))
        console.print_json(document.to_json())
    else:
        console.print_line(f"{name} is in {path}; edgestill devices check {name} says what it still needs")


def list_(as_json: AsJson = False) -> None:
    """List the devices and the kinds of drivers."""
    from edgestill.devices import registry

    settings = registry.device_settings()
    if as_json:
        from edgestill.device_documents import DevicesDocument, DeviceTable

        tables = tuple(
            DeviceTable.model_validate({"name": name, **_plain(one.model_dump(exclude_none=True))})
            for name, one in settings.items()
        )
        drivers = tuple(registry.driver_names())
        console.print_json(
            DevicesDocument(file=str(registry.devices_file()), devices=tables, drivers=drivers).to_json()
        )
        return
    lines: list[list[str]] = []
    for name, one in settings.items():
        keys = one.model_dump(exclude_none=True, exclude={"driver"})
        shown = "  ".join(f"{key}={value}" for key, value in keys.items() if value not in ((), ""))
        lines.append([name, one.driver, shown])
    console.print_table(["device", "driver", "settings"], lines)


def check(name: Name, as_json: AsJson = False) -> None:
    """Walk what a device needs, say what is missing and how to mend it. Exit status 1 when something is."""
    from edgestill.devices.registry import open_device

    with open_device(name) as driver:
        checks = driver.check()
    failed = [one for one in checks if one.ok is False]
    if as_json:
        from edgestill.device_documents import DeviceCheck, DevicesCheckDocument

        steps = tuple(DeviceCheck.model_validate(dataclasses.asdict(one)) for one in checks)
        console.print_json(DevicesCheckDocument(device=name, ok=not failed, checks=steps).to_json())
    else:
        for one in checks:
            word = {True: "ok", False: "missing", None: "not yet"}[one.ok]
            cure = f"; {one.cure}" if one.cure and one.ok is not True else ""
            console.print_line(f"{word:8} {one.name}: {one.found}{cure}")
    if failed:
        raise typer.Exit(1)


def probe(
    name: Name,
    out: Annotated[Path | None, typer.Option(help="Write a profile from what the device says.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a device for its cores, memory, instruction sets and free disk; --out measures its rates too."""
    from edgestill.devices.registry import open_device

    with open_device(name) as driver:
        found = driver.probe()
        if out is not None:
            from edgestill.devices.probing import profile_of
            from edgestill.devices.profile import write_profile

            with console.open_progress(quiet=as_json) as progress, progress.task(f"measuring {name}, some 20 seconds"):
                probed = profile_of(driver, found)
            write_profile(probed.profile, out)
            for note in probed.notes:
                console.say(note)
    if as_json:
        from edgestill.device_documents import DevicesProbeDocument

        said = {**dataclasses.asdict(found), "profile": None if out is None else str(out)}
        console.print_json(DevicesProbeDocument.model_validate(said).to_json())
        return
    rows = [
        ("system", f"{found.system}, {found.machine}"),
        ("model", found.model or "—"),
        ("processor", f"{found.cores} x {found.cpu or 'unknown'}"),
        ("clusters", _clusters(found.clusters)),
        ("instruction sets", " ".join(found.isa_features) or "—"),
        ("memory", f"{console.size(found.ram_bytes)}, {console.size(found.free_ram_bytes)} free"),
        ("free disk", console.size(found.free_disk_bytes)),
        ("latency means something", "yes" if found.latency else "no"),
        *((key, str(value)) for key, value in found.facts.items()),
    ]
    for label, text in rows:
        console.print_line(f"{label}: {text}")
    for note in found.notes:
        console.say(note)
    if out is not None:
        console.say(f"profile: {out}")


def remove(
    name: Name,
    keep_files: Annotated[
        bool, typer.Option("--keep-files", help="Leave the device alone: it is gone, or its files stay.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete all that edgestill put on a device, and take it out of the user's file."""
    from edgestill.devices import registry

    with registry.open_device(name) as driver:
        if not keep_files:
            driver.remove(".")
    if name != registry.LOCAL or name in registry.named_devices():
        registry.remove_device(name)
    if as_json:
        from edgestill.device_documents import DeviceDocument

        console.print_json(DeviceDocument(name=name, removed=True, files_removed=not keep_files).to_json())
    else:
        console.print_line(f"{name} is removed" + (", its files stay there" if keep_files else " with its files"))


def _clusters(clusters: Sequence[object]) -> str:
    from edgestill.devices.contract import Cluster

    shown = []
    for one in clusters:
        if isinstance(one, Cluster):
            clock = "" if one.max_mhz is None else f" at {one.max_mhz:,.0f} MHz"
            shown.append(f"{one.count} x {one.name or 'core'}{clock}")
    return ", ".join(shown) or "—"


def _pair(text: str) -> tuple[str, Value]:
    """Return KEY=VALUE with a number, true or false as itself."""
    from edgestill.errors import InputError

    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise InputError(f"--set {text!r}: write KEY=VALUE")
    if value in ("true", "false"):
        return key.strip(), value == "true"
    for kind in (int, float):
        try:
            return key.strip(), kind(value)
        except ValueError:
            continue
    return key.strip(), value


def _plain(values: dict[str, object]) -> dict[str, object]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
