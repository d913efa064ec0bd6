"""The browser driver without a bundle: names, packages, programs, settings and locks."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.cli import main
from edgestill.devices.chromium.files import decoded, encoded
from edgestill.devices.chromium.folder import BROWSER_LOCK, MARK, DeviceFolder
from edgestill.devices.chromium.installed import WebModules, needed_packages, vendored_files
from edgestill.devices.contract import DeviceBusy, DeviceError, DeviceUnreachable, Job, JobFailed
from edgestill.errors import UnsupportedError
from tests.devices.browser_target import browser, need_browser

NAMES = st.text(st.characters(exclude_characters="/\0", codec=None), min_size=1)


@given(NAMES.filter(lambda name: name not in (".", "..")))
def test_any_name_is_stored_as_a_valid_one(name: str) -> None:
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return  # no file system gives such a name
    (stored,) = encoded(name)
    assert stored.isascii()
    assert stored not in (".", "..", "")
    assert not set(stored) & set('/\\:*?"<>| \n')
    assert decoded(stored) == name


def test_a_browser_that_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with browser(tmp_path / "device", browser="/none/chromium") as driver:
        with pytest.raises(DeviceUnreachable, match="set browser to a Chromium's path"):
            driver.probe()
        last = driver.check()[-1]
        assert (last.name, last.ok, last.cure) == ("reach", False, "set browser to a Chromium's path")
    monkeypatch.setenv("PATH", str(tmp_path))
    with browser(tmp_path / "device") as driver, pytest.raises(DeviceUnreachable, match="no Chromium here"):
        driver.probe()
    monkeypatch.setitem(sys.modules, "playwright.async_api", None)
    with (
        browser(tmp_path / "device") as driver,
        pytest.raises(DeviceUnreachable, match=r"pip install 'edgestill\[browser\]'"),
    ):
        driver.probe()


def test_a_device_whose_browser_does_not_start_can_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    place = tmp_path / "edgestill" / "browsers" / "box"
    with browser(tmp_path, folder=None, browser="/none") as driver:
        DeviceFolder("box", place).make()
        (place / "user-data" / "Default").mkdir(parents=True)
        driver.remove(".")
        assert not place.exists()
    DeviceFolder("box", tmp_path / "shared").make()
    with browser(tmp_path / "shared", browser="/none") as driver, pytest.raises(DeviceUnreachable):
        driver.remove(".")


def test_a_program_that_is_no_browser_is_one_line(tmp_path: Path) -> None:
    program = tmp_path / "not a browser"
    program.write_text("#!/bin/sh\necho it is broken >&2\nexit 1\n")
    program.chmod(0o755)
    with browser(tmp_path / "device", browser=str(program)) as driver:
        with pytest.raises(DeviceUnreachable, match="doesn't start") as error:
            driver.probe()
        assert "\n" not in str(error.value)
        assert "it is broken" in str(error.value)


def test_packages_that_are_missing_are_said_with_the_command_that_brings_them(tmp_path: Path) -> None:
    modules = WebModules.of(tmp_path)
    for name, version in needed_packages().items():
        for file in vendored_files()[name]:
            (modules.folder / name / file).parent.mkdir(parents=True, exist_ok=True)
            (modules.folder / name / file).write_bytes(b"")
        (modules.folder / name / "package.json").write_text(json.dumps({"version": version}))
    assert modules.missing() == []
    (modules.folder / "onnxruntime-web" / "package.json").write_text('{"version": "0.0.1"}')
    (modules.folder / "@wllama" / "wllama" / "esm" / "wasm" / "wllama.wasm").unlink()
    shutil.rmtree(modules.folder / "@huggingface" / "jinja")
    with browser(tmp_path / "device", web_modules=str(tmp_path), browser="/none") as driver:
        with pytest.raises(JobFailed, match="npm install --prefix") as error:
            driver.run(Job("selftest", "bundle"))
        check = driver.check()[0]
    said = str(error.value)
    version = needed_packages()["onnxruntime-web"]
    for part in ("no @huggingface/jinja", "no esm/wasm/wllama.wasm", f"onnxruntime-web 0.0.1 instead of {version}"):
        assert part in said
    assert (check.name, check.ok, check.cure.startswith("npm install --prefix")) == ("runner", False, True)


def test_options_that_a_browser_has_not_are_refused_by_name(tmp_path: Path) -> None:
    with browser(tmp_path / "device") as driver:
        with pytest.raises(UnsupportedError, match="bench has no option 'kv_precision' in a browser"):
            driver.run(Job("bench", "bundle", options={"kv_precision": "q8_0"}))
        with pytest.raises(UnsupportedError, match="a browser doesn't measure the device itself"):
            driver.run(Job("probe"))
        for options, said in (({}, "one of prompt and messages"), ({"messages": "["}, "not JSON")):
            with pytest.raises(JobFailed, match=said):
                driver.run(Job("generate", "bundle", options=options))
    assert not (tmp_path / "device").exists()


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="root"):
        browser(tmp_path, root="../other")
    need_browser()
    with browser(tmp_path / "device", emulate="Pixel 77") as driver:
        with pytest.raises(DeviceError, match=r"no device of Playwright's list; like it: .*Pixel 7"):
            driver.probe()
        check = driver.check()[-1]
        assert (check.name, check.ok, "Pixel 77" in check.found) == ("reach", False, True)


def test_two_settings_of_one_folder_are_not_mixed(tmp_path: Path) -> None:
    with browser(tmp_path / "device") as one, browser(tmp_path / "device", emulate="Pixel 7") as other:
        assert one.chromium is not None
        with pytest.raises(DeviceBusy, match="open with other settings"):
            _ = other.chromium


def test_locks_are_between_processes_and_drivers(tmp_path: Path) -> None:
    place = DeviceFolder("box", tmp_path / "device")
    with place.held(BROWSER_LOCK, "busy"):
        with (
            pytest.raises(DeviceBusy, match=r"^box: busy$"),
            DeviceFolder("box", place.path).held(BROWSER_LOCK, "busy"),
        ):
            pass
        assert (place.path / MARK).is_file()
    assert place.browser_processes() == []


def test_a_browser_is_added_and_checked_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def edgestill(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as done:
            main(["devices", *words])
        return int(str(done.value.code or 0)), capsys.readouterr().out

    monkeypatch.setenv("EDGESTILL_DEVICES", str(tmp_path / "devices.toml"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    keys = ["--web-modules", "packages", "--emulate", "Pixel 7", "--set", "cpu_throttling=4", "--set", "browser=/none"]
    assert edgestill("add", "web", "--driver", "browser", *keys)[0] == 0
    (listed,) = [one for one in json.loads(edgestill("list", "--json")[1])["devices"] if one["name"] == "web"]
    settings = listed.get("settings", listed)
    assert settings["web_modules"] == str(tmp_path / "packages")
    assert (settings["emulate"], settings["cpu_throttling"]) == ("Pixel 7", 4)
    status, out = edgestill("check", "web")
    assert status == 1
    assert f"npm install --prefix {tmp_path / 'packages'} " in out
    assert "missing  reach: web: /none is no program here; set browser to a Chromium's path" in out
    assert edgestill("remove", "web")[0] == 0
    assert not (tmp_path / "data" / "edgestill" / "browsers" / "web").exists()
