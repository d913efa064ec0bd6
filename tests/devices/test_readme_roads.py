"""README's "On a Raspberry Pi", "On Android" and "In a web page": their very lines, with what only a real one has
replaced: the board's address by a real OpenSSH server's here, its ISA by this machine's, the phone by one of ours
behind the real adb program, the bundle's place by a small bundle's.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from edgestill.bundle import Bundle
from edgestill.runtime.native.build import NativeBuild
from tests.devices.adb_target import AdbTarget
from tests.devices.browser_target import PACKAGES, need_browser
from tests.devices.contract_targets import SshTarget

README = Path(__file__).resolve().parents[2] / "README.md"
SHORT = ["--prompt-tokens", "8", "--new-tokens", "6", "--repetitions", "3"]


def lines_under(heading: str) -> list[list[str]]:
    """Return the words of each line of the first shell block under a heading."""
    block = re.search(rf"^## {heading}\n.*?^```sh\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert block is not None, heading
    return [shlex.split(line, comments=True) for line in block[1].splitlines()]


class Road:
    """A user's folder, in which README's lines run one after the other."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "HOME": str(folder / "home"),
            "EDGESTILL_DEVICES": str(folder / "devices.toml"),
            "EDGESTILL_STORE": str(folder / "results.sqlite"),
        }
        (folder / "home").mkdir()
        (folder / "BUNDLE").symlink_to(bundle.folder)

    def walk(
        self, heading: str, replaced: Mapping[str, Sequence[str]], added: Mapping[str, Sequence[str]]
    ) -> list[str]:
        """Run a section's lines; return what each printed.

        ``replaced`` words of a line are others here, ``added`` words follow a line that begins so.
        """
        said = []
        for words in lines_under(heading):
            told = [other for word in words for other in replaced.get(word, [word])]
            for begins, more in added.items():
                told += more if " ".join(words).startswith(begins) else []
            said.append(self.run(told))
        return said

    def run(self, words: Sequence[str]) -> str:
        if words[0] == "npm":
            # What .ci/run has brought by npm; the versions are the app's own, which test_web_app.py compares.
            place = self.folder / words[words.index("--prefix") + 1]
            assert (place / "package.json").is_file()
            (place / "node_modules").symlink_to(PACKAGES / "node_modules")
            return ""
        assert words[0] == "edgestill"
        command = [sys.executable, "-m", "edgestill.cli", *words[1:]]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, f"{words}: {done.stderr[-1500:]}"
        return done.stdout


@pytest.fixture
def runner_folder(native_build: NativeBuild, tmp_path: Path) -> Path:
    folder = tmp_path / "runner-arm"
    folder.mkdir()
    for path in native_build.files:
        shutil.copy(path, folder)
    return folder


def test_on_a_raspberry_pi(native_build: NativeBuild, hostile_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "board").mkdir()
    target = SshTarget(tmp_path / "board", native_build)
    try:
        road = Road(tmp_path, hostile_bundle)
        replaced = {
            "aarch64-linux-musl": ["host", "--installed-llama"],
            "pi5.local": ["127.0.0.1", "--port", str(target.server.port), "--identity", str(target.server.identity)],
            "pi": [getpass.getuser(), "--root", str(target.root)],
        }
        built, added, deployed, measured = road.walk(
            r"On a Raspberry Pi", replaced, {"edgestill bench": [*SHORT, "--json"]}
        )
        assert "edgestill-run" in built
        assert "pi5" in added
        assert "gguf-f32" in deployed
        (result,) = json.loads(measured)["results"]
        assert result["device"] == "pi5"
        assert result["decode_tokens_per_second"]["value"] > 0
        assert (target.root / "runner" / "edgestill-run").is_file()
    finally:
        target.close()


def test_on_android(native_build: NativeBuild, runner_folder: Path, hostile_bundle: Bundle, tmp_path: Path) -> None:
    assert runner_folder.is_dir()  # as the section before leaves it
    (tmp_path / "phone").mkdir()
    target = AdbTarget(tmp_path / "phone", native_build)
    try:
        road = Road(tmp_path, hostile_bundle)
        settings = target.settings()
        here = ["--serial", settings["serial"], "--set", f"adb={settings['adb']}", "--root", settings["root"]]
        _, deployed, measured, _ = road.walk(
            "On Android", {}, {"edgestill devices add": here, "edgestill bench": [*SHORT, "--json"]}
        )
        assert "gguf-f32" in deployed
        (result,) = json.loads(measured)["results"]
        assert result["device"] == "phone"
        assert (tmp_path / "app" / "settings.gradle.kts").is_file()
    finally:
        target.close()


def test_in_a_web_page(ascii_bundle: Bundle, tmp_path: Path) -> None:
    need_browser()
    road = Road(tmp_path, ascii_bundle)
    here = ["--set", f"folder={tmp_path / 'browser'}"]
    said = road.walk("In a web page", {}, {"edgestill devices add": here, "edgestill bench": [*SHORT, "--json"]})
    assert (tmp_path / "site" / "index.html").is_file()
    assert all(name in said[3] for name in ("gguf-f32", "onnx-fp32"))
    results = json.loads(said[4])["results"]
    assert {result["model"].rpartition("#")[2] for result in results} == {"gguf-f32", "onnx-fp32"}
    assert all(result["device"] == "web" for result in results)
