"""Checkpoint and Artifact: what a stage hands to the next."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from edgestill.errors import CheckpointError, ModelFileError
from edgestill.safetensors import read_header
from edgestill.storage import sha256_file, sha256_json, write_json

Format = Literal["onnx", "gguf", "onnx-portable"]
FORMATS: Final[tuple[Format, ...]] = ("onnx", "gguf", "onnx-portable")

DESCRIPTION_FILE: Final = "artifact.json"
PARITY_FILE: Final = "parity.json"
"""What the parity check found, beside the artifact that it checked."""

SCHEMA: Final = "edgestill.artifact/1"

TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "merges.txt",
)
"""Files that make up the tokenizer and chat template of a Hugging Face folder, where present."""

CHAT_TEMPLATES_FOLDER: Final = "additional_chat_templates"
"""Where transformers 5 keeps the chat templates that have a name of their own, as ``NAME.jinja``."""

CONFIG_FILES: Final = ("config.json", "generation_config.json")


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face model folder: config.json, safetensors, tokenizer files."""

    path: Path

    @classmethod
    def open(cls, path: Path | str) -> Checkpoint:
        """Check that ``path`` is a model folder and return it.

        Raises CheckpointError when the folder, its config.json or its weights are missing, or when a
        safetensors file is truncated or has a damaged header.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such folder; give a Hugging Face model folder")
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder}: no config.json in it; give a Hugging Face model folder")
        checkpoint = cls(folder)
        if not checkpoint.weight_files():
            raise CheckpointError(f"{folder}: no *.safetensors in it; save the model with safe_serialization=True")
        checkpoint.config()
        for file in checkpoint.weight_files():
            read_header(file)
        return checkpoint

    def config(self) -> dict[str, object]:
        """Return the parsed config.json. Raises CheckpointError when it isn't a JSON object."""
        return read_json_object(self.path / "config.json")

    def weight_files(self) -> list[Path]:
        """Return the safetensors files, sorted by name."""
        return sorted(self.path.glob("*.safetensors"))

    def tokenizer_files(self) -> list[Path]:
        """Return the tokenizer and chat-template files that exist."""
        files = [self.path / name for name in TOKENIZER_FILES if (self.path / name).is_file()]
        return [*files, *sorted((self.path / CHAT_TEMPLATES_FOLDER).glob("*.jinja"))]

    def relative(self, file: Path) -> str:
        """Return the name of one of the checkpoint's files below its folder, with forward slashes."""
        return file.relative_to(self.path).as_posix()

    def copy_tokenizer(self, folder: Path) -> None:
        """Copy the tokenizer and chat-template files into another folder, under the same names."""
        for file in self.tokenizer_files():
            target = folder / self.relative(file)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, target)

    def license_files(self) -> list[Path]:
        """Return the licence and notice files, sorted by name."""
        beginnings = ("LICENSE", "LICENCE", "NOTICE", "COPYING")
        files = (path for path in self.path.iterdir() if path.is_file() and path.name.upper().startswith(beginnings))
        return sorted(files)

    def sha256(self) -> str:
        """Return one hash over config, weights and tokenizer (not over training state beside them)."""
        configs = [self.path / name for name in CONFIG_FILES if (self.path / name).is_file()]
        files = [*configs, *self.weight_files(), *self.tokenizer_files()]
        with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1)) as pool:  # hashing lets go of the interpreter
            digests = pool.map(sha256_file, files)
            return sha256_json(
                sorted([self.relative(file), digest] for file, digest in zip(files, digests, strict=True))
            )


def split_name(name: str) -> tuple[str, str]:
    """Return format and precision of an artifact's name (``onnx-portable-int8``: a format may have a dash)."""
    format, _, precision = name.rpartition("-")
    return format, precision


def read_json_object(path: Path) -> dict[str, object]:
    """Read a JSON object from a checkpoint's file. Raises CheckpointError that names the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: a JSON object is expected, found {type(value).__name__}")
    return value


@dataclass(frozen=True)
class Artifact:
    """One exported model: a folder that holds a GGUF file or an ONNX file set, and its description.

    ``entry`` is the file that an engine opens, relative to ``folder``; ``notes`` are lines for a
    person: a fallback that llama.cpp chose, a tensor kept in higher precision.
    """

    folder: Path
    format: Format
    precision: str
    entry: str
    sha256: str
    size_bytes: int
    parent: str | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """``<format>-<precision>``."""
        return f"{self.format}-{self.precision}"

    @property
    def model_path(self) -> Path:
        """What a command takes as MODEL: the .gguf file, or the ONNX folder."""
        return self.folder / self.entry if self.format == "gguf" else self.folder

    @classmethod
    def describe(
        cls,
        folder: Path,
        format: Format,
        precision: str,
        entry: str,
        *,
        parent: str | None = None,
        notes: tuple[str, ...] = (),
        hashes: Mapping[str, str] = MappingProxyType({}),
    ) -> Artifact:
        """Hash the model files in ``folder``, write its artifact.json and return the artifact.

        ``parent`` is the sha256 of what it was made from (a checkpoint or another artifact).
        ``hashes`` (file name to sha256) are those that are known already, from the bytes as they were written.
        Size and hash cover the model's own files (weights and graph), not the tokenizer beside them.
        """
        files = _model_files(folder, format, entry)
        known = hashes
        hashes = {file.name: known.get(file.name) or sha256_file(file) for file in files}
        (folder / PARITY_FILE).unlink(missing_ok=True)  # copied from a parent: it isn't about these files
        digest = next(iter(hashes.values())) if len(hashes) == 1 else sha256_json(hashes)
        size = sum(file.stat().st_size for file in files)
        artifact = cls(folder, format, precision, entry, digest, size, parent, notes)
        write_json(
            folder / DESCRIPTION_FILE,
            {
                "schema": SCHEMA,
                "name": artifact.name,
                "format": format,
                "precision": precision,
                "entry": entry,
                "sha256": digest,
                "size_bytes": size,
                "files": hashes,
                "parent": parent,
                "notes": list(notes),
            },
        )
        return artifact

    @classmethod
    def open(cls, folder: Path | str) -> Artifact:
        """Read an artifact's folder. Raises ModelFileError when its description is missing or wrong."""
        folder = Path(folder)
        path = folder / DESCRIPTION_FILE
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value["schema"] != SCHEMA:
                raise ModelFileError(f"{path}: schema {value['schema']!r} is not {SCHEMA!r}; update edgestill")
            entry = str(value["entry"])
            if Path(entry).name != entry or not (folder / entry).is_file():
                raise ModelFileError(f"{path}: entry {entry!r} is not a file in {folder}")
            if value["format"] not in FORMATS:
                raise ModelFileError(f"{path}: format {value['format']!r} is not one of {', '.join(FORMATS)}")
            return cls(
                folder,
                value["format"],
                str(value["precision"]),
                entry,
                str(value["sha256"]),
                int(value["size_bytes"]),
                value["parent"],
                tuple(str(note) for note in value["notes"]),
            )
        except OSError as error:
            raise ModelFileError(f"{path}: can't be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ModelFileError(f"{path}: not an artifact's description ({error})") from error


def _model_files(folder: Path, format: Format, entry: str) -> list[Path]:
    if format == "gguf":
        return [folder / entry]
    return sorted(path for path in folder.iterdir() if path.name == entry or path.name.startswith(f"{entry}."))
