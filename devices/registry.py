"""Drivers by name, and the user's file of devices: a TOML table a device. No password is ever in it.

    [pi5]
    driver = "ssh"
    host = "192.168.1.20"
    user = "pi"

The file is ``$EDGESTILL_DEVICES``, else ``edgestill/devices.toml`` in the user's folder of settings. A device ``local``
is always there.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from edgestill.devices import drivers
from edgestill.devices.contract import DeviceError, DeviceSettings, Driver
from edgestill.storage import write_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOCAL: Final = "local"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_MAX_BYTES: Final = 1 << 20

Value = str | int | float | bool | Sequence[str]


def driver_names() -> list[str]:
    """Return the kinds of drivers there are: one file each."""
    return sorted(module.name for module in pkgutil.iter_modules(drivers.__path__))


def driver_type(kind: str) -> type[Driver]:
    """Return a driver's class. Raises DeviceError that lists the kinds there are."""
    if kind not in driver_names():
        raise DeviceError(f"driver {kind!r} is not one of {', '.join(driver_names())}")
    importlib.import_module(f"{drivers.__name__}.{kind}")
    return Driver.known[kind]


def devices_file() -> Path:
    """Return the path of the user's file of devices, whether or not it is there."""
    if given := os.environ.get("EDGESTILL_DEVICES"):
        return Path(given)
    settings = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(settings) / "edgestill" / "devices.toml"


def device_settings(file: Path | None = None) -> dict[str, DeviceSettings]:
    """Return every device's checked settings by name. Raises DeviceError that names file, device and key."""
    path = file or devices_file()
    tables = _read(path)
    found = {name: checked(name, table, str(path)) for name, table in tables.items()}
    return found if LOCAL in found else {LOCAL: checked(LOCAL, {"driver": LOCAL}, str(path)), **found}


def named_devices(file: Path | None = None) -> list[str]:
    """Return the names in the user's file."""
    return list(_read(file or devices_file()))


def open_device(name: str, file: Path | None = None) -> Driver:
    """Return a device's driver, not yet connected. Raises DeviceError for an unknown name or a wrong table."""
    path = file or devices_file()
    tables = _read(path)
    if name not in tables and name != LOCAL:
        known = ", ".join(sorted({*tables, LOCAL}))
        raise DeviceError(f"device {name!r} is not in {path}; there are: {known}; edgestill devices add {name} adds it")
    return make_driver(name, checked(name, tables.get(name, {"driver": LOCAL}), str(path)))


def make_driver(name: str, settings: DeviceSettings) -> Driver:
    """Return the driver of checked settings."""
    return driver_type(settings.driver)(name, settings)


def checked(name: str, table: object, where: str) -> DeviceSettings:
    """Return a table as its driver's settings. Raises DeviceError that names the key and says which there are."""
    at = f"{where}: [{name}]"
    if not isinstance(table, Mapping):
        raise DeviceError(f"{at}: a device is a table; begin it with a line [{name}]")
    if not _NAME.fullmatch(name):
        raise DeviceError(f"{at}: a device's name is letters, digits, - and _")
    kind = table.get("driver")
    if not isinstance(kind, str):
        raise DeviceError(f"{at}: driver is missing; one of {', '.join(driver_names())}")
    settings = driver_type(kind).settings_type
    for key in table:
        if key not in settings.model_fields:
            if "pass" in key.lower():
                raise DeviceError(f"{at}: {key}: no password is kept here; use a key or an agent")
            raise DeviceError(f"{at}: {key!r} is not a key of driver {kind}; it has {', '.join(settings.model_fields)}")
    try:
        return settings.model_validate(table)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        given = "" if problem["type"] == "missing" else f" {problem['input']!r}"
        raise DeviceError(f"{at}: {key}{given}: {problem['msg']}") from None


def add_device(name: str, table: Mapping[str, Value], file: Path | None = None, *, replace: bool = False) -> Path:
    """Write a device's table into the user's file, the rest left as it is, and return the file. Raises DeviceError."""
    path = file or devices_file()
    checked(name, table, str(path))
    tables = _read(path)
    if name in tables:
        if not replace:
            raise DeviceError(f"device {name!r} is in {path} already; remove it first, or give --replace")
        remove_device(name, path)
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = [f"{key} = {_toml(value)}" for key, value in table.items()]
    kept = before.rstrip("\n") + "\n\n" if before.strip() else ""
    write_text(path, kept + "\n".join([f"[{name}]", *lines]) + "\n")
    return path


def remove_device(name: str, file: Path | None = None) -> None:
    """Take a device's table out of the user's file. Raises DeviceError when it isn't there."""
    path = file or devices_file()
    tables = _read(path)
    if name not in tables:
        raise DeviceError(f"device {name!r} is not in {path}; there are: {', '.join(sorted(tables)) or 'none'}")
    kept: list[str] = []
    inside = False
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"\s*\[\s*[\"']?([A-Za-z0-9_-]+)[\"']?\s*\]\s*(#.*)?$", line):
            inside = found[1] == name
        if not inside:
            kept.append(line)
    text = "\n".join(kept).strip("\n") + "\n"
    if tomllib.loads(text) != {other: table for other, table in tables.items() if other != name}:
        raise DeviceError(f"{path}: [{name}] can't be taken out by itself; edit the file")
    write_text(path, text)


def _read(path: Path) -> dict[str, object]:
    if not path.is_file():
        return {}
    if path.stat().st_size > _MAX_BYTES:
        raise DeviceError(f"{path}: larger than {_MAX_BYTES} bytes; is it a file of devices?")
    try:
        tables: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
        return tables
    except (OSError, ValueError, RecursionError) as error:
        raise DeviceError(f"{path}: not a readable file of devices ({error})") from None


def _toml(value: Value) -> str:
    """Return a value as TOML; a JSON string is a TOML string once DEL is escaped."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (int, float)):
        return repr(value)
    return "[" + ", ".join(_toml(one) for one in value) + "]"
