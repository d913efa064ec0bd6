"""Artifacts from outside: a .gguf file or an ONNX folder without artifact.json.

Such a file is not trusted: its header is checked against its size before any library reads it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from edgestill.artifact import DESCRIPTION_FILE, Artifact, Format
from edgestill.errors import MissingDependencyError, ModelFileError
from edgestill.runtime.gguf_header import GgufHeader, read_gguf_header
from edgestill.storage import sha256_file, sha256_json

_ONNX_ENTRY: Final = "model.onnx"
_ONNX_FLOATS: Final = {1: "fp32", 10: "f16", 16: "bf16"}
_FILE_TYPES: Final = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 7: "q8_0", 8: "q5_0", 9: "q5_1", 10: "q2_k", 11: "q3_k_s", 12: "q3_k_m",
    13: "q3_k_l", 14: "q4_k_s", 15: "q4_k_m", 16: "q5_k_s", 17: "q5_k_m", 18: "q6_k", 25: "iq4_nl", 30: "iq4_xs",
    32: "bf16", 36: "tq1_0", 37: "tq2_0",
}  # fmt: skip
TENSOR_TYPES: Final = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0",
}  # fmt: skip
"""ggml's tensor types: number -> name; general.file_type above."""

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
        return _measured(folder, "gguf", gguf_precision(read_gguf_header(path)), [path])
    if path.suffix == ".onnx":
        return _from_onnx(path)
    raise ModelFileError(f"{path}: not a .gguf or .onnx file, nor a folder that holds one")


def gguf_precision(header: GgufHeader) -> str:
    """Return a GGUF file's precision by its file type, or by its most frequent matrix type where it has none."""
    if header.file_type in _FILE_TYPES:
        return _FILE_TYPES[header.file_type]
    types = Counter(tensor.type for tensor in header.table if len(tensor.shape) > 1)
    common = types.most_common(1)[0][0] if types else 0
    return TENSOR_TYPES.get(common, f"type{common}").lower()


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
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
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
