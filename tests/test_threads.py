"""How long OpenMP's threads spin: what a library that reads its environment once finds there."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgestill.threads import measuring_environment

OPEN = """
import os
from edgestill.runtime.engines.llama_cpp import library
before = dict(os.environ)
library()
assert dict(os.environ) == before
"""


@pytest.mark.parametrize(
    ("chosen", "found"),
    [({}, "'10000'"), ({"GOMP_SPINCOUNT": "77"}, "'77'"), ({"OMP_WAIT_POLICY": "passive"}, "'0'")],
)
def test_llama_cpp_s_threads_spin_for_a_moment_unless_the_user_chose(chosen: dict[str, str], found: str) -> None:
    pytest.importorskip("llama_cpp")
    environment = {name: value for name, value in measuring_environment().items() if not name.startswith("OMP_")}
    environment.pop("GOMP_SPINCOUNT", None)
    ran = subprocess.run(
        [sys.executable, "-c", OPEN],
        env={**environment, **chosen, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    if "GOMP_SPINCOUNT" not in ran.stderr:
        pytest.skip("llama.cpp was built without GNU's OpenMP")
    said = next(line for line in ran.stderr.splitlines() if "GOMP_SPINCOUNT" in line)
    assert said.split("=")[1].strip() == found, ran.stderr
