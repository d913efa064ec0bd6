"""The ledger: it adds up, says where the peak was, and takes the engines' own words."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.artifact import Checkpoint
from edgestill.bench_results import BenchDocument, MemoryLedger
from edgestill.cli import main
from edgestill.errors import StageError
from edgestill.export import export_checkpoint
from edgestill.runtime.bench import BenchOptions, bench_model
from edgestill.runtime.engine import MemoryPart
from edgestill.runtime.engine_options import EngineOptions
from edgestill.runtime.ledger import memory_ledger
from edgestill.runtime.llama_buffers import logged_parts
from edgestill.runtime.model_source import ModelSource
from edgestill.runtime.moments import END, IMPORTED, LOADED, START, TOKENIZER, WARM, MemoryLog, Moment, moments_of
from edgestill.runtime.onnxruntime_arena import LoadTrace

linux = pytest.mark.skipif(sys.platform != "linux", reason="smaps is Linux's")

LOG = (
    "load_tensors:   CPU_Mapped model buffer size =    85.30 MiB\n",
    "load_tensors:   CPU_REPACK model buffer size =    56.95 MiB.\n",
    "llama_context:        CPU  output buffer size =     0.19 MiB\n",
    "llama_kv_cache:        CPU KV buffer size =    45.00 MiB\n",
    "llama_memory_recurrent:        CPU RS buffer size =     1.50 MiB\n",
    "sched_reserve:        CPU compute buffer size =    18.56 MiB\n",
    "print_info: file size   = 85.77 MiB (5.35 BPW) \n",
)


def moment(name: str, **fields: object) -> Moment:
    plain = {"model": 0, "engine": 5, "python": 10, "anonymous": 20, "freed": 0, "rss": 100, "peak_rss": 100}
    return Moment(**{"name": name, **plain, "huge_pages": 0, "swapped": 0, **fields})  # type: ignore[arg-type]


def part(kind: str, allocated: int | None, resident: int | None = None) -> MemoryPart:
    return MemoryPart(kind, f"its {kind}", allocated, resident, "test")  # type: ignore[arg-type]


def run(*, loaded_peak: int = 400, last_peak: int = 500, last_rss: int = 480) -> dict[str, Moment]:
    """Return the moments of a process that loads 90 bytes of copies and keeps 12 of 40 bytes of KV cache."""
    before = (part("weights", 90), part("kv_cache", 40, 0), part("compute", 25))
    after = (part("weights", 90), part("kv_cache", 40, 12), part("compute", 25))
    moments = (
        moment(START, anonymous=20, freed=3),
        moment(IMPORTED, anonymous=27, freed=4),
        moment(TOKENIZER, anonymous=40, freed=7),
        moment(LOADED, anonymous=150, freed=9, model=70, rss=300, peak_rss=loaded_peak, parts=before),
        moment(WARM, anonymous=180, freed=9, model=70, rss=350, peak_rss=loaded_peak, parts=after),
        moment(END, anonymous=185, freed=11, model=70, engine=6, rss=last_rss, peak_rss=last_peak, parts=after),
    )
    return {one.name: one for one in moments}


def lines(ledger: MemoryLedger) -> dict[str, float | None]:
    return {line.part: line.bytes.value for line in ledger.lines}


def test_every_line_is_what_its_source_says() -> None:
    ledger = memory_ledger(run(), 9, "stub")
    assert ledger.moment == "while answering: at the end"
    assert lines(ledger) == {
        "weights_mapped": 70,
        "weights_copied": 90,
        "kv_cache": 12,
        "compute": 174 - 141 - 12,
        "structures": 9,
        "tokenizer": 33 - 23,
        "engine": 6 + 23 - 17,
        "python": 10 + 17,
        "freed": 11,
        "temporary": 20,
        # 108 bytes more in use after the load: 90 of copies and 9 of structures are known.
        "unexplained": 9,
    }
    assert ledger.peak_pss_bytes.value == 70 + 6 + 10 + 185 + 20
    assert ledger.share_explained.value == pytest.approx((291 - 9) / 291)
    basis = {line.part: line.bytes.basis for line in ledger.lines}
    assert [kind for kind, found in basis.items() if found == "measured"] == [
        *("weights_mapped", "kv_cache", "engine", "python", "freed")
    ]
    assert next(line.allocated_bytes for line in ledger.lines if line.part == "kv_cache") == 40


def test_a_peak_at_a_moment_is_measured_and_has_nothing_temporary() -> None:
    ledger = memory_ledger(run(last_peak=480), 9, "stub")
    assert ledger.moment == "at the end"
    assert (ledger.peak_pss_bytes.value, ledger.peak_pss_bytes.basis) == (271, "measured")
    assert "temporary" not in lines(ledger)


def test_a_peak_while_loading_is_found_by_the_kernel_s_high_water_mark() -> None:
    ledger = memory_ledger(run(loaded_peak=900, last_peak=900), 9, "stub")
    assert ledger.moment == "while loading: after load"
    assert lines(ledger)["temporary"] == 900 - 300
    assert "compute" not in lines(ledger)
    assert ledger.peak_pss_bytes.value == 70 + 5 + 10 + 150 + 600
    assert ledger.peak_pss_bytes.basis == "derived"


def test_compute_buffers_are_at_most_what_the_engine_allocated() -> None:
    moments = run(last_peak=480)
    moments[END] = dataclasses.replace(moments[END], anonymous=300)
    ledger = memory_ledger(moments, 9, "stub")
    assert lines(ledger)["compute"] == 25
    assert lines(ledger)["unexplained"] == 9 + (289 - 141 - 12) - 25


def test_copies_of_unknown_size_are_a_remainder_and_say_so() -> None:
    moments = {
        name: dataclasses.replace(
            one,
            parts=tuple(
                dataclasses.replace(held, allocated=None) if held.kind == "weights" else held for held in one.parts
            ),
        )
        for name, one in run().items()
    }
    ledger = memory_ledger(moments, 9, "stub")
    line = next(line for line in ledger.lines if line.part == "weights_copied")
    assert line.bytes.value == 141 - 33 - 9
    assert line.bytes.source.startswith("by subtraction")


@given(st.lists(st.integers(0, 1 << 40), min_size=18, max_size=18), st.integers(0, 1 << 30))
def test_whatever_was_measured_the_lines_add_up_to_the_peak(numbers: list[int], bare: int) -> None:
    moments = run()
    for place, name in enumerate((IMPORTED, LOADED, END)):
        model, engine, python, anonymous, freed, rss = numbers[6 * place : 6 * place + 6]
        changed = {"model": model, "engine": engine, "python": python, "anonymous": anonymous, "freed": freed}
        moments[name] = dataclasses.replace(moments[name], **changed, rss=rss, peak_rss=rss + 7)
    ledger = memory_ledger(moments, bare, "stub")
    assert sum(line.bytes.value or 0 for line in ledger.lines) == ledger.peak_pss_bytes.value
    assert ledger.lines[-1].part == "unexplained"


def test_llama_cpp_s_log_tells_its_buffers_and_names_the_second_copy() -> None:
    found = list(logged_parts(LOG))
    assert [(one.kind, one.name, one.allocated) for one in found] == [
        ("weights", "CPU_REPACK (a second copy, the file's own stay mapped)", round(56.95 * 2**20)),
        ("compute", "CPU output", round(0.19 * 2**20)),
        ("kv_cache", "CPU KV", 45 << 20),
        ("kv_cache", "CPU RS", round(1.5 * 2**20)),
        ("compute", "CPU compute", round(18.56 * 2**20)),
    ]
    (read,) = logged_parts(["load_tensors:          CPU model buffer size =    28.82 MiB\n"])
    assert read.name == "CPU (read into memory)"


def test_onnxruntime_s_reserved_pieces_are_added_up() -> None:
    called: list[object] = []
    runtime = SimpleNamespace(
        set_default_logger_callback=lambda *given: called.append(given),
        set_default_logger_severity=lambda severity: called.append(severity),
    )
    with LoadTrace(runtime, True) as trace:
        for message in (
            "Reserving memory in BFCArena for Cpu size: 4096",
            "Extended allocation by 1048576 bytes.",
            "Reserving memory in BFCArena for Cpu size: 100",
        ):
            trace.take(1, "onnxruntime", "Default", "bfc_arena.cc:281 Reserve", message)
    assert trace.weights().allocated == 4196
    assert called == [(trace.take, 1), (None,), 2]
    called.clear()
    for unheard in (LoadTrace(runtime, False), LoadTrace(SimpleNamespace(), True)):
        with unheard:
            pass
        assert unheard.weights().allocated is None
    assert called == []


OPTIONS = BenchOptions(prompt_tokens=8, new_tokens=4, repetitions=3, warmup=1, threads=1, ledger=True)


@linux
@pytest.mark.parametrize("name", ["torch", "onnx-fp32", "gguf-f16"])
def test_a_real_process_s_ledger_adds_up(name: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = tiny_checkpoint
    if name != "torch":
        format, _, precision = name.partition("-")
        model = export_checkpoint(Checkpoint.open(tiny_checkpoint), format, precision, tmp_path).model_path  # type: ignore[arg-type]
    record = bench_model(model, OPTIONS)
    ledger = record.ledger
    assert ledger is not None
    found = lines(ledger)
    peak = ledger.peak_pss_bytes.value or 0.0
    assert sum(value or 0.0 for value in found.values()) == peak
    assert ledger.share_explained.value == pytest.approx(1, abs=0.15)  # 2 to 4 MB are no model's: much of 40 here
    assert peak >= 0.9 * (record.peak_pss_bytes.value or 0.0)
    assert (found["python"] or 0) > 5e6
    assert record.settings["kv_precision"] == ("f16" if name == "gguf-f16" else "f32")
    if name != "torch":
        kv = sum(line.allocated_bytes or 0 for line in ledger.lines if line.part == "kv_cache")
        # 2 layers, keys and values, 2 heads of 16, 256 positions
        assert kv == pytest.approx(2 * 2 * 2 * 16 * 256 * (2 if name == "gguf-f16" else 4), abs=0.006 * 2**20)
    loaded = BenchDocument.model_validate_json(
        json.dumps({"environment": json.loads(ENVIRONMENT), "results": [json.loads(record.model_dump_json())]}).replace(
            '{"environment"', '{"schema": "edgestill.bench/1", "environment"'
        )
    )
    assert loaded.results[0].ledger == ledger


ENVIRONMENT = (
    '{"cpu": "c", "cores": 1, "memory_bytes": 1, "system": "s", "python": "3", "versions": {}, "load_average": null}'
)


def test_without_being_asked_there_is_no_ledger(tiny_checkpoint: Path) -> None:
    record = bench_model(tiny_checkpoint, dataclasses.replace(OPTIONS, ledger=False))
    assert record.ledger is None
    assert record.settings == {"kv_precision": "f32"}


@linux
def test_bench_prints_the_ledger_in_a_line_or_a_table(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f16", tmp_path).model_path
    small = ["--prompt-tokens", "8", "--new-tokens", "4", "--repetitions", "3", "--threads", "1"]

    def bench(*options: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["bench", str(model), *small, *options])
        return ended.value.code, *capsys.readouterr()

    code, _, said = bench("--no-mmap")
    assert code == 0
    assert "of it explained (--ledger)" in said
    assert "CPU (read into memory)" in said
    code, out, _ = bench("--ledger")
    assert code == 0
    assert "weights, mapped from the file" in out
    assert "unexplained" in out
    code, _, said = bench("--no-arena")
    assert code == 2
    assert "the llama.cpp engine has no option arena" in said
    code, _, said = bench("--kv-precision", "q2_k")
    assert code == 2
    assert "choose one of f32, f16, q8_0, q4_0" in said


def test_moments_survive_their_journey_as_json() -> None:
    before = run()
    document = {"moments": [dataclasses.asdict(one) for one in before.values()], "bare": 3}
    assert moments_of(json.loads(json.dumps(document))) == (before, 3)


def test_the_default_options_ask_for_nothing() -> None:
    assert list(EngineOptions().asked()) == []
    assert list(EngineOptions(trace=True).asked()) == []
    changed = EngineOptions(mmap=False, kv_precision="q8_0", flash_attention=True, huge_pages=False, arena=False)
    assert list(changed.asked()) == [*("mmap", "kv_precision", "flash_attention", "huge_pages", "arena")]


@linux
def test_an_engine_that_can_t_open_a_bare_model_costs_no_measurement() -> None:
    class Stubborn:
        kv_precision = "f32"
        settings: ClassVar[dict[str, bool | str]] = {}

        def memory(self) -> tuple[MemoryPart, ...]:
            return (part("weights", 1),)

        def open_bare(self) -> None:
            raise StageError("no room")

    log = MemoryLog(ModelSource("m", "gguf", Path("m.gguf")), ("json",), wanted=True)
    for name in (START, IMPORTED, LOADED):
        log.take(name, Stubborn() if name == LOADED else None)  # type: ignore[arg-type]
    document = log.close(Stubborn())  # type: ignore[arg-type]
    assert document is not None
    moments, bare = moments_of(document)
    assert bare is None
    assert list(moments) == [START, IMPORTED, LOADED, END]
    assert moments[END].parts == (part("weights", 1),)
    ledger = memory_ledger(moments, bare, "stub")
    assert sum(line.bytes.value or 0 for line in ledger.lines) == ledger.peak_pss_bytes.value
    unwanted = MemoryLog(ModelSource("m", "gguf", Path("m.gguf")), (), wanted=False)
    unwanted.take(START)
    assert unwanted.close(Stubborn()) is None  # type: ignore[arg-type]
