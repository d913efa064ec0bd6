"""A thread of our own builds that waits for another lets others run; how often is counted, not timed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgestill.runtime.native.build import HERE
from edgestill.runtime.native.llama_units import kernel_units, version_headers
from edgestill.runtime.native.source import llama_source

# As ggml defines and calls it; sched_yield is counted here instead of made.
PROGRAM = r"""
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
static atomic_int pauses, yields;
int sched_yield(void) {
    atomic_fetch_add(&yields, 1);
    return 0;
}

static inline void ggml_thread_cpu_relax(void) {
    atomic_fetch_add(&pauses, 1);
}

static void *wait_long(void *nothing) {
    for (int i = 0; i < 12800; ++i) ggml_thread_cpu_relax();
    return nothing;
}

int main(void) {
    for (int i = 0; i < 127; ++i) ggml_thread_cpu_relax();
    printf("%d %d\n", pauses, yields);
    ggml_thread_cpu_relax();
    printf("%d %d\n", pauses, yields);
    pthread_t threads[2];
    for (int i = 0; i < 2; ++i) pthread_create(&threads[i], 0, wait_long, 0);
    for (int i = 0; i < 2; ++i) pthread_join(threads[i], 0);
    printf("%d %d\n", pauses, yields);
    return 0;
}
"""


@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_every_128th_pause_of_a_thread_lets_others_run(level: str, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(PROGRAM)
    header = str(HERE / "src" / "patient_threads.h")
    command = ["cc", "-std=c11", level, "-Wall", "-Wextra", "-Werror", "-include", header, "main.c", "-o", "main"]
    subprocess.run([*command, "-lpthread"], cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["127 0", "128 1", "25728 201"]


@pytest.mark.parametrize("kernels", ["x86", "arm", "riscv"])
def test_ggml_waits_in_that_way_alone(kernels: str, tmp_path: Path) -> None:
    tree = llama_source()
    units = kernel_units(tree, version_headers(tree, tmp_path), kernels)
    with_it = [unit for unit in units if any(flag.endswith("patient_threads.h") for flag in unit.flags)]
    assert [unit.source.name for unit in with_it] == ["ggml-cpu.c"]
    others = [unit.source for unit in units if unit not in with_it]
    assert not [path for path in others if "ggml_thread_cpu_relax" in path.read_text()]
    calls = with_it[0].source.read_text().count("ggml_thread_cpu_relax();")
    assert calls == 2  # in the barrier, and where threads wait for a graph
