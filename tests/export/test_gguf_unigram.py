from __future__ import annotations

import functools
import io
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors

pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")
pytest.importorskip("sentencepiece")

import sentencepiece

from edgestill.artifact import Checkpoint
from edgestill.export.fuzzed_texts import TextSource, fuzzed_texts
from edgestill.export.gguf import export_gguf
from edgestill.export.gguf_pretokenizer import HARD_TEXTS, ChosenTokenizer, choose_tokenizer, mismatches
from edgestill.export.gguf_tokenizer import read_tokenizer
from edgestill.export.llama_vocabulary import Vocabulary, vocabulary_of
from edgestill.export.source_tokenizer import load_tokenizer
from edgestill.runtime.engines.llama_cpp import LlamaCppEngine
from edgestill.runtime.tokenizer import FastTokenizer, GgufTokenizer, StreamDecoder

STORY = "a little girl named Lily found the big red ball in her room and she wanted to share it with mom"
LINES = [" ".join((STORY.split(" ") * 12)[step : 20 * step : step]) for step in range(1, 12)] + [
    "It cost 12.50 dollars, he said: don't! (Really?) [no] 3 + 4 = 7; x < y > z",
    "the cat's mat, the dog's ball, the end. OK? YES! Über naïve café",
]

Normal = Callable[[bytes], list[normalizers.Normalizer]]


@functools.cache
def _model(options: tuple[tuple[str, object], ...]) -> tuple[list[tuple[str, float]], int, bytes]:
    """Train a small Unigram model and return its pieces, the unknown one's id and its character map."""
    from sentencepiece import sentencepiece_model_pb2

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=written, vocab_size=400, model_type="unigram",
        hard_vocab_limit=False, minloglevel=2, num_threads=1, character_coverage=1.0, **dict(options),
    )  # fmt: skip
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(written.getvalue())
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    return pieces, proto.trainer_spec.unk_id, proto.normalizer_spec.precompiled_charsmap


def _tokenizer(
    folder: Path,
    normal: Normal,
    splitter: pre_tokenizers.PreTokenizer | None,
    *,
    symbols: tuple[str, ...] = (),
    **options: object,
) -> Checkpoint:
    """Write a checkpoint's folder with a Unigram tokenizer of these parts; only its tokenizer is usable."""
    folder.mkdir()
    pieces, unk_id, charsmap = _model(tuple(sorted(options.items())))
    tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id, bool(options.get("byte_fallback"))))
    chain = normal(charsmap)
    if chain:
        tokenizer.normalizer = normalizers.Sequence(chain)
    if splitter is not None:
        tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_tokens([AddedToken(symbol, normalized=False) for symbol in symbols])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", tokenizer.token_to_id("<s>")), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 2}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "bos_token": "<s>"}))
    return Checkpoint(folder)


IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
PREFIXED = pre_tokenizers.Metaspace(prepend_scheme="always")
KINDS: dict[str, tuple[Normal, pre_tokenizers.PreTokenizer | None, dict[str, object]]] = {
    "transformers 4": (
        lambda chars: [
            normalizers.Precompiled(chars),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), "\u2581"),
        ],
        PREFIXED,
        {},
    ),
    "t5": (
        lambda chars: [normalizers.Precompiled(chars)],
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), PREFIXED]),
        {},
    ),
    "xglm": (
        lambda chars: [normalizers.Precompiled(chars), normalizers.Replace(Regex(" {2,}"), " ")],
        PREFIXED,
        {},
    ),
    "no prefix": (lambda _: [normalizers.Replace(" ", "\u2581")], None, {**IDENTITY, "add_dummy_prefix": False}),
    "no prefix, spaces joined": (
        lambda _: [normalizers.Replace(Regex(" {2,}"), " ")],
        pre_tokenizers.Metaspace(prepend_scheme="never"),
        {**IDENTITY, "add_dummy_prefix": False},
    ),
    "prefix, spaces kept": (lambda _: [], pre_tokenizers.Metaspace(prepend_scheme="always"), IDENTITY),
    "prefix once": (lambda _: [], pre_tokenizers.Metaspace(prepend_scheme="first", split=False), IDENTITY),
    "lower case": (
        lambda _: [normalizers.Lowercase(), normalizers.Replace(Regex(" {2,}"), " ")],
        PREFIXED,
        {"normalization_rule_name": "nmt_nfkc_cf"},
    ),
    "composed": (lambda _: [normalizers.NFKC()], PREFIXED, IDENTITY),
}


