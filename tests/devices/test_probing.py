"""A profile from a device: its rates as its runner measures them, left out where they mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.devices.contract import Driver, Job
from edgestill.devices.derive import derive_prefill
from edgestill.devices.probing import products_of, profile_of, rates_of
from edgestill.devices.profile import load_profile, write_profile
from edgestill.devices.registry import checked, make_driver
from edgestill.devices.shell_job import arguments
from edgestill.runtime.native.build import NativeBuild
from tests.devices.contract_targets import LocalTarget
from tests.devices.made_up import made_up_facts, made_up_profile

ONE = {"threads": 1, "read_bytes_per_second": 8e9, "int8_ops_per_second": 9e10, "float32_ops_per_second": 5e10}
ALL = {"threads": 4, "read_bytes_per_second": 2e10, "int8_ops_per_second": 3e11, "float32_ops_per_second": 1.5e11}
PRODUCT = {"weights": "q8_0", "threads": 1, "read_bytes": 16 << 20, "bytes_per_second": 4e9}
DOCUMENT = {"schema": "edgestill.probe/1", "threads": [ONE, ALL], "kernels": "AVX2", "products": [PRODUCT]}

RATES = {
    "read_bandwidth_one_core_bytes_per_second": 8e9,
    "read_bandwidth_bytes_per_second": 2e10,
    "int8_ops_one_core_per_second": 9e10,
    "int8_ops_per_second": 3e11,
    "float32_ops_one_core_per_second": 5e10,
    "float32_ops_per_second": 1.5e11,
}


def board(tmp_path: Path, body: str, kind: str = "local", **settings: object) -> Driver:
    """Return a device that isn't this machine to those who ask, its runner a few lines of shell."""
    driver = make_driver("board", checked("board", {"driver": kind, "root": str(tmp_path / "root")} | settings, "test"))
    driver.kind = "ssh" if kind == "local" else kind  # type: ignore[misc]
    program = tmp_path / "edgestill-run"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    driver.push({"edgestill-run": program}, "runner")
    return driver


def test_a_probe_needs_no_bundle() -> None:
    assert arguments(Job("probe")) == ["probe"]


def test_the_runners_rates_are_in_the_profile(tmp_path: Path) -> None:
    body = f"[ \"$*\" = probe ] || exit 3\necho '{json.dumps(DOCUMENT)}'"
    with board(tmp_path, body) as driver:
        probed = profile_of(driver, driver.probe())
    assert probed.notes == ()
    write_profile(probed.profile, tmp_path / "board.toml")
    figures = load_profile(tmp_path / "board.toml").figures()
    assert {key: figures[key].value for key in RATES} == RATES
    assert {figures[key].basis for key in RATES} == {"measured"}
    assert figures["int8_ops_per_second"].source == "edgestill-run probe, 4 threads"
    (product,) = load_profile(tmp_path / "board.toml").products
    assert (product.weights, product.threads, product.read_bytes, product.value) == ("q8_0", 1, 16 << 20, 4e9)
    assert product.source == "edgestill-run probe, 1 thread"


@pytest.mark.parametrize(
    "products",
    [
        *(None, 1, [None], [{}]),
        *([{**PRODUCT, **change}] for change in ({"weights": "q9"}, {"threads": 0}, {"read_bytes": -1})),
    ],
)
def test_what_is_no_product_is_left_out(products: object) -> None:
    assert products_of({"products": products}) == ()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo 'error: probe is no command' >&2; exit 2", "probe is no command"),
        ("echo '{}'", "edgestill deploy brings one of this version"),
        ('echo \'{"schema": "edgestill.probe/1", "threads": []}\'', "holds none"),
    ],
)
def test_a_runner_that_measures_nothing_is_said(tmp_path: Path, body: str, why: str) -> None:
    with board(tmp_path, body) as driver:
        probed = profile_of(driver, driver.probe())
    (note,) = probed.notes
    assert note.startswith("board: read bandwidth and rates aren't measured: ")
    assert why in note
    assert not probed.profile.figures().keys() & RATES.keys()
    assert probed.profile.ram_bytes is not None


def test_a_device_without_a_runner_is_said(tmp_path: Path) -> None:
    with board(tmp_path, "exit 1") as driver:
        driver.remove("runner")
        (note,) = profile_of(driver, driver.probe()).notes
    assert "edgestill deploy brings it" in note


def test_times_that_mean_nothing_are_left_out(tmp_path: Path) -> None:
    with board(tmp_path, "exit 1", "limited", memory_bytes=64 << 20) as driver:
        probed = profile_of(driver, driver.probe())
    assert "its times mean nothing" in probed.notes[0]
    assert not probed.profile.figures().keys() & RATES.keys()


def test_all_cores_are_never_slower_than_one() -> None:
    slower = {name: value if name == "threads" else value / 8 for name, value in ALL.items()}
    rates = rates_of({"threads": [slower, ONE]})
    assert rates["read_bandwidth_bytes_per_second"].value == 8e9
    assert rates["read_bandwidth_bytes_per_second"].source == "edgestill-run probe, 1 thread"


JSON = st.recursive(
    st.sampled_from([None, True, False, 0, -1, 3, 1e300, 10**400, float("inf"), float("nan"), "", "4", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ONE, "x"]), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["threads", "schema"]), JSON))
def test_any_document_is_read_without_an_error(document: dict[str, object]) -> None:
    assert all(figure.value > 0 for figure in rates_of(document).values())


def test_the_real_runner_is_read(tmp_path: Path, native_build: NativeBuild) -> None:
    target = LocalTarget(tmp_path, native_build)
    with target.driver() as driver:
        driver.push(target.runner, "runner")
        driver.kind = "ssh"  # type: ignore[misc]
        probed = profile_of(driver, driver.probe())
    assert probed.notes == ()
    assert RATES.keys() <= probed.profile.figures().keys()


def test_a_rate_that_the_engine_measured_is_not_taken_for_a_blas() -> None:
    facts, blas = made_up_facts(), made_up_profile()
    figure = blas.float32_ops_per_second
    assert figure is not None
    engine = blas.model_copy(
        update={"float32_ops_per_second": figure.model_copy(update={"source": "edgestill-run probe, 4 threads"})}
    )
    first, second = (derive_prefill(facts, one, threads=4, prompt_tokens=64).value for one in (blas, engine))
    assert first is not None
    assert second is not None
    assert second > first
