"""A new version beside the one in use: linked where the disk can, copied where it cannot, refused without room."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgestill.devices.contract import NoRoom
from edgestill.devices.drivers.local import Local
from edgestill.devices.shell_device import ShellSettings
from tests.devices.contract_ground import some_bytes

OLD = {"manifest.json": b"1", "same": some_bytes(3_000_000), "changed": b"old"}
NEW = {"manifest.json": b"2", "same": some_bytes(3_000_000), "changed": b"new"}


def device(root: Path, *, programs: Path | None = None) -> Local:
    """Return this machine as a device; ``programs`` is a folder of programs that come before its own."""
    driver = Local("box", ShellSettings(driver="local", root=str(root)))
    if programs is not None:
        path = f"{programs}:{os.environ['PATH']}"
        driver._environment = lambda: {**os.environ, "PATH": path}  # type: ignore[method-assign]
    return driver


def files(folder: Path, contents: dict[str, bytes]) -> dict[str, Path]:
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in contents}


def without_hard_links(tmp_path: Path) -> Path:
    """Return a folder with an ``ln`` that refuses, as Android's does."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "ln").write_text("#!/bin/sh\necho 'ln: Permission denied' >&2\nexit 1\n")
    (programs / "ln").chmod(0o755)
    return programs


def test_what_did_not_change_is_the_same_file_on_the_disk(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with device(root) as driver:
        driver.push(files(tmp_path / "old", OLD), "box")
        staged = driver.stage(files(tmp_path / "new", NEW), "box")
        assert (staged.report.files_kept, staged.report.sent_bytes) == (1, 4)
        assert (root / staged.folder / "same").samefile(root / "box" / "same")
        assert (root / "box" / "changed").read_bytes() == b"old"
        driver.replace({staged.folder: "box"})
    assert {name: (root / "box" / name).read_bytes() for name in NEW} == NEW
    assert (root / "box" / "same").stat().st_nlink == 1


def test_without_hard_links_it_is_copied(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with device(root, programs=without_hard_links(tmp_path)) as driver:
        driver.push(files(tmp_path / "old", OLD), "box")
        staged = driver.stage(files(tmp_path / "new", NEW), "box")
        assert (staged.report.files_kept, staged.report.sent_bytes) == (1, 4)
        assert not (root / staged.folder / "same").samefile(root / "box" / "same")
        driver.replace({staged.folder: "box"})
    assert {name: (root / "box" / name).read_bytes() for name in NEW} == NEW


def test_a_disk_that_has_no_room_for_a_copy_keeps_the_version_in_use(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    with unmounted_after(disk), device(disk / "root", programs=without_hard_links(tmp_path)) as driver:
        driver.push(files(tmp_path / "old", OLD), "box")
        newer = files(tmp_path / "new", NEW)
        with pytest.raises(NoRoom, match=r"3\.0 MB copied, as its disk has no hard links .* --in-place"):
            driver.stage(newer, "box")
        assert {path.name: path.read_bytes() for path in (disk / "root" / "box").iterdir()} == OLD
        driver.push(newer, "box")
        assert {path.name: path.read_bytes() for path in (disk / "root" / "box").iterdir()} == NEW


@contextlib.contextmanager
def unmounted_after(disk: Path) -> Iterator[None]:
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_files_are_on_the_disk_before_they_get_their_names(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    log = tmp_path / "log"
    for name in ("sync", "mv"):
        real = f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}"
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"{log}"\nexec {real} "$@"\n')
        (programs / name).chmod(0o755)
    with device(tmp_path / "root", programs=programs) as driver:
        driver.push(files(tmp_path / "new", {"manifest.json": b"{}", "a": b"small", "b": some_bytes(100_000)}), "box")
    done = [line.split()[0] for line in log.read_text().splitlines()]
    assert done == ["sync", "mv"] * 3
    assert "manifest.json" in log.read_text().splitlines()[-1]
