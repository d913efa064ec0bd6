"""Kernels for several ISA levels in one program: which are called, and that nothing of theirs meets."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from edgestill.errors import StageError
from edgestill.runtime.native.elf import ObjectFile
from edgestill.runtime.native.levels import PROCESSORS, Level, Processor, join_levels

KERNEL = """
template <typename Number> __attribute__((noinline)) inline Number doubled(Number value) { return value * FACTOR; }
static int calls;
extern "C" int helper(int value) { return doubled(value) + calls; }
extern "C" int kernel(int value) { ++calls; return helper(value); }
"""
PROGRAM = """
#include <stdio.h>
template <typename Number> __attribute__((noinline)) inline Number doubled(Number value) { return value * 1000; }
extern "C" int kernel(int);
extern "C" int helper(int);
int main() { printf("%d ", kernel(3)); printf("%d %d", helper(3), doubled(3)); }
"""

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no jump for this processor")


def compiled(folder: Path, name: str, text: str, *flags: str) -> Path:
    source, made = folder / f"{name}.cpp", folder / f"{name}.o"
    source.write_text(text)
    subprocess.run(["c++", "-O1", "-fPIC", "-c", source, "-o", made, *flags], check=True)
    return made


def processor(*has: str) -> Processor:
    """This machine's way to jump, with levels that it has or hasn't."""
    own = PROCESSORS["x86" if platform.machine() == "x86_64" else "arm64"]
    return replace(own, levels=tuple(Level(f"l{number}", (), (), text) for number, text in enumerate(has)))


@pytest.mark.parametrize(
    ("has", "said"), [(("1", "0", "0"), "7 7 3000"), (("1", "1", "0"), "31 31 3000"), (("1", "1", "1"), "301 301 3000")]
)
def test_the_best_level_that_the_core_has_is_called(has: tuple[str, ...], said: str, tmp_path: Path) -> None:
    kernels = [
        [compiled(tmp_path, f"kernel{n}", KERNEL, f"-DFACTOR={factor}")] for n, factor in enumerate((2, 10, 100))
    ]
    main = compiled(tmp_path, "main", PROGRAM)
    scratch = tmp_path / "joined"
    scratch.mkdir()
    *objects, source = join_levels(processor(*has), kernels, [main], scratch)
    subprocess.run(["cc", "-c", source, "-o", scratch / "levels.o"], check=True)
    program = scratch / "program"
    subprocess.run(["c++", main, *objects, scratch / "levels.o", "-o", program], check=True)
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout == said


def test_what_runs_before_the_core_is_asked_is_refused(tmp_path: Path) -> None:
    early = 'int now(); int early = now(); int now() { return 1; } extern "C" int kernel(int) { return early; }'
    kernels = [[compiled(tmp_path, f"kernel{number}", early)] for number in range(2)]
    with pytest.raises(StageError, match=r"kernel1\.o at level l1 runs before"):
        join_levels(processor("1", "1"), kernels, [compiled(tmp_path, "main", PROGRAM)], tmp_path)


def test_data_of_a_level_is_not_the_programs(tmp_path: Path) -> None:
    kernels = [
        [compiled(tmp_path, f"kernel{number}", "extern const int size; const int size = 3;")] for number in range(2)
    ]
    main = compiled(tmp_path, "main", "extern const int size; int main() { return size; }")
    with pytest.raises(StageError, match="size"):
        join_levels(processor("1", "1"), kernels, [main], tmp_path)


def test_symbols_are_those_that_nm_lists(tmp_path: Path) -> None:
    path = compiled(tmp_path, "kernel", KERNEL, "-DFACTOR=2")
    listed = subprocess.run(["nm", "-g", path], capture_output=True, text=True, check=True).stdout.splitlines()
    expected = {(line.split()[-1], line.split()[-2] != "U") for line in listed}
    assert {(symbol.name, symbol.defined) for symbol in ObjectFile(path).symbols()} == expected
    ObjectFile(path).rename({"helper"}, "_old", tmp_path / "renamed.o")
    renamed = {symbol.name for symbol in ObjectFile(tmp_path / "renamed.o").symbols()}
    assert renamed == {"helper_old" if name == "helper" else name for name, _ in expected}


@pytest.mark.parametrize("data", [b"", b"MZ" + bytes(100), b"\x7fELF\x02\x02" + bytes(100)])
def test_another_file_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.o").write_bytes(data)
    with pytest.raises(StageError, match="not a little-endian ELF object"):
        ObjectFile(tmp_path / "file.o")
