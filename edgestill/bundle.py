"""Bundle: a folder with a manifest, artifacts, tokenizer, golden answers, report and licences.

    manifest.json   schema first; sha256 and size of every other file; ``digest`` over itself
    artifacts/<name>/   one exported file set each, with its parity.json and, where asked for, the prefix.state of a
                    system prompt
    tokenizer/      the student's tokenizer and chat template
    golden.jsonl    prompts and the exact greedy token ids that each artifact must produce
    report.html     measured figures for a person
    licenses/       what the parts are under
    model.sig       a signature over all of it, where it was signed (see :mod:`edgestill.signing`)

``content_sha256`` covers everything that computes (all files but the report and parity.json): two runs of one recipe
with one seed have the same content, while measured times differ.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from edgestill.artifact import PARITY_FILE, Artifact
from edgestill.bench_results import BenchRecord
from edgestill.errors import BundleError
from edgestill.figure import Figure, Record
from edgestill.results import Headline, Parity
from edgestill.storage import files_below, sha256_file, sha256_json, whole_folder, write_text

MANIFEST_FILE: Final = "manifest.json"
SCHEMA: Final = "edgestill.bundle/1"
GOLDEN_FILE: Final = "golden.jsonl"
REPORT_FILE: Final = "report.html"
SIGNATURE_FILE: Final = "model.sig"
_NO_DIGEST: Final = "0" * 64
_MAX_MANIFEST_BYTES: Final = 64 << 20

FileKind = Literal["model", "tokenizer", "golden", "report", "license"]


class FileEntry(Record):
    """One file of the bundle; ``path`` is relative, POSIX style, inside the folder."""

    path: str
    kind: FileKind
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class BundleArtifact(Record):
    """One artifact of the bundle with all that was found out about it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    format: Literal["onnx", "gguf", "onnx-portable"]
    precision: str
    entry: str
    size_bytes: int
    sha256: str
    parity: Parity | None
    metrics: dict[str, Figure]
    bench: BenchRecord | None
    notes: tuple[str, ...] = ()


class GenerationDefaults(Record):
    """How the model is meant to be sampled; temperature 0 is greedy."""

    max_new_tokens: int
    temperature: float = 0.0
    stop: tuple[str, ...] = ()
    eos_token_ids: tuple[int, ...] = ()


class Manifest(Record):
    """``manifest.json``: what is in the bundle and where it came from."""

    schema_: Annotated[Literal["edgestill.bundle/1"], Field(alias="schema")] = "edgestill.bundle/1"
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", default=_NO_DIGEST)
    content_sha256: str
    name: str
    created: str
    task: str
    ship: str | None
    chat_template: str | None
    generation: GenerationDefaults
    context_length: int
    headline: Headline | None
    artifacts: tuple[BundleArtifact, ...]
    files: tuple[FileEntry, ...]
    provenance: dict[str, object]

    def artifact(self, name: str) -> BundleArtifact:
        """Return one artifact by name. Raises BundleError that lists the names there are."""
        for artifact in self.artifacts:
            if artifact.name == name:
                return artifact
        known = ", ".join(artifact.name for artifact in self.artifacts) or "none"
        raise BundleError(f"no artifact {name!r} in the bundle; there are: {known}")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its checked manifest."""

    folder: Path
    manifest: Manifest

    def artifact_folder(self, name: str) -> Path:
        """Return the folder of one artifact."""
        return self.folder / "artifacts" / self.manifest.artifact(name).name


@dataclass(frozen=True)
class Contents:
    """What :func:`pack_bundle` puts in; files are copied."""

    name: str
    created: str
    task: str
    ship: str | None
    chat_template: str | None
    generation: GenerationDefaults
    context_length: int
    headline: Headline | None
    artifacts: Sequence[tuple[Artifact, BundleArtifact]]
    tokenizer_files: Mapping[str, Path]
    golden: str
    report_html: str
    licenses: dict[str, str]
    provenance: dict[str, object]
    complete: Callable[[Artifact, Path], None] | None = None
    """Adds to an artifact's folder in the bundle what is computed from it; before anything is hashed."""


