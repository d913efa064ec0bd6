"""Random texts that are hard on a tokenizer: every plane of Unicode, whitespace, marks, glued tokens, mutations."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

_SCRIPTS: Final = (
    (0x20, 0x7F), (0xA0, 0x180), (0x370, 0x400), (0x400, 0x530), (0x530, 0x58B), (0x590, 0x700), (0x900, 0xE00),
    (0xE00, 0xF00), (0x1000, 0x10FF), (0x1100, 0x1200), (0x1E00, 0x2000), (0x2000, 0x2070), (0x20A0, 0x2400),
    (0x2460, 0x2500), (0x3000, 0x3100), (0x3300, 0x3400), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4), (0xF900, 0xFB00),
    (0xFE00, 0xFFF0), (0x1D400, 0x1D800), (0x1F300, 0x1FAFF), (0x20000, 0x20100),
)  # fmt: skip
"""Ranges of code points that are drawn from as one script."""

_SPACES: Final = (
    " ", " ", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\x0b", "\x0c", "\x85", "\xa0", "\u1680", "\u2003",
    "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\u200b", "\ufeff", "\u00ad", " \n", "\n ", " \t ", "\u2581",
)  # fmt: skip

_CONTRACTIONS: Final = (
    "don't", "I'LL", "we've", "You'Re", "'s", "'S", " 'tis", "it''s", "o'clock", "they'd", "I'm", "'ll'd", "l'été",
    "don\u2019t", "'\u017fir", "'t", "'RE",
)  # fmt: skip

_CODE: Final = (
    "def f(x):\n    return x**2\n", "if (a>=b) {\r\n\tc++;\r\n}", "https://a.b/c?d=e&f=%20#g", "a_b-c.d", "</div>",
    "\\n\\t\\x00", "SELECT * FROM t WHERE x='1';", "//--==++", "{{{}}}[[]]", "$HOME", "C:\\dir", "@a #b", "&amp;",
    "print(\"hi\")", "  # comment", "0x1F", "1e-9", "::", "->", "!=", "...", "```", "~~~", "<0x0A>", "<unk>", "<s>",
)  # fmt: skip

_EMOJI: Final = (
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u270c\U0001f3fd",
    "\u2764\ufe0f", "\U0001f636\u200d\U0001f32b\ufe0f", "1\ufe0f\u20e3", "\u2603", "\u2122\ufe0f",
    "\U0001f3f4\U000e0067\U000e0062\U000e007f",
)  # fmt: skip

_WORDS: Final = (
    "the", "Hello", "world", "THE", "CamelCaseWords", "snake_case", "naïve", "Übergröße", "Привет", "МИР", "東京",
    "我想", "한국어", "ไทย", "हिन्दी", "مرحبا", "שלום", "ﬁnal", "İstanbul", "ǅ", "ß", "Ⅷ", "①", "½", "ﬀ", "㍿", "Å",
)  # fmt: skip


@dataclass(frozen=True)
class TextSource:
    """What texts are made of: ``tokens`` of the vocabulary, ``specials`` (added tokens), ``corpus`` of whole lines."""

    tokens: Sequence[str]
    specials: Sequence[str]
    corpus: Sequence[str]


def fuzzed_texts(seed: int, source: TextSource) -> Iterator[str]:
    """Yield random texts without end, the same ones for the same seed; none holds a lone surrogate."""
    rng = random.Random(seed)
    makers: list[Callable[[random.Random, TextSource], str]] = [_mixture] * 6
    makers += [_any_plane, _one_script, _spaces, _digits, _marks, _long_run, _controls]
    if source.tokens:
        makers += [_glued_tokens] * 2
    if source.corpus:
        makers += [_mutated, _mutated, _line]
    if source.specials:
        makers += [_around_specials]
    while True:
        yield rng.choice(makers)(rng, source)


def _code_point(rng: random.Random) -> str:
    plane = rng.choice((0, 0, 0, 1, 1, 2, 3, 14, rng.randrange(17)))
    number = plane << 16 | rng.randrange(0x10000)
    return "\ufffd" if 0xD800 <= number < 0xE000 else chr(number)


def _any_plane(rng: random.Random, source: TextSource) -> str:
    return "".join(_code_point(rng) for _ in range(rng.randint(1, 24)))


def _script_word(rng: random.Random) -> str:
    first, last = rng.choice(_SCRIPTS)
    return "".join(chr(rng.randrange(first, last)) for _ in range(rng.randint(1, 8)))


def _one_script(rng: random.Random, source: TextSource) -> str:
    return " ".join(_script_word(rng) for _ in range(rng.randint(1, 5)))


def _spaces(rng: random.Random, source: TextSource) -> str:
    parts = []
    for _ in range(rng.randint(1, 8)):
        parts += rng.choices(_SPACES, k=rng.randint(1, 5))
        parts.append(rng.choice(("", "", *_WORDS, "a", ".", "1")))
    return "".join(parts)


def _digits(rng: random.Random, source: TextSource) -> str:
    digits = rng.choice(("0123456789", "0123456789", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９", "½²Ⅷ①"))
    parts = ["".join(rng.choices(digits, k=rng.randint(1, 12))) for _ in range(rng.randint(1, 5))]
    return rng.choice(("", " ", ",", ".", "-", " + ", "\n", "x", ":")).join(parts)


def _marks(rng: random.Random, source: TextSource) -> str:
    parts = []
    for _ in range(rng.randint(1, 10)):
        parts.append(rng.choice((rng.choice(_WORDS), chr(rng.randrange(0x61, 0x7B)), _script_word(rng))))
        first, last = rng.choice(((0x300, 0x370), (0x300, 0x370), (0x591, 0x5BE), (0x64B, 0x660), (0x20D0, 0x20F1)))
        parts += [chr(rng.randrange(first, last)) for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    return "".join(parts)


def _long_run(rng: random.Random, source: TextSource) -> str:
    unit = rng.choice(("a", " ", "\n", "-", "=", "ab", "0", "\t", "é", "東", "\U0001f600", ".", " a", "aA", "ha"))
    return rng.choice(("", "x", " ")) + unit * rng.choice((17, 64, 100, 257, 600)) + rng.choice(("", "x", " "))


def _controls(rng: random.Random, source: TextSource) -> str:
    odd = ("\x00", "\x01", "\x1b[31m", "\x7f", "\x80", "\x9f", "\ufffd", "\ufffe", "\uffff", "\ue000", "\U0010ffff")
    return "".join(rng.choice((*odd, chr(rng.randrange(0x20)), *_WORDS, " ")) for _ in range(rng.randint(1, 12)))


def _glued_tokens(rng: random.Random, source: TextSource) -> str:
    glue = rng.choice(("", "", " ", "'", "\n"))
    return glue.join(rng.choice(source.tokens) for _ in range(rng.randint(1, 12)))


def _piece(rng: random.Random, source: TextSource) -> str:
    """Return one word, space, emoji, bit of code ... of a mixture."""
    kind = rng.randrange(16)
    if kind < 4:
        return rng.choice(_WORDS)
    if kind < 7:
        return rng.choice(_SPACES)
    if kind == 7:
        return rng.choice(_CONTRACTIONS)
    if kind == 8:
        return rng.choice(_CODE)
    if kind == 9:
        return rng.choice(_EMOJI)
    if kind == 10:
        return str(rng.randrange(10 ** rng.randint(1, 9)))
    if kind == 11:
        return _script_word(rng)
    if kind == 12:
        return _code_point(rng)
    if kind == 13 and source.specials:
        return rng.choice(source.specials)
    if source.tokens:
        return rng.choice(source.tokens)
    return rng.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _mixture(rng: random.Random, source: TextSource) -> str:
    return "".join(_piece(rng, source) for _ in range(rng.randint(1, 24)))


def _around_specials(rng: random.Random, source: TextSource) -> str:
    parts = []
    for _ in range(rng.randint(1, 4)):
        special = rng.choice(source.specials)
        at = rng.randrange(len(special) + 1)
        parts += [rng.choice(("", " ", "a", "Hello ", "\n", special[:at], special[at:])), special]
    return "".join([*parts, rng.choice(("", " ", " there", "there", "\n", "  "))])


def _line(rng: random.Random, source: TextSource) -> str:
    return rng.choice(source.corpus)[:400]


def _mutated(rng: random.Random, source: TextSource) -> str:
    """Return a line of the corpus with characters removed, doubled, replaced, swapped in case or joined by others."""
    text = list(rng.choice(source.corpus)[:300])
    for _ in range(rng.randint(1, 12)):
        at = rng.randrange(len(text) + 1)
        how = rng.randrange(5)
        if how == 0:
            del text[at : at + rng.randint(1, 3)]
        elif how == 1:
            text[at:at] = text[at : at + rng.randint(1, 6)]
        elif how == 2 and at < len(text):
            text[at] = text[at].swapcase()
        else:
            text[at:at] = _piece(rng, source)
    return "".join(text)
