"""Cases of the contract that every driver keeps: probe, jobs, checks and deployments."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgestill.bundle import Bundle, _content_sha256, _digest, open_bundle
from edgestill.devices.bringing import bundle_files
from edgestill.devices.contract import (
    DeviceBusy,
    DeviceError,
    DeviceGone,
    Driver,
    Job,
    JobCancelled,
    JobFailed,
    JobTimeout,
    RunResult,
)
from edgestill.devices.deploy import chosen_artifacts, deploy
from edgestill.errors import BundleError, GateError, UnsupportedError
from edgestill.storage import sha256_file, write_text
from tests.devices.contract_ground import Ground, case, one_line

LONG = {"repetitions": 1_000_000, "prompt_tokens": 4, "new_tokens": 4}
SHORT = {"repetitions": 1, "prompt_tokens": 4, "new_tokens": 4}


def pushed(ground: Ground) -> str:
    """Bring the runner and the bundle; returns its folder there."""
    files = ground.target.runner
    ground.driver.push(files, "runner")
    ground.driver.push(
        bundle_files(ground.bundle, chosen_artifacts(ground.bundle, ground.driver, [])), "my bundle's $x"
    )
    return "my bundle's $x"


def long_bench(ground: Ground, driver: Driver, bundle: str, **options: object) -> RunResult:
    options = {"timeout_seconds": 60, **options}
    return driver.run(Job("bench", bundle, options=LONG), **options)  # type: ignore[arg-type]


def when_running(ground: Ground, act: object) -> threading.Thread:
    """Call ``act`` once a bench runs on the device."""
    assert callable(act)

    def wait() -> None:
        deadline = time.monotonic() + 20
        while not any(" bench " in line and "edgestill-run" in line for line in ground.target.processes()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.1)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def nothing_runs(ground: Ground, seconds: float = 5.0) -> None:
    """See that nothing of a job runs on the device, soon."""
    deadline = time.monotonic() + seconds
    while left := ground.target.processes():
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@case
def a_probe_says_cores_memory_and_disk(ground: Ground) -> None:
    found = ground.driver.probe()
    assert (found.device, found.kind) == ("box", ground.driver.kind)
    assert found.cores >= 1
    assert found.ram_bytes is not None
    assert found.free_ram_bytes is not None
    assert found.ram_bytes >= found.free_ram_bytes > 1 << 20
    assert found.free_disk_bytes is not None
    assert found.system
    assert found.machine
    assert not ground.target.root.exists()


@case
def a_self_test_runs(ground: Ground) -> None:
    bundle = pushed(ground)
    result = ground.driver.run(Job("selftest", bundle))
    assert result.document is not None
    assert result.document["schema"] == "edgestill.selftest/1"
    nothing_runs(ground)


@case
def lines_come_while_it_runs(ground: Ground) -> None:
    bundle = pushed(ground)
    seen: list[str] = []
    ground.driver.run(Job("selftest", bundle), on_line=seen.append)
    assert json.loads("\n".join(seen))["schema"] == "edgestill.selftest/1"


@case
def a_bench_measures_or_says_why_not(ground: Ground) -> None:
    result = ground.driver.run(Job("bench", pushed(ground), options=SHORT))
    assert result.document is not None
    (record,) = result.document["results"]  # type: ignore[misc]
    rate = record["decode_tokens_per_second"]
    if ground.driver.latency:
        assert rate["value"] > 0
        assert result.seconds is not None
    else:
        assert rate["value"] is None
        assert rate["source"] in result.notes[-1]
        assert record["load_seconds"]["value"] is None
        assert not any("seconds" in name for name in record["raw"])
        assert (result.seconds, result.lines) == (None, ())


@case
def values_reach_the_program_unchanged(ground: Ground) -> None:
    for value in ("a b  'c' \"d\" $HOME `id` \\ é", "-x", "*"):
        with pytest.raises(JobFailed) as error:
            ground.driver.run(Job("selftest", pushed(ground), artifact=value))
        one_line(error.value)
        assert value in str(error.value)


@case
def an_unknown_option_is_refused(ground: Ground) -> None:
    with pytest.raises(ValueError, match="none of the runner's options"):
        ground.driver.run(Job("bench", "box", options={"reptitions": 3}))


@case
def a_program_that_fails_says_why(ground: Ground) -> None:
    pushed(ground)
    with pytest.raises(JobFailed, match="no bundle") as error:
        ground.driver.run(Job("selftest", "no bundle"))
    one_line(error.value)
    nothing_runs(ground)


@case
def a_device_without_the_program_says_so(ground: Ground) -> None:
    ground.push({"manifest.json": b"{}"})
    with pytest.raises(JobFailed, match="deploy brings it") as error:
        ground.driver.run(Job("selftest", "box"))
    one_line(error.value)


@case
def a_job_ends_at_its_time_limit(ground: Ground) -> None:
    bundle = pushed(ground)
    with pytest.raises(JobTimeout, match="2 s") as error:
        long_bench(ground, ground.driver, bundle, timeout_seconds=2)
    one_line(error.value)
    nothing_runs(ground)


@case
def a_cancelled_job_runs_no_longer(ground: Ground) -> None:
    bundle = pushed(ground)
    stop = threading.Event()
    when_running(ground, stop.set)
    with pytest.raises(JobCancelled) as error:
        long_bench(ground, ground.driver, bundle, cancelled=stop)
    one_line(error.value)
    nothing_runs(ground)


@case
def a_job_that_a_listener_breaks_runs_no_longer(ground: Ground) -> None:
    bundle = pushed(ground)

    def interrupted(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ground.driver.run(Job("selftest", bundle), on_line=interrupted)
    nothing_runs(ground)


@case
def a_second_bench_at_once_is_refused(ground: Ground) -> None:
    bundle = pushed(ground)
    stop = threading.Event()
    refused: list[BaseException] = []

    def second() -> None:
        try:
            with ground.target.driver() as other:
                other.run(Job("bench", bundle, options=SHORT))
        except DeviceBusy as error:
            refused.append(error)
        finally:
            stop.set()

    when_running(ground, second)
    with pytest.raises(JobCancelled):
        long_bench(ground, ground.driver, bundle, cancelled=stop)
    one_line(refused[0])
    nothing_runs(ground)
    ground.driver.run(Job("bench", bundle, options=SHORT))


@case
def a_device_that_goes_in_the_middle_of_a_bench_is_usable_after(ground: Ground) -> None:
    bundle = pushed(ground)
    when_running(ground, ground.target.cut)
    with pytest.raises(DeviceGone) as error:
        long_bench(ground, ground.driver, bundle)
    one_line(error.value)
    nothing_runs(ground)
    assert ground.driver.run(Job("bench", bundle, options=SHORT)).document is not None


_HOST = """
import json, sys
from edgestill.devices.contract import Job
from edgestill.devices.registry import checked, make_driver
settings, bundle, options = json.loads(sys.argv[1])
with make_driver("box", checked("box", settings, "test")) as driver:
    driver.run(Job("bench", bundle, options=options))
