"""What a device can do at most, by the program and by the library."""

from __future__ import annotations

import json
import os
import resource
import subprocess
from typing import get_args

import pytest

from edgestill.runtime.native.binding import NativeLibrary
from edgestill.runtime.native.build import NativeBuild
from edgestill.runtime.products import SIZES, ProductWeights

RATES = {"read_bytes_per_second", "int8_ops_per_second", "float32_ops_per_second"}


def test_the_program_prints_one_line(built: NativeBuild) -> None:
    assert built.program is not None
    done = subprocess.run([built.program, "probe"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    document = json.loads(done.stdout)
    assert next(iter(document.items())) == ("schema", "edgestill.probe/1")
    counts = [row["threads"] for row in document["threads"]]
    assert counts == sorted({1, counts[-1]})
    assert counts[-1] <= (os.cpu_count() or 1)
    for row in document["threads"]:
        assert all(row[name] > 0 for name in RATES)
    assert document["read_bytes"] >= 1 << 20
    assert {product["weights"] for product in document["products"]} == set(get_args(ProductWeights))
    for product in document["products"]:
        assert product["threads"] in counts
        assert product["read_bytes"] == pytest.approx(
            min(SIZES, key=lambda size: abs(size - product["read_bytes"])), 0.1
        )
        assert product["bytes_per_second"] > 0


def test_the_library_says_the_same_of_the_device(built: NativeBuild) -> None:
    document = NativeLibrary(built.library).probe()
    assert document["schema"] == "edgestill.probe/1"
    assert all(set(row) == {"threads", *RATES} for row in document["threads"])


def test_a_model_is_bad_usage(built: NativeBuild) -> None:
    assert built.program is not None
    done = subprocess.run([built.program, "probe", "model"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: probe takes no model")


@pytest.mark.parametrize("megabytes", [40, 60, 80, 120, 160])
def test_too_little_memory_is_an_error_or_enough(built: NativeBuild, megabytes: int) -> None:
    assert built.program is not None
    if "-fsanitize" in os.environ.get("EDGESTILL_NATIVE_FLAGS", ""):
        pytest.skip("a sanitizer reserves terabytes of addresses")

    def hold() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    done = subprocess.run([built.program, "probe"], capture_output=True, text=True, check=False, preexec_fn=hold)
    assert done.returncode >= 0  # no signal
    assert done.returncode == 0 or done.stderr.strip()
