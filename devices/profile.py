"""Profile: what is known of a kind of device before it is measured, each figure with where it is from.

A profile is a small TOML file (schema ``edgestill.profile/1``). Those that ship lie in ``profiles/``; ``devices probe``
writes one from a real device, and anyone may write one by hand::

    schema = "edgestill.profile/1"
    name = "my-board"
    title = "My board, 2 GB"
    cpu = "4x Cortex-A55 at 1.8 GHz"
    isa = "aarch64"
    isa_features = ["neon", "dotprod"]
    source = "the board's datasheet"
    clusters = [{ count = 4, name = "Cortex-A55", max_mhz = 1800 }]

    [ram_bytes]
    value = 2147483648
    basis = "derived"
    source = "the board's datasheet"

A figure that isn't known is left out. ``basis`` is measured (somebody ran it on such a device), derived (stated by the
maker, or computed from what is stated or measured; the source says how) or estimated.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import sys
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError, model_validator

from edgestill.errors import InputError
from edgestill.figure import Basis, Record
from edgestill.runtime.products import ProductWeights
from edgestill.storage import write_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SCHEMA: Final = "edgestill.profile/1"
SHIPPED: Final = Path(__file__).with_name("profiles")
_MAX_BYTES: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


RUNNER_SOURCE: Final = "edgestill-run probe"
"""How the source of a figure begins that the runner measured on the device."""


class ProfileFigure(Record):
    """One figure of a profile: ``error`` is the half width of its 95% interval as a fraction of it, null if unknown."""

    value: float = Field(gt=0, allow_inf_nan=False)
    basis: Basis
    source: str = Field(min_length=1)
    error: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class ProfileCluster(Record):
    """Cores of one kind, the fastest cluster first in a profile."""

    count: int = Field(ge=1)
    name: str = Field(min_length=1)
    max_mhz: float | None = Field(default=None, gt=0)


class ProfileProduct(ProfileFigure):
    """Bytes of ``weights`` a second that ``threads`` threads multiply by a vector, by llama.cpp's own products.

    ``read_bytes`` is how many are read in turn: what fits a cache is faster.
    """

    weights: ProductWeights
    threads: int = Field(ge=1)
    read_bytes: float = Field(gt=0, allow_inf_nan=False)


class Profile(Record):
    """A kind of device. Sizes are bytes, rates bytes or operations a second; a multiplication and an addition are two.

    Rates are of all cores together, and of one of the fastest. ``source`` is for what isn't a figure: processor,
    clusters and instruction sets (:func:`edgestill.runtime.isa_features.isa_features` has their names).
    ``free_ram_bytes`` is what a freshly started system leaves to a program. ``cached_read_bandwidth`` is that of
    ``cached_bytes`` which are read over and over, and so found in a cache.
    """

    schema_: Annotated[Literal["edgestill.profile/1"], Field(alias="schema")] = "edgestill.profile/1"
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    title: str = Field(min_length=1)
    cpu: str = Field(min_length=1)
    isa: str = Field(min_length=1)
    isa_features: tuple[str, ...] = ()
    source: str = Field(min_length=1)
    clusters: tuple[ProfileCluster, ...] = Field(min_length=1)
    ram_bytes: ProfileFigure | None = None
    free_ram_bytes: ProfileFigure | None = None
    last_cache_bytes: ProfileFigure | None = None
    peak_bandwidth_bytes_per_second: ProfileFigure | None = None
    read_bandwidth_bytes_per_second: ProfileFigure | None = None
    read_bandwidth_one_core_bytes_per_second: ProfileFigure | None = None
    cached_bytes: ProfileFigure | None = None
    cached_read_bandwidth_bytes_per_second: ProfileFigure | None = None
    cached_read_bandwidth_one_core_bytes_per_second: ProfileFigure | None = None
    float32_ops_per_second: ProfileFigure | None = None
    float32_ops_one_core_per_second: ProfileFigure | None = None
    int8_ops_per_second: ProfileFigure | None = None
    int8_ops_one_core_per_second: ProfileFigure | None = None
    free_disk_bytes: ProfileFigure | None = None
    disk_read_bytes_per_second: ProfileFigure | None = None
    products: tuple[ProfileProduct, ...] = ()

    @model_validator(mode="after")
    def _possible(self) -> Profile:
        pairs = (
            ("free_ram_bytes", "ram_bytes"),
            ("read_bandwidth_bytes_per_second", "peak_bandwidth_bytes_per_second"),
            ("read_bandwidth_one_core_bytes_per_second", "read_bandwidth_bytes_per_second"),
            ("cached_read_bandwidth_one_core_bytes_per_second", "cached_read_bandwidth_bytes_per_second"),
            ("float32_ops_one_core_per_second", "float32_ops_per_second"),
            ("int8_ops_one_core_per_second", "int8_ops_per_second"),
        )
        for smaller, larger in pairs:
            part, whole = getattr(self, smaller), getattr(self, larger)
            if part is not None and whole is not None and part.value > whole.value:
                raise ValueError(f"{smaller} {part.value:g} is more than {larger} {whole.value:g}")
        return self

    @property
    def cores(self) -> int:
        """How many cores there are."""
        return sum(cluster.count for cluster in self.clusters)

    @property
    def fast_cores(self) -> int:
        """How many cores are of the fastest cluster; with those next to it where it is a single one."""
        first = self.clusters[0].count
        return first + self.clusters[1].count if first == 1 and len(self.clusters) > 1 else first

    def figures(self) -> dict[str, ProfileFigure]:
        """Return the figures that are known, by key."""
        found = ((key, getattr(self, key)) for key in type(self).model_fields)
        return {key: value for key, value in found if isinstance(value, ProfileFigure)}

    def share_in_cache(self, read_bytes: float) -> float:
        """Return how much of ``read_bytes``, read over and over, comes from a cache.

        1 of what its rate was measured with; 0 of twice that (which is the whole of a cache of 128 MiB or less), or
        where that rate isn't known; of what lies between a part.
        """
        if self.cached_bytes is None or self.cached_bytes.value <= 0:
            return 0.0
        if self.cached_read_bandwidth_one_core_bytes_per_second is None:
            return 0.0  # nobody measured it: all is taken to come from memory
        return min(1.0, max(0.0, 2 - read_bytes / self.cached_bytes.value))

    def read_bandwidth(self, threads: int, read_bytes: float = math.inf) -> ProfileFigure | None:
        """Return how fast so many threads together read ``read_bytes``, over and over."""
        memory = _of_threads(
            threads, self.cores, self.read_bandwidth_one_core_bytes_per_second, self.read_bandwidth_bytes_per_second
        )
        cached = _of_threads(
            threads,
            self.cores,
            self.cached_read_bandwidth_one_core_bytes_per_second,
            self.cached_read_bandwidth_bytes_per_second,
        )
        share = self.share_in_cache(read_bytes)
        if share == 0 or cached is None:
            return memory
        if share == 1 or memory is None:
            return cached
        value = 1 / (share / cached.value + (1 - share) / memory.value)
        return (cached if share > 0.5 else memory).model_copy(update={"value": value})

    def float32_rate(self, threads: int) -> ProfileFigure | None:
        """Return how many float32 operations a second so many threads do together."""
        return _of_threads(threads, self.cores, self.float32_ops_one_core_per_second, self.float32_ops_per_second)

    def product_rate(self, weights: ProductWeights, threads: int, read_bytes: float) -> ProfileFigure | None:
        """Return the bytes of weights a second that so many threads multiply, of ``read_bytes`` read over and over.

        Between two measured sizes it goes with the size's logarithm from one to the other, beyond them it stays.
        """
        known = sorted((one for one in self.products if one.weights == weights), key=lambda one: one.read_bytes)
        sizes = sorted({one.read_bytes for one in known})
        rates = {}
        for size in sizes:
            of_size = {one.threads: one for one in known if one.read_bytes == size}
            most = max(of_size)
            every = of_size[most] if most > 1 or self.cores == 1 else None
            rate = _of_threads(threads, self.cores, of_size.get(1), every)
            if rate is not None:
                rates[size] = rate
        if not rates:
            return None
        below = max((size for size in rates if size <= read_bytes), default=min(rates))
        above = min((size for size in rates if size > read_bytes), default=max(rates))
        if below >= above:
            return rates[above]
        share = math.log(read_bytes / below) / math.log(above / below)
        value = rates[below].value ** (1 - share) * rates[above].value ** share
        return rates[below].model_copy(update={"value": value})


def _of_threads(
    threads: int, cores: int, one: ProfileFigure | None, every: ProfileFigure | None
) -> ProfileFigure | None:
    """Return a rate of some threads: that of one core times their number, at most that of all cores."""
    if one is None or threads >= cores:
        return every if threads >= cores or every is None else None
    together = threads * one.value
    if every is not None and together >= every.value:
        return every
    if threads == 1:
        return one
    return ProfileFigure(
        value=together, basis="derived", source=f"{threads} times one core's: {one.source}", error=one.error
    )


def shipped_profiles() -> dict[str, Path]:
    """Return name -> file of the profiles that ship, sorted."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def find_profile(text: str) -> Profile:
    """Return the profile that ``text`` names: a TOML file, a profile that ships, or one of the user's devices.

    A device's is the one that its table in the user's file names, else ``profiles/NAME.toml`` beside that file. Raises
    InputError (one line) when there is none; it lists what there is.
    """
    path = Path(text)
    if path.suffix == ".toml" or path.is_file():
        return load_profile(path)
    shipped = shipped_profiles()
    if text in shipped:
        return load_profile(shipped[text])
    if (own := _of_device(text)) is not None:
        return own
    near = difflib.get_close_matches(text, shipped, 1)
    cure = f"do you mean {near[0]}?" if near else f"give a TOML file, or one of {', '.join(shipped)}"
    raise InputError(f"device {text!r} has no profile; {cure}")


