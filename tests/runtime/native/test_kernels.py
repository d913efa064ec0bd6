"""Kernels for other processors: each level of each compiles."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgestill.runtime.native.build import HERE
from edgestill.runtime.native.compilers import zig_compiler
from edgestill.runtime.native.levels import PROCESSORS, Level
from edgestill.runtime.native.llama_units import kernel_units, version_headers
from edgestill.runtime.native.source import llama_source
from edgestill.runtime.native.targets import TARGETS

LEVELS = [
    (name, level)
    for name, target in TARGETS.items()
    for level in (PROCESSORS[target.levels].levels if target.levels else (None,))
]


@pytest.mark.parametrize(("name", "level"), LEVELS, ids=lambda one: str(getattr(one, "name", one)))
def test_the_kernels_that_name_instructions_compile(name: str, level: Level | None, tmp_path: Path) -> None:
    """The file that names most of them; all are compiled by a build, which takes minutes."""
    target, tree = TARGETS[name], llama_source()
    compiler = zig_compiler(target)
    flags: tuple[str, ...] = target.zig
    if level is not None:
        header = () if level.header is None else ("-include", str(HERE / "src" / level.header))
        flags = (*level.zig, *header)
    units = kernel_units(tree, version_headers(tree, tmp_path), target.kernels)
    for unit in units:
        if unit.source.name == "sgemm.cpp":
            # zig has no -fsyntax-only.
            command = [*compiler.command(unit.source), *compiler.flags, *unit.flags, *flags, "-O0", "-c"]
            command += [str(unit.source), "-o", str(tmp_path / "kernel.o")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[:500]
