"""Building the native runtime: a library with a C ABI and a program over it, for this machine or another.

Without ``installed_llama`` llama.cpp's core is compiled too and the program is static; with it, the library is linked
to the shared libraries of the installed llama-cpp-python: half a minute, and the same kernels as the Python runtime's.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgestill.errors import InputError, MissingDependencyError, StageError
from edgestill.progress import SILENT, Progress
from edgestill.runtime.native.compilers import host_compiler, ndk_compiler, toolchain_compiler, zig_compiler
from edgestill.runtime.native.levels import PROCESSORS, Level, join_levels
from edgestill.runtime.native.llama_units import (
    SECTIONS,
    common_units,
    core_units,
    header_folders,
    kernel_units,
    version_headers,
)
from edgestill.runtime.native.objects import Compiler, Unit, compile_all
from edgestill.runtime.native.source import VERSION, cache_folder, llama_source
from edgestill.runtime.native.targets import ANDROID, ANDROID_ABIS, HOST, TARGETS, Target
from edgestill.storage import whole_folder

HERE: Final = Path(__file__).resolve().parent
PROGRAM: Final = "edgestill-run"
HEADER: Final = "edgestill.h"
SHARED: Final = "libedgestill.so"
ARCHIVE: Final = "libedgestill.a"

_KERNEL_PAGES: Final = "-Wl,-z,max-page-size=16384"
"""LOAD segments fit kernels with pages of 16 KiB too."""

_SYSTEM: Final = ("-lpthread", "-ldl")
_INSTALLED: Final = ("-lllama", "-lggml", "-lggml-cpu", "-lggml-base")


@dataclass(frozen=True)
class NativeBuild:
    """What a build wrote; ``compiled`` of ``units`` weren't in the cache.

    ``library`` is shared for the host, else an archive for a program of one's own; for Android there is no program
    and a shared library for each of its ABIs, the first of which is ``library``.
    """

    target: str
    header: Path
    library: Path
    program: Path | None
    files: tuple[Path, ...]
    units: int
    compiled: int
    compiler: str


@dataclass(frozen=True)
class _Objects:
    """A target's objects: ``main`` is the program's, ``library`` all others, several ISA levels joined."""

    main: Path
    library: tuple[Path, ...]
    units: int
    compiled: int


def build_native(
    target: str,
    out_dir: Path,
    *,
    source: Path | None = None,
    installed_llama: bool = False,
    ndk: Path | None = None,
    toolchain: Path | None = None,
    extra_flags: Sequence[str] = (),
    jobs: int | None = None,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> NativeBuild:
    """Build the program, the library and ``edgestill.h`` in ``out_dir``, whole or not at all.

    ``source`` is llama.cpp's source or its distribution (see :func:`llama_source`), ``ndk`` an Android NDK's folder,
    ``toolchain`` a file that names another compiler than zig. ``extra_flags`` go to the compiler and the linker
    (``-fsanitize=address``). Raises InputError for an unknown target or what doesn't go with it,
    MissingDependencyError without a compiler, StageError with the compiler's or the linker's first error.
    """
    _check(target, installed_llama, ndk, toolchain)
    cache = cache or cache_folder()
    tree = llama_source(source, cache)
    making = _Making(tree, cache, tuple(extra_flags), jobs, progress)
    with whole_folder(out_dir) as folder:
        shutil.copyfile(HERE / "include" / HEADER, folder / HEADER)
        if target == ANDROID:
            assert ndk is not None  # checked
            made = [making.android(name, ndk, folder) for name in ANDROID_ABIS]
        elif target == HOST:
            made = [making.installed(folder) if installed_llama else making.host(folder)]
        else:
            made = [making.elsewhere(target, toolchain, folder)]
        files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        library = next(path for path in files if path.name in (SHARED, ARCHIVE))
    program = out_dir / PROGRAM
    return NativeBuild(
        target=target,
        header=out_dir / HEADER,
        library=out_dir / library,
        program=program if program.is_file() else None,
        files=tuple(out_dir / path for path in files),
        units=sum(one.units for one, _ in made),
        compiled=sum(one.compiled for one, _ in made),
        compiler=made[0][1],
    )


@dataclass(frozen=True)
class _Making:
    """What every target's build shares."""

    tree: Path
    cache: Path
    extra_flags: tuple[str, ...]
    jobs: int | None
    progress: Progress

    def host(self, folder: Path) -> tuple[_Objects, str]:
        """Compile everything for this very machine: a program and a shared library."""
        compiler = self._with_extra(host_compiler())
        objects = self._compile(compiler, _host_kernels(), [()])
        _link(compiler, [*self._stripped(), str(objects.main), *map(str, objects.library), *_SYSTEM], folder / PROGRAM)
        _link(compiler, ["-shared", *self._stripped(), *map(str, objects.library), *_SYSTEM], folder / SHARED)
        return objects, compiler.identity

    def installed(self, folder: Path) -> tuple[_Objects, str]:
        """Compile our own files, and link them to the installed llama-cpp-python's libraries."""
        compiler = self._with_extra(host_compiler())
        units = [*self._own(), *common_units(self.tree)]
        objects, compiled = self._all(units, compiler)
        main = objects[[unit.source.name for unit in units].index("main.cpp")]
        others = [path for path in objects if path != main]
        libraries = _installed_libraries()
        found = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", *_INSTALLED]
        _link(compiler, ["-shared", "-Wl,--no-undefined", *map(str, others), *found, *_SYSTEM], folder / SHARED)
        beside = [f"-L{folder}", "-ledgestill", "-Wl,-rpath,$ORIGIN", f"-Wl,-rpath-link,{libraries}"]
        _link(compiler, [str(main), *beside], folder / PROGRAM)
        return _Objects(main, tuple(others), len(units), compiled), compiler.identity

    def elsewhere(self, name: str, toolchain: Path | None, folder: Path) -> tuple[_Objects, str]:
        """Compile everything for another machine: a static program, and an archive for programs of one's own."""
        target = TARGETS[name]
        compiler = self._with_extra(zig_compiler(target) if toolchain is None else toolchain_compiler(toolchain))
        levels = _levels(target, zig=toolchain is None)
        static = ["-static", *levels[0], *self._stripped()]
        with (
            tempfile.TemporaryDirectory() as scratch,
            _runtime_libraries(compiler, static, Path(scratch))
            if toolchain is None
            else contextlib.nullcontext() as libraries,
        ):
            objects = self._compile(compiler, target.kernels, levels, target.levels, Path(scratch))
            if libraries is not None:
                libraries.wait()
            _link(compiler, [*static, str(objects.main), *map(str, objects.library), *_SYSTEM], folder / PROGRAM)
            _run([*compiler.archiver, "rcs", str(folder / ARCHIVE), *map(str, objects.library)], ARCHIVE)
        return objects, compiler.identity

    def android(self, abi: str, ndk: Path, folder: Path) -> tuple[_Objects, str]:
        """Compile everything for one of Android's ABIs: a shared library that needs nothing but Android's own."""
        target = ANDROID_ABIS[abi]
        compiler = self._with_extra(ndk_compiler(ndk, target))
        levels = _levels(target, zig=False)
        shared = folder / "jniLibs" / abi / SHARED
        shared.parent.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as scratch:
            objects = self._compile(compiler, target.kernels, levels, target.levels, Path(scratch))
            parts = ["-shared", "-static-libstdc++", f"-Wl,-soname,{SHARED}", "-Wl,--no-undefined", *levels[0]]
            # Android's C library has the threads.
            _link(compiler, [*parts, *self._stripped(), *map(str, objects.library), "-ldl"], shared)
        return objects, compiler.identity

    def _compile(
        self,
        compiler: Compiler,
        kernels: str,
        levels: Sequence[tuple[str, ...]],
        processor: str | None = None,
        scratch: Path | None = None,
    ) -> _Objects:
        """Compile llama.cpp and our own files; the kernels once for each level's flags, all else for the least core."""
        versions = version_headers(self.tree, self.cache)
        each = kernel_units(self.tree, versions, kernels)
        rest = [*self._own("-DES_OWN_LLAMA"), *common_units(self.tree), *core_units(self.tree, versions)]
        units = [unit.with_flags(levels[0]) for unit in rest]
        headers: list[tuple[str, ...]] = (
            [()] * len(levels) if processor is None else [_before(one) for one in PROCESSORS[processor].levels]
        )
        units += [
            unit.with_flags((*flags, *header)) for flags, header in zip(levels, headers, strict=True) for unit in each
        ]
        objects, compiled = self._all(units, compiler)
        main = objects[[unit.source.name for unit in rest].index("main.cpp")]
        library = [path for path in objects if path != main]
        if processor is not None:
            assert scratch is not None  # the renamed objects' folder
            sets = [objects[at : at + len(each)] for at in range(len(rest), len(objects), len(each))]
            made = join_levels(PROCESSORS[processor], sets, objects[: len(rest)], scratch)
            table = self._all([Unit(made.pop(), ("-O2", "-fPIC", *levels[0]))], compiler)[0]
            library = [*(path for path in objects[: len(rest)] if path != main), *made, *table]
        return _Objects(main, tuple(library), len(units), compiled)

    def _own(self, *flags: str) -> list[Unit]:
        folders = (HERE / "include", HERE / "src", *header_folders(self.tree))
        every = ("-std=c++17", "-O2", "-Wall", "-Wextra", *SECTIONS, "-DNDEBUG", *(f"-I{one}" for one in folders))
        return [Unit(path, (*every, *flags)) for path in sorted((HERE / "src").glob("*.cpp"))]

    def _all(self, units: Sequence[Unit], compiler: Compiler) -> tuple[list[Path], int]:
        return compile_all(units, compiler, self.cache / "objects", jobs=self.jobs, progress=self.progress)

    def _with_extra(self, compiler: Compiler) -> Compiler:
        return replace(compiler, flags=(*compiler.flags, *self.extra_flags))

    def _stripped(self) -> list[str]:
        return [] if self.extra_flags else ["-s"]


