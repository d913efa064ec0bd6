"""Sessions: the same answers on every engine, stop strings, streaming, cancelling, reuse of the KV cache."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgestill.artifact import Checkpoint
from edgestill.dataset import Message
from edgestill.errors import CheckpointError, ContextFullError, InputError
from edgestill.export import export_checkpoint
from edgestill.runtime import Generation, GenerationOptions, Sampling, Session
from edgestill.runtime.stop_strings import StopStrings

MESSAGES = (Message("system", "be brief"), Message("user", "dim the kitchen lights"))
LONG = GenerationOptions(max_new_tokens=60, ignore_eos=True)


class SpellingEngine:
    """Says one text, byte by byte, whatever the prompt; token 0 is the end."""

    name = "spelling"
    vocab_size = 256
    threads = 1
    weights_bytes = None
    float32 = True

    def __init__(self, text: str, context_length: int = 200) -> None:
        self.data = text.encode() + b"\0"
        self.context_length = context_length
        self.sequence: list[int] = []
        self.prompt = 0
        self.fed: list[int] = []

    @property
    def position(self) -> int:
        return len(self.sequence)

    def append(self, token_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        self.fed.append(len(token_ids))
        self.sequence.extend(token_ids)
        if len(token_ids) > 1:
            self.prompt = self.position
        logits = np.zeros(256, np.float32)
        logits[self.data[min(self.position - self.prompt, len(self.data) - 1)]] = 9
        return logits

    def logits(self, token_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        self.sequence.clear()
        return np.zeros((len(token_ids), 256), np.float32)

    def rewind(self, position: int) -> None:
        del self.sequence[position:]

    def close(self) -> None:
        self.sequence.clear()


class BytesTokenizer:
    """One token a byte."""

    vocab_size = 256
    bos_id = None
    bos_token = None
    eos_token = None
    chat_template = None
    eos_ids = frozenset({0})
    special_ids = frozenset({0})

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        return bytes(number for number in ids if number or not skip_special).decode("utf-8", "replace")


def spelling(text: str, **sizes: int) -> Session:
    return Session(SpellingEngine(text, **sizes), BytesTokenizer())


@pytest.fixture(scope="session")
def open_session(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Session]:
    out = tmp_path_factory.mktemp("exported")
    checkpoint = Checkpoint.open(tiny_checkpoint)
    paths = {
        "torch": tiny_checkpoint,
        "onnxruntime": export_checkpoint(checkpoint, "onnx", "fp32", out).model_path,
        "llama.cpp": export_checkpoint(checkpoint, "gguf", "f32", out).model_path,
    }
    return lambda engine: Session.open(paths[engine], threads=1)


@pytest.mark.parametrize("prompt", ["Once upon a time", MESSAGES, [7, 50, 200, 9]])
def test_the_same_greedy_tokens_on_every_engine(
    prompt: str | Sequence[Message] | Sequence[int], open_session: Callable[[str], Session]
) -> None:
    answers = []
    for engine in ("torch", "onnxruntime", "llama.cpp"):
        with open_session(engine) as session:
            answers.append(session.generate(prompt, LONG))
    assert len({(answer.token_ids, answer.text, answer.prompt_tokens) for answer in answers}) == 1
    assert len(answers[0].token_ids) == 60


def test_a_real_models_greedy_story_is_the_same_on_every_engine(shared_data: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(shared_data / "stories260K-hf")
    paths = [
        checkpoint.path,
        export_checkpoint(checkpoint, "onnx", "fp32", tmp_path).model_path,
        export_checkpoint(checkpoint, "gguf", "f32", tmp_path).model_path,
    ]
    options = GenerationOptions(max_new_tokens=150)
    answers = []
    for path in paths:
        with Session.open(path, threads=1) as session:
            answers.append(session.generate("Once upon a time, there was a little girl", options))
    assert len({(answer.token_ids, answer.text) for answer in answers}) == 1
    assert "named Lily" in answers[0].text


def test_greedy_tokens_equal_transformers_generate(
    tiny_checkpoint: Path, open_session: Callable[[str], Session]
) -> None:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32)
    ids = [7, 50, 200, 9]
    expected = model.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False)[0, len(ids) :].tolist()
    with open_session("llama.cpp") as session:
        assert list(session.generate(ids, GenerationOptions(max_new_tokens=40)).token_ids) == expected


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(repetition_penalty=1.3),
        Sampling(temperature=1.0, top_p=0.9, seed=3),
        Sampling(temperature=1.0, repetition_penalty=1.3, seed=3),
    ],
)
@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "llama.cpp"])
def test_a_seeded_sample_repeats_and_a_stream_equals_generate(
    engine: str, sampling: Sampling, open_session: Callable[[str], Session]
) -> None:
    options = GenerationOptions(max_new_tokens=30, sampling=sampling)
    with open_session(engine) as session:
        whole = session.generate("Once", options)
        assert session.generate("Once", options).token_ids == whole.token_ids
        chunks = list(session.stream("Once", options))
        assert "".join(chunk.text for chunk in chunks) == whole.text
        assert tuple(chunk.token_id for chunk in chunks) == whole.token_ids
        assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
        assert chunks[-1].finish_reason == whole.finish_reason
        assert session.last is not None
        assert session.last.text == whole.text
        streamed, generated = session.last.statistics, whole.statistics
        assert len(streamed.token_seconds) == len(generated.token_seconds) == len(whole.token_ids) - 1
        assert streamed.reused_tokens == whole.prompt_tokens - 1


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "llama.cpp"])
def test_a_second_prompt_reuses_what_it_shares_and_gets_the_same_answer(
    engine: str, open_session: Callable[[str], Session]
) -> None:
    longer = (*MESSAGES, Message("assistant", "done"), Message("user", "and the hall too"))
    with open_session(engine) as session:
        session.generate(MESSAGES, LONG)
        warm = session.generate(longer, LONG)
        again = session.generate(longer, LONG)
        session.reset()
        cold = session.generate(longer, LONG)
    assert cold.statistics.reused_tokens == 0
    assert warm.statistics.reused_tokens >= 10
    assert again.statistics.reused_tokens == cold.prompt_tokens - 1
    assert warm.token_ids == again.token_ids == cold.token_ids


def test_logits_between_two_answers_do_not_disturb_the_second(open_session: Callable[[str], Session]) -> None:
    with open_session("onnxruntime") as session:
        first = session.generate("Once upon", LONG)
        session.engine.logits([1, 2, 3])
        session.logits([4, 5])
        assert session.generate("Once upon", LONG).token_ids == first.token_ids


def test_the_end_token_ends_the_answer_and_is_no_text() -> None:
    answer = spelling("naïve").generate("say it")
    assert answer.text == "naïve"
    assert answer.finish_reason == "eos"
    assert answer.token_ids == (*b"na\xc3\xafve", 0)
    assert answer.statistics.new_tokens == 7
    assert len(answer.statistics.token_seconds) == 6
    assert answer.prompt_tokens == 6


@pytest.mark.parametrize(
    ("said", "stop", "text"),
    [
        ("one. two. three", (". t",), "one"),
        ("one. two", ("###", " two"), "one."),
        ("abcabd!", ("abd",), "abc"),
        ("aaab", ("aab",), "a"),
        ("ends with the beginning of sto", ("stop",), "ends with the beginning of sto"),
        ("東京都", ("都",), "東京"),
    ],
)
def test_a_stop_string_ends_the_answer_and_is_not_in_it(said: str, stop: tuple[str, ...], text: str) -> None:
    session = spelling(said)
    chunks = list(session.stream("x y", GenerationOptions(stop=stop)))
    assert "".join(chunk.text for chunk in chunks) == text
    assert chunks[-1].finish_reason == ("eos" if text == said else "stop")
    for end in range(len(chunks)):
        assert text.startswith("".join(chunk.text for chunk in chunks[:end]))


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_stop_strings_in_any_split_cut_where_the_whole_text_would_be_cut(text: str, stops: list[str]) -> None:
    seen = StopStrings(tuple(stops))
    out = ""
    for letter in text:
        out += seen.push(letter)
        if seen.found:
            break
    else:
        out += seen.finish()
    # The stop string that is complete first wins; it is cut at its earliest beginning.
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    if not ends:
        assert out == text
        assert not seen.found
    else:
        whole = text[: ends[0]]
        assert out == whole[: min(whole.find(stop) for stop in stops if stop in whole)]


def test_the_longest_answer_and_a_full_context_end_by_length() -> None:
    answer = spelling("abcdefgh").generate("xy", GenerationOptions(max_new_tokens=3))
    assert (answer.text, answer.finish_reason) == ("abc", "length")
    full = spelling("abcdefgh", context_length=6).generate("wxyz")
    assert (full.text, full.finish_reason) == ("abc", "length")
    last = spelling("abcdefgh", context_length=4).generate("wxyz")
    assert (last.text, last.finish_reason) == ("a", "length")


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ContextFullError, match="5 tokens and the context 4"):
        spelling("a", context_length=4).generate("vwxyz")


def test_an_empty_prompt_and_foreign_ids_are_refused() -> None:
    for prompt in ("", [], [1, 256], [-1]):
        with pytest.raises(InputError):
            spelling("a").generate(prompt)


def test_cancelling_from_another_thread_ends_the_answer() -> None:
    session = spelling("a" * 150)
    texts = []
    for chunk in session.stream("xy"):
        texts.append(chunk.text)
        if len(texts) == 5:
            thread = threading.Thread(target=session.cancel)
            thread.start()
            thread.join()
    assert chunk.finish_reason == "cancelled"
    assert chunk.token_id is None
    assert session.last is not None
    assert session.last.text == "".join(texts) == "a" * 5
    assert session.generate("xy", GenerationOptions(max_new_tokens=9)).text == "a" * 9


def test_cancelling_ends_an_answer_that_is_not_streamed() -> None:
    session = spelling("a" * 150)
    engine, append = session.engine, session.engine.append

    def cancels(token_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        if engine.position == 6:
            session.cancel()
        return append(token_ids)

    engine.append = cancels  # type: ignore[method-assign]
    answer = session.generate("xy")
    assert (answer.text, answer.finish_reason) == ("a" * 6, "cancelled")
    assert session.generate("xy", GenerationOptions(max_new_tokens=3)).text == "aaa"


def test_a_stream_that_is_dropped_leaves_a_session_that_answers_rightly(
    open_session: Callable[[str], Session],
) -> None:
    with open_session("llama.cpp") as session:
        expected = session.generate("Once upon", LONG).token_ids
        session.reset()
        for count, _ in enumerate(session.stream("Once upon a mattress", LONG)):
            if count == 7:
                break
        assert session.generate("Once upon", LONG).token_ids == expected


def test_a_consumers_time_is_not_counted_as_the_models() -> None:
    import time

    session = spelling("abcde")
    for _ in session.stream("xy"):
        time.sleep(0.02)
    assert isinstance(session.last, Generation)
    assert max(session.last.statistics.token_seconds) < 0.02
    assert session.last.statistics.total_seconds > 0.1


def test_messages_without_a_template_are_lines() -> None:
    assert bytes(spelling("").prompt_ids(MESSAGES)) == b"be brief\ndim the kitchen lights\n"


def test_messages_get_their_bos_once(shared_data: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "stories"
    shutil.copytree(shared_data / "stories260K-hf", folder)
    folder.chmod(0o755)
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    with Session.open(folder, threads=1) as session:
        assert session.prompt_ids((Message("user", "Once"),)).count(1) == 1
        assert session.prompt_ids("Once").count(1) == 1


@pytest.mark.parametrize("values", [{"max_new_tokens": 0}, {"stop": ("",)}])
def test_an_option_out_of_range_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        GenerationOptions(**values)  # type: ignore[arg-type]


def test_an_onnx_folder_without_a_tokenizer_is_refused(open_session: Callable[[str], Session], tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        Session.open(tmp_path)


def test_importing_the_runtime_is_cheap() -> None:
    script = (
        "import sys, edgestill.runtime, edgestill.runtime.session, edgestill.runtime.engines as e; e.engine_names();"
        "print([m for m in ('torch','transformers','onnxruntime','onnx','llama_cpp','gguf') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
