from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

from edgestill.artifact import Checkpoint
from edgestill.errors import CheckpointError, UnsupportedError
from edgestill.export.gguf import export_gguf
from edgestill.export.gguf_pretokenizer import (
    HARD_TEXTS,
    TokenizerMismatch,
    choose_pretokenizer,
    choose_tokenizer,
    mismatches,
    open_vocabulary,
    tokenizer_mismatches,
)
from edgestill.export.gguf_tokenizer import (
    BYTE_TOKENS,
    CONTROL,
    UNUSED,
    GgufTokenizer,
    open_writer,
    read_tokenizer,
)
from edgestill.export.llama_vocabulary import vocabulary_of
from edgestill.export.source_tokenizer import load_tokenizer

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _trained(folder: Path, pre_tokenizer: pre_tokenizers.PreTokenizer, **json_changes: object) -> Checkpoint:
    """A folder with a byte-level BPE tokenizer trained on the hard texts, split by ``pre_tokenizer``."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|end|>", "<|user|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*HARD_TEXTS * 2, " 123 1234 12 99 1999 2024 2025" * 20], trainer)
    return _folder(folder, {**json.loads(tokenizer.to_str()), **json_changes})


def _folder(folder: Path, described: dict[str, object]) -> Checkpoint:
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|end|>"}}))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 0}))
    return Checkpoint(folder)


def _chosen(checkpoint: Checkpoint, tmp_path: Path, rows: int | None = None) -> GgufTokenizer:
    original = load_tokenizer(checkpoint)
    described = read_tokenizer(checkpoint, original, rows or original.encoder.get_vocab_size())
    return choose_pretokenizer(original, described, "llama", tmp_path)


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


@pytest.mark.parametrize(
    ("pre_tokenizer", "pre"),
    [
        (pre_tokenizers.ByteLevel(add_prefix_space=False), "gpt-2"),
        (_split(LLAMA3_SPLIT.replace("{1,3}", "")), "qwen2"),
        (
            pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
            ),
            "smollm",
        ),
    ],
)
def test_a_custom_tokenizer_gets_the_type_that_splits_alike(
    tmp_path: Path, pre_tokenizer: pre_tokenizers.PreTokenizer, pre: str
) -> None:
    assert _chosen(_trained(tmp_path / "c", pre_tokenizer), tmp_path).pre == pre


def test_llama3_s_split_without_its_ignored_merges_is_told_apart(tmp_path: Path) -> None:
    checkpoint = _trained(tmp_path / "c", _split(LLAMA3_SPLIT))
    assert _chosen(checkpoint, tmp_path).pre in ("dbrx", "llama-bpe")
    # Two merges fewer than tokens: the whole word is in the vocabulary and no merge makes it.
    described = json.loads((checkpoint.path / "tokenizer.json").read_text(encoding="utf-8"))
    vocab, merges = described["model"]["vocab"], described["model"]["merges"]
    described["model"]["merges"] = [merge for merge in merges if "".join(merge) not in ("\u0120the", "Hello", "he")]
    assert "\u0120the" in vocab
    assert _chosen(_folder(tmp_path / "d", described), tmp_path).pre == "dbrx"
    described["model"]["ignore_merges"] = True
    assert _chosen(_folder(tmp_path / "e", described), tmp_path).pre == "llama-bpe"


def test_a_split_that_llama_cpp_does_not_have_is_refused_with_the_ids(tmp_path: Path) -> None:
    checkpoint = _trained(tmp_path / "c", _split(r"[aeiou]+|[^aeiou]+"))
    with pytest.raises(UnsupportedError, match=r"no tokenizer of llama\.cpp.*text ..*\[\d+"):
        _chosen(checkpoint, tmp_path)
    assert list(tmp_path.glob("*.gguf")) == []


def test_a_prefix_space_in_byte_level_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="no tokenizer"):
        _chosen(_trained(tmp_path / "c", pre_tokenizers.ByteLevel(add_prefix_space=True)), tmp_path)


def test_composing_input_is_told_in_a_note(tmp_path: Path) -> None:
    checkpoint = _trained(tmp_path / "c", pre_tokenizers.ByteLevel(add_prefix_space=False), normalizer={"type": "NFC"})
    assert any("NFC" in note for note in _chosen(checkpoint, tmp_path).notes)


def test_rows_without_a_token_become_unused_ones(tmp_path: Path) -> None:
    checkpoint = _trained(tmp_path / "c", pre_tokenizers.ByteLevel(add_prefix_space=False))
    used = load_tokenizer(checkpoint).encoder.get_vocab_size()
    tokenizer = _chosen(checkpoint, tmp_path, rows=used + 3)
    assert tokenizer.types[0] == CONTROL
    assert tokenizer.types[used:] == (UNUSED,) * 3
    assert len(set(tokenizer.tokens)) == used + 3


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path) -> None:
    checkpoint = _trained(tmp_path / "c", pre_tokenizers.ByteLevel(add_prefix_space=False))
    with pytest.raises(CheckpointError, match="no row in the embedding"):
        _chosen(checkpoint, tmp_path, rows=400)


def test_a_word_tokenizer_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"<|end|>": 0, "a": 1}, unk_token="<|end|>"))
    with pytest.raises(UnsupportedError, match="WordLevel"):
        _chosen(_folder(tmp_path / "c", json.loads(tokenizer.to_str())), tmp_path)


def test_a_damaged_tokenizer_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    checkpoint = _folder(tmp_path / "c", {"version": "1.0"})
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        load_tokenizer(checkpoint)


def _spm(pieces: list[tuple[str, str]], **parts: object) -> dict[str, object]:
    alphabet = sorted({char for pair in pieces for piece in pair for char in piece} | {"\u2581"})
    texts = ["<unk>", "<s>", "<|end|>", *BYTE_TOKENS, *dict.fromkeys([*alphabet, *("".join(pair) for pair in pieces)])]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": index, "content": text, **special} for index, text in enumerate(texts[:3])],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        **parts,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {text: index for index, text in enumerate(texts)},
            "merges": [list(pair) for pair in pieces],
        },
    }


PIECES = [
    ("a", "b"),
    ("b", "c"),
    ("\u2581", "a"),
    ("ab", "c"),
    ("a", "bc"),
    ("c", "c"),
    ("\u2581", "\u2581"),
    ("\u2581a", "bc"),
    ("\u2581", "abc"),
]


@pytest.mark.parametrize(
    ("scheme", "prefix", "noted"), [("always", True, True), ("never", False, False), ("first", True, True)]
)
def test_a_sentencepiece_tokenizer_keeps_its_prefix_space(
    tmp_path: Path, scheme: str, prefix: bool, noted: bool
) -> None:
    space = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False}
    tokenizer = _chosen(_folder(tmp_path / "c", _spm(PIECES, pre_tokenizer=space)), tmp_path)
    assert (tokenizer.model, tokenizer.add_space_prefix) == ("llama", prefix)
    assert any("special token" in note for note in tokenizer.notes) is noted


def test_scores_keep_the_order_of_the_merges(tmp_path: Path) -> None:
    prefix = {"type": "Prepend", "prepend": "\u2581"}
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    checkpoint = _folder(tmp_path / "c", _spm(PIECES, normalizer={"type": "Sequence", "normalizers": [prefix, space]}))
    original = load_tokenizer(checkpoint)
    path = tmp_path / "v.gguf"
    writer = open_writer(path, "llama")
    _chosen(checkpoint, tmp_path).write(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    random_text = random.Random(0)
    with open_vocabulary(path) as vocabulary:
        for _ in range(500):
            text = "".join(random_text.choices("abc d", k=random_text.randint(1, 20)))
            assert vocabulary.tokenize(text) == original.encode(text)


def test_merges_that_llama_cpp_s_scores_cannot_say_are_refused(tmp_path: Path) -> None:
    # llama.cpp joins any two neighbours that make a token; here space + abc may not.
    prefix = {"type": "Prepend", "prepend": "\u2581"}
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    described = _spm(PIECES[:-1], normalizer={"type": "Sequence", "normalizers": [prefix, space]})
    with pytest.raises(UnsupportedError, match="SentencePiece"):
        _chosen(_folder(tmp_path / "c", described), tmp_path)


def _without_byte(described: dict[str, object]) -> dict[str, object]:
    model = described["model"]
    assert isinstance(model, dict)
    model["vocab"] = {token: at for at, token in enumerate(one for one in model["vocab"] if one != "<0xE2>")}
    return described


def test_a_prefix_space_without_all_bytes_is_refused(tmp_path: Path) -> None:
    # llama.cpp would end the process at a character that has no token and no bytes.
    prefix = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": False}
    described = _without_byte(_spm(PIECES, pre_tokenizer=prefix))
    with pytest.raises(UnsupportedError, match="without a token"):
        _chosen(_folder(tmp_path / "c", described), tmp_path)


def test_without_all_bytes_a_character_without_a_token_is_told_in_a_note(tmp_path: Path) -> None:
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    checkpoint = _folder(tmp_path / "c", _without_byte(_spm(PIECES, normalizer=space)))
    tokenizer = _chosen(checkpoint, tmp_path)
    assert (tokenizer.model, tokenizer.pre) == ("gpt2", "sarvam-moe")
    assert any("'<unk>'" in note and "left out" in note for note in tokenizer.notes)
    original = load_tokenizer(checkpoint)
    with vocabulary_of(tokenizer, "llama", tmp_path) as vocabulary:
        assert vocabulary.tokenize("a \u2603b") != original.encode("a \u2603b")
        assert mismatches(original, vocabulary, ["ab cc", " a abc", "a\u20acb"[:1], "c  c", "\x01ab"]) == []


def test_merges_that_scores_cannot_say_are_kept_as_ranks_where_there_is_no_prefix_space(tmp_path: Path) -> None:
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    checkpoint = _folder(tmp_path / "c", _spm(PIECES[:-1], normalizer=space))
    tokenizer = _chosen(checkpoint, tmp_path)
    assert (tokenizer.model, tokenizer.pre) == ("gpt2", "sarvam-moe")
    original = load_tokenizer(checkpoint)
    draw = random.Random(0)
    texts = ["".join(draw.choices("abc d\u2603\n", k=draw.randint(1, 20))) for _ in range(500)]
    with vocabulary_of(tokenizer, "llama", tmp_path) as vocabulary:
        assert mismatches(original, vocabulary, texts) == []


def test_characters_that_the_original_leaves_out_are_told_in_a_note(tmp_path: Path) -> None:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.train_from_iterator(
        ["the cat sat on the mat", "a cat and a mat"] * 8,
        trainers.BpeTrainer(vocab_size=120, special_tokens=["<|end|>"], show_progress=False),
    )
    checkpoint = _folder(tmp_path / "c", json.loads(tokenizer.to_str()))
    chosen = _chosen(checkpoint, tmp_path)
    assert any("joins its neighbours" in note for note in chosen.notes)
    with vocabulary_of(chosen, "llama", tmp_path) as vocabulary:
        assert mismatches(load_tokenizer(checkpoint), vocabulary, ["the cat", " a mat the", "<|end|>cat"]) == []


def test_random_ids_are_refused(tmp_path: Path) -> None:
    described = _spm(PIECES)
    described["model"]["dropout"] = 0.1  # type: ignore[index]
    with pytest.raises(UnsupportedError, match=r"dropout 0\.1"):
        _chosen(_folder(tmp_path / "c", described), tmp_path)


@pytest.mark.parametrize(
    ("flag", "text", "said"),
    [("single_word", "a<tool>b", "whole words"), ("lstrip", "a  <tool>", "before"), ("rstrip", "<tool>  a", "after")],
)
def test_a_flag_of_an_added_token_that_llama_cpp_has_not_is_told_in_a_note(
    flag: str, text: str, said: str, tmp_path: Path
) -> None:
    checkpoint = _trained(tmp_path / "c", pre_tokenizers.ByteLevel(add_prefix_space=False))
    path = checkpoint.path / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.add_tokens([tokenizers.AddedToken("<tool>", normalized=False, **{flag: True})])
    tokenizer.save(str(path))
    chosen = _chosen(checkpoint, tmp_path)
    original = load_tokenizer(checkpoint)
    with vocabulary_of(chosen, "llama", tmp_path) as vocabulary:
        assert vocabulary.tokenize(text) != original.encode(text)
        assert vocabulary.tokenize("a <tool> b".replace(" ", "" if flag != "single_word" else " ")) == original.encode(
            "a <tool> b".replace(" ", "" if flag != "single_word" else " ")
        )
    assert any("'<tool>'" in note and said in note for note in chosen.notes)


def test_added_tokens_that_overlap_are_told_in_a_note(tmp_path: Path) -> None:
    checkpoint = _trained(tmp_path / "c", pre_tokenizers.ByteLevel(add_prefix_space=False))
    path = checkpoint.path / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.add_tokens(["ab<", "<tool>"])
    tokenizer.save(str(path))
    original = load_tokenizer(checkpoint)
    described = read_tokenizer(checkpoint, original, original.encoder.get_vocab_size())
    chosen = choose_tokenizer(original, described, "llama", tmp_path)
    limit = next(limit for limit in chosen.limits if "overlap" in limit.note)
    assert limit.touches("cab<tool>")
    assert not limit.touches("ab< <tool>ab<")
    with vocabulary_of(chosen.tokenizer, "llama", tmp_path) as vocabulary:
        assert vocabulary.tokenize("cab<tool>") != original.encode("cab<tool>")
        assert vocabulary.tokenize("ab< <tool>ab<") == original.encode("ab< <tool>ab<")


def test_an_o200k_split_is_told_to_know_capitals_in_ascii_only(tmp_path: Path) -> None:
    word = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
    suffix = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    pattern = (
        rf"{word}*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{suffix}|{word}+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{suffix}"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    checkpoint = _trained(tmp_path / "c", _split(pattern))
    original = load_tokenizer(checkpoint)
    described = read_tokenizer(checkpoint, original, original.encoder.get_vocab_size())
    chosen = choose_tokenizer(original, described, "llama", tmp_path)
    assert chosen.tokenizer.pre in ("gpt-4o", "granite-embed-multi-97m")
    limit = next(limit for limit in chosen.limits if "capitals" in limit.note)
    assert limit.touches("\u041f\u0440\u0438\u0432\u0435\u0442\u041c\u0438\u0440")
    assert not limit.touches("CamelCase \u043f\u0440\u0438\u0432\u0435\u0442 caf\u00e9 \u6771\u4eac")


def _real(shared_data: Path, folder: Path) -> Checkpoint:
    folder.mkdir()
    shutil.copyfile(shared_data / folder.name / "tokenizer.built.json", folder / "tokenizer.json")
    (folder / "config.json").write_text("{}")
    return Checkpoint(folder)


def test_llama_3_s_real_tokenizer_finds_its_type(shared_data: Path, tmp_path: Path) -> None:
    assert _chosen(_real(shared_data, tmp_path / "tok-llama3"), tmp_path).pre == "llama-bpe"


def test_llama_2_s_real_tokenizer_gives_equal_ids_on_fuzzed_text(shared_data: Path, tmp_path: Path) -> None:
    checkpoint = _real(shared_data, tmp_path / "llama2-spm")
    tokenizer = _chosen(checkpoint, tmp_path)
    path = tmp_path / "v.gguf"
    writer = open_writer(path, "llama")
    tokenizer.write(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    words = [word for text in HARD_TEXTS for word in text.split(" ")] + ["  ", "\r\n", "'S", "1999"]
    draw = random.Random(1)
    texts = ["".join(draw.choice(words) + draw.choice(["", " "]) for _ in range(8)) for _ in range(500)]
    assert tokenizer_mismatches(checkpoint, path, [*HARD_TEXTS, *texts]) == []


def test_the_written_file_tokenises_as_the_original(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(tiny_checkpoint)
    artifact = export_gguf(checkpoint, "f16", tmp_path)
    assert tokenizer_mismatches(checkpoint, artifact.model_path, HARD_TEXTS) == []


def test_a_mismatch_shows_where_the_ids_part() -> None:
    text = str(TokenizerMismatch("abc", (1, 2, 3, 4), (1, 2, 9)))
    assert "'abc'" in text
    assert "token 2" in text
    assert "[1, 2, 3, 4]" in text
    assert "[1, 2, 9]" in text
