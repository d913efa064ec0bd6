"""The greedy choice of the C library, beside numpy's: the first of the largest logits, and an error for a NaN."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgestill.runtime.native.build import HERE
from edgestill.runtime.native.llama_units import header_folders
from edgestill.runtime.native.source import llama_source

# Reads rows, each its size (int32) and so many float32; prints the choice, or -1 where it throws.
PROGRAM = r"""
#include <cstdio>
#include <vector>
#include "failure.h"
#include "sampler.h"

int main() {
    es_generation greedy = {};
    int32_t size;
    while (std::fread(&size, sizeof size, 1, stdin) == 1) {
        std::vector<float> logits(static_cast<size_t>(size));
        if (std::fread(logits.data(), sizeof(float), logits.size(), stdin) != logits.size()) return 1;
        try {
            std::printf("%d\n", edgestill::Sampler(greedy).pick(logits.data(), size));
        } catch (const edgestill::Failure &) {
            std::puts("-1");
        }
    }
}
"""


@pytest.mark.parametrize("level", ["-O0", "-O2", "-O3"])
def test_the_greedy_choice_is_numpys(level: str, tmp_path: Path) -> None:
    (tmp_path / "main.cpp").write_text(PROGRAM)
    folders = [f"-I{folder}" for folder in (HERE / "src", HERE / "include", *header_folders(llama_source()))]
    command = ["c++", "-std=c++17", level, "-Wall", "-Werror", "main.cpp", str(HERE / "src" / "sampler.cpp")]
    subprocess.run([*command, "-o", "main", *folders], cwd=tmp_path, check=True)
    rows = list(_rows(np.random.default_rng(0)))
    said = b"".join(np.int32(len(row)).tobytes() + row.tobytes() for row in rows)
    done = subprocess.run([tmp_path / "main"], input=said, capture_output=True, check=True)
    wanted = [-1 if np.isnan(row).any() else int(row.argmax()) for row in rows]
    assert [int(line) for line in done.stdout.split()] == wanted


def _rows(draw: np.random.Generator) -> list[NDArray[np.float32]]:
    """Rows of every size around a block's and of real ones': ties, rising ones, infinities, NaNs in each place."""
    rows = []
    for size in (*range(1, 200), 512, 49_152, 151_936):
        plain = draw.normal(size=size).astype(np.float32)
        rows += [plain, plain.round(), np.sort(plain), -np.sort(-plain), np.full(size, -np.inf, np.float32)]
        for value in (np.inf, -np.inf, np.nan):
            for at in {0, size - 1, int(draw.integers(size))}:
                row = plain.copy()
                row[at] = value
                rows.append(row)
    return rows
