"""A refusal before the push: an artifact that won't run on a device, and what would instead."""

from __future__ import annotations

from edgestill.bundle import Bundle
from edgestill.devices.fit import Fit, Setting, fit
from edgestill.devices.model_facts import read_facts
from edgestill.errors import EdgestillError, GateError
from edgestill.runtime.model_source import locate_model


def check_fit(
    bundle: Bundle, artifact: str, setting: Setting, free_bytes: float, isa: str, isa_features: tuple[str, ...] = ()
) -> Fit:
    """Return the verdict on one artifact of a bundle on a device with so much free memory, when it fits.

    Raises GateError (one line) when it doesn't or would thrash: with the largest context that would fit, else the
    artifact of the bundle that would; and what :func:`edgestill.devices.model_facts.read_facts` raises.
    """
    judged = _fit(bundle, artifact, setting, free_bytes, isa, isa_features)
    if judged.verdict == "fits":
        return judged
    cure = _cure(bundle, judged, artifact, setting, free_bytes, isa, isa_features)
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
) -> str:
    if judged.largest_context is not None:
        return f"a context of {judged.largest_context} would fit"
    fitting: list[tuple[int, str]] = []
    for other in bundle.manifest.artifacts:
        if other.name == artifact:
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
