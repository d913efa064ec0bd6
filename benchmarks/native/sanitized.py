"""The native tests under AddressSanitizer and UndefinedBehaviorSanitizer, and its threads under ThreadSanitizer.

    python benchmarks/native/sanitized.py address [--jobs 2]
    python benchmarks/native/sanitized.py thread BUNDLE [--jobs 2]

``address`` runs tests/runtime/native with a library that is compiled with both and linked to the installed
llama-cpp-python (Python's memory isn't counted as leaks). ``thread`` compiles llama.cpp too, so that all of the
process is watched, and runs threads.cpp: cancelling from other threads, and two sessions at once. Exit status 1 for a
report of a sanitizer or a test that fails.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from edgestill.runtime.native.build import HERE, build_native

ADDRESS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1"
THREAD = ("-fsanitize=thread", "-g1", "-O1")


def library_of(name: str) -> str:
    """Return the path of a sanitizer's shared library, which the process must load first."""
    return subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()


def address(jobs: int) -> int:
    """Run the native tests."""
    with tempfile.TemporaryDirectory() as scratch:
        # For the cache: else each of the tests' processes compiles it all, by a compiler that the sanitizers slow down.
        build_native("host", Path(scratch) / "built", installed_llama=True, extra_flags=ADDRESS.split(), jobs=jobs)
    environment = {
        **os.environ,
        "EDGESTILL_NATIVE_FLAGS": ADDRESS,
        "LD_PRELOAD": f"{library_of('libasan.so')} {library_of('libubsan.so')} {library_of('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    tests = Path(__file__).resolve().parents[2] / "tests" / "runtime" / "native"
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(jobs), "-p", "no:cacheprovider", str(tests)]
    return subprocess.run(command, env=environment, check=False).returncode


def thread(bundle: Path, jobs: int) -> int:
    """Compile everything and run threads.cpp."""
    with tempfile.TemporaryDirectory() as scratch:
        built = build_native("host", Path(scratch) / "built", extra_flags=THREAD, jobs=jobs)
        program = Path(scratch) / "threads"
        source = Path(__file__).with_name("threads.cpp")
        folder = built.library.parent
        linked = [f"-I{HERE / 'include'}", f"-L{folder}", "-ledgestill", f"-Wl,-rpath,{folder}"]
        subprocess.run(["c++", "-std=c++17", *THREAD, str(source), "-o", str(program), *linked], check=True)
        environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=0:exitcode=66"}
        return subprocess.run([str(program), str(bundle)], env=environment, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("address", "thread"))
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if options.what == "address":
        return int(address(options.jobs) != 0)
    if options.bundle is None:
        parser.error("thread wants a bundle")
    return int(thread(options.bundle, options.jobs) != 0)


if __name__ == "__main__":
    sys.exit(main())
