"""What a Unigram model sees of a text, found out by asking its tokenizer: a rewriting of characters, and its spaces."""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from edgestill.errors import CheckpointError
from edgestill.export.charsmap import read_charsmap
from edgestill.export.source_tokenizer import SourceTokenizer
from edgestill.export.tokenizer_limits import parts

SPACE: Final = "\u2581"
"""How a space is written in a vocabulary (U+2581)."""

_CHUNK: Final = 256
_SEPARATORS: Final = ("|", "0", "\u00a7", "~", "x")
# The library looks a cluster of up to five bytes up as a whole, longer ones character by character.
_LONGEST_CLUSTER: Final = 5
_CLUSTER: Final = re.compile(r"\r\n|.[\u0300-\u036f\u200c\u200d]|[\u1100-\u11ff]{2}", re.DOTALL)


@dataclass(frozen=True)
class UnigramText:
    """How a text is rewritten before Unigram splits it.

    ``rules`` says what characters (and clusters of a few) become, with real spaces; what isn't in it stays. ``prefix``:
    a space is put before the text; ``spares``: but not before one that begins with a space; ``joins``: several spaces
    count as one; ``strips``: white space at the end is dropped.
    """

    rules: Mapping[str, str]
    prefix: bool
    spares: bool
    joins: bool
    strips: bool

    def rewritten(self, text: str) -> str:
        """Return ``text`` after the rules for single characters."""
        return "".join(self.rules.get(letter, letter) for letter in text)

    @functools.cached_property
    def _longest(self) -> int:
        return max(map(len, self.rules), default=1)

    def by_longest_rule(self, text: str) -> str:
        """Return ``text`` after all rules: from left to right, the longest that fits."""
        out, at = [], 0
        while at < len(text):
            for size in range(self._longest, 0, -1):
                if (found := self.rules.get(text[at : at + size])) is not None and at + size <= len(text):
                    out.append(found)
                    at += size
                    break
            else:
                out.append(text[at])
                at += 1
        return "".join(out)


def read_unigram_text(original: SourceTokenizer) -> UnigramText:
    """Find out what a tokenizer does to a text. Raises CheckpointError when its character map is damaged."""
    one, several = original.seen("a b"), original.seen("a   b")
    prefix = one.startswith(SPACE)
    return UnigramText(
        rules=_rules(original),
        prefix=prefix,
        spares=prefix and not original.seen(" a").startswith(SPACE * 2),
        joins=several == one,
        strips=original.seen("a ") == original.seen("a"),
    )


def has_cluster(text: str) -> bool:
    """Whether characters of ``text`` may count as one: marks and joiners after a character, Hangul jamo, CR LF."""
    return _CLUSTER.search(text) is not None or any(ord(letter) > 0x300 for letter in text)


def _rules(original: SourceTokenizer) -> dict[str, str]:
    between = next((one for one in _SEPARATORS if original.seen(one * 3).endswith(one * 3)), None)
    if between is None:
        raise CheckpointError(f"{original.path}: its normalizer leaves no character as it is")
    rules: dict[str, str] = {}
    for first in range(0, 0x110000, _CHUNK):
        if 0xD800 <= first < 0xE000:
            continue
        letters = [chr(number) for number in range(first, first + _CHUNK)]
        chunk = between + between.join(letters) + between
        if original.seen(chunk).removeprefix(SPACE) == chunk:
            continue
        rules.update(_changed(original, letters, between))
    # U+2581 looks alike on both sides, but what becomes a space is joined and stripped as one.
    if SPACE not in original.normalized(f"a{SPACE}a"):
        rules[SPACE] = " "
    # Several characters in one rule: only where they don't become what each becomes.
    for cluster in _clusters(original):
        apart = "".join(rules.get(letter, letter) for letter in cluster)
        for key, text in _changed(original, [cluster], between):
            if text != apart:
                rules[key] = text
    return rules


def _changed(original: SourceTokenizer, texts: list[str], between: str) -> Iterator[tuple[str, str]]:
    """Yield (text, what it becomes) for those that change; real spaces in the latter."""
    for text in texts:
        found = original.seen(between + text + between).removeprefix(SPACE)
        if not (len(found) >= 2 and found[0] == between == found[-1]):
            continue
        inner = found[1:-1]
        if inner != text:
            yield text, inner if SPACE in text else inner.replace(SPACE, " ")


def _clusters(original: SourceTokenizer) -> Iterator[str]:
    yield "\r\n"
    for part in parts(original.described["normalizer"]):
        if part.get("type") == "Precompiled":
            try:
                known = read_charsmap(base64.b64decode(part["precompiled_charsmap"]), _LONGEST_CLUSTER)
                clusters = sorted({key.decode() for key in known})
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(f"{original.path}: its precompiled_charsmap is damaged ({error})") from error
            yield from (key for key in clusters if len(key) > 1)
