"""A refusal before the push: an artifact that won't run on a device, and what would instead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgestill.bundle import Bundle
from edgestill.devices.contract import Driver, Probe
from edgestill.devices.fit import Fit, Setting, fit
from edgestill.devices.model_facts import read_facts
from edgestill.devices.profile import find_profile
from edgestill.devices.registry import devices_file
from edgestill.errors import EdgestillError, GateError, MissingDependencyError, UnsupportedError
from edgestill.runtime.model_source import locate_model

RUNNER_CONTEXT: Final = 4096
"""The most tokens that edgestill-run takes without being told."""


def fit_before_push(
    bundle: Bundle, artifacts: Sequence[str], driver: Driver, probe: Probe, context: int | None = None
) -> list[str]:
    """See that artifacts will fit into what a device has free, each by itself, and return what isn't sure of that.

    Where the device doesn't say how much is free, the profile that its table names does. ``context`` is in tokens;
    None is what the runner takes. Raises GateError (see :func:`check_fit`), InputError for a profile that isn't there.
    """
    asked = min(RUNNER_CONTEXT, bundle.manifest.context_length) if context is None else context
    if not driver.uses_runner:
        return [f"{driver.name}: whether it fits wasn't checked: what {driver.kind} takes besides isn't known"]
    free: float | None = probe.free_ram_bytes
    features, source = probe.isa_features, ""
    if free is None and driver.settings.profile is not None:
        beside = devices_file().parent / Path(driver.settings.profile).expanduser()
        profile = find_profile(str(beside) if beside.is_file() else driver.settings.profile)
        free = None if profile.free_ram_bytes is None else profile.free_ram_bytes.value
        features, source = features or profile.isa_features, f", by the profile {profile.name}"
    if free is None:
        return [
            f"{driver.name}: whether it fits wasn't checked: it doesn't say how much memory is free; "
            "profile = names one that does"
        ]
    setting = Setting(asked, host="native")
    able = [one.name for one in bundle.manifest.artifacts if one.format in driver.formats]
    notes = []
    for name in artifacts:
        try:
            judged = check_fit(bundle, name, setting, free, probe.machine, features, able)
        except GateError as error:
            again = "--no-fit-check deploys it all the same"
            raise GateError(f"{driver.name}: {error}; {again}{source and f' ({source[2:]})'}") from None
        except (UnsupportedError, MissingDependencyError) as error:
            notes.append(f"{driver.name}: whether {name} fits wasn't checked: {error}")
            continue
        if not judged.likely:
            notes.append(f"{driver.name}: {name} is close: {judged.reason}{source}")
    return notes


def check_fit(
    bundle: Bundle,
    artifact: str,
    setting: Setting,
    free_bytes: float,
    isa: str,
    isa_features: tuple[str, ...] = (),
    able: Sequence[str] | None = None,
) -> Fit:
    """Return the verdict on one artifact of a bundle on a device with so much free memory, when it fits.

    Raises GateError (one line) when it doesn't or would thrash: with the largest context that would fit, else the
    artifact of the bundle that would (of ``able``; None: of all); and what
    :func:`edgestill.devices.model_facts.read_facts` raises.
    """
    judged = _fit(bundle, artifact, setting, free_bytes, isa, isa_features)
    if judged.verdict == "fits":
        return judged
    names = [one.name for one in bundle.manifest.artifacts] if able is None else able
    cure = _cure(bundle, judged, artifact, setting, free_bytes, isa, isa_features, names)
    raise GateError(f"{artifact} {judged.verdict}: {judged.reason}; {cure}")


def _fit(
    bundle: Bundle, artifact: str, setting: Setting, free_bytes: float, isa: str, isa_features: tuple[str, ...]
) -> Fit:
    facts = read_facts(locate_model(f"{bundle.folder}#{bundle.manifest.artifact(artifact).name}"))
    longest = min(setting.context, bundle.manifest.context_length)
    return fit(facts, setting, free_bytes, isa, isa_features, longest=longest)


def _cure(
    bundle: Bundle,
    judged: Fit,
    artifact: str,
    setting: Setting,
    free_bytes: float,
    isa: str,
    isa_features: tuple[str, ...],
    names: Sequence[str],
) -> str:
    if judged.largest_context is not None:
        return f"a context of {judged.largest_context} would fit (--context)"
    fitting: list[tuple[int, str]] = []
    for other in bundle.manifest.artifacts:
        if other.name == artifact or other.name not in names:
            continue
        try:
            verdict = _fit(bundle, other.name, setting, free_bytes, isa, isa_features).verdict
        except EdgestillError:
            continue  # what can't be read is no advice
        if verdict == "fits":
            fitting.append((other.size_bytes, other.name))
    if not fitting:
        return "nor does another artifact of the bundle fit; take a smaller model or a larger device"
    return f"{max(fitting)[1]} of the bundle would fit"
