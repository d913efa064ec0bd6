"""The benchmark: what the worker times, how a death is told, what a record says."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgestill.bench_results import BenchDocument, MemoryLedger
from edgestill.cli import main
from edgestill.dataset import Message
from edgestill.errors import InputError, ModelFileError, StageError
from edgestill.figure import Figure
from edgestill.runtime import bench, bench_worker
from edgestill.runtime.bench import bench_answers, bench_model
from edgestill.runtime.bench_options import BenchOptions
from edgestill.runtime.environment import describe_environment
from edgestill.runtime.intervals import tail_samples
from edgestill.runtime.memory import read_memory
from edgestill.runtime.model_source import ModelSource

STUB = """
import json, os, signal, sys, time
request = json.load(sys.stdin)
def emit(**event):
    print(json.dumps(event), flush=True)
how = request["model"].rsplit("-", 1)[-1].removesuffix(".gguf")
if how == "refuse":
    emit(event="error", type="ModelFileError", message="it is not a model")
    sys.exit(2)
emit(event="loaded", import_seconds=1.0, load_seconds=0.5, engine="stub", threads=3, context_length=96,
     weights_bytes=None, pss_before=10, pss=50)
emit(event="prompt", tokens=32)
def times(scale):
    return {"answer_seconds": 0.8 * scale, "prompt_tokens": 32, "new_tokens": 4, "ttft_seconds": 0.2 * scale,
            "prefill_seconds": 0.16 * scale, "inter_token_seconds": [0.1 * scale, 0.2 * scale, 0.3 * scale]}
emit(event="warm", pss=70)
for number in range(request["repetitions"]):
    if number == 2 and how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 2 and how == "raises":
        raise SystemError("inside the engine")
    if number == 2 and how == "hangs":
        time.sleep(60)
    scale = 2 if how == "unsteady" and number % 2 else 5 if how == "straggler" and number == 3 else 1
    emit(event="repetition", times=times(scale), pss=60)
emit(event="finished", pss=70, peak_rss=99, other_cores=1.5)
"""


@pytest.fixture
def stub(replace_worker: Any) -> Any:
    """Replace the worker by one that says what the model's file name asks for."""
    return replace_worker(STUB)


def test_a_record_holds_medians_intervals_and_every_sample(stub: Any) -> None:
    record = bench_model(stub("steady"), BenchOptions(new_tokens=4, repetitions=6))
    assert (record.engine, record.threads, record.prompt_tokens, record.repetitions) == ("stub", 3, 32, 6)
    assert record.ttft_seconds.value == pytest.approx(0.2)
    assert record.ttft_seconds.ci95 == (0.2, 0.2)
    assert record.prefill_tokens_per_second.value == pytest.approx(200)
    assert record.decode_tokens_per_second.value == pytest.approx(5)
    assert record.inter_token_seconds.p50.value == pytest.approx(0.2)
    assert record.inter_token_seconds.p90.value is None
    assert "18 samples can't tell it; MLPerf's rule asks for 24,576" in record.inter_token_seconds.p90.source
    assert record.inter_token_seconds.p99.value is None
    assert record.means["answer_seconds"].value == pytest.approx(0.8)
    assert record.outliers == {}
    assert len(record.model_sha256 or "") == 64
    assert record.inter_token_seconds.p50.n == len(record.raw["inter_token_seconds"]) == 18
    assert record.peak_pss_bytes.value == 70
    assert record.peak_pss_bytes.n == 9
    assert record.peak_rss_bytes.value == 99
    assert (record.weights_bytes.value, record.weights_bytes.basis) == (1234, "derived")
    assert record.size_bytes == 1234
    assert record.raw["import_seconds"] == [1.0]


def test_enough_gaps_carry_the_percentiles(stub: Any) -> None:
    latency = bench_model(stub("steady"), BenchOptions(new_tokens=4, repetitions=130)).inter_token_seconds
    assert latency.p90.value == latency.p99.value == pytest.approx(0.3)
    assert latency.p99.ci95 is not None
    assert "would ask for 270,336 samples" in latency.p99.source


def test_a_repetition_far_from_the_others_is_marked_and_counts(stub: Any) -> None:
    record = bench_model(stub("straggler"), BenchOptions(new_tokens=4, repetitions=8))
    assert record.outliers["answer_seconds"] == (3,)
    assert record.means["answer_seconds"].value == pytest.approx(0.8 * 12 / 8)
    assert any("1 of 8 repetitions lie far" in warning for warning in record.warnings)


