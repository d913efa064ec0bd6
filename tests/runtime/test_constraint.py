"""Constrained answers on every engine: valid, the best that is allowed, streamed, cut, refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgestill.artifact import Checkpoint
from edgestill.errors import InputError, MissingDependencyError, StageError, UnsupportedError
from edgestill.export import export_checkpoint
from edgestill.runtime import GenerationOptions, Grammar, JsonSchema, Sampling, Session
from edgestill.runtime.constraints.guidance import compile_for_llguidance
from edgestill.runtime.constraints.llama_grammar import compile_for_llama
from edgestill.runtime.constraints.vocabulary import Vocabulary

ENGINES = ("torch", "onnxruntime", "llama.cpp")
ACTION = {
    "type": "object",
    "properties": {
        "action": {"enum": ["set_brightness", "schließen", 'say "hi"']},
        "room": {"type": "string", "minLength": 1, "maxLength": 6},
        "value": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 100}, {"type": "null"}]},
    },
    "required": ["action", "value"],
    "additionalProperties": False,
}
HOT = Sampling(temperature=2.0, seed=1)


@pytest.fixture(scope="module")
def sessions(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Session]:
    out = tmp_path_factory.mktemp("constrained")
    checkpoint = Checkpoint.open(tiny_checkpoint)
    paths = {
        "torch": tiny_checkpoint,
        "onnxruntime": export_checkpoint(checkpoint, "onnx", "fp32", out).model_path,
        "llama.cpp": export_checkpoint(checkpoint, "gguf", "f32", out).model_path,
    }
    return {engine: Session.open(path, threads=1) for engine, path in paths.items()}


def held(constraint: JsonSchema | Grammar, sampling: Sampling | None = None, **more: Any) -> GenerationOptions:
    return GenerationOptions(sampling=sampling or Sampling(), constraint=constraint, **{"max_new_tokens": 200, **more})


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "sampling", [Sampling(), HOT, Sampling(1.5, top_k=9, top_p=0.9, seed=2)], ids=["0", "2", "1.5"]
)
def test_a_random_model_writes_what_the_schema_wants(
    engine: str, sampling: Sampling, sessions: dict[str, Session]
) -> None:
    session = sessions[engine]
    answer = session.generate("dim", held(JsonSchema(ACTION), sampling))
    jsonschema.validate(json.loads(answer.text), ACTION)
    assert answer.constraint is not None
    assert answer.constraint.complete
    assert answer.constraint.note is None
    assert answer.constraint.enforced_by == ("llama.cpp" if engine == "llama.cpp" else "llguidance")
    assert answer.finish_reason == "complete"
    assert not set(answer.token_ids) & session.tokenizer.special_ids
    assert answer.text == session.tokenizer.decode(answer.token_ids)


def test_greedy_answers_are_the_same_tokens_on_every_engine(sessions: dict[str, Session]) -> None:
    constraints = (JsonSchema(ACTION), Grammar('root ::= ("a" "bc" | "ab" "d") [é-ü東]{3} [^\\n]{4}'))
    for constraint in constraints:
        answers = [sessions[engine].generate("Once", held(constraint)) for engine in ENGINES]
        assert len({answer.token_ids for answer in answers}) == 1


names = st.sampled_from(["a", "key", "ключ", 'with "quotes"', "tab\t", ""])


@st.composite
def leaves(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["null", "boolean", "date", "integer", "number", "string", "enum"]))
    least, width = draw(st.integers(-999, 9999)), draw(st.integers(1, 999))
    if kind == "date":
        return {"type": "string", "format": "date"}
    if kind == "integer":
        return {"type": kind, "minimum": least, "maximum": least + width}
    if kind == "number":
        return {"type": kind, "exclusiveMinimum": least, "maximum": least + width}
    if kind == "string":
        return {"type": kind, "minLength": abs(least) % 4, "maxLength": abs(least) % 4 + width % 4}
    if kind == "enum":
        return {"enum": draw(st.lists(st.one_of(names, st.integers(-9, 9), st.none()), min_size=1, max_size=3))}
    return {"type": kind}


@st.composite
def schemas(draw: st.DrawFn, depth: int = 2) -> dict[str, Any]:
    kind = draw(st.sampled_from(["leaf", "array", "anyOf", "object"])) if depth else "leaf"
    inner = schemas(depth=depth - 1)
    if kind == "array":
        least = draw(st.integers(0, 1))
        return {"type": kind, "items": draw(inner), "minItems": least, "maxItems": least + 1}
    if kind == "anyOf":
        return {kind: draw(st.lists(inner, min_size=1, max_size=2))}
    if kind == "object":
        properties = draw(st.dictionaries(names, inner, max_size=2))
        required = [name for name in properties if draw(st.booleans())]
        return {"type": kind, "properties": properties, "required": required, "additionalProperties": False}
    return draw(leaves())


@given(schema=schemas(), seed=st.integers(0, 2**16), temperature=st.sampled_from([0.0, 1.5]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("engine", ["onnxruntime", "llama.cpp"])
def test_any_bounded_schema_is_satisfied(
    engine: str, schema: dict[str, Any], seed: int, temperature: float, sessions: dict[str, Session]
) -> None:
    options = held(JsonSchema(schema), Sampling(temperature, seed=seed), max_new_tokens=240)
    answer = sessions[engine].generate([7, 50], options)
    assert answer.constraint is not None
    assert answer.constraint.enforced_by == ("llama.cpp" if engine == "llama.cpp" else "llguidance")
    checker = jsonschema.FormatChecker(["date"])
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(answer.text))


@given(schema=schemas(), seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_llama_cpp_and_llguidance_allow_the_same_tokens(
    schema: dict[str, Any], seed: int, sessions: dict[str, Session]
) -> None:
    session = sessions["llama.cpp"]
    vocabulary = Vocabulary(session.engine, session.tokenizer)
    ours, theirs = (make(JsonSchema(schema), vocabulary)() for make in (compile_for_llama, compile_for_llguidance))
    draw = np.random.default_rng(seed)
    for _ in range(60):
        np.testing.assert_array_equal(ours.allowed(), theirs.allowed())
        assert (ours.complete, ours.finished) == (theirs.complete, theirs.finished)
        if ours.finished:
            break
        token = int(draw.choice(ours.allowed()))
        ours.accept(token)
        theirs.accept(token)


WORDS = ("yes", "no", "never", "naïve", "東京", "\U0001f600!")


@pytest.mark.parametrize("engine", ["onnxruntime", "llama.cpp"])
def test_a_greedy_answer_is_the_best_token_that_some_word_begins_with(
    engine: str, sessions: dict[str, Session]
) -> None:
    session = sessions[engine]
    grammar = Grammar("root ::= " + " | ".join(f'"{word}"' for word in WORDS))
    for prompt in ([7, 50, 200], [9], [30, 31]):
        answer = session.generate(prompt, held(grammar))
        written, sequence = b"", list(prompt)
        pieces = Vocabulary(session.engine, session.tokenizer).pieces
        words = [word.encode() for word in WORDS]
        for token in answer.token_ids:
            logits = session.read(sequence)
            able = [n for n, piece in enumerate(pieces) if piece and any(w.startswith(written + piece) for w in words)]
            assert token == max(able, key=lambda number: (float(logits[number]), -number))
            written += pieces[token]
            sequence.append(token)
        assert written in words
        assert answer.text == written.decode()


class InsistingEngine:
    """Wants the same tokens at every step, the most wanted first; token 0 is the end."""

    name = "insisting"
    vocab_size = 256
    threads = 1
    weights_bytes = None
    float32 = True
    context_length = 300

    def __init__(self, wanted: Sequence[int]) -> None:
        self.row = np.zeros(256, np.float32)
        for rank, token in enumerate(wanted):
            self.row[token] = 100 - rank
        self.position = 0

    def append(self, token_ids: Sequence[int]) -> np.ndarray:
        self.position += len(token_ids)
        return self.row

    def rewind(self, position: int) -> None:
        self.position = position

    def close(self) -> None:
        return


class BytesTokenizer:
    """One token a byte; 0 is the end, 1 a special token."""

    vocab_size = 256
    bos_id = bos_token = eos_token = chat_template = None
    eos_ids = frozenset({0})
    special_ids = frozenset({0, 1})
    joins_bytes = True
    strips_first_space = False

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        return bytes(number for number in ids if number > 1).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if token_id < 2 else bytes([token_id])


def insisting(wanted: Sequence[int]) -> Session:
    return Session(InsistingEngine(wanted), BytesTokenizer())  # type: ignore[arg-type]


def test_the_end_and_special_tokens_come_only_where_the_grammar_is_complete() -> None:
    answer = insisting([1, 0, *b"ab"]).generate("x", held(Grammar('root ::= "ab" [c]* .*')))
    assert answer.text == "ab"
    assert answer.token_ids == (*b"ab", 0)
    assert answer.finish_reason == "eos"
    assert answer.constraint is not None
    assert answer.constraint.complete
    longer = insisting([1, 0, *b"ab"]).generate("x", held(Grammar("root ::= [a-c]{5}"), ignore_eos=True))
    assert (longer.text, longer.finish_reason) == ("aaaaa", "complete")


def test_an_answer_that_is_cut_is_not_claimed_to_satisfy() -> None:
    grammar = Grammar('root ::= [ab]{5} "."')
    cut = insisting(b"ab").generate("x", held(grammar, max_new_tokens=5))
    assert (cut.text, cut.finish_reason) == ("aaaaa", "length")
    stopped = insisting(b"ab").generate("x", held(grammar, stop=("aaa",)))
    assert (stopped.text, stopped.finish_reason) == ("", "stop")
    session = insisting(b"ab")
    for count, _ in enumerate(session.stream("x", held(grammar))):
        if count == 2:
            session.cancel()
    assert session.last is not None
    assert (session.last.text, session.last.finish_reason) == ("aaa", "cancelled")
    for answer in (cut, stopped, session.last):
        assert answer.constraint is not None
        assert not answer.constraint.complete
    whole = session.generate("x", held(grammar, max_new_tokens=6))
    assert (whole.text, whole.finish_reason) == ("aaaaa.", "complete")


def test_characters_of_several_tokens_are_whole_and_counted_as_one() -> None:
    # 0xC0 and 0xED 0xBF begin no character of UTF-8.
    wanted = [0xC0, 0xED, 0xBF, 0xA0, 0x9F, 0x80, *b'"']
    answer = insisting(wanted).generate("x", held(JsonSchema({"type": "string", "minLength": 2, "maxLength": 3})))
    assert len(json.loads(answer.text)) in (2, 3)
    assert "\N{REPLACEMENT CHARACTER}" not in answer.text
    chunks = [chunk.text for chunk in insisting(wanted).stream("x", held(Grammar("root ::= [\\uD000-\\uD7FF]{2}")))]
    assert [text for text in chunks if text] == ["\ud7ff", "\ud7ff"]


@pytest.mark.parametrize("engine", ["onnxruntime", "llama.cpp"])
def test_a_stream_under_a_constraint_equals_generate(engine: str, sessions: dict[str, Session]) -> None:
    options = held(JsonSchema(ACTION), HOT)
    whole = sessions[engine].generate("dim", options)
    chunks = list(sessions[engine].stream("dim", options))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert tuple(chunk.token_id for chunk in chunks) == whole.token_ids
    assert chunks[-1].finish_reason == whole.finish_reason == "complete"


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_without_a_constraint_is_what_it_was_before_and_after_one(
    engine: str, sessions: dict[str, Session]
) -> None:
    session = sessions[engine]
    options = GenerationOptions(max_new_tokens=40, sampling=Sampling(1.0, top_k=30, seed=4), ignore_eos=True)
    before = session.generate([7, 50, 200], options)
    session.generate([7, 50, 200], held(JsonSchema(ACTION), HOT))
    after = session.generate([7, 50, 200], options)
    assert before.token_ids == after.token_ids
    assert before.constraint is None
    assert len(before.token_ids) == 40


def test_what_llama_cpp_can_not_hold_goes_to_llguidance_and_says_so(sessions: dict[str, Session]) -> None:
    schema = {"type": "object", "properties": {"id": {"type": "string", "pattern": "^[A-F]{4}$"}}, "required": ["id"]}
    answer = sessions["llama.cpp"].generate("x", held(JsonSchema(schema), HOT))
    jsonschema.validate(json.loads(answer.text), schema)
    assert answer.constraint is not None
    assert answer.constraint.enforced_by == "llguidance"
    assert answer.constraint.note == "schema, #/properties/id: llama.cpp's grammar does not enforce pattern"
    lark = Grammar("start: NAME\nNAME: /[a-c]{3}/", "lark")
    answer = sessions["llama.cpp"].generate("x", held(lark))
    assert len(answer.text) == 3
    assert answer.constraint is not None
    assert answer.constraint.enforced_by == "llguidance"


def test_without_llguidance_the_missing_extra_is_named(
    sessions: dict[str, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgestill\[constrained\]'"):
        sessions["onnxruntime"].generate("x", held(Grammar('root ::= "only here"')))
    with pytest.raises(MissingDependencyError, match=r"does not enforce pattern.*edgestill\[constrained\]"):
        sessions["llama.cpp"].generate("x", held(JsonSchema({"type": "string", "pattern": "b"})))
    assert sessions["llama.cpp"].generate("x", held(Grammar('root ::= "only here"'))).text == "only here"


@pytest.mark.parametrize("engine", ["onnxruntime", "llama.cpp"])
def test_what_can_not_be_enforced_is_refused_before_any_token(engine: str, sessions: dict[str, Session]) -> None:
    session = sessions[engine]
    for constraint, kind, said in (
        (JsonSchema({"type": "array", "uniqueItems": True}), UnsupportedError, "uniqueItems"),
        (JsonSchema({"type": "string", "pattern": "(?=a)b"}), UnsupportedError, "regex"),
        (JsonSchema({"type": "string", "maxLenght": 3}), UnsupportedError, "maxLenght"),
        (Grammar('root ::= "a'), InputError, "line 1, column 12"),
        (Grammar("start: missing", "lark"), InputError, "missing"),
    ):
        with pytest.raises(kind, match=said):
            session.generate("x", held(constraint))


def test_a_character_that_the_vocabulary_can_not_spell_is_an_error_not_another_text() -> None:
    class Ascii(BytesTokenizer):
        def token_bytes(self, token_id: int) -> bytes:
            return b"" if token_id > 127 else super().token_bytes(token_id)

    session = Session(InsistingEngine(b"a"), Ascii())  # type: ignore[arg-type]
    with pytest.raises(StageError, match=r"llguidance|no token of the vocabulary"):
        session.generate("x", held(Grammar('root ::= "aé"')))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_sentencepiece_model_keeps_to_the_grammar_from_its_first_token(
    engine: str, shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkpoint = Checkpoint.open(shared_data / "stories260K-hf")
    kind, precision = {"onnxruntime": ("onnx", "fp32"), "llama.cpp": ("gguf", "f32")}.get(engine, ("", ""))
    out = tmp_path_factory.mktemp("stories")
    path = export_checkpoint(checkpoint, kind, precision, out).model_path if kind else checkpoint.path
    with Session.open(path, threads=1) as session:
        for seed in range(5):
            answer = session.generate("Once", held(JsonSchema(ACTION), Sampling(1.8, seed=seed)))
            jsonschema.validate(json.loads(answer.text), ACTION)
        free = session.generate("Once", held(Grammar("root ::= [^\\n]{20}")))
        assert len(free.text) == 20


def test_chat_answers_under_a_schema_and_refuses_two_constraints(
    sessions: dict[str, Session], tmp_path: Path, write_json: Callable[[Path, object], Path]
) -> None:
    model = sessions["llama.cpp"].model
    assert model is not None
    schema = write_json(tmp_path / "schema.json", ACTION)
    grammar = tmp_path / "answer.gbnf"
    grammar.write_text('root ::= "yes" | "no"\n')
    command = [sys.executable, "-m", "edgestill.cli", "chat", str(model), "--prompt", "dim the lights"]

    def run(*more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *map(str, more)], capture_output=True, text=True, timeout=300)

    jsonschema.validate(json.loads(run("--json-schema", schema).stdout), ACTION)
    assert run("--grammar", grammar).stdout.strip() in ("yes", "no")
    cut = run("--json-schema", schema, "--max-new-tokens", 3)
    assert "the answer was cut (length)" in cut.stderr
    both = run("--json-schema", schema, "--grammar", grammar)
    assert both.returncode == 2
    assert "give one of them" in both.stderr
    missing = run("--json-schema", tmp_path / "no.json")
    assert missing.returncode == 2
    assert "no.json: not a readable text file" in missing.stderr


@pytest.fixture(scope="module")
def write_json() -> Callable[[Path, object], Path]:
    def write(path: Path, value: object) -> Path:
        path.write_text(json.dumps(value))
        return path

    return write
