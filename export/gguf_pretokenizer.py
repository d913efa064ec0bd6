"""Choosing GGUF's pre-tokenizer type by behaviour, and comparing llama.cpp's tokens with the original's.

llama.cpp knows pre-tokenizers by name only, so a file must name one that splits text as the original
tokenizer does. Nothing is looked up by hash: each plausible name is tried in a file that holds just the
vocabulary, and the first that gives equal ids on a hard text is taken. A custom tokenizer that splits
like a known one is therefore no special case.
"""

from __future__ import annotations

import contextlib
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from edgestill.artifact import Checkpoint
from edgestill.errors import ModelFileError, UnsupportedError
from edgestill.export.gguf_tokenizer import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    GgufTokenizer,
    open_writer,
)
from edgestill.export.source_tokenizer import SourceTokenizer, kinds, load_tokenizer

HARD_TEXTS: Final = (
    "Hello, world! It's 3 o'clock; isn't it? WE'LL SEE, I'VE DONE IT, you'Re'D 'tis 'S 'll'M don'tcha",
    "dim the kitchen lights to 30 percent at eight",
    "The quick brown fox jumps over the lazy dog. THE QUICK BROWN FOX, CamelCaseWords snake_case x2y3z",
    "0 1 12 123 1234 12345 123456 1234567 12345678 3.14159 1,000,000 2^10 0x1F 1e-9 ١٢٣٤ १२३४ ½ ² Ⅷ ①",
    " leading", "  two leading", "trailing ", "trailing  ", " ", "  ", "   ", "        ", "a  b   c    d     e",
    "\n", "\n\n", "\n\n\n a", " \n", "\n ", "  \n  \n", "\t", "\t\t", "\t \t\n", "a\tb\t\tc", "a\n\n\nb\n  c \n\td",
    "line one\r\nline two\r\n\r\nline three\rline four \r\n \r end\r",
    "a\u00a0b\u3000c\u2003d\u200be\u2028f\u2029g\x0b\x0ch\x85i",
    'def f(x):\n    return {"a": [1, 2.5e3], \'b\': None}  # ok?\n\n\tif x >= 10 and y != 3: x += 1; y **= 2\n',
    "<div class=\"a-b\">&amp;</div> // /* */ #include <vector>\n$HOME/a_b.c:42 C:\\dir\\file https://a.b/c?d=e&f=%20#g",
    "!!! ??? ... ---- ==== **** //// ``` ''' \"\"\" ((())) [[[]]] {{{}}} <<<>>> |||| ~~~~ @@@ ### $$$ %%% ^^^ &&&",
    "a!b?c.d,e;f:g-h_i/j\\k|l(m)n[o]p{q}r<s>t'u\"v`w~x@y#z$a%b^c&d*e+f=g",
    " !a ?b .c -d _e (f) 'g \"h\" #i $5 %6 +7 =8",
    "naïve café résumé Übergröße ÅÄÖ œuvre ﬁn Ærø ŁÓDŹ ñandú İstanbul ıI ǅ ß ẞ",
    "Привет, мир! Γειά σου Κόσμε Ђорђе Հայերեն ქართული", "东京 我想在apple工作1314151天～ 中文，标点。「引号」！？",
    "カタカナとひらがな、漢字 ｱｲｳ ー々〆", "한국어 안녕하세요 ᄒ", "ไทยภาษา ລາວ កាន់តែពិសេស မြန်မာ བོད་ཡིག",
    "हिन्दी में क्षत्रिय नमस्ते বাংলা தமிழ் తెలుగు", "مرحبا بالعالم، كيف حالُكَ؟ עִבְרִית שָׁלוֹם فارسی‌ها",
    "\U0001f600\U0001f680 \U0001f468‍\U0001f469‍\U0001f467 \U0001f1e9\U0001f1ea ✌\U0001f3fd ❤️ ☃ \U0001f636‍\U0001f32b️",
    "x̂ q̃̄ a\u20d7 ∑∫√∞≠≤ → ⇒ ∀x∈ℝ αβγ µm Ω 𝔸𝒷 €£¥₹ ©®™ §¶†‡ •…–—‘’“”«»",
    "\x00", "a\x00b \x01\x02\x1b[31m\x7f", "".join(map(chr, range(1, 128))), "".join(map(chr, range(128, 384))),
    "\ufeffbom \ufffd \ue000 \U000f0000 \U0010ffff \u0e00",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa hahahahahahaha ......................... ================",
    "<s> <unk> <|im_start|> <0x0A> [INST] <|endoftext", "▁ ▁▁ ▁a a▁b Ġ Ċ ĠĠ",
)  # fmt: skip
"""What a tokenizer must split alike: scripts, digits, contractions, code, whitespace, controls, marks."""

_KNOWN: Final = (
    "gpt-2", "qwen2", "llama-bpe", "smollm", "dbrx", "gpt-4o", "tekken", "deepseek-llm", "deepseek-coder",
    "deepseek-v3", "falcon", "stablelm2", "seed-coder", "bailingmoe", "minicpm5", "qwen35", "chatglm-bpe",
    "superbpe", "poro-chat", "viking", "exaone-moe", "default",
)  # fmt: skip
"""Pre-tokenizer types with a behaviour of their own, the usual ones first."""

