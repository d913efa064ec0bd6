"""A store compared with what was before: per device, artifact and way of measuring; what can't be compared says why."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.cli import main
from edgestill.devices.store import Store
from edgestill.devices.store_comparison import compare_store, history, holm
from edgestill.errors import InputError
from edgestill.schemas import schema_text
from edgestill.store_results import StoreCompareDocument
from tests.devices.made_up import made_up_document, made_up_record

OLD, NEW = "ab" * 32, "cd" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.sqlite"


def fill(path: Path, device: str, *seconds: float, artifact: str = "one", cpu: str = "cpu", **record: object) -> None:
    """Keep a result a day, the first of the bundle OLD, the others of NEW."""
    with Store(path) as store:
        for day, each in enumerate(seconds, 1):
            measured = made_up_record(f"b#{artifact}", each, sha256=f"{day:02d}" * 32, **record)
            document = made_up_document(measured, created=f"2026-01-{day:02d}T10:00:00Z", cpu=f"{cpu}")
            store.add(device, document, bundle=OLD if day == 1 else NEW)


def compared(path: Path, **options: object) -> StoreCompareDocument:
    with Store(path) as store:
        return compare_store(store, **options)  # type: ignore[arg-type]


def status(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def test_a_slower_build_is_a_regression_on_its_device_only(path: Path) -> None:
    fill(path, "pi", 1.0, 1.3)
    fill(path, "phone", 1.0, 1.0)
    phone, pi = compared(path, limit=0.05).rows
    assert (pi.state, pi.verdict, pi.regressed) == ("compared", "slower", True)
    assert pi.slower == pytest.approx(0.3, abs=0.01)
    assert pi.why == "slower by 30.0% in answer_seconds"
    assert (phone.verdict, phone.regressed, phone.slower) == ("no difference shown", False, None)
    assert not any(row.regressed for row in compared(path, limit=0.5).rows)
    assert not any(row.regressed for row in compared(path).rows)
    assert compared(path, limit=0.05, metric="decode_tokens_per_second", devices=["pi"]).rows[0].regressed


def test_a_faster_build_is_told_and_is_none(path: Path) -> None:
    fill(path, "pi", 1.3, 1.0)
    (row,) = compared(path, limit=0.01).rows
    assert (row.verdict, row.regressed, row.slower) == ("faster", False, None)
    assert row.why == "faster by 23.1% in answer_seconds"


def test_ways_of_measuring_are_kept_apart(path: Path) -> None:
    fill(path, "pi", 1.0, 1.0)
    fill(path, "pi", 1.0, 1.5, threads=1)
    fill(path, "pi", 1.0, 2.0, settings={"kv_precision": "q8_0"})
    rows = compared(path, limit=0.05).rows
    found = [(row.workload.threads, row.workload.settings.get("kv_precision"), row.regressed) for row in rows]
    assert sorted(found, key=str) == sorted([(2, None, False), (1, None, True), (2, "q8_0", True)], key=str)


def test_the_first_result_has_nothing_to_be_compared_with(path: Path) -> None:
    fill(path, "pi", 1.0)
    (row,) = compared(path, limit=0.05).rows
    assert (row.state, row.before, row.regressed) == ("first", None, False)
    assert status("compare", "--store", str(path), "--fail-if-slower", "5%") == 0


def test_a_baseline_is_a_bundle_or_a_day(path: Path) -> None:
    fill(path, "pi", 1.0, 1.2, 1.21)
    assert compared(path, limit=0.1).rows[0].regressed is False
    for baseline in (OLD[:8], OLD, "2026-01-01", "2026-01-01T23:59:59Z"):
        (row,) = compared(path, limit=0.1, baseline=baseline).rows
        assert row.before is not None
        assert (row.before.bundle, row.regressed) == (OLD, True), baseline
    (row,) = compared(path, baseline="2026-01-02").rows
    assert row.before is not None
    assert row.before.measured.startswith("2026-01-02")
    (row,) = compared(path, baseline="2025-12-31").rows
    assert (row.state, row.why) == ("first", "nothing measured so at 2025-12-31")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"baseline": "ef" * 8}, "is no bundle of these results; there are: abababababab, cdcdcdcdcdcd"),
        ({"baseline": "last week"}, "neither a date"),
        ({"metric": "joy"}, "metric 'joy' is not one of"),
        ({"devices": ["phone"]}, "no result of device 'phone'; it has pi"),
        ({"artifacts": ["two"]}, "no result of artifact 'two'; it has one"),
    ],
)
def test_what_is_not_there_is_refused(path: Path, options: dict[str, object], said: str) -> None:
    fill(path, "pi", 1.0, 1.1)
    with pytest.raises(InputError, match=re.escape(said)):
        compared(path, **options)


def test_results_of_another_processor_are_refused_and_a_gate_that_saw_nothing_fails(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day, cpu in (("01", "old"), ("02", "new")):
        with Store(path) as store:
            store.add("pi", made_up_document(made_up_record("b#one"), created=f"2026-01-{day}T00:00:00Z", cpu=cpu))
    (row,) = compared(path, limit=0.05).rows
    assert (row.state, row.why) == ("refused", "can't be compared: processor old and new")
    assert status("compare", "--store", str(path)) == 0
    capsys.readouterr()
    assert status("compare", "--store", str(path), "--fail-if-slower", "5%") == 1
    assert "error: pi: nothing could be compared (pi: one can't be compared: processor old and new)" in (
        capsys.readouterr().err
    )
    fill(path, "pi", 1.0, 1.0, artifact="two")
    assert status("compare", "--store", str(path), "--fail-if-slower", "5%") == 0


def test_a_device_without_times_is_no_regression_and_its_memory_is_compared(path: Path) -> None:
    sizes = {"pss_bytes": [float(200_000_000 + number) for number in range(10)]}
    larger = {"pss_bytes": [1.5 * each for each in sizes["pss_bytes"]]}
    with Store(path) as store:
        for day, raw in (("01", sizes), ("02", larger)):
            record = made_up_record("b#one", raw=raw)
            store.add("emulated", made_up_document(record, created=f"2026-01-{day}T00:00:00Z"))
    (row,) = compared(path, limit=0.05).rows
    assert (row.state, row.regressed) == ("no figure", False)
    (row,) = compared(path, limit=0.05, metric="pss_bytes").rows
    assert (row.verdict, row.regressed) == ("larger", True)


def of_processes(path: Path, day: int, *seconds: float) -> None:
    """Keep one command's results: a process for each of ``seconds``."""
    with Store(path) as store:
        for minute, each in enumerate(seconds):
            record = made_up_record("b#one", each, run=f"2026-01-{day:02d}T10:00:00Z")
            created = f"2026-01-{day:02d}T10:{minute:02d}:00Z"
            store.add("pi", made_up_document(record, created=created), bundle=f"{day:02d}" * 32)


