"""The tokenizer of an artifact against the original: what is counted, what is announced, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgestill.artifact import Artifact, Checkpoint
from edgestill.export import export_checkpoint
from edgestill.export.parity import check_parity
from edgestill.export.parity_reference import Reference, reference_logits
from edgestill.export.parity_texts import INVALID_UTF8, hard_texts
from edgestill.export.tokenizer_parity import compare_tokenizer, original_tokens
from edgestill.results import Parity
from edgestill.runtime.engines import open_engine
from edgestill.runtime.engines.llama_cpp import LlamaCppEngine
from edgestill.runtime.model_source import locate_model
from edgestill.runtime.tokenizer import FastTokenizer, GgufTokenizer

gguf = pytest.importorskip("gguf")

TEXTS = [list(range(20, 60))]
PREFIX_NOTE = "llama.cpp puts a prefix space before text that begins with a space or follows a special token"


@pytest.fixture(scope="module")
def reference(tiny_checkpoint: Path) -> Reference:
    return reference_logits(Checkpoint.open(tiny_checkpoint), TEXTS)


def check(artifact: Artifact, reference: Reference) -> Parity:
    return check_parity(artifact, reference, min_top1_agreement=0, max_kl=100)


def edit_tokenizer(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize(("format", "precision"), [("onnx", "fp32"), ("gguf", "f32")])
def test_the_whole_corpus_comes_back(
    format: str, precision: str, tiny_checkpoint: Path, reference: Reference, tmp_path: Path
) -> None:
    artifact = export_checkpoint(Checkpoint.open(tiny_checkpoint), format, precision, tmp_path)  # type: ignore[arg-type]
    tokenizer = check(artifact, reference).tokenizer
    assert tokenizer is not None
    assert tokenizer.texts == tokenizer.ids_equal == tokenizer.round_trips > 80
    assert tokenizer.same_file == (format == "onnx")
    assert tokenizer.passed


def test_the_corpus_holds_what_it_should() -> None:
    texts = hard_texts()
    assert len(texts) == len(set(texts))
    together = "".join(texts)
    for sample in ("👩‍👩‍👧‍👦", "上海", "def f(", "    ", "\r\n", "\x00", "\u0301", "\U0010fffd"):
        assert sample in together
    assert sum("\ufffd" in text for text in texts) > len(INVALID_UTF8)


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_a_tokenizer_that_was_altered_is_refused_in_an_exact_file(
    precision: str, tiny_checkpoint: Path, reference: Reference, tmp_path: Path
) -> None:
    artifact = export_checkpoint(Checkpoint.open(tiny_checkpoint), "onnx", "fp32", tmp_path)

    def forget_merges(value: dict[str, object]) -> None:
        model = value["model"]
        assert isinstance(model, dict)
        model["merges"] = model["merges"][:-3]

    edit_tokenizer(artifact.folder, forget_merges)
    result = check(replace(artifact, precision=precision), reference)
    assert result.tokenizer is not None
    assert not result.tokenizer.passed
    assert not result.tokenizer.same_file
    assert result.tokenizer.texts - result.tokenizer.ids_equal > 0
    assert len(result.tokenizer.mismatches) <= 5
    assert result.tokenizer.round_trips == result.tokenizer.texts
    assert result.passed == (precision == "int4")
    if precision == "fp32":
        assert result.reasons[0].startswith("tokenizer: tokenizers takes ")
        assert result.reasons[0].count("became") == 1


def test_a_tokenizer_file_written_otherwise_but_equal_passes(
    tiny_checkpoint: Path, reference: Reference, tmp_path: Path
) -> None:
    artifact = export_checkpoint(Checkpoint.open(tiny_checkpoint), "onnx", "fp32", tmp_path)
    edit_tokenizer(artifact.folder, lambda value: None)
    tokenizer = check(artifact, reference).tokenizer
    assert tokenizer is not None
    assert tokenizer.passed
    assert not tokenizer.same_file


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_tokenizer_that_is_lost_or_damaged_is_refused(
    damage: str, tiny_checkpoint: Path, reference: Reference, tmp_path: Path
) -> None:
    artifact = export_checkpoint(Checkpoint.open(tiny_checkpoint), "onnx", "fp32", tmp_path)
    path = artifact.folder / "tokenizer.json"
    if damage == "missing":
        path.unlink()
    else:
        path.write_text('{"version": "1.0"}')
    result = check(artifact, reference)
    assert not result.passed
    assert "tokenizer.json" in result.reasons[0]


def test_a_gguf_that_adds_a_token_of_its_own_is_refused(
    tiny_checkpoint: Path, reference: Reference, tmp_path: Path
) -> None:
    artifact = export_checkpoint(Checkpoint.open(tiny_checkpoint), "gguf", "f32", tmp_path)
    field = gguf.GGUFReader(artifact.model_path).fields["tokenizer.ggml.add_bos_token"]
    at = field.offset + sum(int(part.nbytes) for part in field.parts[:-1])
    with artifact.model_path.open("r+b") as file:
        file.seek(at)
        assert file.read(1) == b"\x00"
        file.seek(at)
        file.write(b"\x01")
    result = check(artifact, reference)
    assert result.tokenizer is not None
    assert result.tokenizer.ids_equal == 0
    assert result.reasons[0].startswith("tokenizer: llama.cpp takes ")


def test_a_composing_tokenizer_is_announced_only_where_composing_explains_it(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "nfc")
    edit_tokenizer(folder, lambda value: value.update(normalizer={"type": "NFC"}))
    artifact = export_checkpoint(Checkpoint.open(folder), "gguf", "f32", tmp_path)
    with reference_logits(Checkpoint.open(folder), TEXTS) as reference:
        result = check(artifact, reference)
        assert result.passed, result.reasons
        assert result.tokenizer is not None
        assert result.tokenizer.announced == result.tokenizer.texts - result.tokenizer.ids_equal > 0
        assert all("NFC" in (mismatch.announced or "") for mismatch in result.tokenizer.mismatches)
        silent = check(replace(artifact, notes=()), reference)
        assert silent.tokenizer is not None
        assert silent.tokenizer.announced == 0
        assert not silent.passed


def test_only_texts_that_a_note_is_about_are_excused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    original = original_tokens("tiny", None, FastTokenizer(tiny_checkpoint))
    altered = shutil.copytree(tiny_checkpoint, tmp_path / "altered")
    edit_tokenizer(altered, lambda value: value.update(normalizer={"type": "Prepend", "prepend": " "}))
    result = compare_tokenizer(original, FastTokenizer(altered), "tokenizers", [PREFIX_NOTE])
    assert 0 < result.announced < result.texts
    assert not result.passed
    assert result.mismatches[0].announced is None  # what nobody announced is shown first


@pytest.mark.parametrize("name", ["tok-qwen2", "tok-llama3", "llama2-spm"])
def test_real_tokenizers_come_back_from_llama_cpp(
    name: str, write_checkpoint: Callable[..., Path], shared_data: Path, tmp_path: Path
) -> None:
    import tokenizers

    source = shared_data / name
    rows = tokenizers.Tokenizer.from_file(str(source / "tokenizer.built.json")).get_vocab_size()
    sizes = {"hidden_size": 16, "num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 1}
    folder = write_checkpoint(tmp_path / "model", vocab_size=rows, **sizes)
    shutil.copyfile(source / "tokenizer.built.json", folder / "tokenizer.json")
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / file).unlink(missing_ok=True)
    artifact = export_checkpoint(Checkpoint.open(folder), "gguf", "q8_0", tmp_path)
    original = original_tokens(name, None, FastTokenizer(folder))
    engine = open_engine(locate_model(artifact.model_path))
    assert isinstance(engine, LlamaCppEngine)
    result = compare_tokenizer(original, GgufTokenizer(engine), "llama.cpp", artifact.notes)
    engine.close()
    assert result.passed, result.reasons
    assert result.texts - result.announced == result.ids_equal
    assert result.announced == 0 or name == "tok-qwen2"
