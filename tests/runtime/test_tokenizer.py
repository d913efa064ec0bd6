"""Tokenizers against transformers, and streams against whole decoding."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from edgestill.artifact import Checkpoint
from edgestill.errors import CheckpointError, InputError
from edgestill.export import export_checkpoint
from edgestill.runtime.engines.llama_cpp import LlamaCppEngine
from edgestill.runtime.tokenizer import FastTokenizer, GgufTokenizer, StreamDecoder, Tokenizer

TEXTS = (
    "Once upon a time, there was a little girl",
    "naïve café — 東京 \U0001f600 \t tabs\n\nand   runs of spaces 1234567",
    "<|user|>\nhi<|end|>\n<|assistant|>\n",
    "",
    " leading and trailing ",
)


@pytest.fixture(scope="session")
def fast(tiny_checkpoint: Path) -> FastTokenizer:
    return FastTokenizer(tiny_checkpoint)


@pytest.fixture(scope="session")
def in_gguf(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> GgufTokenizer:
    artifact = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f32", tmp_path_factory.mktemp("gguf"))
    return GgufTokenizer(LlamaCppEngine(artifact.model_path, threads=1))


@pytest.fixture(params=["fast", "in_gguf"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_encoding_and_decoding_equal_transformers(text: str, tokenizer: Tokenizer, tiny_checkpoint: Path) -> None:
    reference = transformers.AutoTokenizer.from_pretrained(tiny_checkpoint)
    ids = tokenizer.encode(text)
    assert ids == reference.encode(text)
    assert tokenizer.encode(text, add_special=False) == reference.encode(text, add_special_tokens=False)
    for skip in (True, False):
        assert tokenizer.decode(ids, skip_special=skip) == reference.decode(
            ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False
        )


def test_both_forms_describe_the_same_tokenizer(fast: FastTokenizer, in_gguf: GgufTokenizer) -> None:
    assert fast.vocab_size == in_gguf.vocab_size
    assert fast.eos_ids == in_gguf.eos_ids == {1}
    assert fast.special_ids == in_gguf.special_ids
    assert fast.chat_template == in_gguf.chat_template
    assert fast.eos_token == in_gguf.eos_token == "<|end|>"


@given(st.lists(st.integers(0, 383), max_size=40))
@settings(max_examples=60, deadline=None)
def test_a_stream_of_any_ids_equals_decoding_them_at_once(
    fast: FastTokenizer, in_gguf: GgufTokenizer, ids: list[int]
) -> None:
    ids = [number for number in ids if number < fast.vocab_size]
    for tokenizer in (fast, in_gguf):
        decoder = StreamDecoder(tokenizer)
        pieces = [decoder.push(number) for number in ids]
        assert "".join(pieces) + decoder.finish() == tokenizer.decode(ids)


def test_a_stream_never_shows_half_a_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("東京 \U0001f600 naïve")
    assert len(ids) > len("東京 \U0001f600 naïve") / 2
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.push(number) for number in ids]
    assert "".join(pieces) == "東京 \U0001f600 naïve"
    assert not any("\ufffd" in piece for piece in pieces)
    assert "" in pieces
    assert decoder.finish() == ""


def test_an_unfinished_character_comes_out_as_a_replacement_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("\U0001f600")
    decoder = StreamDecoder(tokenizer)
    assert decoder.push(ids[0]) == ""
    assert decoder.finish() == "\ufffd"


def test_a_sentencepiece_tokenizer_equals_transformers_in_both_forms(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "stories260K-hf"
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    artifact = export_checkpoint(Checkpoint.open(folder), "gguf", "f32", tmp_path)
    in_gguf = GgufTokenizer(LlamaCppEngine(artifact.model_path, threads=1), folder)
    text = "Once upon a time, Lily saw 東京 and said: it's  mine!"
    for tokenizer in (FastTokenizer(folder), in_gguf):
        ids = tokenizer.encode(text)
        assert ids == reference.encode(text)
        assert tokenizer.eos_ids == {1, 2}
        assert tokenizer.bos_id == 1
        decoder = StreamDecoder(tokenizer)
        assert "".join(map(decoder.push, ids)) + decoder.finish() == tokenizer.decode(ids) == text


@pytest.mark.parametrize("name", ["tok-qwen2", "tok-llama3", "tok-gpt2", "llama2-spm"])
def test_real_tokenizers_equal_the_tokenizers_library(name: str, shared_data: Path, tmp_path: Path) -> None:
    import tokenizers

    target = tmp_path / "tokenizer.json"
    if name == "tok-gpt2":
        vocab, merges = shared_data / name / "vocab.json", shared_data / name / "merges.txt"
        built = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(str(vocab), str(merges)))
        built.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        built.decoder = tokenizers.decoders.ByteLevel()
        built.save(str(target))
    else:
        shutil.copy(shared_data / name / "tokenizer.built.json", target)
    tokenizer = FastTokenizer(tmp_path)
    reference = tokenizers.Tokenizer.from_file(str(target))
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special=False)
        assert ids == reference.encode(text, add_special_tokens=False).ids
        decoder = StreamDecoder(tokenizer)
        assert "".join(map(decoder.push, ids)) + decoder.finish() == reference.decode(ids)


@pytest.mark.parametrize("bos", [True, False])
def test_what_is_added_around_a_text_is_what_transformers_adds(
    bos: bool, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, folder)
    for name, changes in (
        ("tokenizer_config.json", {"bos_token": "<|user|>", "add_bos_token": bos, "add_eos_token": True}),
        (
            "tokenizer.json",
            {
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [
                        {"SpecialToken": {"id": "<|user|>", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}},
                    ],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {"<|user|>": {"id": "<|user|>", "ids": [3], "tokens": ["<|user|>"]}},
                }
            },
        ),
    ):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    for special in (True, False):
        assert FastTokenizer(folder).encode("hello", add_special=special) == reference.encode(
            "hello", add_special_tokens=special
        )


def test_a_missing_or_damaged_tokenizer_is_refused_by_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        FastTokenizer(tmp_path)
    shutil.copytree(tiny_checkpoint, tmp_path / "cut")
    path = tmp_path / "cut" / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a readable tokenizer"):
        FastTokenizer(tmp_path / "cut")


def test_an_id_outside_the_vocabulary_is_refused_by_the_gguf_tokenizer(in_gguf: GgufTokenizer) -> None:
    with pytest.raises(InputError, match="outside the vocabulary"):
        in_gguf.decode([10**6])
