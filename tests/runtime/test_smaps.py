"""The parser of smaps against what was written, and against the kernel's own sums."""

from __future__ import annotations

import io
import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.runtime.c_heap import freed_bytes
from edgestill.runtime.pagemap import anonymous_bytes
from edgestill.runtime.smaps import Mapping, group_of, group_pss, parse_smaps, read_smaps

linux = pytest.mark.skipif(sys.platform != "linux", reason="smaps and pagemap are Linux's")

NAMES = [
    "",
    "[heap]",
    "[stack]",
    "[vdso]",
    "/usr/lib/libc.so.6",
    "/models/a b: c (x)/model.gguf",
    "/Pss: 7 kB",
    "[anon:x]",
]
KILOBYTES = st.integers(0, 1 << 30)


@st.composite
def mappings(draw: st.DrawFn) -> Mapping:
    start = draw(st.integers(0, (1 << 47) - 1)) * 4096
    counters = [draw(KILOBYTES) * 1024 for _ in range(5)]
    permissions = "".join(draw(st.sampled_from(pair)) for pair in ("r-", "w-", "x-", "ps"))
    return Mapping(
        start, start + draw(st.integers(1, 1 << 20)) * 4096, permissions, draw(st.sampled_from(NAMES)), *counters
    )


def written(mapping: Mapping, deleted: bool) -> str:
    """Return a mapping as the kernel writes it, with counters that nobody asks for in between."""
    path = f"{mapping.path} (deleted)" if deleted and mapping.path.startswith("/") else mapping.path
    head = f"{mapping.start:08x}-{mapping.end:08x} {mapping.permissions} 00000000 fe:01 4711".ljust(73) + path
    counters = {
        "Size": 4, "KernelPageSize": 4, "Rss": mapping.rss // 1024, "Pss": mapping.pss // 1024, "Pss_Dirty": 99,
        "Shared_Clean": 12, "Anonymous": mapping.anonymous // 1024, "LazyFree": 1,
        "AnonHugePages": mapping.anon_huge_pages // 1024, "Swap": mapping.swap // 1024, "SwapPss": 3,
    }  # fmt: skip
    lines = [f"{name + ':':16}{value:8} kB" for name, value in counters.items()]
    return "\n".join([head.rstrip(), *lines, "THPeligible:           0", "VmFlags: rd mr mw me "]) + "\n"


@given(st.lists(mappings(), max_size=12), st.booleans())
def test_what_the_kernel_writes_is_read_back(expected: list[Mapping], deleted: bool) -> None:
    text = "".join(written(mapping, deleted) for mapping in expected)
    assert list(parse_smaps(io.StringIO(text))) == expected


@given(st.text(alphabet="0123456789abcdef-rwxps: \nPkB[]/", max_size=200))
def test_lines_that_are_no_mapping_are_passed_over(text: str) -> None:
    for mapping in parse_smaps(io.StringIO(text)):
        assert mapping.end >= 0


def test_mappings_come_as_the_lines_do() -> None:
    read = 0

    def lines() -> object:
        nonlocal read
        for line in (written(Mapping(0, 4096, "rw-p", "", 4096), False) * 3).splitlines(keepends=True):
            read += 1
            yield line

    found = parse_smaps(lines())  # type: ignore[arg-type]
    next(found)
    assert read < 20


def test_mappings_are_told_apart_by_their_paths() -> None:
    model, engine = frozenset({"/m/model.gguf"}), ("/site/onnxruntime/", "/site/onnxruntime.libs/")
    expected = {
        "/m/model.gguf": "model",
        "/m/model.gguf.other": "python",
        "/site/onnxruntime/capi/x.so": "engine",
        "/site/onnxruntime_genai/x.so": "python",
        "/site/onnxruntime.libs/libgomp.so": "engine",
        "/usr/bin/python3": "python",
        "[vdso]": "python",
        "": "anonymous",
        "[heap]": "anonymous",
        "[anon:arena]": "anonymous",
        "[stack]": "stack",
    }
    found = {path: group_of(Mapping(0, 1, "rw-p", path), model, engine) for path in expected}
    assert found == expected
    pss = group_pss([Mapping(0, 1, "rw-p", path, 2) for path in expected], model, engine)
    assert pss == {"model": 2, "engine": 4, "python": 8, "anonymous": 6, "stack": 2}


@linux
def test_this_process_s_mappings_add_up_to_the_kernel_s_sum() -> None:
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.exists():
        pytest.skip("this kernel has no smaps_rollup")
    found = sum(mapping.rss for mapping in read_smaps())
    expected = int(rollup.read_text().partition("Rss:")[2].split()[0]) * 1024
    assert found == pytest.approx(expected, rel=0.02)


@linux
def test_a_mapped_file_is_found_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "model file.gguf"
    path.write_bytes(bytes(64 * mmap.PAGESIZE))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        assert sum(data[:: mmap.PAGESIZE]) == 0
        pss = group_pss(read_smaps(), frozenset({str(path.resolve())}), ())
    assert pss["model"] == 64 * mmap.PAGESIZE


def test_without_smaps_there_are_no_mappings(tmp_path: Path) -> None:
    assert list(read_smaps(tmp_path / "absent")) == []


@linux
def test_only_pages_that_were_written_are_in_memory() -> None:
    page = mmap.PAGESIZE
    with mmap.mmap(-1, 64 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        buffer = np.frombuffer(area, np.uint8)
        address = buffer.ctypes.data
        assert anonymous_bytes([(address, 64 * page)]) == 0
        for number in (3, 4, 40):
            area[number * page] = 1
        assert anonymous_bytes([(address, 64 * page)]) == 3 * page
        assert anonymous_bytes([(address, 10 * page), (address + 30 * page, 20 * page)]) == 3 * page
        assert anonymous_bytes([(address + 3 * page + 100, page)]) == page  # from one page into the next
        assert anonymous_bytes([(address + 3 * page + 100, 50)]) == 50
        assert anonymous_bytes([]) == 0
        del buffer


@linux
def test_pages_of_a_file_aren_t_anonymous(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8 * mmap.PAGESIZE))
    mapped = np.memmap(path, np.uint8, "c")
    assert mapped.sum() == 0
    span = (mapped.ctypes.data, mapped.nbytes)
    assert anonymous_bytes([span]) == 0
    mapped[2 * mmap.PAGESIZE] = 1  # a private copy of one page
    assert anonymous_bytes([span]) == mmap.PAGESIZE


def test_without_a_pagemap_nothing_is_known(tmp_path: Path) -> None:
    assert anonymous_bytes([(0, 10)], tmp_path / "absent") is None


@linux
def test_what_was_freed_is_told_by_the_c_library() -> None:
    import ctypes

    if freed_bytes() is None:
        pytest.skip("this C library has no mallinfo2")
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    blocks = [libc.malloc(8192) for _ in range(512)]
    before = freed_bytes()
    for block in blocks[::2]:  # no two neighbours: nothing can go back to the system
        libc.free(block)
    after = freed_bytes()
    for block in blocks[1::2]:
        libc.free(block)
    assert before is not None
    assert after is not None
    assert after - before >= 256 * 8192
