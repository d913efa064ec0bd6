"""The compilers that the native runtime is built with: this machine's, zig, Android's NDK, or one that a file names."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from edgestill.errors import InputError, MissingDependencyError, StageError
from edgestill.figure import Record
from edgestill.runtime.native.objects import Compiler
from edgestill.runtime.native.targets import Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_NDK_CLANG: Final = "toolchains/llvm/prebuilt/*/bin/clang"


class Toolchain(Record):
    """A file that names a compiler: ``c`` and ``cpp`` are commands, ``ar`` too, ``flags`` go to each call."""

    c: tuple[str, ...] = Field(min_length=1)
    cpp: tuple[str, ...] = Field(min_length=1)
    ar: tuple[str, ...] = ("ar",)
    flags: tuple[str, ...] = ()


def host_compiler() -> Compiler:
    """Return this machine's compiler (``$CC``, ``$CXX``), for this very processor."""
    c, cpp = os.environ.get("CC", "cc"), os.environ.get("CXX", "c++")
    for name in (c, cpp):
        if shutil.which(name.split()[0]) is None:
            raise MissingDependencyError(f"no compiler {name!r} here; install one (Debian: apt-get install g++)")
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
    identity = f"{_version(cpp.split())}, native {told}"
    return Compiler(tuple(c.split()), tuple(cpp.split()), ("-march=native", *_without_amx(native.stdout)), identity)


def _without_amx(predefined: str) -> tuple[str, ...]:
    """Return what turns AMX off where the compiler, told by its macros, drops the configuration of AMX's tiles.

    GCC's bug 114098, mended in 11.5, 12.4 and 13.3: ggml's kernels then end in an illegal instruction.
    """
    macros = dict(line.split(" ", 2)[1:] for line in predefined.splitlines() if line.count(" ") > 1)
    if "__AMX_TILE__" not in macros or "__clang__" in macros:
        return ()
    version = (int(macros["__GNUC__"]), int(macros["__GNUC_MINOR__"]))
    mended = {11: (11, 5), 12: (12, 4)}.get(version[0], (13, 3))
    return () if version >= mended else ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")


def zig_compiler(target: Target) -> Compiler:
    """Return zig for a machine. Raises MissingDependencyError where it isn't installed."""
    if importlib.util.find_spec("ziglang") is None:
        raise MissingDependencyError("the compiler for other machines isn't installed: pip install 'edgestill[native]'")
    zig = (sys.executable, "-m", "ziglang")
    # zig writes debug information unless told not to.
    flags = ("-target", target.triple, "-g0")
    version = importlib.metadata.version("ziglang")
    return Compiler((*zig, "cc"), (*zig, "c++"), flags, f"zig {version}", (*zig, "ar"))


def ndk_compiler(ndk: Path, target: Target) -> Compiler:
    """Return the clang of an Android NDK for one of its ABIs. Raises InputError for a folder that isn't one."""
    found = sorted(ndk.glob(_NDK_CLANG))
    if not found:
        raise InputError(f"--ndk {ndk}: no NDK there (no {_NDK_CLANG}); give the folder that the SDK manager made")
    clang = found[0]
    plus, archiver = clang.with_name("clang++"), clang.with_name("llvm-ar")
    flags = (f"--target={target.triple}",)
    return Compiler((str(clang),), (str(plus),), flags, _version([str(clang)]), (str(archiver),))


def toolchain_compiler(path: Path) -> Compiler:
    """Return the compiler that a TOML file names (see :class:`Toolchain`). Raises InputError for another file."""
    try:
        named = Toolchain.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(f"--toolchain {path}: not a toolchain file with c, cpp, ar and flags ({reason})") from error
    for command in (named.c, named.cpp, named.ar):
        if shutil.which(command[0]) is None:
            raise InputError(f"--toolchain {path}: no program {command[0]!r} here")
    return Compiler(named.c, named.cpp, named.flags, _version(named.cpp), named.ar)


def _version(command: list[str] | tuple[str, ...]) -> str:
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    return said.partition("\n")[0]
