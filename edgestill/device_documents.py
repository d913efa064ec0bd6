"""The JSON documents of ``devices`` and ``deploy``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from edgestill.figure import Document, Record
from edgestill.fleet_results import Pushed

Fact = str | int | float | bool | None
Setting = str | int | float | bool | list[str] | None


class DeviceDocument(Document):
    """What ``devices add`` and ``devices remove`` print.

    ``file`` is the user's file of devices and ``settings`` the device's table in it; ``host_keys`` are the fingerprints
    that were accepted. After a removal ``removed`` is true and ``files_removed`` whether its files are deleted there.
    """

    schema_: Annotated[Literal["edgestill.device/1"], Field(alias="schema")] = "edgestill.device/1"
    name: str
    file: str | None = None
    settings: dict[str, Setting] | None = None
    host_keys: tuple[str, ...] = ()
    removed: bool = False
    files_removed: bool = False


class DeviceTable(Record):
    """One device's table; further keys are its driver's own."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    driver: str


class DevicesDocument(Document):
    """What ``devices list`` prints: the devices of the user's file, and the kinds of drivers there are."""

    schema_: Annotated[Literal["edgestill.devices/1"], Field(alias="schema")] = "edgestill.devices/1"
    file: str
    devices: tuple[DeviceTable, ...]
    drivers: tuple[str, ...]


class DeviceCheck(Record):
    """One step of ``devices check``: ``ok`` is null where it couldn't be asked; ``cure`` says how to mend it."""

    name: str
    ok: bool | None
    found: str
    cure: str = ""


class DevicesCheckDocument(Document):
    """What ``devices check`` prints; ``ok`` is false when a step found something missing."""

    schema_: Annotated[Literal["edgestill.devices-check/1"], Field(alias="schema")] = "edgestill.devices-check/1"
    device: str
    ok: bool
    checks: tuple[DeviceCheck, ...]


class ProbedCluster(Record):
    """Cores of one kind."""

    count: int
    name: str | None = None
    max_mhz: float | None = None


class DevicesProbeDocument(Document):
    """What ``devices probe`` prints: what a device says of itself, null where it doesn't; sizes in bytes.

    ``machine`` is the ISA as ``uname -m`` names it, ``latency`` whether its wall times mean anything, ``profile`` the
    file that was written from it.
    """

    schema_: Annotated[Literal["edgestill.devices-probe/1"], Field(alias="schema")] = "edgestill.devices-probe/1"
    device: str
    kind: str
    system: str
    machine: str
    cores: int
    ram_bytes: int | None
    free_ram_bytes: int | None
    free_disk_bytes: int | None
    latency: bool
    model: str | None = None
    cpu: str | None = None
    clusters: tuple[ProbedCluster, ...] = ()
    isa_features: tuple[str, ...] = ()
    facts: dict[str, Fact] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    profile: str | None = None


class DeployedArtifact(Record):
    """One artifact that was brought; ``selftest`` is the runner's own document (``edgestill.selftest/1``)."""

    name: str
    selftest: dict[str, object] | None


class DeployDocument(Document):
    """What ``deploy`` prints. ``folder`` is the bundle's below the device's own; ``runner`` null: it was kept."""

    schema_: Annotated[Literal["edgestill.deploy/1"], Field(alias="schema")] = "edgestill.deploy/1"
    device: str
    folder: str
    push: Pushed
    runner: Pushed | None
    artifacts: tuple[DeployedArtifact, ...]
    notes: tuple[str, ...] = ()
