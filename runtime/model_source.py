"""What a MODEL argument names: a Hugging Face folder, a GGUF file, an ONNX folder, or one artifact of a bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edgestill.artifact import DESCRIPTION_FILE, Artifact
from edgestill.errors import CheckpointError, InputError
from edgestill.storage import sha256_file, sha256_json

Kind = Literal["transformers", "gguf", "onnx"]

_KINDS: Final[Mapping[str, Kind]] = {".gguf": "gguf", ".onnx": "onnx"}
MANIFEST_FILE: Final = "manifest.json"
ONNX_FILE: Final = "model.onnx"
_ARTIFACT_NAME: Final = re.compile(r"[a-z0-9_.-]+")


@dataclass(frozen=True)
class ModelSource:
    """One model on disk, ready to be opened.

    ``text`` is what the user wrote; ``path`` is what an engine opens: the folder (``transformers``), the
    ``.gguf`` file or the ``.onnx`` file. ``tokenizer_folder`` holds tokenizer.json and its companions
    (None: there is none on disk; a GGUF carries its own).
    """

    text: str
    kind: Kind
    path: Path
    tokenizer_folder: Path | None = None
    artifact: Artifact | None = None

    @property
    def folder(self) -> Path:
        """The folder that holds the model's files."""
        return self.path if self.kind == "transformers" else self.path.parent

    @property
    def size_bytes(self) -> int:
        """The size of the model's own files: weights and graph, without the tokenizer beside them."""
        if self.artifact is not None:
            return self.artifact.size_bytes
        return sum(file.stat().st_size for file in self.files())

    def sha256(self) -> str:
        """Return the sha256 of the model's own files; an artifact's is in its description, others are read for it.

        Raises CheckpointError when there are none: what isn't there has no hash.
        """
        if self.artifact is not None:
            return self.artifact.sha256
        hashes = {file.name: sha256_file(file) for file in self.files()}
        if not hashes:
            raise CheckpointError(f"{self}: no *.safetensors in this folder; there is nothing to take a hash of")
        return next(iter(hashes.values())) if len(hashes) == 1 else sha256_json(hashes)

    def files(self) -> list[Path]:
        """Return the model's own files: weights and graph."""
        if self.kind == "transformers":
            return sorted(self.path.glob("*.safetensors"))
        return [self.path, *sorted(self.path.parent.glob(f"{self.path.name}.*"))]

    def __str__(self) -> str:
        return self.text


def locate_model(text: str | Path) -> ModelSource:
    """Return the model that a MODEL argument names.

    ``text`` is a Hugging Face folder, a .gguf file, an ONNX folder (model.onnx or artifact.json in it), an
    .onnx file, or ``BUNDLE#artifact-name``. Raises InputError (one line) when nothing usable is there.
    """
    text = str(text)
    path = Path(text)
    if not path.exists() and "#" in text:
        bundle, _, name = text.rpartition("#")
        return _in_bundle(text, Path(bundle), name)
    if path.is_dir():
        return _folder(text, path)
    if not path.exists():
        raise InputError(
            f"{text}: no such model; give a Hugging Face folder, a .gguf file, an ONNX folder or BUNDLE#artifact-name"
        )
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{text}: suffix {path.suffix!r} is not .gguf or .onnx; give a model's file or folder")
    return ModelSource(text, kind, path, _tokenizer_folder(path.parent))


def bundle_artifacts(bundle: Path) -> list[str]:
    """Return the names of the artifacts in a bundle's folder, sorted."""
    found = (bundle / "artifacts").glob(f"*/{DESCRIPTION_FILE}")
    return sorted(path.parent.name for path in found if _ARTIFACT_NAME.fullmatch(path.parent.name))


def _folder(text: str, folder: Path) -> ModelSource:
    if (folder / MANIFEST_FILE).is_file() and (folder / "artifacts").is_dir():
        choices = ", ".join(f"{text}#{name}" for name in bundle_artifacts(folder)) or "none: it holds no artifact"
        raise InputError(f"{text}: a bundle holds several models; name one: {choices}")
    if (folder / DESCRIPTION_FILE).is_file():
        return _artifact(text, folder, _tokenizer_folder(folder))
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return ModelSource(text, "transformers", folder, folder)
    if (folder / ONNX_FILE).is_file():
        return ModelSource(text, "onnx", folder / ONNX_FILE, _tokenizer_folder(folder))
    raise InputError(
        f"{text}: no model in this folder; config.json and *.safetensors, {ONNX_FILE} or {DESCRIPTION_FILE} wanted"
    )


def _in_bundle(text: str, bundle: Path, name: str) -> ModelSource:
    if not (bundle / MANIFEST_FILE).is_file():
        raise InputError(f"{text}: {bundle} is not a bundle (no {MANIFEST_FILE} in it)")
    names = bundle_artifacts(bundle)
    if not _ARTIFACT_NAME.fullmatch(name) or name not in names:
        raise InputError(f"{text}: no artifact {name!r} in the bundle; it holds {', '.join(names) or 'none'}")
    folder = bundle / "artifacts" / name
    # An ONNX artifact's own folder also holds generation_config.json, with every EOS id.
    return _artifact(text, folder, _tokenizer_folder(folder) or _tokenizer_folder(bundle / "tokenizer"))


def _artifact(text: str, folder: Path, tokenizer_folder: Path | None) -> ModelSource:
    artifact = Artifact.open(folder)
    kind: Kind = "gguf" if artifact.format == "gguf" else "onnx"
    return ModelSource(text, kind, folder / artifact.entry, tokenizer_folder, artifact)


def _tokenizer_folder(folder: Path) -> Path | None:
    return folder if (folder / "tokenizer.json").is_file() else None