def _of_device(name: str) -> Profile | None:
    """Return the profile of a device in the user's file; None where there is no such device and no profile of it."""
    from edgestill.devices.registry import device_settings, devices_file, named_devices

    file = devices_file()
    known = name in named_devices()
    named = device_settings()[name].profile if known else None
    if named is not None:
        shipped = shipped_profiles()
        return load_profile(shipped[named] if named in shipped else file.parent / Path(named).expanduser())
    stored = file.parent / "profiles" / f"{name}.toml"
    if _NAME.fullmatch(name) and stored.is_file():
        return load_profile(stored)
    if known:
        raise InputError(
            f"device {name!r} has no profile; edgestill devices probe {name} --out {stored} writes one, "
            f"or name one in {file}: profile = ..."
        )
    return None


def load_profile(path: Path) -> Profile:
    """Read a profile. Raises InputError that names file, key and cure."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: larger than {_MAX_BYTES} bytes; this isn't a profile")
        value = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); give a profile's file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not TOML ({error}); see edgestill devices probe for one") from error
    if value.get("schema") != SCHEMA:
        raise InputError(f"{path}: schema {value.get('schema')!r} is not {SCHEMA!r}; begin with schema = {SCHEMA!r}")
    try:
        return Profile.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{path}: {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    known = [field.alias or name for name, field in Profile.model_fields.items()]
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known, 1)
        return f"key {key!r} is unknown; " + (f"do you mean {near[0]}?" if near else "leave it out")
    if problem["type"] == "missing":
        return f"key {key!r} is missing; every figure has value, basis and source"
    said = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {said} (it is {problem['input']!r})" if key else said


def profile_toml(profile: Profile) -> str:
    """Return a profile as TOML that :func:`load_profile` reads."""
    lines = [f"schema = {_text(SCHEMA)}"]
    lines += [f"{key} = {_text(getattr(profile, key))}" for key in ("name", "title", "cpu", "isa")]
    lines.append(f"isa_features = [{', '.join(map(_text, profile.isa_features))}]")
    lines.append(f"source = {_text(profile.source)}")
    lines.append("clusters = [")
    for cluster in profile.clusters:
        clock = "" if cluster.max_mhz is None else f", max_mhz = {_number(cluster.max_mhz)}"
        lines.append(f"    {{ count = {cluster.count}, name = {_text(cluster.name)}{clock} }},")
    lines.append("]")
    for key, figure in profile.figures().items():
        lines += ["", f"[{key}]", *_figure_lines(figure)]
    for product in profile.products:
        lines += ["", "[[products]]", f"weights = {_text(product.weights)}", f"threads = {product.threads}"]
        lines += [f"read_bytes = {_number(product.read_bytes)}", *_figure_lines(product)]
    return "\n".join(lines) + "\n"


def _figure_lines(figure: ProfileFigure) -> list[str]:
    lines = [f"value = {_number(figure.value)}", f"basis = {_text(figure.basis)}", f"source = {_text(figure.source)}"]
    return lines if figure.error is None else [*lines, f"error = {_number(figure.error)}"]


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile whole or not at all."""
    write_text(path, profile_toml(profile))


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1 << 63 else repr(float(value))
