"""Rewriting rules in the form that SentencePiece calls a precompiled character map.

A map replaces, from left to right, the longest beginning of the rest of the text that has a rule; what has none stays.
Its bytes are a little-endian count of bytes, a double-array trie of so many bytes (32-bit units, the format of
Darts-clone) and the replacements, each closed by a zero byte. Rules work on UTF-8 bytes: they may end inside a
character.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

_VALUE: Final = 1 << 31
_HAS_VALUE: Final = 1 << 8
_FAR: Final = 1 << 9
_BLOCK: Final = 256
_MAX_UNITS: Final = 1 << 21
_SPACE: Final = 0x20


def read_charsmap(data: bytes, longest: int) -> dict[bytes, bytes]:
    """Return the rules of a map whose keys have at most ``longest`` bytes. Raises ValueError when it is damaged."""
    if len(data) < 4:
        raise ValueError("shorter than its header")
    (size,) = struct.unpack_from("<I", data)
    if size % 4 or 4 + size >= len(data):
        raise ValueError("its trie is longer than the map")
    units = struct.unpack_from(f"<{size // 4}I", data, 4)
    texts = data[4 + size :]
    rules: dict[bytes, bytes] = {}
    pending = [(b"", _children(units, 0))]
    while pending:
        key, base = pending.pop()
        for label in range(1, 256):
            at = base ^ label
            if at >= len(units) or units[at] & (_VALUE | 0xFF) != label:
                continue
            inner, below = key + bytes([label]), _children(units, at)
            if units[at] & _HAS_VALUE:
                start = units[below] & ~_VALUE if below < len(units) else len(texts)
                end = texts.find(b"\0", start)
                if end < 0:
                    raise ValueError(f"the replacement of {inner!r} lies outside it")
                rules[inner] = texts[start:end]
            if len(inner) < longest:
                pending.append((inner, below))
    return rules


def _children(units: tuple[int, ...], at: int) -> int:
    """Return where the children of a unit lie: each at this place xor its label, its value at this place."""
    unit = units[at] if at < len(units) else 0
    return at ^ (unit >> 10 << (8 if unit & _FAR else 0))


@dataclass(eq=False)
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)
    value: int | None = None
    same_as: _Node | None = None
    at: int = 0
    base: int = -1

    def below(self, key: bytes) -> _Node:
        """Return the node under ``key``, made where it is missing."""
        node = self
        for byte in key:
            node = node.children.setdefault(byte, _Node())
        return node


def build_charsmap(
    rules: Mapping[bytes, bytes], spaces: Collection[bytes] = (), unseen: Collection[bytes] = ()
) -> bytes:
    """Return the map of ``rules``; every key of ``spaces``, and any run of them of any length, is one space.

    What such a run is rewritten to is said by the rule for one space, what follows it by rules that begin with one.
    Keys of ``unseen`` don't end a run.
    Raises ValueError for a rule without a key or with a zero byte in it, and for more rules than fit.
    """
    places: dict[bytes, int] = {}
    texts = bytearray(b"" if rules else b"\0")
    root = _Node()
    for key, text in sorted(rules.items()):
        if not key or 0 in key or 0 in text:
            raise ValueError(f"the rule {key!r} to {text!r} can't be said")
        if text not in places:
            places[text] = len(texts)
            texts += text + b"\0"
        root.below(key).value = places[text]
    if spaces:
        one = root.below(b" ")
        for start, keys in ((root, spaces), (one, (*spaces, *unseen))):
            for key in keys:
                node = start.below(key)
                if node is not one:
                    node.children, node.value, node.same_as = {}, None, one
    units = _laid_out(root)
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + bytes(texts)


def _laid_out(root: _Node) -> list[int]:
    """Return the double array. Nodes that are the same as another share its children, in a cycle perhaps."""
    taken = bytearray(_BLOCK)
    taken[0] = 1
    bases: set[int] = set()
    order = [root]
    # Where nodes of these labels found no place before, they find none later.
    first: dict[tuple[int, bool], int] = {}
    for node in order:
        labels = [*([0] if node.value is not None else []), *node.children]
        if not labels:
            continue
        kind = (labels[0], len(labels) > 1)
        slot = first.get(kind, 1)
        while True:
            if slot >= len(taken):
                taken += bytes(_BLOCK)
            base = slot ^ labels[0]
            if not taken[slot] and base not in bases and not any(taken[base ^ label] for label in labels):
                break
            slot += 1
        first[kind] = slot + 1
        if len(taken) > _MAX_UNITS:
            raise ValueError("more rules than fit")
        bases.add(base)
        node.base = base
        for label in labels:
            taken[base ^ label] = 1
        for label, child in node.children.items():
            child.at = base ^ label
            if child.same_as is None:
                order.append(child)
    units = [0] * len(taken)
    for node in order:
        if node.value is not None:
            units[node.base] = _VALUE | node.value
        if node is root:
            units[0] = max(node.base, 0) << 10
        for label, child in node.children.items():
            meant = child.same_as or child
            units[child.at] = label | (_HAS_VALUE if meant.value is not None else 0)
            if meant.base >= 0:
                units[child.at] |= (child.at ^ meant.base) << 10
    return units


def rewrite(rules: Mapping[bytes, bytes], text: bytes) -> bytes:
    """Return ``text`` after ``rules``, as their map would give it."""
    return b"".join(_rewritten(rules, text, max(map(len, rules), default=0)))


def _rewritten(rules: Mapping[bytes, bytes], text: bytes, longest: int) -> Iterator[bytes]:
    at = 0
    while at < len(text):
        for size in range(min(longest, len(text) - at), 0, -1):
            if (found := rules.get(text[at : at + size])) is not None:
                yield found
                at += size
                break
        else:
            yield text[at : at + 1]
            at += 1
