"""Training a byte-level BPE tokenizer with a compact chat template.

The pre-tokenizer is GPT-2's ByteLevel split, so that llama.cpp's ``gpt-2`` type tokenises alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from edgestill.errors import InputError
from edgestill.storage import write_json, write_text

PAD_TOKEN: Final = "<|pad|>"
END_TOKEN: Final = "<|end|>"
SPECIAL_TOKENS: Final = (PAD_TOKEN, END_TOKEN, "<|system|>", "<|user|>", "<|assistant|>")
MIN_VOCAB_SIZE: Final = 256 + len(SPECIAL_TOKENS)

# A turn costs two tokens beside its content: the role, and the end token that is also eos.
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, out_dir: Path, *, max_length: int, tokens: Sequence[str] = ()
) -> None:
    """Train a tokenizer on ``texts`` and write its files into ``out_dir`` (made when missing).

    Writes tokenizer.json, tokenizer_config.json and chat_template.jinja, which transformers'
    AutoTokenizer loads. Ids: pad 0, end (eos) 1, then system, user, assistant, 256 bytes, merges. The
    result may have fewer than ``vocab_size`` entries when the texts run out of pairs; it depends on the
    texts and ``tokens`` alone. ``tokens`` are strings, such as the fixed parts of a JSON answer, that get
    a token of their own wherever they occur (the last ids). ``max_length`` is the model's context in
    tokens. Raises InputError for a vocab_size
    that doesn't hold the bytes, special tokens and ``tokens``.
    """
    least = MIN_VOCAB_SIZE + len(tokens)
    if vocab_size < least:
        raise InputError(f"vocab_size {vocab_size} is too small; at least {least} (bytes, special and given tokens)")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(tokens),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in tokens])
    out_dir.mkdir(parents=True, exist_ok=True)
    write_text(out_dir / "tokenizer.json", tokenizer.to_str(pretty=True))
    write_json(
        out_dir / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": PAD_TOKEN,
            "eos_token": END_TOKEN,
            "bos_token": None,
            "model_max_length": max_length,
            "clean_up_tokenization_spaces": False,
        },
    )
    write_text(out_dir / "chat_template.jinja", CHAT_TEMPLATE)
