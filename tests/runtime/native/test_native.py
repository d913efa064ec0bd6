"""The C library by its binding: the answers of Session, what it refuses, and that no file ends the process."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgestill.artifact import Artifact, Checkpoint
from edgestill.bundle import Bundle
from edgestill.errors import BundleError, ContextFullError, EdgestillError, GateError, InputError, ModelFileError
from edgestill.export import export_checkpoint
from edgestill.runtime import GenerationOptions, Session
from edgestill.runtime.golden import GoldenInput
from edgestill.runtime.native.binding import NativeLibrary, NativeSession
from edgestill.runtime.native.build import NativeBuild

LONG = GenerationOptions(max_new_tokens=40, ignore_eos=True)


@pytest.mark.parametrize("precision", ["f32", "f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("threads", [1, 2])
def test_answers_are_those_of_session(
    precision: str, threads: int, library: NativeLibrary, packed: Bundle, prompts: tuple[GoldenInput, ...]
) -> None:
    name = f"gguf-{precision}"
    with (
        Session.open(packed.artifact_folder(name), threads=threads) as python,
        library.open(packed.folder, name, threads=threads) as native,
    ):
        for prompt in prompts:
            ids = python.prompt_ids(prompt)
            text = prompt if isinstance(prompt, str) else native.apply_template(prompt)
            assert native.tokenize(text, add_special=isinstance(prompt, str)) == ids
            expected = python.generate(ids, LONG)
            assert native.generate(ids, LONG) == (list(expected.token_ids), expected.text)
            said = native.statistics()
            assert (said["prompt_tokens"], said["new_tokens"], said["finish_reason"]) == (len(ids), 40, "length")
            assert said["reused_tokens"] == expected.statistics.reused_tokens
            assert len(said["token_seconds"]) == 39


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "mistral", "granite", "olmo2", "phi3", "gemma2", "gemma3", "gpt2"])
def test_answers_of_every_architecture_are_those_of_session(
    kind: str, library: NativeLibrary, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(request.getfixturevalue(f"tiny_{kind}"))
    model = export_checkpoint(checkpoint, "gguf", "f16", tmp_path).model_path
    with Session.open(model, threads=1) as python, library.open(model, threads=1) as native:
        ids = python.prompt_ids("Once upon a time there was a tiny model.") * 8
        expected = python.generate(ids, LONG)
        assert native.generate(ids, LONG) == (list(expected.token_ids), expected.text)


def test_an_answer_continues_from_what_the_cache_holds(session: NativeSession) -> None:
    ids = session.tokenize("Once upon a time there was")
    first, _ = session.generate(ids, LONG)
    again, _ = session.generate(ids, LONG)
    assert session.statistics()["reused_tokens"] == len(ids) - 1
    session.reset()
    cold, _ = session.generate(ids, LONG)
    assert session.statistics()["reused_tokens"] == 0
    assert first == again == cold


def test_stop_strings_end_the_answer_as_in_session(library: NativeLibrary, packed: Bundle) -> None:
    with (
        Session.open(packed.artifact_folder("gguf-f16"), threads=1) as python,
        library.open(packed.folder, "gguf-f16", threads=1) as native,
    ):
        ids = python.prompt_ids("Once upon a time")
        whole = python.generate(ids, LONG).text
        for start in range(4, len(whole) - 3, 5):
            options = replace(LONG, stop=(whole[start : start + 3], "never said"))
            expected = python.generate(ids, options)
            assert native.generate(ids, options) == (list(expected.token_ids), expected.text)
            assert native.statistics()["finish_reason"] == expected.finish_reason == "stop"


def test_what_a_stream_gives_is_text_and_never_half_a_character(session: NativeSession) -> None:
    pieces: list[tuple[int, str]] = []
    ids, text = session.generate(session.tokenize("東京"), LONG, lambda token, piece: pieces.append((token, piece)))
    assert [token for token, _ in pieces] == ids
    assert "".join(piece for _, piece in pieces) == text


def test_cancelling_ends_the_answer_and_leaves_a_good_session(session: NativeSession) -> None:
    ids = session.tokenize("Once upon a time")
    whole, _ = session.generate(ids, LONG)
    taken: list[int] = []

    def ends_itself(token: int, _piece: str) -> bool:
        taken.append(token)
        return len(taken) == 5

    def is_ended(token: int, _piece: str) -> None:
        taken.append(token)
        if len(taken) == 7:
            thread = threading.Thread(target=session.cancel)
            thread.start()
            thread.join()

    for consume, count in ((ends_itself, 5), (is_ended, 7)):
        taken.clear()
        answer, _ = session.generate(ids, LONG, consume)
        assert answer == whole[:count] == taken
        assert session.statistics()["finish_reason"] == "cancelled"
    assert session.generate(ids, LONG)[0] == whole


def test_a_consumers_error_arrives(session: NativeSession) -> None:
    def raises(_token: int, _piece: str) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        session.generate(session.tokenize("Once"), LONG, raises)


def test_sampling_repeats_by_its_seed_and_stays_in_the_likeliest(session: NativeSession) -> None:
    ids = session.tokenize("Once upon a time")

    def drawn(**sampling: float) -> list[int]:
        from edgestill.runtime import Sampling

        return session.generate(ids, replace(LONG, sampling=Sampling(**sampling)))[0]  # type: ignore[arg-type]

    greedy, _ = session.generate(ids, LONG)
    assert drawn(temperature=2.0, seed=1) == drawn(temperature=2.0, seed=1) != drawn(temperature=2.0, seed=2)
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert drawn(temperature=2.0, seed=3, **narrow) == greedy


def test_a_state_goes_on_where_it_was_saved(library: NativeLibrary, packed: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "a state"
    with library.open(packed.folder, threads=1) as session:
        ids = session.tokenize("Once upon a time there was a tiny model") * 3
        whole, _ = session.generate(ids, LONG)
        session.generate(ids, GenerationOptions(max_new_tokens=1))
        session.save_state(path)
    with library.open(packed.folder, threads=1) as session:
        session.load_state(path)
        assert session.generate(ids, LONG)[0] == whole
        assert session.statistics()["reused_tokens"] == len(ids) - 1
        with pytest.raises(EdgestillError, match="can't be written"):
            session.save_state(tmp_path / "nowhere" / "state")
        data = bytearray(path.read_bytes())
        for spoilt in (data[:50], data[:-7], b"", data[:-1] + bytes([data[-1] ^ 1]), b"x" * 200):
            path.write_bytes(spoilt)
            with pytest.raises(ModelFileError):
                session.load_state(path)
        assert session.generate(ids, LONG)[0] == whole
        path.write_bytes(data)
    for other in ({"artifact": "gguf-f16"}, {"context_length": 128}, {"kv_precision": "f32"}):
        with (
            library.open(packed.folder, threads=1, **other) as session,  # type: ignore[arg-type]
            pytest.raises(ModelFileError, match="a state of another"),
        ):
            session.load_state(path)
    assert not list(tmp_path.glob("*.partial"))


def test_the_self_test_passes_and_finds_another_answer(
    library: NativeLibrary, packed: Bundle, artifacts: list[Artifact], repack: Callable[..., Path]
) -> None:
    for artifact in artifacts:
        with library.open(packed.folder, artifact.name) as session:
            found = session.selftest()
            assert (found["prompts"], found["close_tokens"], found["largest_gap"]) == (3, 0, 0.0)
    rows = [json.loads(line) for line in (packed.folder / "golden.jsonl").read_text().splitlines()]
    rows[1]["token_ids"]["gguf-q4_0"][3] += 1
    rows[2]["prompt"][1]["content"] += "!"
    del rows[0]["token_ids"]["gguf-f16"]
    golden = "".join(json.dumps(row) + "\n" for row in rows)
    changed = repack(golden)
    for name, said in (
        ("gguf-q4_0", "golden prompt 2: the answer differs at token 3"),
        ("gguf-q8_0", "golden prompt 3 is tokenised differently"),
        ("gguf-f16", "golden prompt 1 has no answer"),
    ):
        with library.open(changed, name) as session, pytest.raises(GateError, match=said):
            session.selftest()


def test_a_token_that_is_nearly_as_likely_is_close(
    library: NativeLibrary, packed: Bundle, repack: Callable[..., Path], artifacts: list[Artifact]
) -> None:
    wanted = next(artifact for artifact in artifacts if artifact.name == "gguf-f16")
    rows = [json.loads(line) for line in (packed.folder / "golden.jsonl").read_text().splitlines()]
    seen: list[tuple[float, int, int, int, bool]] = []
    with Session.open(packed.artifact_folder("gguf-f16")) as python:
        for number, row in enumerate(rows):
            answer = row["token_ids"]["gguf-f16"]
            for at in range(len(answer)):
                # Token by token, as the self-test goes: read at once, they differ by a tenth of the smallest gap.
                one = python.read([*row["prompt_ids"], *answer[:at]])
                likeliest = np.argsort(-one)
                height = one[likeliest[0]] - one.mean(dtype=np.float64)
                for rank in (1, 200):
                    token = int(likeliest[rank])
                    seen.append((float((one[likeliest[0]] - one[token]) / height), number, at, token, rank == 1))
    for gap, number, at, token, near in (min(seen), max(seen)):
        row = rows[number]
        answer = [*row["token_ids"]["gguf-f16"][:at], token]
        changed = {**row, "token_ids": {"gguf-f16": answer}, "max_new_tokens": at + 1}
        with library.open(repack(json.dumps(changed) + "\n", [wanted]), "gguf-f16") as session:
            if near:
                found = session.selftest()
                assert (found["close_tokens"], gap < 0.05) == (1, True)
                assert found["largest_gap"] == pytest.approx(gap, rel=1e-4)
            else:
                with pytest.raises(GateError, match=f"differs at token {at}: .* by 1"):
                    session.selftest()


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        ("artifacts/gguf-q4_0/model.gguf", lambda data: data[:-1] + bytes([data[-1] ^ 16]), "its bytes changed"),
        ("artifacts/gguf-q4_0/model.gguf", lambda data: data[:-100], "bytes, the manifest says"),
        ("artifacts/gguf-q4_0/artifact.json", None, "missing"),
        ("artifacts/gguf-q4_0/new.bin", lambda data: b"x", "not in the manifest"),
        ("manifest.json", lambda data: data.replace(b'"name": "tiny"', b'"name": "tidy"'), "changed after packing"),
        ("manifest.json", lambda data: data[:1000], "not a readable manifest"),
        ("manifest.json", lambda data: b"[" * 100_000, "not a readable manifest"),
        ("manifest.json", lambda data: data.replace(b"edgestill.bundle/1", b"edgestill.bundle/2"), "update edgestill"),
        ("manifest.json", lambda data: data.replace(b"edgestill.bundle/1", b"something"), "schema 'something'"),
        ("manifest.json", None, "no manifest.json"),
    ],
)
def test_a_changed_bundle_is_refused(
    path: str, change: Callable[[bytes], bytes] | None, said: str, bundle: Path, library: NativeLibrary
) -> None:
    file = bundle / path
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes() if file.exists() else b""))
    with pytest.raises(EdgestillError, match=said):
        library.open(bundle)


def test_golden_answers_are_checked_before_they_are_used(bundle: Path, library: NativeLibrary) -> None:
    with (bundle / "golden.jsonl").open("a") as file:
        file.write("{}\n")
    with library.open(bundle) as session, pytest.raises(ModelFileError, match="the manifest says"):
        session.selftest()


def test_bad_input_is_an_error_with_its_reason(library: NativeLibrary, session: NativeSession, packed: Bundle) -> None:
    model = packed.folder / "artifacts" / "gguf-f16" / "model.gguf"
    for path, artifact, said in (
        (packed.folder, "gguf-q5", "no artifact 'gguf-q5' in the bundle; there are: gguf-f32"),
        (packed.folder / "nothing", None, "can't be read"),
        (packed.folder / "report.html", None, "doesn't begin with GGUF"),
        (model, "gguf-f16", "not a bundle's folder"),
    ):
        with pytest.raises(EdgestillError, match=said):
            library.open(path, artifact)
    for options, said in (
        ({"threads": -1}, "threads"),
        ({"context_length": -5}, "context_length"),
        ({"kv_precision": "q2"}, "'q2' is not f16"),
        ({"kv_precision": "q8_0"}, "can't make a KV cache in q8_0"),  # heads of 16
    ):
        with pytest.raises(InputError, match=said):
            library.open(packed.folder, **options)  # type: ignore[arg-type]
    for ids in ([], [-1], [10**6]):
        with pytest.raises(InputError):
            session.generate(ids)
    with pytest.raises(ContextFullError, match="300 tokens and the context 256"):
        session.generate([5] * 300)
    with pytest.raises(InputError, match="at least one message"):
        session.apply_template([])


def test_a_version_that_is_later_is_told_apart(bundle: Path, library: NativeLibrary) -> None:
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace("edgestill.bundle/1", "edgestill.bundle/2", 1))
    with pytest.raises(BundleError, match="update edgestill"):
        library.open(bundle)


def test_the_log_of_the_python_runtime_stays_its_own(library: NativeLibrary, packed: Bundle, tmp_path: Path) -> None:
    from edgestill.runtime.engines.llama_cpp import log_lines, log_to

    model = packed.artifact_folder("gguf-f16")
    Session.open(model, threads=1).close()
    with library.open(packed.folder, "gguf-f16", threads=1) as native:
        native.generate([1, 2, 3], LONG)
    log_to(tmp_path / "llama.log")
    try:
        before = len(log_lines())
        Session.open(model, threads=1).close()
    finally:
        log_to(None)
    assert "llama" in (tmp_path / "llama.log").read_text()
    assert before or log_lines()


def test_the_program_generates_tests_itself_and_measures(built: NativeBuild, packed: Bundle) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([built.program, *map(str, arguments)], capture_output=True, text=True, check=False)

    with Session.open(packed.artifact_folder("gguf-q4_0"), threads=1) as python:
        ids = python.prompt_ids("Once upon a time")
        expected = python.generate(ids, replace(LONG, ignore_eos=False))
    asked = ("generate", packed.folder, "--threads", 1, "--max-new-tokens", 40)
    assert run(*asked, "--prompt", "Once upon a time").stdout == expected.text + "\n"
    said = run(*asked, "--ids", ",".join(map(str, ids)), "--print-ids", "--statistics")
    assert said.stdout == ",".join(map(str, expected.token_ids)) + "\n"
    assert json.loads(said.stderr)["new_tokens"] == len(expected.token_ids)
    assert json.loads(run("selftest", packed.folder).stdout)["prompts"] == 3
    for arguments, status in (
        (("generate", packed.folder), 2),
        (("nonsense", packed.folder), 2),
        ((), 2),
        (("selftest", "/nowhere"), 2),
        (("selftest", packed.folder, "--threads", "many"), 2),
        (("selftest", packed.folder / "artifacts" / "gguf-f16" / "model.gguf"), 2),
        (("bench", packed.folder, "--prompt-tokens", 9999), 1),
        (("--help",), 0),
    ):
        assert run(*arguments).returncode == status, arguments


PROGRAM = r"""
#include <edgestill.h>
#include <stdio.h>
#include <string.h>

