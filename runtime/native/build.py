"""Building the native runtime: a library with a C ABI and a program over it, for this machine or another.

Without ``installed_llama`` llama.cpp's core is compiled too and the program is static; with it, the library is linked
to the shared libraries of the installed llama-cpp-python: half a minute, and the same kernels as the Python runtime's.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from edgestill.errors import InputError, MissingDependencyError, StageError
from edgestill.progress import SILENT, Progress
from edgestill.runtime.native.levels import PROCESSORS, join_levels
from edgestill.runtime.native.objects import Compiler, Unit, compile_all
from edgestill.runtime.native.source import VERSION, cache_folder, llama_source
from edgestill.storage import whole_folder, write_text

HERE: Final = Path(__file__).resolve().parent
PROGRAM: Final = "edgestill-run"
HOST: Final = "host"


@dataclass(frozen=True)
class Target:
    """A machine: its name in zig, ggml's folder of kernels for it, and the ISA levels that a program has them for.

    ``levels`` names an entry of PROCESSORS; None: one level, ``cpu`` (flags).
    """

    triple: str
    kernels: str
    levels: str | None = None
    cpu: tuple[str, ...] = ()


TARGETS: Final[Mapping[str, Target]] = MappingProxyType(
    {
        "aarch64-linux-musl": Target("aarch64-linux-musl", "arm", "arm64"),
        "armv7-linux-musleabihf": Target("arm-linux-musleabihf", "arm", cpu=("-mcpu=generic+v7a+neon+vfp4",)),
        "riscv64-linux-musl": Target(
            "riscv64-linux-musl", "riscv", cpu=("-mcpu=baseline_rv64", "-U__riscv_v_intrinsic")
        ),
        "x86_64-linux-musl": Target("x86_64-linux-musl", "x86", "x86"),
    }
)

_COMMON: Final = ("jinja/*.cpp", "json.cpp", "unicode.cpp")
_GGML: Final = ("ggml*.c", "ggml*.cpp", "gguf.cpp")
_GGML_CPU: Final = ("*.c", "*.cpp", "amx/*.cpp", "tiled/*.cpp", "llamafile/*.cpp")
_LLAMA: Final = ("*.cpp", "models/*.cpp")
_CORE_DEFINES: Final = (
    "-DGGML_USE_CPU", "-DGGML_USE_CPU_REPACK", "-DGGML_USE_LLAMAFILE", "-DNDEBUG",
    "-D_XOPEN_SOURCE=600", "-D_GNU_SOURCE",
)  # fmt: skip
_SECTIONS: Final = ("-ffunction-sections", "-fdata-sections", "-fvisibility=hidden", "-fPIC")
_KERNEL_PAGES: Final = "-Wl,-z,max-page-size=16384"
"""LOAD segments fit kernels with pages of 16 KiB too."""

_SYSTEM: Final = ("-lpthread", "-ldl")
_INSTALLED: Final = ("-lllama", "-lggml", "-lggml-cpu", "-lggml-base")


@dataclass(frozen=True)
class NativeBuild:
    """What a build wrote: ``library`` is None for a static program; ``compiled`` of ``units`` weren't in the cache."""

    target: str
    program: Path
    library: Path | None
    header: Path
    units: int
    compiled: int
    compiler: str


