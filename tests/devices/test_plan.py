"""plan: what it chooses on numbers made by hand, what it draws, and how it refuses."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from edgestill.bundle import Bundle
from edgestill.cli import app, main
from edgestill.devices.plan import Asked, Limits, PlanDocument, PlanRow, choose, make_plan, require_choice
from edgestill.devices.plan_page import plan_html, plan_svg, write_plan
from edgestill.devices.profile import write_profile
from edgestill.devices.store import Store
from edgestill.errors import GateError, InputError
from edgestill.figure import Figure
from edgestill.fleet_results import FleetDocument, FleetOptions
from tests.devices.made_up import made_up_document, made_up_profile, made_up_record, made_up_row

ROWS = (
    made_up_row("f16", 10, 400, 0.90),
    made_up_row("q8_0", 18, 250, 0.895),
    made_up_row("q4_0", 30, 150, 0.85),
    made_up_row("slow-and-large", 5, 500, 0.80),
)


def chosen(rows: list[PlanRow]) -> str | None:
    return next((row.artifact for row in rows if row.chosen), None)


def test_without_limits_the_most_accurate_is_chosen() -> None:
    assert chosen(choose(ROWS, Limits(), "accuracy")) == "f16"


def test_a_limit_on_speed_leaves_the_most_accurate_that_is_fast_enough() -> None:
    assert chosen(choose(ROWS, Limits(min_decode_rate=15), "accuracy")) == "q8_0"
    assert chosen(choose(ROWS, Limits(min_decode_rate=20), "accuracy")) == "q4_0"


def test_limits_on_memory_accuracy_and_first_token_are_kept() -> None:
    assert chosen(choose(ROWS, Limits(max_memory=200e6), "accuracy")) == "q4_0"
    assert chosen(choose(ROWS, Limits(max_ttft=0.6), "accuracy")) == "q8_0"
    assert chosen(choose(ROWS, Limits(min_accuracy=0.9), "accuracy")) == "f16"
    assert chosen(choose(ROWS, Limits(min_accuracy=0.9, min_decode_rate=15), "accuracy")) is None


def test_of_those_not_shown_to_be_less_accurate_the_fastest_is_chosen() -> None:
    rows = [made_up_row("f16", 10, 400, 0.90, half=0.02), *ROWS[1:]]
    assert chosen(choose(rows, Limits(), "accuracy")) == "q8_0"


def test_with_no_accuracy_known_the_fastest_is_chosen_and_of_equals_the_smallest() -> None:
    rows = [made_up_row("a", 10, 400, None), made_up_row("b", 20, 300, None), made_up_row("c", 20, 200, None)]
    assert chosen(choose(rows, Limits(), None)) == "c"


def test_a_metric_of_which_less_is_better_is_read_so() -> None:
    rows = [made_up_row("good", 10, 400, 0.9), made_up_row("bad", 30, 300, 1.4)]
    assert chosen(choose(rows, Limits(), "bits_per_byte")) == "good"


def test_what_does_not_fit_is_neither_chosen_nor_on_the_frontier() -> None:
    rows = [made_up_row("best", 99, 1, 0.99, fit="thrashes"), *ROWS]
    judged = choose(rows, Limits(), "accuracy")
    best = next(row for row in judged if row.artifact == "best")
    assert not best.chosen
    assert not best.frontier


def test_the_frontier_is_what_nothing_beats_in_everything() -> None:
    judged = choose(ROWS, Limits(), "accuracy")
    assert {row.artifact for row in judged if row.frontier} == {"f16", "q8_0", "q4_0"}


def test_an_unknown_figure_never_satisfies_a_limit() -> None:
    rows = [made_up_row("a", None, 100, None)]
    judged = choose(rows, Limits(min_decode_rate=1, min_accuracy=0.5), None)
    assert chosen(judged) is None
    assert len(judged[0].misses) == 2
    assert "isn't known" in judged[0].misses[0]


def test_a_miss_says_which_limit_and_by_how_much() -> None:
    judged = choose(ROWS, Limits(min_decode_rate=40, max_memory=100e6), "accuracy")
    nearest = next(row for row in judged if row.artifact == "q4_0")
    assert nearest.misses == (
        "decode rate 30 tokens/s misses --min-decode-rate 40 by 25%",
        "peak memory 150 MB misses --max-memory 100 by 50%",
    )
    assert nearest.shortfall == pytest.approx(0.5)


ROW = st.builds(
    made_up_row,
    st.sampled_from(["a", "b", "c"]),
    st.one_of(st.none(), st.floats(0.1, 100)),
    st.floats(1, 1000),
    st.one_of(st.none(), st.floats(0, 1)),
    half=st.floats(0, 0.1),
)
LIMITS = st.builds(
    Limits,
    max_ttft=st.one_of(st.none(), st.floats(0.1, 10)),
    min_decode_rate=st.one_of(st.none(), st.floats(0.1, 100)),
    max_memory=st.one_of(st.none(), st.floats(1e6, 1e9)),
    min_accuracy=st.one_of(st.none(), st.floats(0.1, 1)),
)


@given(st.lists(ROW, max_size=8), LIMITS)
def test_whatever_is_chosen_keeps_every_limit_and_something_is_where_anything_does(rows, limits) -> None:  # type: ignore[no-untyped-def]
    judged = choose(rows, limits, "accuracy")
    assert len(judged) == len(rows)
    keeping = [row for row in judged if not row.misses]
    picked = [row for row in judged if row.chosen]
    assert len(picked) == (1 if keeping else 0)
    for row in picked:
        assert row.decode.value is None or limits.min_decode_rate is None or row.decode.value >= limits.min_decode_rate
        assert row.memory.value is not None
        assert limits.max_memory is None or row.memory.value <= limits.max_memory


def test_a_plan_of_a_bundle_is_derived_and_says_so(hostile_bundle: Bundle) -> None:
    plan = make_plan(hostile_bundle, made_up_profile(), Asked(prompt_tokens=32))
    row = require_choice(plan)
    assert row.decode.basis == row.memory.basis == row.ttft.basis == "derived"
    assert {one.artifact for one in plan.rows} == {"gguf-f32", "onnx-fp32"}
    assert {one.threads for one in plan.rows} == {1, 2, 4}
    assert row.context == 256
    assert PlanDocument.model_validate_json(plan.to_json()) == plan


def test_what_was_measured_on_the_device_is_taken_instead(hostile_bundle: Bundle) -> None:
    artifact = hostile_bundle.manifest.artifact("gguf-f32")
    record = made_up_record("elsewhere", sha256=artifact.sha256, prompt_tokens=32)
    plan = make_plan(hostile_bundle, made_up_profile(), Asked(prompt_tokens=32), [record])
    rows = {(row.artifact, row.threads): row for row in plan.rows}
    assert rows["gguf-f32", 2].decode == record.decode_tokens_per_second
    assert rows["gguf-f32", 2].decode.basis == "measured"
    assert rows["gguf-f32", 4].decode.basis == "derived"
    assert rows["onnx-fp32", 2].decode.basis == "derived"


def test_a_result_of_other_bytes_is_not_taken(hostile_bundle: Bundle) -> None:
    record = made_up_record("x#gguf-f32", sha256="0" * 64)
    plan = make_plan(hostile_bundle, made_up_profile(), Asked(prompt_tokens=32), [record])
    assert all(row.decode.basis == "derived" for row in plan.rows)


def test_what_does_not_fit_gets_no_rate(hostile_bundle: Bundle) -> None:
    plan = make_plan(hostile_bundle, made_up_profile(free_ram_bytes=30e6), Asked(prompt_tokens=32))
    onnx = [row for row in plan.rows if row.artifact == "onnx-fp32"]
    assert all(row.fit == "doesn't fit" and row.decode.value is None for row in onnx)
    nowhere = make_plan(hostile_bundle, made_up_profile(free_ram_bytes=1e6), Asked(prompt_tokens=32))
    with pytest.raises(GateError, match=r"no artifact of .* runs on board; the smallest, gguf-f32: it needs"):
        require_choice(nowhere)


def test_a_context_without_room_after_the_prompt_is_refused(hostile_bundle: Bundle) -> None:
    plan = make_plan(hostile_bundle, made_up_profile(), Asked(prompt_tokens=300))
    with pytest.raises(GateError, match="has no room after a prompt of 300"):
        require_choice(plan)


def test_pictures_are_the_same_each_time_and_hold_against_a_hostile_name(
    hostile_bundle: Bundle, tmp_path: Path
) -> None:
    plan = make_plan(hostile_bundle, made_up_profile(), Asked(prompt_tokens=32))
    svg = plan_svg(plan)
    assert svg == plan_svg(plan)
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    page = plan_html(plan)
    assert "<b>&amp; ]]>" not in page
    assert "hollow: derived" in page
    for name in ("plan.svg", "plan.html"):
        write_plan(plan, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000
    with pytest.raises(InputError, match=r"not \.svg or \.html"):
        write_plan(plan, tmp_path / "plan.png")


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESTILL_STORE", str(tmp_path / "results.sqlite"))
    monkeypatch.setenv("EDGESTILL_DEVICES", str(tmp_path / "devices.toml"))
    path = tmp_path / "board.toml"
    write_profile(made_up_profile(), path)
    return path


def test_the_command_prints_a_table_and_its_choice(hostile_bundle: Bundle, device: Path) -> None:
    ran = CliRunner().invoke(
        app, ["plan", str(hostile_bundle.folder), "--device", str(device), "--prompt-tokens", "32"]
    )
    assert ran.exit_code == 0
    assert "→" in ran.stdout
    assert "derived" in ran.stdout
    assert "gguf-f32" in ran.stdout


def test_the_command_prints_one_json_document_and_writes_a_page(hostile_bundle: Bundle, device: Path) -> None:
    out = device.with_name("plan.html")
    words = [
        "plan",
        str(hostile_bundle.folder),
        "--device",
        str(device),
        "--prompt-tokens",
        "32",
        "--json",
        "--out",
        str(out),
    ]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0
    document = json.loads(ran.stdout)
    assert next(iter(document)) == "schema"
    assert document["schema"] == "edgestill.plan/1"
    assert "<svg" in out.read_text(encoding="utf-8")


def test_the_command_takes_results_from_the_store_and_from_a_file(hostile_bundle: Bundle, device: Path) -> None:
    record = made_up_record("b", sha256=hostile_bundle.manifest.artifact("gguf-f32").sha256, prompt_tokens=32)
    words = ["plan", str(hostile_bundle.folder), "--device", str(device), "--prompt-tokens", "32", "--json"]
    with Store() as store:
        store.add("board", made_up_document(record))
    file = device.with_name("bench.json")
    file.write_text(made_up_document(record).to_json(), encoding="utf-8")
    for more in ([], ["--results", str(file)], ["--results", str(device.with_name("results.sqlite"))]):
        rows = json.loads(CliRunner().invoke(app, [*words, *more]).stdout)["rows"]
        assert "measured" in {row["decode"]["basis"] for row in rows}


def test_of_a_fleet_s_file_only_the_device_s_own_results_are_taken(hostile_bundle: Bundle, device: Path) -> None:
    sha256 = hostile_bundle.manifest.artifact("gguf-f32").sha256
    words = ["plan", str(hostile_bundle.folder), "--device", str(device), "--prompt-tokens", "32", "--json"]
    options = FleetOptions(artifacts=("gguf-f32",), prompt_tokens=(32,), new_tokens=(64,), threads=None, repetitions=10)
    for name, taken in (("board", True), ("phone", False)):
        record = made_up_record("b", sha256=sha256, prompt_tokens=32, device=name)
        fleet = FleetDocument(
            bundle="b", bundle_sha256="0" * 64, created="2026", options=options, devices=(), results=(record,)
        )
        file = device.with_name("fleet.json")
        file.write_text(fleet.to_json(), encoding="utf-8")
        rows = json.loads(CliRunner().invoke(app, [*words, "--results", str(file)]).stdout)["rows"]
        assert ("measured" in {row["decode"]["basis"] for row in rows}) == taken


def test_the_command_refuses_in_one_line(
    hostile_bundle: Bundle, device: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = str(hostile_bundle.folder)

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["plan", *words])
        said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(said) == 1
        return int(str(ended.value.code)), said[0]

    status, said = run(bundle, "--device", str(device), "--prompt-tokens", "32", "--min-decode-rate", "1e9")
    assert status == 1
    assert "misses --min-decode-rate 1e+09 by 100%" in said
    status, said = run(bundle, "--device", str(device), "--prompt-tokens", "32", "--min-accuracy", "90%")
    assert status == 1
    assert "--min-accuracy can't be shown to be kept" in said
    assert run(bundle, "--device", "no-such-board")[0] == 2
    assert run(bundle, "--device", str(device), "--max-memory", "many")[0] == 2
    assert run(bundle, "--device", str(device), "--out", "plan.png")[0] == 2
    assert run(bundle, "--device", str(device), "--kv-precision", "q3")[0] == 2
    assert run(str(device.parent), "--device", str(device))[0] == 2


def test_a_size_is_read_with_its_unit(hostile_bundle: Bundle, device: Path) -> None:
    words = [
        "plan",
        str(hostile_bundle.folder),
        "--device",
        str(device),
        "--prompt-tokens",
        "32",
        "--json",
        "--max-memory",
    ]
    for text, size in (("400MB", 400e6), ("1.5GiB", 1.5 * 2**30), ("900000000", 9e8)):
        assert json.loads(CliRunner().invoke(app, [*words, text]).stdout)["limits"]["max_memory"] == size


def test_a_figure_that_was_derived_keeps_its_interval_in_the_table() -> None:
    from edgestill.devices.plan_page import cell

    derived = Figure(value=12.0, unit="tokens/s", n=1, ci95=(8.0, 18.0), basis="derived")
    assert cell(derived) == "12 tokens/s (derived, 8 to 18)"
    assert cell(derived.model_copy(update={"basis": "measured"})) == "12 tokens/s"
    assert cell(None) == "—"
