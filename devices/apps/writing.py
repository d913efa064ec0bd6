"""Writing an app's project: a template's files, rendered, and the bundle's files that it carries."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import jinja2

from edgestill.bundle import MANIFEST_FILE, Bundle, BundleArtifact, FileEntry, open_bundle
from edgestill.devices.apps.escaping import escaper_for
from edgestill.devices.apps.template import OURS, Template, read_template
from edgestill.devices.apps.values import AppValues, values_of
from edgestill.errors import BundleError, InputError
from edgestill.progress import SILENT, Progress
from edgestill.storage import files_below, sha256_file, whole_folder, write_text

_RENDERED: Final = ".jinja"
_PACKAGE_FOLDERS: Final = "__package__"
_SLUG: Final = "__slug__"
_CARRIED: Final = ("golden", "tokenizer", "license")


@dataclass(frozen=True)
class App:
    """A project as it was written: its ``files`` are relative to ``folder``, ``artifacts`` are those it carries."""

    template: str
    folder: Path
    bundle: Path
    artifacts: tuple[str, ...]
    files: tuple[Path, ...]


def write_app(
    bundle: Path,
    template: str,
    out_dir: Path,
    *,
    artifacts: Sequence[str] = (),
    package: str = "org.example",
    progress: Progress = SILENT,
) -> App:
    """Write a complete project around a bundle, whole or not at all.

    It carries the manifest, the golden answers, the tokenizer, the licences and ``artifacts``; without those, one of
    each format that the template uses: the shipped one, else the smallest. ``package`` is the domain part of the
    app's identifier. Raises InputError for an unknown template, a folder that isn't empty or an artifact of another
    format, BundleError for a file of the bundle that isn't what was packed.
    """
    chosen = read_template(template)
    if out_dir.is_dir() and any(out_dir.iterdir()):
        raise InputError(f"{out_dir}: not empty, and what is in it may be yours; give a new folder")
    opened = open_bundle(bundle)
    carried = _artifacts(opened, chosen, artifacts)
    entries = _entries(opened, carried)
    values = values_of(opened, carried, entries, package)
    with whole_folder(out_dir) as folder:
        inside = folder / chosen.about.bundle
        with progress.task("bundle", len(entries), "files") as task:
            for entry in entries:
                _carry(opened, entry, inside / entry.path)
                task.advance()
        shutil.copyfile(bundle / MANIFEST_FILE, inside / MANIFEST_FILE)
        for name, place in chosen.about.copies.items():
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(OURS[name], folder / place)
        _render(chosen, values, folder)
        files = tuple(files_below(folder))
    return App(template, out_dir, out_dir / chosen.about.bundle, tuple(one.name for one in carried), files)


def _artifacts(bundle: Bundle, template: Template, names: Sequence[str]) -> list[BundleArtifact]:
    formats = template.about.formats
    usable = [one for one in bundle.manifest.artifacts if one.format in formats]
    if names:
        given = [bundle.manifest.artifact(name) for name in names]
        for one in given:
            if one not in usable:
                raise InputError(f"artifact {one.name!r}: the template {template.name!r} uses {' and '.join(formats)}")
            if [other.format for other in given].count(one.format) > 1:
                raise InputError(f"artifact {one.name!r}: an app carries one of a format; give one {one.format}")
        if template.about.single and len(given) > 1:
            raise InputError(f"artifacts {', '.join(names)}: the template {template.name!r} carries one; give one")
        return given
    if not usable:
        there = ", ".join(one.name for one in bundle.manifest.artifacts) or "none"
        raise InputError(
            f"{bundle.folder}: no {' or '.join(formats)} artifact for the template {template.name!r} "
            f"(there are: {there}); export one and pack it"
        )
    best = sorted(usable, key=lambda one: (one.name != bundle.manifest.ship, one.size_bytes))
    if template.about.single:
        return best[:1]
    first = {one.format: one for one in reversed(best)}
    return [first[name] for name in formats if name in first]


def _entries(bundle: Bundle, artifacts: Sequence[BundleArtifact]) -> list[FileEntry]:
    folders = tuple(f"artifacts/{one.name}/" for one in artifacts)
    return [entry for entry in bundle.manifest.files if entry.kind in _CARRIED or entry.path.startswith(folders)]


def _carry(bundle: Bundle, entry: FileEntry, target: Path) -> None:
    source = bundle.folder / entry.path
    if source.is_symlink() or not source.is_file():
        raise BundleError(f"{source}: missing, or no file; copy the bundle again")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    # Of the copy: what the app carries is what was checked.
    if target.stat().st_size != entry.size_bytes or sha256_file(target) != entry.sha256:
        raise BundleError(f"{source}: its bytes changed (size or sha256 differs from the manifest)")


def _render(template: Template, values: AppValues, folder: Path) -> None:
    known = values.as_dict()
    for name in template.files:
        source = template.folder / "files" / name
        target = folder / _placed(name, values)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == _RENDERED:
            target = target.with_suffix("")
            text = _environment(target.name).from_string(source.read_text(encoding="utf-8")).render(known)
            write_text(target, text)
        else:
            shutil.copyfile(source, target)
        if target.read_bytes()[:2] == b"#!":
            target.chmod(0o755)


def _placed(name: Path, values: AppValues) -> Path:
    parts: list[str] = []
    for part in PurePosixPath(name.as_posix()).parts:
        parts += values.package.split(".") if part == _PACKAGE_FOLDERS else [part.replace(_SLUG, values.slug)]
    return Path(*parts)


def _environment(name: str) -> jinja2.Environment:
    """Return where a file of this name is rendered: no value gets into it unescaped, and none is left out."""
    escape = escaper_for(name)

    def written(value: object) -> str:
        if isinstance(value, jinja2.Undefined):
            str(value)  # raises: a template names what isn't there
        if isinstance(value, bool):
            return "true" if value else "false"
        if not isinstance(value, str | int):
            raise TypeError(f"{name}: {value!r} is no text")
        return escape(str(value))

    return jinja2.Environment(
        finalize=written, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