"""


@case
def a_host_that_is_killed_leaves_nothing_running(ground: Ground) -> None:
    bundle = pushed(ground)
    ground.driver.close()
    ground.target.let_go()
    given = json.dumps([ground.target.settings(), bundle, LONG])
    host = subprocess.Popen([sys.executable, "-c", _HOST, given])
    when_running(ground, lambda: host.send_signal(signal.SIGKILL)).join(30)
    assert host.wait(10) == -signal.SIGKILL
    nothing_runs(ground)
    with ground.target.driver() as driver:
        assert driver.run(Job("bench", bundle, options=SHORT)).document is not None


@case
def a_check_finds_everything_in_place(ground: Ground) -> None:
    before = {check.name: check for check in ground.driver.check()}
    assert before["reach"].ok
    if ground.driver.uses_runner:
        assert before["runner"].ok is None
        assert "deploy" in before["runner"].cure
    assert not ground.target.root.exists()
    pushed(ground)
    missing = [check.name for check in ground.driver.check() if not check.ok]
    assert missing in ([], ["flock"] if "a_second_bench_at_once_is_refused" in ground.target.left_out else [])


@case
def a_program_that_does_not_start_is_found_by_the_check(ground: Ground) -> None:
    files = ground.local({"edgestill-run": b"\x7fELF no program"})
    files["edgestill-run"].chmod(0o755)
    ground.driver.push(files, "runner")
    found = {check.name: check for check in ground.driver.check()}["runner"]
    assert found.ok is False
    assert "edgestill runner build" in found.cure


@case
def a_deployment_brings_and_proves_a_bundle(ground: Ground) -> None:
    runner = ground.target.runner_program
    done = deploy(ground.bundle, ground.driver, runner=runner)
    assert done.artifacts == ("gguf-f32",)
    assert done.push.files_sent > 3
    there = ground.there(done.folder)
    assert {"manifest.json", "golden.jsonl", "tokenizer/tokenizer.json", "licenses/LICENSE"} < there.keys()
    assert not [name for name in there if name.startswith("artifacts/onnx") or name == "report.html"]
    # What else it could run would be sent too.
    names = list(done.artifacts) if "onnx" in ground.driver.formats else ["all"]
    again = deploy(ground.bundle, ground.driver, names, runner=runner)
    assert (again.push.files_sent, again.push.sent_bytes) == (0, 0)
    if ground.driver.uses_runner:
        assert again.runner is not None
        assert again.runner.sent_bytes == 0
    assert deploy(ground.bundle, ground.driver).runner is None


@case
def a_deployment_of_what_cannot_run_there_sends_nothing(ground: Ground) -> None:
    if "onnx" not in ground.driver.formats:
        with pytest.raises(UnsupportedError, match="gguf"):
            deploy(ground.bundle, ground.driver, ["onnx-fp32"], runner=ground.target.runner_program)
    with pytest.raises(BundleError, match="no artifact 'nope'"):
        deploy(ground.bundle, ground.driver, ["nope"], runner=ground.target.runner_program)
    if ground.driver.uses_runner:
        with pytest.raises(DeviceError, match="no runner there yet"):
            deploy(ground.bundle, ground.driver)
        foreign = ground.folder / "foreign"
        elf = bytearray(ground.target.runner_program.read_bytes()[:4096])
        elf[18:20] = (0x08).to_bytes(2, "little") if elf[18] == 0xF3 else (0xF3).to_bytes(2, "little")
        foreign.write_bytes(elf)
        with pytest.raises(DeviceError, match="this device is"):
            deploy(ground.bundle, ground.driver, runner=foreign)
    damaged = Path(shutil.copytree(ground.bundle.folder, ground.folder / "damaged"))
    with (damaged / "golden.jsonl").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"golden\.jsonl"):
        deploy(type(ground.bundle)(damaged, ground.bundle.manifest), ground.driver, runner=ground.target.runner_program)
    assert not ground.target.root.exists()


@case
def a_bundle_that_computes_otherwise_leaves_nothing(ground: Ground) -> None:
    wrong = with_other_answers(ground)
    with pytest.raises(GateError, match="golden prompt 1") as error:
        deploy(wrong, ground.driver, runner=ground.target.runner_program)
    one_line(error.value)
    assert not ground.target.root.exists()
    nothing_runs(ground)


def with_other_answers(ground: Ground) -> Bundle:
    """Return the bundle with golden answers that its model doesn't give, its hashes right."""
    folder = Path(shutil.copytree(ground.bundle.folder, ground.folder / "otherwise"))
    lines = [json.loads(line) for line in (folder / "golden.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        for ids in line["token_ids"].values():
            ids[0] += 1
    write_text(folder / "golden.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    files = tuple(
        entry.model_copy(
            update={
                "size_bytes": (folder / entry.path).stat().st_size,
                "sha256": sha256_file(folder / entry.path),
            }
        )
        for entry in ground.bundle.manifest.files
    )
    changed = {"files": files, "content_sha256": _content_sha256(files), "digest": "0" * 64}
    text = ground.bundle.manifest.model_copy(update=changed).model_dump_json(indent=2, by_alias=True) + "\n"
    write_text(folder / "manifest.json", text.replace("0" * 64, _digest(text), 1))
    return open_bundle(folder)