def _chosen(checkpoint: Checkpoint, scratch: Path) -> ChosenTokenizer:
    original = load_tokenizer(checkpoint)
    rows = original.encoder.get_vocab_size() + 2
    return choose_tokenizer(original, read_tokenizer(checkpoint, original, rows), "llama", scratch)


Made = Callable[[str, bool], tuple[Checkpoint, ChosenTokenizer]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a Unigram tokenizer of a kind, and how it is written in GGUF."""

    @functools.cache
    def make(kind: str, byte_fallback: bool) -> tuple[Checkpoint, ChosenTokenizer]:
        normal, splitter, options = KINDS[kind]
        folder = tmp_path_factory.mktemp("unigram")
        checkpoint = _tokenizer(folder / "c", normal, splitter, byte_fallback=byte_fallback, **options)
        return checkpoint, _chosen(checkpoint, folder)

    return make


def _assert_same_ids(checkpoint: Checkpoint, chosen: ChosenTokenizer, scratch: Path, count: int = 300) -> None:
    original = load_tokenizer(checkpoint)
    specials = [one["content"] for one in original.described["added_tokens"]]
    words = original.spellings(list(range(3, original.encoder.get_vocab_size())))
    source = TextSource([word for word in words if word], specials, LINES)
    texts = [text for text in itertools.islice(fuzzed_texts(7, source), count) if text]
    exact = [text for text in texts if not any(limit.touches(text) for limit in chosen.limits)]
    # Most texts count, or the limits would be an excuse.
    assert len(exact) > count // 2
    with vocabulary_of(chosen.tokenizer, "llama", scratch) as vocabulary:
        assert mismatches(original, vocabulary, exact) == []


@pytest.mark.parametrize(
    ("kind", "byte_fallback"),
    [*((kind, False) for kind in KINDS), ("transformers 4", True), ("no prefix", True), ("lower case", True)],
)
def test_unigram_gives_the_original_s_ids(kind: str, byte_fallback: bool, made: Made, tmp_path: Path) -> None:
    checkpoint, chosen = made(kind, byte_fallback)
    _assert_same_ids(checkpoint, chosen, tmp_path)
    assert chosen.tokenizer.model == "t5"
    assert chosen.tokenizer.byte_fallback is byte_fallback
    assert any("byte tokens" in note for note in chosen.tokenizer.notes) is byte_fallback
    assert (chosen.tokenizer.add_bos, chosen.tokenizer.add_eos) == (True, True)


@pytest.fixture(scope="module")
def in_llama_cpp(
    made: Made, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Checkpoint, ChosenTokenizer, Vocabulary]]:
    """A Unigram tokenizer, how it was written, and what llama.cpp makes of it."""
    checkpoint, chosen = made("transformers 4", False)
    with vocabulary_of(chosen.tokenizer, "llama", tmp_path_factory.mktemp("unigram")) as vocabulary:
        yield checkpoint, chosen, vocabulary


@given(text=st.text(st.characters(exclude_categories=["Cs", "M"]), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_of_whole_characters_gives_equal_ids(
    in_llama_cpp: tuple[Checkpoint, ChosenTokenizer, Vocabulary], text: str
) -> None:
    checkpoint, chosen, vocabulary = in_llama_cpp
    if not any(limit.touches(text) for limit in chosen.limits):
        assert mismatches(load_tokenizer(checkpoint), vocabulary, [text]) == []


def test_symbols_that_begin_in_the_middle_of_a_character_spoil_no_other(tmp_path: Path) -> None:
    # llama.cpp leaves what begins like a user-defined token as it is, were it one byte of another character.
    normal, splitter, options = KINDS["transformers 4"]
    symbols = ("\u2603tool\u2603", "[INST]", "\u2581\u2581\u2581")
    checkpoint = _tokenizer(tmp_path / "c", normal, splitter, symbols=symbols, **options)
    chosen = _chosen(checkpoint, tmp_path)
    _assert_same_ids(checkpoint, chosen, tmp_path)
    assert any("control tokens" in note for note in chosen.tokenizer.notes)


def test_a_mark_that_the_original_drops_is_told_in_a_note(made: Made) -> None:
    _, chosen = made("transformers 4", False)
    text = "Vie\u0302\u0323t"
    assert any("marks" in limit.note and limit.touches(text) for limit in chosen.limits)
    assert any("marks" in note for note in chosen.tokenizer.notes)
    assert not any(limit.touches("caf\u00e9 \u00bd \uff21") for limit in chosen.limits)


def test_scores_beyond_float32_are_told_where_they_decide(tmp_path: Path) -> None:
    checkpoint = _tokenizer(tmp_path / "c", lambda _: [], PREFIXED, **IDENTITY)
    path = checkpoint.path / "tokenizer.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    for entry in described["model"]["vocab"][3:]:
        entry[1] += 1e-12 * len(entry[0])
    path.write_text(json.dumps(described), encoding="utf-8")
    chosen = _chosen(checkpoint, tmp_path)
    _assert_same_ids(checkpoint, chosen, tmp_path)
    assert any("more digits" in limit.note for limit in chosen.limits)


@pytest.fixture(scope="module")
def unigram_file(
    tiny_checkpoint: Path, made: Made, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Checkpoint, Path]:
    """A tiny Llama with a Unigram tokenizer with byte fallback, and its GGUF file."""
    tokenizer, _ = made("no prefix", True)
    folder = tmp_path_factory.mktemp("unigram") / "c"
    shutil.copytree(tiny_checkpoint, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer.path / name, folder / name)
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    _grow(folder, max(load_tokenizer(tokenizer).encoder.get_vocab_size(), 384) + 1)
    checkpoint = Checkpoint.open(folder)
    return checkpoint, export_gguf(checkpoint, "f32", folder.parent).model_path


def _grow(folder: Path, rows: int) -> None:
    """Give the embedding more rows."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    table = tensors["model.embed_tokens.weight"]
    more = np.random.default_rng(0).standard_normal((rows - len(table), table.shape[1])) * 0.1
    tensors["model.embed_tokens.weight"] = np.concatenate([table, more.astype(table.dtype)])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": rows, "eos_token_id": 2}))


def test_a_llama_with_a_unigram_tokenizer_computes_torch_s_logits(unigram_file: tuple[Checkpoint, Path]) -> None:
    import torch
    import transformers

    checkpoint, path = unigram_file
    engine = LlamaCppEngine(path, threads=1)
    ids = GgufTokenizer(engine).encode("Lily found the big red ball \u2603 in her room")
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    found = engine.logits(ids)
    engine.close()
    assert np.abs(expected - found).max() <= 1e-3
    assert (expected.argmax(-1) == found.argmax(-1)).all()


def test_our_runtime_reads_the_bytes_that_llama_cpp_spells_out(unigram_file: tuple[Checkpoint, Path]) -> None:
    checkpoint, path = unigram_file
    engine = LlamaCppEngine(path, threads=1)
    tokenizer, original = GgufTokenizer(engine), FastTokenizer(checkpoint.path)
    for text in ("the red ball", "\u6771\u4eac \U0001f600 ball", *HARD_TEXTS[:4]):
        ids = original.encode(text)
        assert tokenizer.encode(text) == ids
        decoder = StreamDecoder(tokenizer)
        streamed = "".join(decoder.push(number) for number in ids) + decoder.finish()
        assert streamed == tokenizer.decode(ids)
    assert tokenizer.decode(tokenizer.encode("\u6771\u4eac \U0001f600 ball")) == "\u6771\u4eac \U0001f600 ball"
    engine.close()
