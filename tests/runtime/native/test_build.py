"""Which compiler is called for a target, and what doesn't go together."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from edgestill.errors import InputError, StageError
from edgestill.runtime.native.build import _runtime_libraries, build_native
from edgestill.runtime.native.compilers import host_compiler, ndk_compiler, toolchain_compiler
from edgestill.runtime.native.levels import PROCESSORS
from edgestill.runtime.native.objects import Compiler
from edgestill.runtime.native.targets import ANDROID_ABIS, TARGETS

TOOLCHAIN = 'c = ["cc"]\ncpp = ["c++", "-pipe"]\nar = ["ar"]\nflags = ["-O1"]\n'


@pytest.fixture
def ndk(tmp_path: Path) -> Path:
    """A folder like an NDK's, with a clang that says what it was told."""
    folder = tmp_path / "ndk" / "toolchains" / "llvm" / "prebuilt" / "linux-x86_64" / "bin"
    folder.mkdir(parents=True)
    for name in ("clang", "clang++", "llvm-ar"):
        (folder / name).write_text(
            '#!/bin/sh\n[ "$1" = --version ] && echo "clang 99" && exit\necho "error: $*" >&2; exit 1\n'
        )
        (folder / name).chmod(0o755)
    return tmp_path / "ndk"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"target": "amiga"}, "target 'amiga' is not one of host, .*android"),
        ({"target": "android"}, "wants --ndk"),
        ({"target": "host", "ndk": Path("x")}, "takes no --ndk"),
        ({"target": "host", "toolchain": Path("x")}, "takes no --toolchain"),
        ({"target": "x86_64-linux-musl", "installed_llama": True}, "can't be linked to the installed"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, object], why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=why):
        build_native(out_dir=tmp_path / "out", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_android_is_compiled_by_the_ndks_clang_for_each_abi(ndk: Path, tmp_path: Path) -> None:
    compiler = ndk_compiler(ndk, ANDROID_ABIS["arm64-v8a"])
    assert compiler.flags == ("--target=aarch64-linux-android24",)
    assert compiler.identity == "clang 99"
    assert Path(compiler.cpp[0]).name == "clang++"
    with pytest.raises(StageError, match=r"doesn't compile: error: --target=aarch64-linux-android24 .*-march=armv8-a"):
        build_native("android", tmp_path / "out", ndk=ndk, cache=_cache(tmp_path))
    with pytest.raises(InputError, match="no NDK there"):
        build_native("android", tmp_path / "out", ndk=tmp_path, cache=_cache(tmp_path))


def _cache(tmp_path: Path) -> Path:
    """A cache with a source in it, so that nothing is fetched."""
    from edgestill.runtime.native.source import VERSION, llama_source

    folder = tmp_path / "cache"
    folder.mkdir(exist_ok=True)
    link = folder / f"llama.cpp-{VERSION}"
    if not link.exists():
        link.symlink_to(llama_source())
    return folder


def test_a_toolchain_file_names_the_compiler(tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(TOOLCHAIN)
    compiler = toolchain_compiler(path)
    assert (compiler.c, compiler.cpp, compiler.flags) == (("cc",), ("c++", "-pipe"), ("-O1",))
    for text in ("c = [", TOOLCHAIN + "cxx = []", 'c = ["cc"]', 'c = "cc"\ncpp = ["c++"]'):
        path.write_text(text)
        with pytest.raises(InputError, match="not a toolchain file"):
            toolchain_compiler(path)
    path.write_text(TOOLCHAIN.replace('"cc"', '"no-such-compiler"'))
    with pytest.raises(InputError, match="no program 'no-such-compiler'"):
        toolchain_compiler(path)
    with pytest.raises(InputError, match="not a toolchain file"):
        toolchain_compiler(tmp_path / "none.toml")


def test_a_program_that_does_nothing_is_linked_beside_the_rest(tmp_path: Path) -> None:
    with _runtime_libraries(Compiler(("cc",), ("c++",)), ["-static"], tmp_path) as process:
        assert process.wait() == 0
    subprocess.run([tmp_path / "nothing"], check=True)
    with _runtime_libraries(Compiler(("false",), ("false",)), [], tmp_path) as process:
        assert process.wait() != 0  # the real linking tells it


def test_a_file_that_does_not_compile_is_told_at_once_and_nothing_goes_on(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 600 & echo $! >>$0.children\nwait\n")
    slow.chmod(0o755)
    with (
        pytest.raises(StageError, match="no"),
        _runtime_libraries(Compiler((), (str(slow),)), [], tmp_path),
    ):
        while not (children := tmp_path / "slow.children").is_file() or not children.read_text().endswith("\n"):
            time.sleep(0.01)
        raise StageError("no")
    child = int(children.read_text())
    for _ in range(500):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    pytest.fail("what the linker had started still runs")


def test_clang_and_gcc_know_every_levels_flags() -> None:
    """Of this machine's kind of processor; the others' flags need their compilers."""
    compiler = shutil.which("c++")
    assert compiler is not None
    machine = subprocess.run([compiler, "-dumpmachine"], capture_output=True, text=True, check=True).stdout
    kind = "x86" if machine.startswith("x86_64") else "arm64"
    for level in PROCESSORS[kind].levels:
        command = [compiler, *level.flags, "-x", "c++", "-E", "/dev/null"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0, level.flags


def test_every_target_has_flags_for_zig_and_for_others() -> None:
    for target in TARGETS.values():
        assert target.levels in PROCESSORS or (target.zig and target.flags)
    for target in ANDROID_ABIS.values():
        assert target.levels in PROCESSORS or target.flags


@pytest.mark.parametrize(
    ("macros", "off"),
    [
        ("#define __AMX_TILE__ 1\\n#define __GNUC__ 12\\n#define __GNUC_MINOR__ 2\\n", True),
        ("#define __AMX_TILE__ 1\\n#define __GNUC__ 12\\n#define __GNUC_MINOR__ 4\\n", False),
        ("#define __AMX_TILE__ 1\\n#define __GNUC__ 13\\n#define __GNUC_MINOR__ 2\\n", True),
        ("#define __AMX_TILE__ 1\\n#define __GNUC__ 14\\n#define __GNUC_MINOR__ 1\\n", False),
        ("#define __AMX_TILE__ 1\\n#define __clang__ 1\\n#define __GNUC__ 4\\n#define __GNUC_MINOR__ 2\\n", False),
        ("#define __AVX2__ 1\\n#define __GNUC__ 12\\n#define __GNUC_MINOR__ 2\\n", False),
    ],
)
def test_amx_is_left_out_with_a_compiler_that_drops_its_configuration(
    macros: str, off: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(f"#!/bin/sh\nprintf '{macros}'\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert ("-mno-amx-tile" in host_compiler().flags) is off
