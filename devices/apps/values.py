"""What a template may say of a bundle: its names, sizes, prompts and licences."""

from __future__ import annotations

import importlib.metadata
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from edgestill.bundle import Bundle, BundleArtifact, FileEntry
from edgestill.errors import InputError
from edgestill.runtime.golden import read_golden

_PROMPTS: Final = 3
_LONGEST_PROMPT: Final = 400
_PACKAGE: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_RESERVED: Final = """
    abstract actor and as assert async await bool boolean break byte case catch char class const continue data def
    default defer del delete do double elif else enum extern false final finally float for from fun func global goto
    if implements import in init inline inner instanceof int interface internal is it lambda let long match module
    native new nil none nonlocal not null object open operator or out package pass private protected public raise
    register return self short signed sizeof static struct super switch synchronized this throw throws transient
    true try type typealias typedef typeof union unsigned val value var void volatile when where while with yield
    app bundle test main
"""
"""Words of the languages that templates are written in, and names that projects have for other things."""
_KEYWORDS: Final = frozenset(_RESERVED.split())


@dataclass(frozen=True)
class ArtifactValues:
    """One artifact of the app: ``size`` is ``size_bytes`` for a person."""

    name: str
    precision: str
    size_bytes: int
    size: str


@dataclass(frozen=True)
class AppValues:
    """What templates are rendered with.

    ``name`` is the bundle's; ``slug`` ([a-z0-9-]) and ``identifier`` ([a-z0-9_], no language's keyword) are made from
    it, ``package`` ends in the latter. ``prompts`` are examples out of the golden ones, ``files`` the bundle's files
    that the app carries and ``size`` that of them all.
    """

    name: str
    slug: str
    identifier: str
    package: str
    description: str
    task: str
    context_length: int
    max_new_tokens: int
    chat: bool
    gguf: ArtifactValues | None
    onnx: ArtifactValues | None
    prompts: tuple[str, ...]
    size: str
    licenses: tuple[str, ...]
    files: tuple[FileEntry, ...]
    edgestill_version: str

    def as_dict(self) -> dict[str, object]:
        """Return the values by name, as templates have them."""
        return {**asdict(self), "files": [entry.model_dump() for entry in self.files]}


def values_of(
    bundle: Bundle, artifacts: Sequence[BundleArtifact], files: Sequence[FileEntry], package: str
) -> AppValues:
    """Return what the templates say of a bundle with these artifacts and files.

    Raises InputError for a package that isn't names with dots between, BundleError for damaged golden answers.
    """
    manifest = bundle.manifest
    slug = _slug(manifest.name)
    identifier = slug.replace("-", "_")
    if identifier[0].isdigit() or identifier in _KEYWORDS:
        identifier = f"model_{identifier}"
    whole = f"{package}.{identifier}"
    if not _PACKAGE.fullmatch(whole) or _KEYWORDS & set(package.split(".")):
        raise InputError(f"package {package!r}: give lower-case names with dots between, org.example for one")
    by_format = {one.format: _artifact(one) for one in artifacts}
    size = _size(sum(entry.size_bytes for entry in files))
    return AppValues(
        name=manifest.name,
        slug=slug,
        identifier=identifier,
        package=whole,
        description=f"{manifest.name}: a language model for {manifest.task} that runs on the device ({size})",
        task=manifest.task,
        context_length=manifest.context_length,
        max_new_tokens=manifest.generation.max_new_tokens,
        chat=manifest.chat_template is not None,
        gguf=by_format.get("gguf"),
        onnx=by_format.get("onnx"),
        prompts=_prompts(bundle),
        size=size,
        licenses=tuple(entry.path.partition("/")[2] for entry in files if entry.kind == "license"),
        files=tuple(files),
        edgestill_version=importlib.metadata.version("edgestill"),
    )


def _slug(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "model"


def _artifact(artifact: BundleArtifact) -> ArtifactValues:
    return ArtifactValues(artifact.name, artifact.precision, artifact.size_bytes, _size(artifact.size_bytes))


def _size(count: int) -> str:
    for unit, divisor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= divisor:
            return f"{count / divisor:.3g} {unit}"
    return f"{count} bytes"


def _prompts(bundle: Bundle) -> tuple[str, ...]:
    """Return what a person said in the first golden prompts; long ones and repetitions are left out."""
    said: list[str] = []
    for golden in read_golden(bundle):
        text = golden.prompt if isinstance(golden.prompt, str) else golden.prompt[-1].content
        if text and len(text) <= _LONGEST_PROMPT and text not in said:
            said.append(text)
    return tuple(said[:_PROMPTS])
