"""How our own build of llama.cpp clears a buffer: zeros to read, and no memory until one is written."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import pytest

from edgestill.runtime.native.build import HERE, _installed_libraries
from edgestill.runtime.native.llama_units import core_units, header_folders, version_headers
from edgestill.runtime.native.source import llama_source
from tests.runtime.native.c_memory import RESIDENT

# For each size in the arguments: fill a buffer and one beside it with ones, clear the first, and print its "VALUE
# BYTES-NOT-SO KB-RESIDENT", for the values 0 and 7. "lock": what is allocated stays in memory.
PROGRAM = r"""
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include "ggml-backend.h"

extern "C" void edgestill_buffer_clear(ggml_backend_buffer_t buffer, uint8_t value);

int main(int count, char **words) {
    const bool lock = std::strcmp(words[1], "lock") == 0;
    for (int at = 2; at < count; ++at) {
        const size_t size = std::strtoul(words[at], nullptr, 10);
        const long before = resident();
        ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
        ggml_backend_buffer_t beside = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), 4096);
        uint8_t *data = static_cast<uint8_t *>(ggml_backend_buffer_get_base(buffer));
        uint8_t *other = static_cast<uint8_t *>(ggml_backend_buffer_get_base(beside));
        if (lock && mlock(data, size) != 0) return 3;
        for (int round = 0; round < 2; ++round) {
            const uint8_t value = round == 0 ? 0 : 7;
            std::memset(data, 1, size);
            std::memset(other, 1, 4096);
            edgestill_buffer_clear(buffer, value);
            const long taken = resident() - before;
            size_t wrong = 0;
            for (size_t byte = 0; byte < size; ++byte) wrong += data[byte] != value;
            for (size_t byte = 0; byte < 4096; ++byte) wrong += other[byte] != 1;
            std::printf("%d %zu %ld\n", value, wrong, taken);
        }
        ggml_backend_buffer_free(buffer);
        ggml_backend_buffer_free(beside);
    }
}
"""
SIZES = (1, 4096, 100_000, 131_072, 1_000_003, 64 << 20)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clear")
    (folder / "main.cpp").write_text(RESIDENT + PROGRAM)
    libraries = _installed_libraries()
    command = ["c++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-DES_OWN_LLAMA", "main.cpp"]
    command += [str(HERE / "src" / "buffers.cpp"), *(f"-I{one}" for one in header_folders(llama_source()))]
    command += [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lggml-base", "-lggml-cpu", "-o", "main"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "main"


@pytest.mark.parametrize("how", ["plain", "lock"])
def test_a_cleared_buffer_is_zero_and_takes_no_memory_unless_it_is_locked(how: str, program: Path) -> None:
    sizes = SIZES if how == "plain" else SIZES[:-1]
    if how == "lock" and resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] < sizes[-1]:
        pytest.skip("this user may lock too little memory")
    done = subprocess.run([program, how, *map(str, sizes)], capture_output=True, text=True, check=True)
    rows = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert [(value, wrong) for value, wrong, _ in rows] == [(0, 0), (7, 0)] * len(sizes)
    if how == "plain":
        largest = sizes[-1] >> 10
        assert rows[-2][2] < largest // 100
        assert largest <= rows[-1][2] < largest * 1.01


def test_llamas_own_files_call_it_and_ggmls_do_not(tmp_path: Path) -> None:
    tree = llama_source()
    calling = [
        unit.source
        for unit in core_units(tree, version_headers(tree, tmp_path))
        if "-Dggml_backend_buffer_clear=edgestill_buffer_clear" in unit.flags
    ]
    assert tree / "src" / "llama-kv-cache.cpp" in calling
    assert tree / "ggml" / "src" / "ggml-backend.cpp" not in calling  # it defines the other one