def _check(target: str, installed_llama: bool, ndk: Path | None, toolchain: Path | None) -> None:
    known = (HOST, *TARGETS, ANDROID)
    if target not in known:
        raise InputError(f"target {target!r} is not one of {', '.join(known)}")
    if installed_llama and target != HOST:
        raise InputError(f"target {target!r} can't be linked to the installed llama-cpp-python: leave that out")
    if (ndk is None) == (target == ANDROID):
        wanted = "wants --ndk, the NDK's folder" if ndk is None else "takes no --ndk"
        raise InputError(f"target {target!r} {wanted}")
    if toolchain is not None and target not in TARGETS:
        raise InputError(f"target {target!r} takes no --toolchain ($CC and $CXX name the host's compiler)")


def _levels(target: Target, *, zig: bool) -> list[tuple[str, ...]]:
    """Return the flags of each of a target's ISA levels."""
    if target.levels is None:
        return [target.zig if zig else target.flags]
    return [level.zig if zig else level.flags for level in PROCESSORS[target.levels].levels]


def _before(level: Level) -> tuple[str, ...]:
    return () if level.header is None else ("-include", str(HERE / "src" / level.header))


def _host_kernels() -> str:
    machine = os.uname().machine
    for begins, kernels in (("x86", "x86"), ("i686", "x86"), ("a", "arm"), ("riscv", "riscv")):
        if machine.startswith(begins):
            return kernels
    raise InputError(f"this machine's processor ({machine}) has no kernels of its own here; build with installed_llama")