_MARKS: Final = frozenset({CONTROL, USER_DEFINED, UNKNOWN})
_SAMPLED_TOKENS: Final = 4096

_SIGNS: Final = (
    (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*", ("gpt-4o", "tekken")),
    (r"\p{L}\p{M}", ("qwen35", "deepseek-v3")),
    (r"\p{N}{1,3}", ("llama-bpe", "dbrx", "deepseek-v3", "minicpm5")),
    (r"|\p{N}|", ("qwen2",)),
)
"""(what a split pattern contains, the types to try first)."""


@dataclass(frozen=True)
class TokenizerMismatch:
    """A text that llama.cpp tokenises otherwise than the original tokenizer."""

    text: str
    expected: tuple[int, ...]
    found: tuple[int, ...]

    def __str__(self) -> str:
        at = next(
            (i for i, (a, b) in enumerate(zip(self.expected, self.found, strict=False)) if a != b),
            min(len(self.expected), len(self.found)),
        )
        around = slice(max(at - 2, 0), at + 4)
        return (
            f"text {self.text[:60]!r}: from token {at} on {list(self.expected[around])} "
            f"became {list(self.found[around])}"
        )


def tokenizer_mismatches(checkpoint: Checkpoint, gguf_path: Path, texts: Sequence[str]) -> list[TokenizerMismatch]:
    """Return the texts that llama.cpp on ``gguf_path`` tokenises otherwise than tokenizer.json.

    Compared with and without the special tokens that the tokenizer adds. When the tokenizer composes its
    input (NFC), texts are composed first: llama.cpp has no normaliser. Raises ModelFileError when
    llama.cpp can't load the file.
    """
    original = load_tokenizer(checkpoint)
    with open_vocabulary(gguf_path) as vocabulary:
        return _mismatches(original, vocabulary, texts)


def choose_pretokenizer(
    original: SourceTokenizer, tokenizer: GgufTokenizer, architecture: str, scratch: Path
) -> GgufTokenizer:
    """Return ``tokenizer`` with the settings under which llama.cpp gives the original's ids.

    Tries the plausible types in turn on vocabulary-only files in the folder ``scratch`` (removed again).
    Raises UnsupportedError when none fits, with the text where the likeliest one first differed.
    """
    specials = [
        text for text, kind in zip(tokenizer.tokens, tokenizer.types, strict=True) if kind in (CONTROL, USER_DEFINED)
    ][:8]
    special_texts = [f"{text}Hello {text} there{text}\n{text}{text}" for text in specials]
    strict, lenient = [*HARD_TEXTS, *_vocabulary_texts(original, tokenizer)], []
    if _spares_spaces(original):
        marks = [text for text, kind in zip(tokenizer.tokens, tokenizer.types, strict=True) if kind in _MARKS]
        lenient = [text for text in strict if text.startswith((" ", "\u2581")) or any(mark in text for mark in marks)]
        strict = [text for text in strict if text not in lenient]
        lenient += special_texts
    else:
        strict += special_texts
    first: tuple[GgufTokenizer, TokenizerMismatch] | None = None
    for candidate in _candidates(original, tokenizer):
        with _vocabulary_of(candidate, architecture, scratch) as vocabulary:
            found = _mismatches(original, vocabulary, strict, stop=True)
            if not found:
                return _with_notes(candidate, vocabulary, _mismatches(original, vocabulary, lenient, stop=True))
            first = first or (candidate, found[0])
    candidate, mismatch = first if first is not None else (tokenizer, TokenizerMismatch("", (), ()))
    shown = f"pre-tokenizer {candidate.pre!r}" if candidate.model == "gpt2" else "the SentencePiece tokenizer"
    raise UnsupportedError(
        f"{original.path}: no tokenizer of llama.cpp gives the same ids; with {shown}, {mismatch}; "
        "export to onnx, or train the tokenizer with a known split pattern"
    )


def _candidates(original: SourceTokenizer, tokenizer: GgufTokenizer) -> Iterator[GgufTokenizer]:
    described = original.described
    if tokenizer.model == "llama":
        prefix = original.first_token("a b").startswith("\u2581")
        yield tokenizer.with_space_prefix(prefix)
        return
    pattern = json.dumps(described["pre_tokenizer"], ensure_ascii=False).replace("\\\\", "\\")
    likely: list[str] = ["smollm"] if "Digits" in kinds(described["pre_tokenizer"]) else []
    likely += [name for sign, names in _SIGNS if sign in pattern for name in names]
    if described["model"].get("ignore_merges"):
        likely.insert(0, "llama-bpe")
    for name in dict.fromkeys([*likely, *_KNOWN]):
        yield tokenizer.with_pre(name)


def _vocabulary_texts(original: SourceTokenizer, tokenizer: GgufTokenizer) -> list[str]:
    """Return texts made of the tokenizer's own tokens, where merges of a custom vocabulary meet."""
    ids = [token_id for token_id, kind in enumerate(tokenizer.types) if kind == NORMAL]
    ids = ids[:: len(ids) // _SAMPLED_TOKENS + 1]
    words = original.spellings(ids)
    # Short words are shown in pairs: that is where a merge that shouldn't be would join them.
    short = [word for word in words if 0 < len(word) <= 4][:48]
    pairs = [first + second for first in short for second in short]
    texts = [glue.join(words[at : at + 64]) for glue in ("", " ") for at in range(0, len(words), 64)]
    return [*texts, *(" ".join(pairs[at : at + 64]) for at in range(0, len(pairs), 64))]


def _spares_spaces(original: SourceTokenizer) -> bool:
    """Whether the tokenizer leaves out its prefix space before a space, or after a special token.

    llama.cpp's SentencePiece tokenizer can't, and such files are common: they get a note, not a refusal.
    """
    part = original.described["pre_tokenizer"]
    return isinstance(part, dict) and part.get("type") == "Metaspace" and part.get("prepend_scheme") != "never"


def _with_notes(chosen: GgufTokenizer, vocabulary: Vocabulary, differs: list[TokenizerMismatch]) -> GgufTokenizer:
    notes = list(chosen.notes)
    if differs:
        notes.append(
            "llama.cpp puts a prefix space before text that begins with a space or follows a special token, this "
            "tokenizer doesn't: give llama.cpp token ids, as edgestill does, rather than such text"
        )
    forced = [
        text
        for token_id, (text, kind) in enumerate(zip(chosen.tokens, chosen.types, strict=True))
        if kind == NORMAL and text[:1] in "<[_\u2581" and vocabulary.is_control(token_id)
    ]
    if forced:
        notes.append(
            f"llama.cpp takes {', '.join(map(repr, forced))} in a text for a control token; this tokenizer has an "
            "ordinary one: give it token ids for text from outside"
        )
    if chosen.nfc:
        notes.append("the tokenizer composes its input (Unicode NFC), llama.cpp doesn't: give it composed text or ids")
    if chosen.eos_id is None or not vocabulary.ends_generation(chosen.eos_id):
        notes.append("llama.cpp knows no end-of-sequence token of this file")
    return replace(chosen, notes=tuple(notes))


@contextlib.contextmanager
def _vocabulary_of(tokenizer: GgufTokenizer, architecture: str, scratch: Path) -> Iterator[Vocabulary]:
    path = scratch / "vocabulary.gguf"
    try:
        writer = open_writer(path, architecture)
        try:
            writer.add_name(tokenizer.model_name(architecture))
            tokenizer.write(writer)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        finally:
            writer.close()
        with open_vocabulary(path) as vocabulary:
            yield vocabulary
    finally:
        path.unlink(missing_ok=True)


def _mismatches(
    original: SourceTokenizer, vocabulary: Vocabulary, texts: Sequence[str], *, stop: bool = False
) -> list[TokenizerMismatch]:
    found = []
    for text in texts:
        composed = unicodedata.normalize("NFC", text) if original.composes else text
        for add_special in (False, True):
            expected = original.encode(composed, add_special=add_special)
            ids = vocabulary.tokenize(composed, add_special=add_special)
            if ids != expected:
                found.append(TokenizerMismatch(text, tuple(expected), tuple(ids)))
                if stop:
                    return found
                break
    return found


class Vocabulary:
    """The tokenizer of a GGUF file as llama.cpp runs it; made by :func:`open_vocabulary`."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        """Return llama.cpp's ids; special tokens in the text are taken for what they are."""
        data = text.encode()
        room = len(data) + 8
        ids = (self._library.llama_token * room)()
        count = self._library.llama_tokenize(self._handle, data, len(data), ids, room, add_special, True)
        if count < 0:
            ids = (self._library.llama_token * -count)()
            count = self._library.llama_tokenize(self._handle, data, len(data), ids, -count, add_special, True)
        return list(ids[:count])

    def is_control(self, token_id: int) -> bool:
        """Whether llama.cpp takes this token for a control token, whatever the file says."""
        return bool(self._library.llama_vocab_is_control(self._handle, token_id))

    def ends_generation(self, token_id: int) -> bool:
        """Whether llama.cpp stops at this token."""
        return bool(self._library.llama_vocab_is_eog(self._handle, token_id))


@contextlib.contextmanager
def open_vocabulary(path: Path) -> Iterator[Vocabulary]:
    """Load only the tokenizer of a GGUF file. Raises ModelFileError when llama.cpp refuses it."""
    from edgestill.runtime.engines.llama_cpp import library

    llama_cpp = library()
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    if not model:
        raise ModelFileError(f"{path}: llama.cpp can't load its tokenizer")
    try:
        yield Vocabulary(llama_cpp, llama_cpp.llama_model_get_vocab(model))
    finally:
        llama_cpp.llama_model_free(model)
