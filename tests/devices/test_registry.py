"""The user's file of devices: what may stand in it, and how it is changed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.devices.contract import DeviceError
from edgestill.devices.registry import (
    add_device,
    device_settings,
    devices_file,
    driver_names,
    driver_type,
    named_devices,
    open_device,
    remove_device,
)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "settings" / "devices.toml"
    monkeypatch.setenv("EDGESTILL_DEVICES", str(path))
    return path


def test_every_file_of_a_driver_registers_one() -> None:
    for name in driver_names():
        assert driver_type(name).kind == name
        assert driver_type(name).summary


def test_the_local_device_is_always_there(file: Path) -> None:
    assert list(device_settings()) == ["local"]
    assert open_device("local").kind == "local"
    assert not file.exists()


def test_a_device_is_added_read_and_removed_and_comments_stay(file: Path) -> None:
    file.parent.mkdir()
    file.write_text('# mine\n[old]  # first\ndriver = "local"\n')
    add_device("pi5", {"driver": "ssh", "host": "pi", "port": 22, "jump": ["a@b:1"], "root": 'C:\\ "x" é\x7f\n'})
    settings = device_settings()["pi5"].model_dump()
    assert (settings["host"], settings["port"], settings["jump"]) == ("pi", 22, ("a@b:1",))
    assert settings["root"] == 'C:\\ "x" é\x7f\n'
    assert not stat.S_IMODE(file.stat().st_mode) & 0o022
    with pytest.raises(DeviceError, match="already"):
        add_device("pi5", {"driver": "local"})
    add_device("pi5", {"driver": "local"}, replace=True)
    remove_device("pi5")
    assert file.read_text() == '# mine\n[old]  # first\ndriver = "local"\n'
    assert named_devices() == ["old"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pi]\n", "driver is missing"),
        ('[pi]\ndriver = "telnet"\n', "'telnet' is not one of"),
        ('[pi]\ndriver = "ssh"\nhost = "x"\nhots = "y"\n', "'hots' is not a key of driver ssh; it has driver"),
        ('[pi]\ndriver = "ssh"\nhost = "x"\npassword = "y"\n', "no password is kept"),
        ('[pi]\ndriver = "ssh"\n', r"\[pi\]: host: Field required"),
        ('[pi]\ndriver = "ssh"\nhost = "x"\nport = 99999\n', "port 99999"),
        ('pi = "ssh"\n', "a device is a table"),
        ('["../x"]\ndriver = "local"\n', "letters, digits"),
        ("[pi\n", "not a readable file of devices"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_key(file: Path, text: str, said: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(DeviceError, match=said) as error:
        device_settings()
    assert "\n" not in str(error.value)
    assert error.value.exit_status == 2


def test_an_unknown_device_is_named_with_those_there_are(file: Path) -> None:
    add_device("pi", {"driver": "local"})
    with pytest.raises(DeviceError, match=r"'pj' is not in .*; there are: local, pi"):
        open_device("pj")
    with pytest.raises(DeviceError, match="is not in"):
        remove_device("pj")


def test_a_table_that_cannot_be_taken_out_by_itself_is_left(file: Path) -> None:
    file.parent.mkdir()
    file.write_text('pi.driver = "local"\n')
    with pytest.raises(DeviceError, match="edit the file"):
        remove_device("pi")
    assert file.read_text() == 'pi.driver = "local"\n'


def test_the_file_lies_in_the_users_folder_of_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGESTILL_DEVICES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert devices_file() == tmp_path / "edgestill" / "devices.toml"


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: text != ""))
def test_any_text_is_read_as_it_was_written(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "devices.toml"
        add_device("pi", {"driver": "local", "root": text}, path)
        assert device_settings(path)["pi"].model_dump()["root"] == text
