"""The hash that a bundle is checked by, by the processor's instructions and without them, beside Python's."""

from __future__ import annotations

import hashlib
import random
import subprocess
from pathlib import Path

import pytest

from edgestill.runtime.native.build import HERE
from edgestill.runtime.native.llama_units import header_folders
from edgestill.runtime.native.source import llama_source

# Reads "SIZE PIECE" lines: that many bytes (their place times 131, plus 7), added in pieces.
PROGRAM = r"""
#include <cstdio>
#include <cstring>
#include <vector>
#include "sha256.h"

int main(int count, char **words) {
    const bool portable = count > 1 && std::strcmp(words[1], "portable") == 0;
    std::printf("%d\n", edgestill::has_sha256_instructions() && !portable);
    size_t size, piece;
    while (std::scanf("%zu %zu", &size, &piece) == 2) {
        std::vector<uint8_t> bytes(size);
        for (size_t at = 0; at < size; ++at) bytes[at] = static_cast<uint8_t>(at * 131 + 7);
        edgestill::Sha256 hash(portable);
        for (size_t at = 0; at < size; at += piece) hash.update(bytes.data() + at, std::min(piece, size - at));
        std::puts(hash.finish().c_str());
    }
}
"""


@pytest.mark.parametrize("how", ["processor", "portable"])
def test_the_hash_is_pythons(how: str, tmp_path: Path) -> None:
    vendor = llama_source() / "vendor" / "hash" / "sha256" / "sha256.c"
    folders = [f"-I{folder}" for folder in (HERE / "src", *header_folders(llama_source()))]
    (tmp_path / "main.cpp").write_text("#include <algorithm>\n" + PROGRAM)
    subprocess.run(["cc", "-O1", "-c", vendor, "-o", "portable.o", *folders], cwd=tmp_path, check=True)
    command = ["c++", "-std=c++17", "-O1", "-Wall", "-Werror", "main.cpp", HERE / "src" / "sha256.cpp", "portable.o"]
    subprocess.run([*command, "-o", "main", *folders], cwd=tmp_path, check=True)
    draw = random.Random(0)
    cases = [(size, size or 1) for size in range(200)]
    cases += [(draw.randrange(1, 5000), draw.randrange(1, 300)) for _ in range(200)]
    said = "".join(f"{size} {piece}\n" for size, piece in cases)
    done = subprocess.run([tmp_path / "main", how], input=said, capture_output=True, text=True, check=True)
    used, *found = done.stdout.split()
    assert used == "0" or how == "processor"
    whole = bytes((at * 131 + 7) & 255 for at in range(5000))
    assert found == [hashlib.sha256(whole[:size]).hexdigest() for size, _ in cases]