def build_native(
    target: str,
    out_dir: Path,
    *,
    source: Path | None = None,
    installed_llama: bool = False,
    extra_flags: Sequence[str] = (),
    jobs: int | None = None,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> NativeBuild:
    """Build ``out_dir/edgestill-run``, ``edgestill.h`` and, for the host, ``libedgestill.so``; whole or not at all.

    ``source`` is llama.cpp's source or its distribution (see :func:`llama_source`). ``extra_flags`` go to the compiler
    and the linker (``-fsanitize=address``). Raises InputError for an unknown target, MissingDependencyError without
    a compiler, StageError with the compiler's or the linker's first error.
    """
    if target != HOST and target not in TARGETS:
        raise InputError(f"target {target!r} is not one of {', '.join((HOST, *TARGETS))}")
    if installed_llama and target != HOST:
        raise InputError(f"target {target!r} can't be linked to the installed llama-cpp-python: leave that out")
    cache = cache or cache_folder()
    tree = llama_source(source, cache)
    machine = TARGETS.get(target)
    compiler = _host_compiler() if machine is None else _zig_compiler(machine)
    compiler = Compiler(compiler.c, compiler.cpp, (*compiler.flags, *extra_flags), compiler.identity)
    processor = None if machine is None or machine.levels is None else PROCESSORS[machine.levels]
    # Everything but the kernels is for the least core; each level's kernels are for its own.
    levels = [level.flags for level in processor.levels] if processor else [() if machine is None else machine.cpu]
    whose = () if installed_llama else ("-DES_OWN_LLAMA",)
    own = [Unit(path, (*_own_flags(tree), *whose)) for path in sorted((HERE / "src").glob("*.cpp"))]
    rest, kernels = [*own, *_common_units(tree)], list[Unit]()
    if not installed_llama:
        versions = _version_headers(tree, cache)
        rest += _core_units(tree, versions)
        kernels = _kernel_units(tree, versions, _host_kernels() if machine is None else machine.kernels)
    units = [unit.with_flags(levels[0]) for unit in rest]
    units += [unit.with_flags(flags) for flags in levels for unit in kernels]
    objects, compiled = compile_all(units, compiler, cache / "objects", jobs=jobs, progress=progress)
    main = objects[[unit.source.name for unit in own].index("main.cpp")]
    others = [path for path in objects if path != main]
    with whole_folder(out_dir) as folder:
        shutil.copyfile(HERE / "include" / "edgestill.h", folder / "edgestill.h")
        if installed_llama:
            library = folder / "libedgestill.so"
            libraries = _installed_libraries()
            found = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", *_INSTALLED]
            _link(compiler, ["-shared", "-Wl,--no-undefined", *map(str, others), *found, *_SYSTEM], library)
            beside = [f"-L{folder}", "-ledgestill", "-Wl,-rpath,$ORIGIN", f"-Wl,-rpath-link,{libraries}"]
            _link(compiler, [str(main), *beside], folder / PROGRAM)
        else:
            static = ["-static", *levels[0]] if machine is not None else []
            stripped = [] if extra_flags else ["-s"]
            if processor is None:
                _link(compiler, [*static, *stripped, *map(str, objects), *_SYSTEM], folder / PROGRAM)
            else:
                with tempfile.TemporaryDirectory() as scratch:
                    each = [objects[at : at + len(kernels)] for at in range(len(rest), len(objects), len(kernels))]
                    made = join_levels(processor, each, objects[: len(rest)], Path(scratch))
                    table = compile_all([Unit(made.pop(), ("-O2", *levels[0]))], compiler, cache / "objects")[0]
                    parts = [*objects[: len(rest)], *made, *table]
                    _link(compiler, [*static, *stripped, *map(str, parts), *_SYSTEM], folder / PROGRAM)
            if machine is None:
                _link(compiler, ["-shared", *stripped, *map(str, others), *_SYSTEM], folder / "libedgestill.so")
    shared = out_dir / "libedgestill.so"
    return NativeBuild(
        target=target,
        program=out_dir / PROGRAM,
        library=shared if shared.is_file() else None,
        header=out_dir / "edgestill.h",
        units=len(units),
        compiled=compiled,
        compiler=compiler.identity,
    )


def _own_flags(tree: Path) -> tuple[str, ...]:
    folders = (HERE / "include", HERE / "src", *_headers(tree))
    return ("-std=c++17", "-O2", "-Wall", "-Wextra", *_SECTIONS, "-DNDEBUG", *(f"-I{folder}" for folder in folders))


def _headers(tree: Path) -> list[Path]:
    return [
        tree / folder for folder in ("include", "ggml/include", "common", "vendor", "vendor/hash", "vendor/hash/sha256")
    ]


def _common_units(tree: Path) -> list[Unit]:
    """Return llama.cpp's template engine and what it stands on, and its sha256."""
    found = [path for pattern in _COMMON for path in sorted((tree / "common").glob(pattern))]
    flags = ("-O2", "-w", *_SECTIONS, "-DNDEBUG", *(f"-I{folder}" for folder in _headers(tree)))
    cpp = [Unit(path, ("-std=c++17", *flags)) for path in found]
    return [*cpp, Unit(tree / "vendor" / "hash" / "sha256" / "sha256.c", ("-O3", *flags[1:]))]


def _core_units(tree: Path, versions: Path) -> list[Unit]:
    """Return ggml without its kernels, and llama."""
    ggml, llama = tree / "ggml" / "src", tree / "src"
    # llama only builds graphs and handles tokens: -O2 is as fast there.
    return [
        *(_core_unit(tree, versions, path, "-O3") for pattern in _GGML for path in sorted(ggml.glob(pattern))),
        *(_core_unit(tree, versions, path, "-O2") for pattern in _LLAMA for path in sorted(llama.glob(pattern))),
    ]


def _kernel_units(tree: Path, versions: Path, kernels: str) -> list[Unit]:
    """Return ggml's kernels for one kind of processor."""
    cpu = tree / "ggml" / "src" / "ggml-cpu"
    shared = [path for pattern in _GGML_CPU for path in sorted(cpu.glob(pattern))]
    special = [path for name in ("quants.c", "repack.cpp") if (path := cpu / "arch" / kernels / name).is_file()]
    return [_core_unit(tree, versions, path, "-O3") for path in (*shared, *special)]


def _core_unit(tree: Path, versions: Path, path: Path, level: str) -> Unit:
    ggml = tree / "ggml" / "src"
    folders = (versions, ggml, ggml / "ggml-cpu", tree / "src", *_headers(tree))
    standard = "-std=c11" if path.suffix == ".c" else "-std=c++17"
    return Unit(path, (standard, level, "-w", *_SECTIONS, *_CORE_DEFINES, *(f"-I{folder}" for folder in folders)))


def _version_headers(tree: Path, cache: Path) -> Path:
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


def _host_compiler() -> Compiler:
    c, cpp = os.environ.get("CC", "cc"), os.environ.get("CXX", "c++")
    for name in (c, cpp):
        if shutil.which(name.split()[0]) is None:
            raise MissingDependencyError(f"no compiler {name!r} here; install one (Debian: apt-get install g++)")
    version = subprocess.run([*cpp.split(), "--version"], capture_output=True, text=True, check=False).stdout
    # What "native" is differs between machines that share a cache: what the compiler predefines tells it.
    native = subprocess.run(
        [*cpp.split(), "-march=native", "-dM", "-E", "-x", "c++", os.devnull],
        capture_output=True,
        text=True,
        check=False,
    )
    if native.returncode:
        raise StageError(f"the compiler {cpp!r} doesn't know this processor (-march=native); set CXX to another")
    told = hashlib.sha256(native.stdout.encode()).hexdigest()[:16]
    identity = f"{version.partition(chr(10))[0]}, native {told}"
    return Compiler(tuple(c.split()), tuple(cpp.split()), ("-march=native",), identity)


def _host_kernels() -> str:
    machine = os.uname().machine
    for begins, kernels in (("x86", "x86"), ("i686", "x86"), ("a", "arm"), ("riscv", "riscv")):
        if machine.startswith(begins):
            return kernels
    raise InputError(f"this machine's processor ({machine}) has no kernels of its own here; build with installed_llama")


def _zig_compiler(target: Target) -> Compiler:
    if importlib.util.find_spec("ziglang") is None:
        raise MissingDependencyError("the compiler for other machines isn't installed: pip install 'edgestill[native]'")
    zig = (sys.executable, "-m", "ziglang")
    # zig writes debug information unless told not to.
    flags = ("-target", target.triple, "-g0")
    version = importlib.metadata.version("ziglang")
    return Compiler((*zig, "cc"), (*zig, "c++"), flags, f"zig {version}")


def _installed_libraries() -> Path:
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise MissingDependencyError("llama-cpp-python isn't installed: pip install 'edgestill[gguf]'")
    if (version := importlib.metadata.version("llama-cpp-python")) != VERSION:
        raise StageError(f"llama-cpp-python {version} is installed, and the source is {VERSION}'s; install that")
    return Path(found.origin).parent / "lib"


def _link(compiler: Compiler, parts: Sequence[str], to: Path) -> None:
    command = [*compiler.cpp, *compiler.flags, "-Wl,--gc-sections", _KERNEL_PAGES, *parts, "-o", str(to)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it says nothing"]
        wrong = [line for line in lines if "error" in line or "undefined" in line] or lines
        raise StageError(f"{to.name} doesn't link: {wrong[0]}")
