"""Values from a bundle inside a project's files: how each kind of file quotes a text that nobody vouches for.

A template puts a value only where that kind of file has text: inside a double-quoted literal (or a quoted argument,
an element, an attribute). ``escaper_for`` returns what makes any text stay there.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

Escaper = Callable[[str], str]

_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
"""Means itself in every kind of file."""
_MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]<>#+!|~&$])")


def escaper_for(name: str) -> Escaper:
    """Return how a value is written into a file of this name. Raises ValueError for a kind that has no way here."""
    path = PurePosixPath(name)
    kind = path.name if path.name in _BY_NAME else path.suffix
    try:
        escape = {**_BY_NAME, **_BY_SUFFIX}[kind]
    except KeyError:
        raise ValueError(f"{name}: a template can't put values into a file of this kind") from None
    return lambda text: text if _PLAIN.fullmatch(text) else escape(text)


def _hidden(character: str) -> bool:
    """Whether a character is a control, a separator of lines, or one that only directs how others are shown.

    Overrides of the writing direction could make source code look like what it isn't (Trojan Source, 2021). The two
    joiners stay: words and emoji are written with them.
    """
    return character not in "\u200c\u200d" and unicodedata.category(character) in (
        "Cc",
        "Cf",
        "Zl",
        "Zp",
        "Cs",
        "Co",
        "Cn",
    )


def _literal(special: Mapping[str, str], code: Callable[[str], str]) -> Escaper:
    """Return an escaper for string literals: ``special`` by character, ``code`` for hidden ones."""

    def escape(text: str) -> str:
        return "".join(special.get(one) or (code(one) if _hidden(one) else one) for one in text)

    return escape


def _utf16(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))


def _utf32(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "replace"))


def _shown(text: str) -> str:
    """Return a text with no hidden character in it: a blank for white space, else the replacement character."""
    return "".join((" " if one.isspace() else "\ufffd") if _hidden(one) else one for one in text)


def _xml(text: str) -> str:
    kept = "".join(one if one in "\n\t" or not _hidden(one) else "\ufffd" for one in text)
    return html.escape(kept, quote=True).replace("\n", "&#10;").replace("\t", "&#9;")


def _android(text: str) -> str:
    """Return the text of a string resource, whose own escapes come before XML's."""
    escaped = _literal({"\\": "\\\\", '"': '\\"', "'": "\\'", "\n": "\\n", "\t": "\\t"}, _utf16)(text)
    return _xml("\\" + escaped if escaped[:1] in ("@", "?") else escaped)


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(_shown(text).split()))


def _systemd(text: str) -> str:
    shown = " ".join(_shown(text).split())
    return "".join({"\\": "\\\\", '"': '\\"', "%": "%%", "$": "$$"}.get(one, one) for one in shown)


def _cmake(text: str) -> str:
    return "".join(f"\\{one}" if one in '\\"$' else one for one in _shown(text))


def _shell(text: str) -> str:
    return "".join(f"\\{one}" if one in '\\"$`' else one for one in _shown(text))


_JSON_SPECIAL: Final = MappingProxyType(
    {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "<": "\\u003c"}
)
_TEXT_SPECIAL: Final = MappingProxyType({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_json: Final = _literal(_JSON_SPECIAL, _utf16)
_java: Final = _literal(_TEXT_SPECIAL, _utf16)
_kotlin: Final = _literal({**_TEXT_SPECIAL, "$": "\\$"}, _utf16)
_swift: Final = _literal(_TEXT_SPECIAL, lambda one: f"\\u{{{ord(one):x}}}")
_python: Final = _literal(_TEXT_SPECIAL, _utf32)
_c: Final = _literal({**_TEXT_SPECIAL, "?": "\\?"}, _octal)
_properties: Final = _literal({**_TEXT_SPECIAL, ":": "\\:", "=": "\\=", "#": "\\#", "!": "\\!"}, _utf16)

_BY_NAME: Final[Mapping[str, Escaper]] = MappingProxyType({"CMakeLists.txt": _cmake, "strings.xml": _android})
_BY_SUFFIX: Final[Mapping[str, Escaper]] = MappingProxyType(
    {
        **dict.fromkeys((".html", ".xml", ".plist", ".svg"), _xml),
        **dict.fromkeys((".js", ".mjs", ".ts", ".json", ".webmanifest", ".yaml", ".yml"), _json),
        **dict.fromkeys((".kt", ".kts", ".gradle"), _kotlin),
        **dict.fromkeys((".c", ".h", ".cpp"), _c),
        **dict.fromkeys((".py", ".toml"), _python),
        ".java": _java,
        ".swift": _swift,
        ".md": _markdown,
        ".txt": _shown,
        ".cmake": _cmake,
        ".properties": _properties,
        ".service": _systemd,
        ".sh": _shell,
    }
)