@pytest.mark.parametrize(("quantile", "samples"), [(0.9, 24_576), (0.95, 57_344), (0.97, 90_112), (0.99, 270_336)])
def test_the_samples_that_a_percentile_asks_for_are_mlperf_s(quantile: float, samples: int) -> None:
    assert tail_samples(quantile) == samples


def test_warnings_name_a_short_prompt_few_gaps_and_a_busy_machine(stub: Any) -> None:
    warnings = "\n".join(bench_model(stub("steady"), BenchOptions(new_tokens=4, repetitions=3)).warnings)
    assert "from 128 to 32 tokens" in warnings
    assert "9 gaps between tokens are too few" in warnings
    assert "3 repetitions are too few" in warnings
    assert "1.5 cores busy" in warnings
    assert "unsteady" not in warnings


def test_the_peak_is_the_ledger_s_where_that_saw_a_higher_one(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(peak: int) -> MemoryLedger:
        figure = Figure(value=peak, unit="bytes", n=1, basis="derived", source="the load")
        return MemoryLedger(
            moment="while loading", lines=(), peak_pss_bytes=figure, share_explained=figure, huge_page_bytes=0,
            swapped_bytes=0,
        )  # fmt: skip

    for peak, expected in ((500, 500), (60, 70)):
        monkeypatch.setattr(bench, "_ledger", lambda run, peak=peak: found(peak))
        assert bench_model(stub("steady")).peak_pss_bytes.value == expected


def test_unsteady_times_are_warned_about(stub: Any) -> None:
    warnings = bench_model(stub("unsteady"), BenchOptions(new_tokens=4, repetitions=6)).warnings
    assert any("answer_seconds is unsteady" in warning for warning in warnings)


def test_a_killed_worker_names_signal_and_finished_repetitions(stub: Any) -> None:
    with pytest.raises(StageError, match=r"SIGKILL .*after 2 finished repetitions"):
        bench_model(stub("killed"))


def test_finished_repetitions_of_a_killed_worker_can_be_kept(stub: Any) -> None:
    record = bench_model(stub("killed"), keep_finished=True)
    assert record.repetitions == 2
    assert record.answer_seconds.value == pytest.approx(0.8)
    assert "SIGKILL" in (record.failure or "")
    with pytest.raises(ModelFileError):
        bench_model(stub("refuse"), keep_finished=True)


def test_one_model_s_failure_keeps_the_others_results(stub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    models = [str(stub(how)) for how in ("killed", "refuse", "steady")]
    with pytest.raises(SystemExit) as ended:
        main(["bench", *models, "--json"])
    assert ended.value.code == 1
    printed = capsys.readouterr()
    document = BenchDocument.model_validate_json(printed.out)
    assert [(record.repetitions, record.failure is None) for record in document.results] == [(2, False), (10, True)]
    assert [failure.error for failure in document.failures] == ["it is not a model"]
    last = printed.err.rstrip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "SIGKILL" in last
    assert "it is not a model" in last
    with pytest.raises(SystemExit) as ended:
        main(["bench", models[2]])
    assert ended.value.code == 0
    assert "stub, 3 threads" in capsys.readouterr().out


def test_a_worker_that_raises_shows_its_last_line(stub: Any) -> None:
    with pytest.raises(StageError, match=r"status 1 after 2 finished repetitions.*inside the engine"):
        bench_model(stub("raises"))


def test_a_worker_that_hangs_is_stopped(stub: Any) -> None:
    with pytest.raises(StageError, match="stopped after 2 s and 2 finished repetitions"):
        bench_model(stub("hangs"), BenchOptions(timeout_seconds=2))


def test_the_worker_s_own_error_comes_through(stub: Any) -> None:
    with pytest.raises(ModelFileError, match="it is not a model"):
        bench_model(stub("refuse"))


def test_impossible_options_and_missing_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="new_tokens 1 is too small"):
        BenchOptions(new_tokens=1)
    with pytest.raises(InputError, match="nothing-here"):
        bench_model(tmp_path / "nothing-here.gguf")
    with pytest.raises(InputError, match="no prompts"):
        bench_answers(tmp_path, [], max_new_tokens=4)


class CountingSession:
    """A session that remembers what was asked of it."""

    def __init__(self, context_length: int = 40) -> None:
        self.engine = SimpleNamespace(name="fake", threads=1, context_length=context_length, weights_bytes=8)
        self.tokenizer = SimpleNamespace(encode=lambda text, add_special=True: [0, *text.encode()])
        self.calls: list[Any] = []
        self.read_tokens = 0

    def read(self, ids: Any) -> None:
        self.read_tokens = len(ids)
        self.calls.append(("read", list(ids)))

    def reset(self) -> None:
        self.calls.append("reset")

    def close(self) -> None:
        self.calls.append("close")

    def generate(self, prompt: Any, options: Any) -> Any:
        self.calls.append((prompt, options.max_new_tokens, options.ignore_eos))
        times = SimpleNamespace(
            prompt_tokens=len(prompt), new_tokens=3, ttft_seconds=0.1, prefill_seconds=0.1, token_seconds=[0.1, 0.1],
            reused_tokens=self.read_tokens,
        )  # fmt: skip
        return SimpleNamespace(statistics=times)


@pytest.fixture
def fake_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    from edgestill.runtime.session import Session

    session = CountingSession()
    monkeypatch.setattr(Session, "open", lambda *_, **__: session)
    monkeypatch.setattr(bench_worker, "import_packages", lambda source: None)
    monkeypatch.setattr(bench_worker, "locate_model", lambda text: ModelSource(text, "gguf", tmp_path / text))
    return session


def request(**changes: object) -> Mapping[str, Any]:
    plain = {"model": "m", "engine": None, "threads": None, "context_length": None, "prompt_tokens": 16}
    more = {"new_tokens": 8, "repetitions": 3, "warmup": 2, "prompts": None, "depth": 0, "phases": False}
    return {**plain, **more, "width": None, "max_seconds": 30.0, **changes}


def test_each_repetition_begins_with_an_empty_cache_and_the_same_prompt(fake_session: Any) -> None:
    events: list[Mapping[str, Any]] = []
    bench_worker.serve(request(), events.append)
    kinds = [event["event"] for event in events]
    assert kinds == ["loaded", "prompt", "warm", "warm", "repetition", "repetition", "repetition", "finished"]
    assert fake_session.calls[-1] == "close"
    assert fake_session.calls[:-1:2] == ["reset"] * 5
    prompts = fake_session.calls[1:-1:2]
    assert all(call == prompts[0] for call in prompts)
    ids, new_tokens, ignore_eos = prompts[0]
    assert (len(ids), ids[0], new_tokens, ignore_eos) == (16, 0, 8, True)


def test_repetitions_go_on_until_the_median_is_known_or_the_time_is_over(
    fake_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(bench_worker.time, "perf_counter", lambda: next(clock) / 1000)
    for width, seconds, expected in ((0.5, 30.0, 6), (1e-9, 0.1, None)):
        events: list[Mapping[str, Any]] = []
        bench_worker.serve(request(width=width, max_seconds=seconds), events.append)
        count = sum(event["event"] == "repetition" for event in events)
        # Equal times: six are enough for an interval, which then has no width at all.
        assert count == expected if expected else 3 < count < 100


def test_a_deep_context_is_there_before_each_prompt_and_not_timed(fake_session: Any) -> None:
    events: list[Mapping[str, Any]] = []
    bench_worker.serve(request(depth=12), events.append)
    assert "reset" not in fake_session.calls
    reads, answers = fake_session.calls[:-1:2], fake_session.calls[1:-1:2]
    assert reads == [reads[0]] * 5
    assert len(reads[0][1]) == 12
    assert all(call[0] == [*reads[0][1], *answers[0][0][12:]] and len(call[0]) == 28 for call in answers)
    assert {event["times"]["prompt_tokens"] for event in events if event["event"] == "repetition"} == {16}
    with pytest.raises(InputError, match="8 new tokens after 32 leave no room"):
        bench_worker.serve(request(depth=32), lambda event: None)


def test_a_prompt_is_shortened_to_the_context(fake_session: Any) -> None:
    events: list[Mapping[str, Any]] = []
    bench_worker.serve(request(prompt_tokens=128, new_tokens=30), events.append)
    assert next(event["tokens"] for event in events if event["event"] == "prompt") == 10


def test_no_room_for_any_prompt_is_refused(fake_session: Any) -> None:
    with pytest.raises(InputError, match="40 new tokens leave no room"):
        bench_worker.serve(request(new_tokens=40), lambda event: None)


def test_a_prompt_can_be_longer_than_the_text_it_is_cut_from(fake_session: Any) -> None:
    ids = bench_worker.prompt_ids(fake_session, 5000)
    assert len(ids) == 5000
    assert bytes(ids[1:]).decode().startswith(bench_worker.PROMPT_TEXT * 2)


def test_answers_go_through_messages_and_ids_and_stop_at_eos(fake_session: Any) -> None:
    prompts = [[{"role": "user", "content": "hi"}], [1, 2, 3]]
    bench_worker.serve(request(prompts=prompts, repetitions=2, warmup=1), lambda event: None)
    asked = [call[0] for call in fake_session.calls if isinstance(call, tuple)]
    assert asked == [[Message("user", "hi")], *([[Message("user", "hi")], [1, 2, 3]] * 2)]
    assert not any(call[2] for call in fake_session.calls if isinstance(call, tuple))


def test_a_real_model_is_measured_in_its_own_process(tiny_checkpoint: Path) -> None:
    record = bench_model(
        tiny_checkpoint, BenchOptions(prompt_tokens=16, new_tokens=8, repetitions=3, warmup=1, threads=1)
    )
    assert record.engine == "torch"
    assert (record.prompt_tokens, record.new_tokens, record.repetitions, record.threads) == (16, 8, 3, 1)
    assert len(record.raw["inter_token_seconds"]) == 3 * 7
    for ttft, answer in zip(record.raw["ttft_seconds"], record.raw["answer_seconds"], strict=True):
        assert 0 < ttft < answer
    assert statistics.fmean(record.raw["load_seconds"]) > 0
    assert record.size_bytes == (tiny_checkpoint / "model.safetensors").stat().st_size
    assert (record.weights_bytes.value or 0) <= record.size_bytes
    if Path("/proc/self/smaps_rollup").exists():
        assert (record.peak_pss_bytes.value or 0) <= (record.peak_rss_bytes.value or 0)


def test_whole_answers_of_a_real_model_are_measured(tiny_checkpoint: Path) -> None:
    prompts = [[Message("user", "dim the hall")], [5, 6, 7]]
    options = BenchOptions(repetitions=2, warmup=1, threads=1)
    answers = bench_answers(tiny_checkpoint, prompts, options, max_new_tokens=6)
    assert answers.answer_seconds.n == 4
    assert all(1 <= count <= 6 for count in answers.raw["new_tokens"])


def test_memory_counters_are_read_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "smaps").write_text("00-ff ---p 00000000 00:00 0   [rollup]\nRss:  9 kB\nPss:        7 kB\n")
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t      12 kB\nVmRSS:\t  10 kB\nThreads:\t3\n")
    sample = read_memory(tmp_path / "smaps", tmp_path / "status")
    assert (sample.pss, sample.rss, sample.peak_rss) == (7168, 10240, 12288)


def test_counters_that_the_platform_lacks_are_none(tmp_path: Path) -> None:
    sample = read_memory(tmp_path / "no-smaps", tmp_path / "no-status")
    assert sample.pss is None
    assert sample.rss is None
    assert sample.peak_rss is None or sample.peak_rss > 0


def test_the_environment_names_processor_cores_and_versions(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some CPU\n\nprocessor\t: 1\nmodel name\t: Some CPU\n"
    )
    environment = describe_environment(tmp_path / "cpuinfo")
    assert environment.cpu == "Some CPU"
    assert environment.cores >= 1
    assert environment.versions["numpy"]
    assert describe_environment(tmp_path / "absent").cpu


def test_the_environment_names_the_state_of_the_processor(tmp_path: Path) -> None:
    core = sorted(os.sched_getaffinity(0))[0]
    files = {
        f"devices/system/cpu/cpu{core}/cpufreq/scaling_governor": "schedutil",
        f"devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq": "1800000",
        f"devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count": "7",
        "class/thermal/thermal_zone0/type": "cpu-thermal",
        "class/thermal/thermal_zone0/temp": "61234",
        "class/thermal/thermal_zone1/temp": "broken",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    environment = describe_environment(tmp_path / "absent", tmp_path)
    assert environment.governor == "schedutil"
    assert environment.clock_mhz == (1800.0,)
    assert environment.temperatures == {"thermal_zone0 cpu-thermal": 61.234}
    assert environment.throttled == 7
    bare = describe_environment(tmp_path / "absent", tmp_path / "absent")
    assert (bare.governor, bare.clock_mhz, bare.temperatures, bare.throttled) == (None, (), {}, None)
    (tmp_path / "cpuinfo").write_text("cpu MHz\t\t: 2450.5\ncpu MHz\t\t: 2449.0\n")
    assert describe_environment(tmp_path / "cpuinfo", tmp_path / "absent").clock_mhz == (2450.5, 2449.0)