def pack_bundle(contents: Contents, out_dir: Path) -> Bundle:
    """Write a bundle whole or not at all, and return it opened.

    Replaces a bundle that is there; raises BundleError for any other folder that isn't empty.
    """
    if out_dir.is_dir() and any(out_dir.iterdir()) and not (out_dir / MANIFEST_FILE).is_file():
        raise BundleError(f"{out_dir}: not empty and no bundle; give a new folder")
    with whole_folder(out_dir) as folder:
        for artifact, described in contents.artifacts:
            for name in files_below(artifact.folder):
                _place(artifact.folder / name, folder / "artifacts" / described.name / name)
            if contents.complete is not None:
                contents.complete(artifact, folder / "artifacts" / described.name)
        for tokenizer_name, tokenizer_file in contents.tokenizer_files.items():
            _place(tokenizer_file, folder / "tokenizer" / tokenizer_name)
        write_text(folder / GOLDEN_FILE, contents.golden)
        write_text(folder / REPORT_FILE, contents.report_html)
        for license_name, license_text in contents.licenses.items():
            write_text(folder / "licenses" / license_name, license_text)
        files = tuple(_entry(folder, name) for name in files_below(folder))
        manifest = Manifest(
            content_sha256=_content_sha256(files),
            name=contents.name,
            created=contents.created,
            task=contents.task,
            ship=contents.ship,
            chat_template=contents.chat_template,
            generation=contents.generation,
            context_length=contents.context_length,
            headline=contents.headline,
            artifacts=tuple(described for _, described in contents.artifacts),
            files=files,
            provenance=contents.provenance,
        )
        text = manifest.model_dump_json(indent=2, by_alias=True) + "\n"
        write_text(folder / MANIFEST_FILE, text.replace(_NO_DIGEST, _digest(text), 1))
    return open_bundle(out_dir)


def open_bundle(folder: Path) -> Bundle:
    """Read and check a bundle's manifest (not yet its files).

    Raises BundleError for a missing folder or manifest, an unknown schema version, a manifest that
    was changed, or a path that leaves the folder.
    """
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise BundleError(f"{folder}: no {MANIFEST_FILE} in it; give a bundle's folder")
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise BundleError(f"{path}: larger than {_MAX_MANIFEST_BYTES} bytes")
        text = path.read_bytes().decode("utf-8")
        value = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not a readable manifest ({error})") from error
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        found = value.get("schema") if isinstance(value, dict) else None
        raise BundleError(f"{path}: schema {found!r} is not {SCHEMA!r}; update edgestill or pack the bundle again")
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BundleError(f"{path}: {where}: {problem['msg']}") from error
    if _digest(text) != manifest.digest:
        raise BundleError(f"{path}: changed after packing (its digest doesn't match)")
    for entry in manifest.files:
        pure = PurePosixPath(entry.path)
        if pure.is_absolute() or ".." in pure.parts or "\\" in entry.path or not pure.parts:
            raise BundleError(f"{path}: file path {entry.path!r} leaves the bundle")
    return Bundle(folder, manifest)


def verify_files(bundle: Bundle) -> None:
    """Check that the folder holds exactly the manifest's files, with their sizes and hashes.

    A signature isn't one of them. Raises BundleError that names the first missing, extra or changed file.
    """
    listed = {entry.path: entry for entry in bundle.manifest.files}
    if bundle.manifest.content_sha256 != _content_sha256(bundle.manifest.files):
        raise BundleError(f"{bundle.folder / MANIFEST_FILE}: content_sha256 doesn't match its list of files")
    found = {name.as_posix() for name in files_below(bundle.folder)} - {MANIFEST_FILE, SIGNATURE_FILE}
    for path in sorted(bundle.folder.rglob("*")):
        if path.is_symlink():
            raise BundleError(f"{path}: a link, not a file of the bundle; pack it again")
    for name in sorted(listed.keys() - found):
        raise BundleError(f"{bundle.folder / name}: missing; copy the bundle again")
    for name in sorted(found - listed.keys()):
        raise BundleError(f"{bundle.folder / name}: not in the manifest; remove it")
    for name, entry in listed.items():
        size = (bundle.folder / name).stat().st_size
        if size != entry.size_bytes:
            raise BundleError(f"{bundle.folder / name}: {size} bytes, the manifest says {entry.size_bytes}")
        if sha256_file(bundle.folder / name) != entry.sha256:
            raise BundleError(f"{bundle.folder / name}: its bytes changed (sha256 differs from the manifest)")


def _place(source: Path, target: Path) -> None:
    # A copy, not a hard link: what happens to the bundle later must not reach the run's own files.
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _entry(folder: Path, name: Path) -> FileEntry:
    kinds: dict[str, FileKind] = {
        "artifacts": "model",
        "tokenizer": "tokenizer",
        GOLDEN_FILE: "golden",
        REPORT_FILE: "report",
        "licenses": "license",
    }
    path = folder / name
    # Measured like the report: it computes nothing, and names paths of the machine that it was made on.
    kind = "report" if name.name == PARITY_FILE else kinds[name.parts[0]]
    return FileEntry(path=name.as_posix(), kind=kind, size_bytes=path.stat().st_size, sha256=sha256_file(path))


def _content_sha256(files: Iterable[FileEntry]) -> str:
    return sha256_json([[file.path, file.sha256] for file in files if file.kind != "report"])


def _digest(text: str) -> str:
    """Return the sha256 of the manifest's text with its own digest blanked."""
    start = text.find('"digest": "') + len('"digest": "')
    blanked = text[:start] + _NO_DIGEST + text[start + len(_NO_DIGEST) :]
    return hashlib.sha256(blanked.encode()).hexdigest()