LUCK = (1.0, 1.09, 0.97, 1.04, 1.1, 0.99, 1.02, 1.07)
"""How much processes of one build differ."""


def test_the_luck_of_one_process_is_taken_for_the_build_s_and_that_of_eight_is_not(path: Path) -> None:
    of_processes(path, 1, LUCK[0])
    of_processes(path, 2, LUCK[1])
    (row,) = compared(path, limit=0.05).rows
    assert (row.unit, row.regressed) == ("repetitions", True)
    of_processes(path, 3, *LUCK)
    of_processes(path, 4, *reversed(LUCK))
    (row,) = compared(path, limit=0.05).rows
    assert (row.unit, row.regressed, row.verdict) == ("processes", False, "no difference shown")
    assert (row.latest.processes, row.comparison and row.comparison.first.n) == (8, 8)
    of_processes(path, 5, *(1.2 * each for each in LUCK))
    (row,) = compared(path, limit=0.05).rows
    assert (row.unit, row.regressed) == ("processes", True)
    assert row.slower == pytest.approx(0.2, abs=0.05)
    with Store(path) as store:
        (series,) = history(store).series
    assert [point.processes for point in series.points] == [1, 1, 8, 8, 8]
    assert series.points[-1].answer.source == "median of 8 processes"


def test_of_many_rows_a_difference_must_be_clearer(path: Path) -> None:
    """One pair that is just shown to differ by itself isn't, as one of thirteen."""
    base = [1.0 + 0.01 * number for number in range(10)]
    shifted = [each + 0.055 for each in base]
    with Store(path) as store:
        for day, answers in (("01", base), ("02", shifted)):
            record = made_up_record("b#one", raw={"answer_seconds": answers})
            store.add("pi", made_up_document(record, created=f"2026-01-{day}T00:00:00Z"))
    (row,) = compared(path, limit=0.01).rows
    assert row.adjusted_p is not None
    assert row.regressed
    alone = row.adjusted_p
    for number in range(12):
        fill(path, f"other-{number:02d}", 1.0, 1.0)
    row = next(one for one in compared(path, limit=0.01).rows if one.workload.device == "pi")
    assert row.adjusted_p == pytest.approx(min(1.0, 13 * alone))
    assert (row.verdict, row.regressed) == ("no difference shown", False)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_adjusted_values_reject_what_holm_s_steps_reject(values: list[float]) -> None:
    adjusted = holm(values)
    for alpha in (0.01, 0.05, 0.5):
        rejected = set()
        for rank, place in enumerate(sorted(range(len(values)), key=lambda one: values[one])):
            if values[place] * (len(values) - rank) > alpha:
                break
            rejected.add(place)
        assert {place for place, p in enumerate(adjusted) if p <= alpha} == rejected


