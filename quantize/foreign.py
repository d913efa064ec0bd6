"""Artifacts from outside: a .gguf file or an ONNX folder without artifact.json.

Such a file is not trusted: its header is checked against its size before any library reads it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgestill.artifact import DESCRIPTION_FILE, Artifact, Format
from edgestill.errors import MissingDependencyError, ModelFileError
from edgestill.runtime.gguf_header import read_gguf_header
from edgestill.storage import sha256_file, sha256_json

_ONNX_ENTRY: Final = "model.onnx"
_ONNX_FLOATS: Final = {1: "fp32", 10: "f16", 16: "bf16"}
_INTEGER_OPERATORS: Final = frozenset({"DynamicQuantizeLinear", "MatMulInteger", "DynamicQuantizeMatMul"})


def open_artifact(path: Path) -> Artifact:
    """Return the artifact at ``path``; see :func:`edgestill.quantize.artifact_from_path`."""
    if not path.exists():
        raise ModelFileError(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    if (folder / DESCRIPTION_FILE).is_file():
        artifact = Artifact.open(folder)
        if path.is_dir() or path.name == artifact.entry:
            return artifact
    if path.is_dir():
        return _from_folder(path)
    if path.suffix == ".gguf":
        return _measured(folder, "gguf", read_gguf(path).precision, [path])
    if path.suffix == ".onnx":
        return _from_onnx(path)
    raise ModelFileError(f"{path}: not a .gguf or .onnx file, nor a folder that holds one")


@dataclass(frozen=True)
class GgufTensors:
    """What a GGUF file holds: ``precision`` by its file type; matrices and vectors by name as (type, row length)."""

    precision: str
    tensors: dict[str, tuple[str, int]]
    matrices: frozenset[str]


def read_gguf(path: Path) -> GgufTensors:
    """Read the tensor table and file type of a GGUF file from anywhere.

    Raises ModelFileError when it is truncated, damaged or not GGUF.
    """
    read_gguf_header(path)
    try:
        import gguf
    except ImportError as error:
        raise MissingDependencyError("reading GGUF needs the package gguf: pip install 'edgestill[gguf]'") from error
    try:
        reader = gguf.GGUFReader(path)
        tensors = {tensor.name: (tensor.tensor_type.name, int(tensor.shape[0])) for tensor in reader.tensors}
        matrices = frozenset(tensor.name for tensor in reader.tensors if len(tensor.shape) > 1)
        field = reader.fields.get(gguf.Keys.General.FILE_TYPE)
        precision = None if field is None else gguf.LlamaFileType(int(field.contents())).name
    except OSError as error:
        raise ModelFileError(f"{path}: can't be read ({error.strerror})") from error
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError) as error:
        raise ModelFileError(f"{path}: damaged GGUF file ({error}); copy or export it again") from error
    if precision is None:
        types = Counter(tensors[name][0] for name in matrices) or Counter(["F32"])
        precision = types.most_common(1)[0][0]
    precision = precision.removeprefix("MOSTLY_").removeprefix("ALL_").lower()
    return GgufTensors(precision, tensors, matrices)


def _from_folder(folder: Path) -> Artifact:
    if (folder / _ONNX_ENTRY).is_file():
        return _from_onnx(folder / _ONNX_ENTRY)
    found = sorted([*folder.glob("*.gguf"), *folder.glob("*.onnx")])
    if len(found) != 1:
        raise ModelFileError(f"{folder}: {len(found)} .gguf or .onnx files in it; name one")
    return open_artifact(found[0])


def _from_onnx(path: Path) -> Artifact:
    files = sorted(file for file in path.parent.iterdir() if file == path or file.name.startswith(f"{path.name}."))
    return _measured(path.parent, "onnx", _onnx_precision(path), [path, *(file for file in files if file != path)])


def _onnx_precision(path: Path) -> str:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingDependencyError("reading ONNX needs the package onnx: pip install 'edgestill[onnx]'") from error
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError, OSError) as error:
        raise ModelFileError(f"{path}: damaged ONNX file ({error}); copy or export it again") from error
    if not model.graph.node:
        raise ModelFileError(f"{path}: no operators in it; not an ONNX model")
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            bits = next((attribute.i for attribute in node.attribute if attribute.name == "bits"), 4)
            return f"int{bits}"
        if node.op_type in _INTEGER_OPERATORS:
            return "int8"
    sizes: Counter[int] = Counter()
    for tensor in model.graph.initializer:
        elements = 1
        for extent in tensor.dims:
            elements *= extent
        sizes[tensor.data_type] += elements
    kind = max((kind for kind in sizes if kind in _ONNX_FLOATS), key=lambda kind: sizes[kind], default=1)
    return _ONNX_FLOATS[kind]


def _measured(folder: Path, format: Format, precision: str, files: list[Path]) -> Artifact:
    hashes = {file.name: sha256_file(file) for file in files}
    digest = next(iter(hashes.values())) if len(hashes) == 1 else sha256_json(hashes)
    size = sum(file.stat().st_size for file in files)
    return Artifact(folder, format, precision, files[0].name, digest, size)