int main(int count, char **arguments) {
    es_session *session;
    es_generation options = {.size = sizeof options, .max_new_tokens = 40, .ignore_eos = 1};
    int32_t ids[256], answer[256];
    size_t found, length;
    if (count != 3 || es_open(arguments[1], NULL, NULL, &session)) return puts(es_error()), 1;
    if (es_tokenize(session, arguments[2], strlen(arguments[2]), 1, ids, 256, &found)) return puts(es_error()), 1;
    if (es_generate(session, ids, found, &options, NULL, NULL)) return puts(es_error()), 1;
    if (es_answer(session, answer, 256, &length)) return puts(es_error()), 1;
    for (size_t i = 0; i < length; i++) printf("%d ", answer[i]);
    es_close(session);
    return 0;
}
"""


def test_a_c_program_gives_sessions_tokens(built: NativeBuild, packed: Bundle, tmp_path: Path) -> None:
    assert built.library is not None
    (tmp_path / "main.c").write_text(PROGRAM)
    folder = built.library.parent
    linked = [f"-I{folder}", f"-L{folder}", "-ledgestill", f"-Wl,-rpath,{folder}"]
    command = ["cc", "-std=c99", "-Wall", "-Werror", "-o", "main", "main.c", *linked]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "main", packed.folder, "naïve café"], capture_output=True, text=True, check=True)
    with Session.open(packed.artifact_folder("gguf-q4_0")) as python:
        expected = python.generate("naïve café", LONG).token_ids
    assert [int(word) for word in done.stdout.split()] == list(expected)
