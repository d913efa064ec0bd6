"""What is compiled of llama.cpp's source: its core, its template engine, and ggml's kernels for a processor."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from types import MappingProxyType
from typing import Final

from edgestill.runtime.native.objects import Unit
from edgestill.runtime.native.source import VERSION
from edgestill.storage import write_text

_COMMON: Final = ("jinja/*.cpp", "json.cpp", "unicode.cpp")
_GGML: Final = ("ggml*.c", "ggml*.cpp", "gguf.cpp")
_GGML_CPU: Final = ("*.c", "*.cpp", "amx/*.cpp", "tiled/*.cpp", "llamafile/*.cpp")
_MODEL_GROUPS: Final = 12
"""Of llama.cpp's 160 architectures nine tenths of the compiler's work is the headers that they share."""
_CORE_DEFINES: Final = (
    "-DGGML_USE_CPU", "-DGGML_USE_CPU_REPACK", "-DGGML_USE_LLAMAFILE", "-DNDEBUG",
    "-D_XOPEN_SOURCE=600", "-D_GNU_SOURCE",
)  # fmt: skip
SECTIONS: Final = ("-ffunction-sections", "-fdata-sections", "-fvisibility=hidden", "-fPIC")
"""So that the linker leaves out what nothing calls."""
_OWN_CLEAR: Final = "-Dggml_backend_buffer_clear=edgestill_buffer_clear"
"""llama.cpp clears its KV cache by the function in our buffers.cpp, which leaves it to the system until it is used."""
_BEFORE: Final = MappingProxyType(
    {
        "llama-vocab.cpp": "small_vocabulary.h",
        "unicode.cpp": "small_unicode.h",
        **dict.fromkeys(("ggml.c", "ggml-alloc.c", "ggml-backend.cpp"), "small_zeros.h"),
        "ggml-cpu.c": "patient_threads.h",
    }
)
"""Headers of ours that come before a file of llama.cpp's: less memory, and threads that let others run."""


def header_folders(tree: Path) -> list[Path]:
    """Return the folders of headers that our own sources need too."""
    return [tree / folder for folder in ("include", "ggml/include", "common", "vendor", "vendor/hash")]


def common_units(tree: Path) -> list[Unit]:
    """Return llama.cpp's template engine and what it stands on, and its sha256."""
    found = [path for pattern in _COMMON for path in sorted((tree / "common").glob(pattern))]
    flags = ("-O2", "-w", *SECTIONS, "-DNDEBUG", *(f"-I{folder}" for folder in header_folders(tree)))
    cpp = [Unit(path, ("-std=c++17", *flags)) for path in found]
    return [*cpp, Unit(tree / "vendor" / "hash" / "sha256" / "sha256.c", ("-O3", *flags[1:]))]


def core_units(tree: Path, versions: Path) -> list[Unit]:
    """Return ggml without its kernels, and llama."""
    ggml, llama = tree / "ggml" / "src", tree / "src"
    # llama only builds graphs and handles tokens: -O2 is as fast there.
    return [
        *(
            _core_unit(tree, versions, path, "-O3", *_before(path))
            for pattern in _GGML
            for path in sorted(ggml.glob(pattern))
        ),
        *(
            _core_unit(tree, versions, path, "-O2", _OWN_CLEAR, *_before(path))
            for path in (*sorted(llama.glob("*.cpp")), *_model_groups(llama, versions))
        ),
    ]


def _before(path: Path) -> list[str]:
    header = _BEFORE.get(path.name)
    return [] if header is None else ["-include", str(Path(__file__).resolve().parent / "src" / header)]


def _model_groups(llama: Path, versions: Path) -> list[Path]:
    """Write files that include the architectures', each about as many bytes of them, and return their paths."""
    found = sorted((llama / "models").glob("*.cpp"))
    most = sum(path.stat().st_size for path in found) / _MODEL_GROUPS
    groups: list[list[Path]] = []
    size = most
    for path in found:
        if size >= most:
            groups.append([])
            size = 0
        groups[-1].append(path)
        size += path.stat().st_size
    made = []
    for group in groups:
        text = "".join(f'#include "{path}"\n' for path in group)
        made.append(versions / f"models-{hashlib.sha256(text.encode()).hexdigest()[:16]}.cpp")
        if not made[-1].is_file():
            write_text(made[-1], text)
    return made


def kernel_units(tree: Path, versions: Path, kernels: str) -> list[Unit]:
    """Return ggml's kernels for one kind of processor."""
    cpu = tree / "ggml" / "src" / "ggml-cpu"
    shared = [path for pattern in _GGML_CPU for path in sorted(cpu.glob(pattern))]
    special = [path for name in ("quants.c", "repack.cpp") if (path := cpu / "arch" / kernels / name).is_file()]
    return [_core_unit(tree, versions, path, "-O3", *_before(path)) for path in (*shared, *special)]


def _core_unit(tree: Path, versions: Path, path: Path, *flags: str) -> Unit:
    ggml = tree / "ggml" / "src"
    folders = (versions, ggml, ggml / "ggml-cpu", tree / "src", *header_folders(tree))
    standard = "-std=c11" if path.suffix == ".c" else "-std=c++17"
    return Unit(path, (standard, *flags, "-w", *SECTIONS, *_CORE_DEFINES, *(f"-I{folder}" for folder in folders)))


def version_headers(tree: Path, cache: Path) -> Path:
    """Write the two headers that llama.cpp's cmake would write, and return their folder."""
    folder = cache / f"versions-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    cmake = (tree / "ggml" / "CMakeLists.txt").read_text(encoding="utf-8")
    numbers = re.findall(r"^set\(GGML_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)\)", cmake, re.MULTILINE)
    for name, version in (("ggml", ".".join(numbers)), ("llama", f"of {VERSION}")):
        text = f'#define {name.upper()}_VERSION "{version}"\n#define {name.upper()}_COMMIT "unknown"\n'
        path = folder / f"{name}-version.h"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    return folder
