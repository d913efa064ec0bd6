from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
import transformers

from edgestill.distill import train_tokenizer
from edgestill.errors import InputError

TEXTS = [
    "dim the kitchen lights to 30 percent",
    '{"action": "set_brightness", "value": 30}',
    "naïve café — 東京 \U0001f600",
]


def test_training_twice_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_tokenizer(TEXTS * 5, 320, tmp_path / name, max_length=64)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_any_text_survives_a_round_trip(tmp_path: Path) -> None:
    train_tokenizer(TEXTS, 300, tmp_path, max_length=64)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("\t tabs \n\n lines", "東京 \U0001f600 \x00\x7f", "it's 12345"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_transformers_loads_it_and_renders_the_same_chat(tmp_path: Path) -> None:
    train_tokenizer(TEXTS, 300, tmp_path, max_length=64)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, None)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|user|>hi<|end|><|assistant|>"
    assert len(tokenizer(text).input_ids) == len(tokenizer("hi").input_ids) + 3


def test_a_vocabulary_too_small_for_the_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vocab_size 260"):
        train_tokenizer(TEXTS, 260, tmp_path, max_length=64)
