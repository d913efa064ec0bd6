"""Profiles: every one that ships is whole and sourced; what is wrong in a file is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.devices.profile import Profile, find_profile, load_profile, profile_toml, shipped_profiles, write_profile
from edgestill.devices.profile_here import profile_here
from edgestill.errors import InputError
from tests.devices.made_up import made_up_profile

KINDS = ("raspberry-pi-zero-2w", "raspberry-pi-3b-plus", "raspberry-pi-4", "raspberry-pi-5", "jetson-orin-nano",
         "android-low", "android-mid", "android-high", "n100-gateway", "visionfive-2")  # fmt: skip
ENOUGH = ("ram_bytes", "free_ram_bytes", "read_bandwidth_bytes_per_second", "read_bandwidth_one_core_bytes_per_second",
          "float32_ops_per_second", "float32_ops_one_core_per_second")  # fmt: skip


def test_the_profiles_that_are_promised_ship() -> None:
    assert set(KINDS) == set(shipped_profiles())


@pytest.mark.parametrize("name", KINDS)
def test_a_shipped_profile_has_what_a_plan_needs_and_says_where_each_figure_is_from(name: str) -> None:
    profile = find_profile(name)
    assert profile.name == name
    assert set(ENOUGH) <= set(profile.figures())
    for key, figure in profile.figures().items():
        assert len(figure.source) > 15, key
        assert figure.error is not None, key
        assert figure.basis == "measured" or figure.basis in ("derived", "estimated"), key


@pytest.mark.parametrize("name", KINDS)
def test_what_an_estimate_is_worth_is_said(name: str) -> None:
    rates = {key: figure for key, figure in find_profile(name).figures().items() if key.endswith("per_second")}
    for key, figure in rates.items():
        if figure.basis == "estimated":
            assert (figure.error or 0.0) >= 0.1, key


@pytest.mark.parametrize("name", KINDS)
def test_a_profile_is_read_back_as_it_was_written(name: str, tmp_path: Path) -> None:
    profile = find_profile(name)
    write_profile(profile, tmp_path / "copy.toml")
    assert load_profile(tmp_path / "copy.toml") == profile


@given(st.text(min_size=1), st.floats(1e-3, 1e18))
def test_any_source_and_any_number_survive_being_written(
    tmp_path_factory: pytest.TempPathFactory, text: str, value: float
) -> None:
    plain = text.encode("utf-8", "replace").decode()
    profile = made_up_profile(free_disk_bytes=value).model_copy(update={"source": plain, "title": plain})
    path = tmp_path_factory.mktemp("profile") / "one.toml"
    write_profile(profile, path)
    assert load_profile(path) == profile


@pytest.mark.parametrize("name", KINDS)
def test_more_threads_never_read_or_compute_less(name: str) -> None:
    profile = find_profile(name)
    for rate in (profile.read_bandwidth, profile.float32_rate):
        values = [figure.value for threads in range(1, profile.cores + 1) if (figure := rate(threads)) is not None]
        assert len(values) == profile.cores
        assert values == sorted(values)


def test_without_a_rate_of_one_core_only_all_cores_have_one() -> None:
    profile = made_up_profile(read_bandwidth_one_core_bytes_per_second=0)
    assert profile.read_bandwidth(1) is None
    assert (all_cores := profile.read_bandwidth(4)) is not None
    assert all_cores.value == 8e9


def test_what_a_cache_holds_is_read_at_its_rate() -> None:
    profile = made_up_profile(
        cached_bytes=16e6,
        cached_read_bandwidth_bytes_per_second=24e9,
        cached_read_bandwidth_one_core_bytes_per_second=9e9,
    )
    for threads, read_bytes, rate in ((1, 16e6, 9e9), (2, 1e6, 18e9), (4, 16e6, 24e9), (4, 24e6, 12e9), (4, 32e6, 8e9)):
        figure = profile.read_bandwidth(threads, read_bytes)
        assert figure is not None
        assert figure.value == pytest.approx(rate)
    whole, without = profile.read_bandwidth(4), made_up_profile(cached_bytes=16e6).read_bandwidth(4, 1e6)
    assert whole is not None
    assert whole == without  # measured for memory alone


def test_a_single_fast_core_is_joined_by_the_next_cluster() -> None:
    assert find_profile("android-high").fast_cores == 4
    assert find_profile("raspberry-pi-5").fast_cores == 4


def wrong(tmp_path: Path, old: str, new: str) -> str:
    text = profile_toml(made_up_profile())
    assert old in text
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_profile(path)
    said = str(caught.value)
    assert "\n" not in said
    assert str(path) in said
    return said


def test_a_misspelt_key_is_named_with_the_right_one(tmp_path: Path) -> None:
    said = wrong(tmp_path, "[free_ram_bytes]", "[free_ram_byte]")
    assert "free_ram_byte" in said
    assert "do you mean free_ram_bytes?" in said


def test_a_figure_without_a_source_is_refused(tmp_path: Path) -> None:
    assert "ram_bytes.source" in wrong(tmp_path, 'source = "made up"\nerror', "error")


def test_a_misspelt_basis_is_refused(tmp_path: Path) -> None:
    assert "ram_bytes.basis" in wrong(tmp_path, 'basis = "measured"', 'basis = "guessed"')


def test_a_negative_and_an_infinite_figure_are_refused(tmp_path: Path) -> None:
    assert "ram_bytes.value" in wrong(tmp_path, "value = 1000000000", "value = -1")
    assert "ram_bytes.value" in wrong(tmp_path, "value = 1000000000", "value = inf")


def test_more_free_memory_than_there_is_is_refused(tmp_path: Path) -> None:
    assert "free_ram_bytes" in wrong(tmp_path, "value = 600000000", "value = 2e9")


def test_another_schema_is_refused(tmp_path: Path) -> None:
    assert "edgestill.profile/9" in wrong(tmp_path, "edgestill.profile/1", "edgestill.profile/9")


def test_what_is_not_toml_is_refused(tmp_path: Path) -> None:
    assert "not TOML" in wrong(tmp_path, 'name = "', "name = ")


def test_a_missing_file_and_an_unknown_name_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        find_profile(str(tmp_path / "none.toml"))
    with pytest.raises(InputError, match="do you mean raspberry-pi-5"):
        find_profile("raspberry-pi5")
    with pytest.raises(InputError, match=r"one of android-high, .*visionfive-2"):
        find_profile("no/such board")


def test_a_device_of_the_user_has_the_profile_that_its_table_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGESTILL_DEVICES", str(tmp_path / "devices.toml"))
    write_profile(made_up_profile(), tmp_path / "mine.toml")
    (tmp_path / "devices.toml").write_text(
        '[kitchen]\ndriver = "local"\nprofile = "raspberry-pi-4"\n\n'
        '[cellar]\ndriver = "local"\nprofile = "mine.toml"\n\n[attic]\ndriver = "local"\n'
    )
    assert find_profile("kitchen").name == "raspberry-pi-4"
    assert find_profile("cellar").name == "board"
    with pytest.raises(InputError, match="devices probe attic"):
        find_profile("attic")


def test_a_probed_profile_beside_the_file_of_devices_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESTILL_DEVICES", str(tmp_path / "devices.toml"))
    (tmp_path / "profiles").mkdir()
    write_profile(made_up_profile(), tmp_path / "profiles" / "attic.toml")
    assert find_profile("attic").title == "A board"


def test_this_machine_is_measured_into_a_profile(tmp_path: Path) -> None:
    profile = profile_here()
    assert {"read_bandwidth_bytes_per_second", "float32_ops_one_core_per_second"} <= set(profile.figures())
    write_profile(profile, tmp_path / "here.toml")
    assert load_profile(tmp_path / "here.toml") == profile


def test_profiles_are_equal_by_value() -> None:
    assert made_up_profile() == Profile.model_validate(made_up_profile().model_dump(by_alias=True))
