"""Hard texts of the parity check: what tokenizers split in surprising ways, and bytes that aren't text."""

from __future__ import annotations

from typing import Final

UNICODE_TEXTS: Final = (
    "The naïve façade of Zoë's café: Ærøskøbing, Łódź, Ístanbul ı İ ẞ ß, ﬁne ﬂuﬀ, ǅ Ǆ, 𝒜𝓃𝓃𝒶 𝟙𝟚𝟛",
    "👩‍👩‍👧‍👦 👍🏿 🏴󠁧󠁢󠁳󠁣󠁴󠁿 🇨🇭🇯🇵 ❤️‍🔥 ☺︎☺️ 1️⃣ #️⃣ 🫠🫥 🧑🏽‍🚀🚀💥 👨‍💻👩🏻‍⚕️",
    "我们在上海用3.5公斤的大米换了两只鸡。「真的吗？」她问，然后……笑了——𠀋𠮷野家 龘靐齉",
    "ひらがなとカタカナ、それから漢字。ｶﾞｷﾞ ㌔㍍ 々〆ヶ〇 お電話は０１２０‐１２３まで！",
    "한국어와 영어를 섞어 쓰면 어떻게 될까요? 각\u1100\u1161\u11a8 ㄱㄴㄷ 훈민정음",
    "Съешь же ещё этих мягких булок; Їжак ґречно єднав; ѣ ѳ ѵ; Ελληνικά: ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "مرحبًا! كَيْفَ حَالُكَ؟ ۱۲۳٫۴۵ ؟ هٰذَا ﷺ ﷽ لا إله — עברית: שָׁלוֹם עוֹלָם, \u200fRTL\u200e LTR \u202bembedded\u202c",
    "क्षत्रिय ज्ञान श्री नमस्ते र्‍य ক্ষুদ্র தமிழ் மொழி తెలుగు ಕನ್ನಡ മലയാളം සිංහල",
    "ภาษาไทยไม่มีช่องว่าง ກຳລັງ ភាសាខ្មែរ မြန်မာဘာသာ བོད་སྐད་ ქართული Հայերեն አማርኛ ᏣᎳᎩ ᚠᚢᚦ",
    "e\u0301 e\u0301\u0323 a\u0308\u0304 o\u0338 q\u0307\u0323 n\u0303 Z͑ͫ̓a̴̵̡l̷̢g̶̨o̸̧ \u1e9b\u0323 ﷐ \ufe20x\ufe21",
    "∀ε>0 ∃δ: |x−a|<δ ⇒ |f(x)−f(a)|<ε; ∮∇×F·dA ≈ ∛(½⁄⅓) ± 10⁻⁹ µm Ω Ω K Å ①②Ⅳ² ₃ 𝕊𝟗",
    "\u00a0no-break\u2007figure\u202fnarrow\u2009thin\u200bzero\u2060join\u3000wide\u2028line\u2029paragraph\u0085next",
    "bell\x07 back\x08 escape\x1b[1;31mred\x1b[0m nul\x00 unit\x1f del\x7f c1\x80\x9f \ufeffbom \ufffd\ufffe \ue000",
    "\U00010000\U0001f9ff\U000e0041\U000f1234\U0010fffd 𐍈𒀀𓂀 🀄🂡🃏 𝄞𝄢 ⠓⠊ ☰☷ ♔♚ ─│┌┐█▓▒░",
)
"""Scripts, emoji, combining marks, controls, private use: what a tokenizer sees rarely."""

WHITESPACE_TEXTS: Final = (
    " ",
    "    ",
    "\n",
    "\n\n\n\n",
    "\t\t\t",
    "\r\n\r\n",
    " leading and trailing ",
    "  two before, three after   ",
    "runs: a  b   c    d     e      f       g        h                                                      i",
    "tabs\tone\t\ttwo\t\t\tthree \t mixed\t \t",
    "lines\nand\n\nempty\n\n\nones\r\nwith\rreturns \n and \n  spaces   \n\n   \n\tend\n",
)
"""Runs of white space, alone and between words."""

CODE_TEXTS: Final = (
    "def f(x: int) -> dict[str, float]:\n    '''Doc.'''\n    return {f\"k_{i:02d}\": i**2 / 3 for i in range(x)}\n",
    "for (size_t i = 0; i < n && buf[i] != '\\0'; ++i) { *out++ = (uint8_t)(buf[i] ^ 0xA5u); } // done\n",
    "SELECT t.id, COUNT(*) FROM users AS t WHERE t.name LIKE '%o''brien%' GROUP BY 1 HAVING COUNT(*) >= 10;",
    "<a href=\"https://example.org/?q=a%20b&amp;x=1#top\" class='b-c'>&lt;tag/&gt;</a><!-- note -->",
    '{"a": [1, -2.50e+10, true, null], "b": {"\\u00e9": "\\n"}, "c": ""}',
    "$ grep -rnE '^[[:space:]]*#(if|endif)\\b' ./src | awk -F: '{print $1\":\"$2}' | sort -u > out.txt 2>&1",
    '\tif err := json.Unmarshal(b, &v); err != nil {\n\t\treturn fmt.Errorf("%w: %q", err, b)\n\t}\n',
    "x=1_000_000;y=0b1010;z=0o17;w=.5e-3;v=1234567890123456789;u=3.14159265358979;t='2024-02-29T23:59:60Z'",
    "==>>><<<!==///***---+++~~~```'''\"\"\"|||&&&^^^%%%$$$###@@@!!!???...,,,;;;:::",
)
"""Source code and data in several languages."""

PLAIN_TEXTS: Final = (
    "It's what we've said they'd do, isn't it? I'm sure you'll agree: he'S, WE'RE, y'all'd've 'tis.",
    "In 1989 some 12,345.67 litres (or 3/4 of it) went from A4 to B52; call +41 44 123 45 67 before 5pm.",
    "Donaudampfschifffahrtsgesellschaftskapitän antidisestablishmentarianism pneumonoultramicroscopic",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa hahahahahahahaha nooooooo 000000000000",
    "camelCaseAndPascalCase snake_case_and_SCREAMING_CASE kebab-case-here path/to/file.tar.gz a.b.c",
)
"""Words and numbers."""

INVALID_UTF8: Final = (
    b"a lone \xff and \xfe byte",
    b"continuation first \x80\x81 then text",
    b"cut off \xf0\x9f\x98",
    b"cut off in the middle \xe6\x9d and on",
    b"overlong \xc0\xaf and \xe0\x80\xaf",
    b"a surrogate \xed\xa0\x80 in UTF-8",
    b"past the end \xf4\x90\x80\x80",
    b"Latin-1: caf\xe9, na\xefve, \xfcber",
    bytes(range(128, 256)),
)
"""Bytes that aren't UTF-8. A tokenizer takes text: they are decoded first, U+FFFD in place of what isn't."""


def hard_texts() -> tuple[str, ...]:
    """Return every hard text, the invalid bytes decoded."""
    invalid = tuple(data.decode("utf-8", "replace") for data in INVALID_UTF8)
    return (*UNICODE_TEXTS, *WHITESPACE_TEXTS, *CODE_TEXTS, *PLAIN_TEXTS, *invalid)


def texts_with_tokens(tokens: list[str]) -> list[str]:
    """Return texts in which special tokens stand alone, between words, beside white space, doubled and cut short."""
    found = []
    for token in tokens:
        found += [token, f"before{token}after", f"a {token} b\n{token}\n{token}{token} ", token[:-1], f" {token}"]
    return found
