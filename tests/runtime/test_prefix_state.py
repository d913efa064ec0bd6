"""A system prompt's computed state: the same answer from it as without it, and what doesn't fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edgestill.artifact import Checkpoint
from edgestill.bundle import open_bundle, verify_files
from edgestill.cli import app
from edgestill.dataset import Message
from edgestill.errors import BundleError, InputError, ModelFileError, UnsupportedError
from edgestill.export.gguf import export_gguf
from edgestill.export.onnx import export_onnx
from edgestill.runtime.engine import KeepsState
from edgestill.runtime.prefix_state import open_prefix_state, system_prefix, write_prefix_state
from edgestill.runtime.session import GenerationOptions, Session

SYSTEM = "You switch lights. Answer with one word."
KINDS = ("onnx", "onnx-portable", "gguf")
ASKED = tuple(Message("user", text) for text in ("dim the hall", "東京", "", "Answer\nnow"))


@pytest.fixture(scope="module")
def models(
    tiny_checkpoint: Path, portable_decoders: dict[str, tuple[Path, object]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    checkpoint = Checkpoint.open(tiny_checkpoint)
    portable = next(iter(portable_decoders.values()))[1]
    return {
        "onnx": export_onnx(checkpoint, "fp32", folder).folder,
        "onnx-portable": portable.folder,  # type: ignore[attr-defined]
        "gguf": export_gguf(checkpoint, "f32", folder).model_path,
    }


def make(session: Session, path: Path, system: str = SYSTEM) -> list[int]:
    assert session.model is not None
    ids = system_prefix(session.tokenizer, system)
    write_prefix_state(path, session.engine, ids, model_sha256=session.model.sha256(), system=system)
    return ids


@pytest.mark.parametrize("kind", KINDS)
def test_answers_begin_from_the_state_and_are_the_same(kind: str, models: dict[str, Path], tmp_path: Path) -> None:
    options = GenerationOptions(max_new_tokens=12, ignore_eos=True)
    path = tmp_path / "a.state"
    with Session.open(models[kind]) as session:
        expected = []
        for asked in ASKED:
            session.reset()
            expected.append(session.generate((Message("system", SYSTEM), asked), options).token_ids)
        ids = make(session, path)
    for asked, tokens in zip(ASKED, expected, strict=True):
        with Session.open(models[kind]) as session:
            session.use_prefix(path)
            answer = session.generate((Message("system", SYSTEM), asked), options)
            assert answer.token_ids == tokens
            assert answer.statistics.reused_tokens == len(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_taken_back_is_the_state_to_the_bit(kind: str, models: dict[str, Path]) -> None:
    with Session.open(models[kind]) as session:
        engine = session.engine
        assert isinstance(engine, KeepsState)
        engine.append(range(40, 70))
        state = engine.save_state()
        after = engine.append([7]).copy()
        engine.rewind(0)
        engine.append(range(100, 110))
        engine.restore_state(state, 30)
        assert engine.position == 30
        np.testing.assert_array_equal(engine.append([7]), after)
        engine.rewind(30)
        np.testing.assert_array_equal(engine.save_state(), state)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_shares_only_a_part_uses_that_part(kind: str, models: dict[str, Path], tmp_path: Path) -> None:
    options = GenerationOptions(max_new_tokens=8, ignore_eos=True)
    with Session.open(models[kind]) as session:
        ids = make(session, tmp_path / "a.state")
        other = [*ids[:9], *range(20, 26)]
        expected = session.generate(other, options).token_ids
        session.reset()
        session.use_prefix(tmp_path / "a.state")
        answer = session.generate(other, options)
        assert (answer.token_ids, answer.statistics.reused_tokens) == (expected, 9)
        # What the cache holds by now is longer than what the state has in common.
        assert session.generate([*other, 5], options).statistics.reused_tokens == len(other)
        session.reset()
        assert session.generate([ids[0], *range(20, 60)], options).statistics.reused_tokens == 0  # not worth reading
        session.use_prefix(None)
        session.reset()
        assert session.generate(other, options).statistics.reused_tokens == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_the_wrong_size_is_refused_and_the_session_goes_on(kind: str, models: dict[str, Path]) -> None:
    with Session.open(models[kind]) as session:
        engine = session.engine
        assert isinstance(engine, KeepsState)
        expected = engine.append(range(40, 70)).copy()
        state = engine.save_state()
        for wrong, tokens in ((state[:-8], 30), (state, 29), (state[:0], 30)):
            with pytest.raises(ModelFileError):
                engine.restore_state(wrong, tokens)
            assert engine.position == 0
            np.testing.assert_array_equal(engine.append(range(40, 70)), expected)


def test_a_state_of_another_model_engine_or_version_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    with Session.open(models["onnx"]) as session:
        make(session, path)
    with Session.open(models["gguf"]) as session, pytest.raises(ModelFileError, match="made for another model"):
        session.use_prefix(path)
    with Session.open(models["gguf"]) as session:
        assert session.model is not None
        write_prefix_state(path, session.engine, [3, 4], model_sha256=session.model.sha256())
    raw = path.read_bytes().replace(b"llama-cpp-python 0.", b"llama-cpp-python 9.")
    path.write_bytes(raw)
    with Session.open(models["gguf"]) as session, pytest.raises(ModelFileError, match="llama-cpp-python 9"):
        session.use_prefix(path)
    with (
        Session.open(models["onnx"], context_length=16) as session,
        pytest.raises(InputError, match="a prefix of 16 tokens in a context of 16"),
    ):
        write_prefix_state(path, session.engine, range(16), model_sha256="0")


def test_torch_keeps_no_state(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with Session.open(tiny_checkpoint) as session, pytest.raises(UnsupportedError, match="torch engine keeps no state"):
        write_prefix_state(tmp_path / "a.state", session.engine, [1, 2], model_sha256="0")


def test_a_changed_byte_is_found_before_it_is_used(models: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "a.state"
    with Session.open(models["onnx"]) as session:
        make(session, path)
        raw = bytearray(path.read_bytes())
        raw[-5] ^= 1
        path.write_bytes(raw)
        session.use_prefix(path)
        with pytest.raises(ModelFileError, match="its bytes changed"):
            session.generate((Message("system", SYSTEM), ASKED[0]), GenerationOptions(max_new_tokens=2))


@pytest.fixture(scope="module")
def written(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("state") / "a.state"
    with Session.open(models["onnx"]) as session:
        write_prefix_state(path, session.engine, [3, 4, 5], model_sha256="0" * 64)
    return path


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_header_is_one_error(written: Path, data: st.DataObject) -> None:
    raw = bytearray(written.read_bytes())
    kind = data.draw(st.sampled_from(["cut", "flip", "key"]))
    if kind == "cut":
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    elif kind == "flip":
        raw[data.draw(st.integers(0, 300))] = data.draw(st.integers(0, 255))
    else:
        length = int.from_bytes(raw[8:12], "little")
        header = json.loads(raw[12 : 12 + length])
        wrong = st.sampled_from([None, -1, True, 1.5, "x", [], {}, [-1], [1 << 40], 1 << 70])
        header[data.draw(st.sampled_from(sorted(header)))] = data.draw(wrong)
        text = json.dumps(header).encode()
        raw = raw[:8] + len(text).to_bytes(4, "little") + text + raw[12 + length :]
    path = written.with_name("damaged.state")
    path.write_bytes(raw)
    try:
        state = open_prefix_state(path)
    except ModelFileError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
    else:
        assert state.offset + state.size == len(raw)


def test_the_prefix_ends_before_the_question_and_holds_the_system_message(models: dict[str, Path]) -> None:
    with Session.open(models["onnx"]) as session:
        ids = system_prefix(session.tokenizer, SYSTEM)
        text = session.tokenizer.decode(ids, skip_special=False)
        assert SYSTEM in text
        for asked in ASKED[:2]:
            assert session.prompt_ids((Message("system", SYSTEM), asked))[: len(ids)] == ids
            assert asked.content not in text


def test_a_template_without_a_system_message_first_is_refused(models: dict[str, Path]) -> None:
    with Session.open(models["onnx"]) as session:
        session.tokenizer.chat_template = (
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
        )
        with pytest.raises(InputError, match="doesn't begin with the system message"):
            system_prefix(session.tokenizer, SYSTEM)


def test_a_bundle_carries_the_state_and_chat_begins_from_it(
    tiny_checkpoint: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "system.txt").write_text(SYSTEM + "\n", encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "dim the hall", "completion": "on"}) + "\n")
    words = [
        "bundle",
        "pack",
        tiny_checkpoint,
        models["onnx"],
        models["gguf"].parent,
        "--prompts",
        tmp_path / "rows.jsonl",
    ]
    found = CliRunner().invoke(
        app, [*map(str, words), "--system", str(tmp_path / "system.txt"), "--out", str(tmp_path / "bundle")]
    )
    assert found.exit_code == 0, found.output
    bundle = open_bundle(tmp_path / "bundle")
    verify_files(bundle)
    for name in ("onnx-fp32", "gguf-f32"):
        model = f"{tmp_path / 'bundle'}#{name}"
        with Session.open(model) as session:
            assert session.prefix is not None
            assert session.prefix.system == SYSTEM
            expected = session.generate((Message("system", SYSTEM), ASKED[0]), GenerationOptions(max_new_tokens=6))
            assert expected.statistics.reused_tokens == len(session.prefix.token_ids)
        said = CliRunner().invoke(app, ["chat", model, "--prompt", ASKED[0].content, "--max-new-tokens", "6"])
        assert said.stdout == expected.text + "\n"
    # Of another precision's weights: the answer is computed, and the reason is said.
    state = tmp_path / "bundle" / "artifacts" / "gguf-f32" / "prefix.state"
    state.write_bytes((tmp_path / "bundle" / "artifacts" / "onnx-fp32" / "prefix.state").read_bytes())
    with Session.open(f"{tmp_path / 'bundle'}#gguf-f32") as session:
        assert session.prefix is None
        assert "made for another model" in str(session.prefix_misfit)
    said = CliRunner().invoke(
        app, ["chat", f"{tmp_path / 'bundle'}#gguf-f32", "--prompt", "dim", "--max-new-tokens", "2"]
    )
    assert "made for another model" in said.stderr
    with pytest.raises(BundleError, match=r"prefix\.state"):
        verify_files(bundle)
