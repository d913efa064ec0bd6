"""Texts that tell one tokenizer from another."""

from __future__ import annotations

from typing import Final

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
