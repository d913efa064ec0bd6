"""The browser as a device: what only it has. What it shares with all devices is in test_contract.py."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pytest

from edgestill.bench_results import BenchDocument
from edgestill.bundle import Bundle
from edgestill.devices.bringing import bundle_files
from edgestill.devices.chromium.folder import DeviceFolder
from edgestill.devices.chromium.server import HOST, ORIGIN
from edgestill.devices.contract import (
    DeviceBusy,
    DeviceGone,
    DriverError,
    Job,
)
from edgestill.devices.drivers.browser import Browser
from edgestill.errors import UnsupportedError
from edgestill.runtime.golden import read_golden
from edgestill.schemas import schema_text
from tests.devices.browser_target import browser, need_browser

ARTIFACTS = ("gguf-f32", "onnx-fp32")
SHORT = {"repetitions": 2, "prompt_tokens": 8, "new_tokens": 6}

Make = Callable[..., Browser]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_browser()
    return tmp_path_factory.mktemp("a browser's folder") / "device"


@pytest.fixture(scope="module")
def driver(folder: Path, ascii_bundle: Bundle) -> Iterator[Browser]:
    """A browser that has the bundle in ``bundle``."""
    with browser(folder) as opened:
        opened.push(bundle_files(ascii_bundle, ARTIFACTS), "bundle")
        yield opened


def document_of(found: object) -> BenchDocument:
    jsonschema.validate(found, json.loads(schema_text("bench")), jsonschema.Draft202012Validator)
    return BenchDocument.model_validate_json(json.dumps(found))


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_a_bench_is_a_document_of_ours(driver: Browser, artifact: str) -> None:
    result = driver.run(Job("bench", "bundle", artifact, {**SHORT, "threads": 2}))
    (record,) = document_of(result.document).results
    assert record.engine == {"gguf-f32": "wllama", "onnx-fp32": "onnxruntime-web"}[artifact]
    assert (record.threads, record.prompt_tokens, record.new_tokens, record.repetitions) == (2, 8, 6, 2)
    assert len(record.raw["inter_token_seconds"]) == 2 * 5
    assert record.decode_tokens_per_second.value is not None
    assert result.lines == (json.dumps(result.document, ensure_ascii=False),)


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_an_answer_has_the_golden_tokens(driver: Browser, ascii_bundle: Bundle, artifact: str) -> None:
    for golden in read_golden(ascii_bundle):
        key = "prompt" if isinstance(golden.prompt, str) else "messages"
        text = golden.prompt if isinstance(golden.prompt, str) else json.dumps([vars(one) for one in golden.prompt])
        options = {key: text, "max_new_tokens": golden.max_new_tokens, "temperature": 0.0}
        found = driver.run(Job("generate", "bundle", artifact, {**options, "print_ids": True}))
        assert found.lines == (",".join(map(str, golden.token_ids[artifact])),)


def test_an_answer_comes_in_lines_with_its_statistics(driver: Browser) -> None:
    seen: list[str] = []
    options = {"prompt": "Once upon a time", "max_new_tokens": 12, "statistics": True, "temperature": 0.0}
    found = driver.run(Job("generate", "bundle", "onnx-fp32", options), on_line=seen.append)
    assert tuple(seen) == found.lines
    assert "\n".join(seen).strip()
    assert json.loads(found.errors)["newTokens"] == 12


@pytest.mark.parametrize("settings", [{"emulate": "Pixel 7"}, {"cpu_throttling": 3.0}], ids=["emulated", "throttled"])
def test_times_that_say_nothing_are_null(tmp_path: Path, ascii_bundle: Bundle, settings: dict[str, object]) -> None:
    need_browser()
    with browser(tmp_path / "device", **settings) as driver:
        found = driver.probe()
        driver.push(bundle_files(ascii_bundle, ["onnx-fp32"]), "bundle")
        result = driver.run(Job("bench", "bundle", "onnx-fp32", SHORT))
        answer = driver.run(Job("generate", "bundle", "onnx-fp32", {"prompt": "x", "statistics": True}))
        driver.remove(".")
    assert (driver.latency, found.latency, answer.seconds, answer.errors) == (False, False, None, "")
    document = document_of(result.document)
    (record,) = document.results
    for figure in (record.load_seconds, record.ttft_seconds, record.decode_tokens_per_second):
        assert figure.value is None
        assert "nothing about a phone" in figure.source
    assert (result.seconds, result.lines, record.weights_bytes.value is not None) == (None, (), True)
    assert not any("seconds" in name for name in record.raw)
    if "emulate" in settings:
        assert "Pixel 7" in document.environment.versions["user agent"]
        assert (found.model, found.facts["touch"], "Android" in found.system) == ("Pixel 7", True, True)
    else:
        assert result.facts["throttled_by"] == found.facts["throttled_by"]
        assert found.facts["throttled_by"] in ("control group", "Chromium, the page's own thread alone")


def test_a_page_that_is_not_isolated_has_one_thread(tmp_path: Path, ascii_bundle: Bundle) -> None:
    need_browser()
    with browser(tmp_path / "device", isolated=False) as driver:
        assert driver.probe().facts["cross_origin_isolated"] is False
        assert {check.name: check.ok for check in driver.check()}["threads"] is None
        driver.push(bundle_files(ascii_bundle, ARTIFACTS), "bundle")
        for artifact in ARTIFACTS:
            result = driver.run(Job("bench", "bundle", artifact, SHORT))
            assert document_of(result.document).results[0].threads == 1
        with pytest.raises(UnsupportedError, match="isolated = true"):
            driver.run(Job("bench", "bundle", options={"threads": 2}))


def test_a_page_that_crashes_is_a_device_that_is_gone(driver: Browser) -> None:
    def crash() -> None:
        chromium = driver.chromium
        running = chromium._started()
        deadline = time.monotonic() + 20
        while len(running.context.pages) < 2 or not running.context.pages[-1].workers:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        session = chromium.wait(running.context.new_cdp_session(running.context.pages[-1]))
        chromium.begin_coroutine(session.send("Page.crash"))

    thread = threading.Thread(target=crash, daemon=True)
    thread.start()
    with pytest.raises(DeviceGone, match=r"^box: the browser went away"):
        driver.run(Job("bench", "bundle", "onnx-fp32", {**SHORT, "repetitions": 1_000_000}), timeout_seconds=60)
    thread.join(20)
    assert driver.run(Job("selftest", "bundle", "onnx-fp32")).document is not None


def test_another_process_that_has_the_browser_is_said(folder: Path, driver: Browser) -> None:
    holder = """