def test_the_command_fails_a_run_when_any_device_regressed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(path, "pi", 1.0, 1.3)
    fill(path, "phone", 1.0, 1.0)
    fill(path, "phone", 1.0, 1.0, artifact="two")
    assert status("compare", "--store", str(path), "--fail-if-slower", "5%", "--json") == 1
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    jsonschema.validate(document, json.loads(schema_text("compare-store")), jsonschema.Draft202012Validator)
    assert [row["regressed"] for row in document["rows"]] == [False, False, True]
    assert printed.err.splitlines()[-1] == "error: pi: one is slower by 30.0% in answer_seconds, limit 5.0%"
    assert status("compare", "--store", str(path), "--fail-if-slower", "50%") == 0
    assert status("compare", "--store", str(path), "--fail-if-slower", "5%", "--device", "phone") == 0
    capsys.readouterr()
    assert status("compare", "--store", str(path), "--fail-if-slower", "5%") == 1
    assert "REGRESSED: slower by 30.0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "a", "b", "--device", "pi"], "--device is for what a store holds"),
        (["compare", "--width", "1%"], "--width is for two models or results"),
        (["compare", "a"], "a can't be compared with nothing"),
        (["compare", "--store", "nowhere.sqlite"], "nowhere.sqlite: no store of results there"),
        (["report", "--store", "nowhere.sqlite"], "nowhere.sqlite: no store of results there"),
        (["report", "run", "--store", "nowhere.sqlite"], "--store is for a store; leave it out, or leave run out"),
    ],
)
def test_options_of_the_other_case_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status(*words) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_history_has_every_result_in_the_order_of_time(path: Path) -> None:
    fill(path, "pi", 1.0, 1.3, 1.2)
    fill(path, "phone", 2.0)
    with Store(path) as store:
        document = history(store)
        assert len(history(store, since="2026-01-02", devices=["pi"]).series[0].points) == 2
    phone, pi = document.series
    assert [point.measured[:10] for point in pi.points] == ["2026-01-01", "2026-01-02", "2026-01-03"]
    assert [point.bundle for point in pi.points] == [OLD, NEW, NEW]
    assert (pi.change.verdict, phone.change.state) == ("faster", "first")