def _installed_libraries() -> Path:
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise MissingDependencyError("llama-cpp-python isn't installed: pip install 'edgestill[gguf]'")
    if (version := importlib.metadata.version("llama-cpp-python")) != VERSION:
        raise StageError(f"llama-cpp-python {version} is installed, and the source is {VERSION}'s; install that")
    return Path(found.origin).parent / "lib"


@contextlib.contextmanager
def _runtime_libraries(compiler: Compiler, static: Sequence[str], scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Link a program that does nothing: zig compiles its C and C++ libraries for a target when it first links for it.

    It does so on one core, for up to three minutes, which pass beside our own compiling this way. What goes wrong here
    goes wrong in the real linking, and is told there; when our compiling fails, this is ended.
    """
    source = scratch / "nothing.cpp"
    source.write_text("int main() { return 0; }\n", encoding="utf-8")
    command = _link_command(compiler, [*static, str(source), *_SYSTEM], scratch / "nothing")
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # and what it has started


def _link(compiler: Compiler, parts: Sequence[str], to: Path) -> None:
    _run(_link_command(compiler, parts, to), to.name)


def _link_command(compiler: Compiler, parts: Sequence[str], to: Path) -> list[str]:
    return [*compiler.cpp, *compiler.flags, "-Wl,--gc-sections", _KERNEL_PAGES, *parts, "-o", str(to)]


def _run(command: Sequence[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it says nothing"]
        wrong = [line for line in lines if "error" in line or "undefined" in line] or lines
        raise StageError(f"{name} doesn't link: {wrong[0]}")