import sys, time
from pathlib import Path
from edgestill.devices.chromium.folder import BROWSER_LOCK, DeviceFolder
with DeviceFolder("other", Path(sys.argv[1])).held(BROWSER_LOCK, "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""
    driver.close()
    command = [sys.executable, "-c", holder, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(DeviceBusy, match="another edgestill holds this browser"):
            driver.probe()
        process.communicate("")
    assert driver.probe().cores >= 1


def test_a_browser_that_a_killed_host_left_is_ended(folder: Path, driver: Browser) -> None:
    driver.close()
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program is not None
    data = folder / "user-data"
    words = [program, "--headless", "--remote-debugging-port=0", f"--user-data-dir={data}", "about:blank"]
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to run for root
    quiet = subprocess.DEVNULL
    with subprocess.Popen([*words, *sandbox], stdout=quiet, stderr=quiet) as orphan:
        deadline = time.monotonic() + 20
        while not (data / "SingletonLock").is_symlink():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert driver.probe().cores >= 1
        assert orphan.wait(10) is not None
    driver.close()
    (data / "SingletonLock").symlink_to("another-machine-1")
    assert driver.files.listed("bundle")


def test_a_lock_of_a_process_that_is_no_browser_of_ours_ends_nothing(tmp_path: Path) -> None:
    place = DeviceFolder("box", tmp_path / "device")
    place.make()
    place.user_data.mkdir()
    with subprocess.Popen(["sleep", "60"]) as other:
        (place.user_data / "SingletonLock").symlink_to(f"{os.uname().nodename}-{other.pid}")
        place.end_orphan()
        assert other.poll() is None
        other.terminate()
    assert not (place.user_data / "SingletonLock").is_symlink()


def test_a_removal_of_all_deletes_our_folder_alone(tmp_path: Path) -> None:
    need_browser()
    device = tmp_path / "device"
    (tmp_path / "a").write_bytes(b"x")
    with browser(device) as driver:
        driver.push({"a": tmp_path / "a"}, "box")
        (device / "photo").write_bytes(b"dear")
        driver.remove(".")
        assert [path.name for path in device.iterdir()] == ["photo"]
        with pytest.raises(DriverError, match="aren't ours"):
            driver.push({"a": tmp_path / "a"}, "box")
        (device / "photo").unlink()
        driver.push({"a": tmp_path / "a"}, "box")
        driver.remove(".")
        assert not device.exists()
        driver.remove(".")
        assert not device.exists()


def test_the_page_reaches_nothing_but_its_server_and_needs_its_secret(driver: Browser) -> None:
    chromium = driver.chromium
    port = chromium.server.port
    urls = [f"http://127.0.0.1:{port}/", f"http://localhost:{port}/", "https://example.com/", "/x/run.js"]
    fetches = f"""Promise.all({urls}.map((url) => fetch(url).then((answer) => answer.status, () => 'refused')))"""
    assert chromium.evaluate(fetches) == ["refused", "refused", "refused", 404]
    path = chromium.server.url("run.js").removeprefix(ORIGIN)
    answered = {}
    for host in (HOST, "evil.example", f"127.0.0.1:{port}"):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                answered[host] = answer.status
        except urllib.error.HTTPError as error:
            answered[host] = error.code
    assert answered == {HOST: 200, "evil.example": 404, f"127.0.0.1:{port}": 404}


def test_hashes_in_pieces_are_sha256(driver: Browser) -> None:
    sizes = [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, 300_000]
    script = f"""import('./sha256.js').then(({{ Sha256 }}) => {sizes}.map((size) => {{
      const digest = new Sha256();
      const bytes = Uint8Array.from({{ length: size }}, (_, at) => (at * 7 + (at >> 8)) % 256);
      for (let at = 0, step = 1; at < size; at += step, step = (step * 3) % 1009) {{
        digest.update(bytes.subarray(at, at + step));
      }}
      return digest.hex();
    }}))"""
    expected = [hashlib.sha256(bytes((at * 7 + (at >> 8)) % 256 for at in range(size))).hexdigest() for size in sizes]
    assert driver.chromium.evaluate(script) == expected


def test_a_replacement_that_is_cut_is_finished_by_the_next_start(tmp_path: Path) -> None:
    need_browser()
    count = 120
    for version in (1, 2):
        (tmp_path / str(version)).mkdir()
        for number in range(count):
            (tmp_path / str(version) / f"{number * version}").write_bytes(b"%d" % version)
    older, newer = ({path.name: path for path in (tmp_path / one).iterdir()} for one in ("1", "2"))
    seen, cuts = set(), 0
    # On a busy machine it may be done before the kill arrives: then it is tried again.
    for moved in (1, count // 2, 1, 2, 3, 4, 5, 6):
        if cuts == 2:
            break
        with browser(tmp_path / "device") as driver:
            driver.push(older, "box")
            staged = driver.stage(newer, "box")
            future = driver.chromium.begin("replace", {"moves": [_move(driver, staged.folder, "box")]})
            while len(driver.files.listed("box") & newer.keys() - older.keys()) < moved and not future.done():
                pass
            os.kill(driver._folder.browser_processes()[0], signal.SIGKILL)
            try:
                driver.chromium.result_of(future)
            except DeviceGone:
                cuts += 1
            there = driver.files.listed("box")
            assert there in (older.keys(), newer.keys())
            seen.add(frozenset(there))
            version = b"1" if there == older.keys() else b"2"
            assert {driver.pull(f"box/{name}") for name in sorted(there)[:9]} == {version}
            driver.remove(".")
    assert cuts
    assert frozenset(newer) in seen


def _move(driver: Browser, staged: str, folder: str) -> dict[str, list[str]]:
    return {"from": driver.files._path(staged), "to": driver.files._path(folder)}
