"""Schemas for constrained.py: of every kind that is enforced, bounded, so that 480 tokens always suffice."""

from __future__ import annotations

import random
from typing import Any

Schema = dict[str, Any]

TEXTS = (
    "",
    "on",
    'a "quoted" word',
    "back\\slash",
    "naïve café",
    "東京",
    "\U0001f600",
    "new\nline\ttab",
    "/",
    "\x7f",
    "null",
)


def _object(required: list[str] | None = None, **properties: Schema) -> Schema:
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


def _string(least: int = 0, most: int = 8) -> Schema:
    return {"type": "string", "minLength": least, "maxLength": most}


_NULL: Schema = {"type": "null"}
_SWITCH: Schema = {"type": "boolean"}
_LEVEL: Schema = {"type": "integer", "minimum": 0, "maximum": 100}
_POINT: Schema = {"$defs": {"point": _object(x=_LEVEL, y={"type": "number", "minimum": -1, "maximum": 1})}}

PLAIN: list[Schema] = [
    {"type": "null"},
    {"type": "boolean"},
    {"type": "integer"},
    {"type": "number"},
    _LEVEL,
    {"type": "integer", "minimum": -3, "exclusiveMaximum": 3},
    {"type": "integer", "minimum": 95, "maximum": 1234},
    {"type": "integer", "maximum": -1},
    {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "exclusiveMinimum": -2, "maximum": 0},
    {"type": "number", "exclusiveMinimum": 99, "exclusiveMaximum": 100},
    _string(),
    _string(3, 3),
    _string(1, 1),
    {"type": "string", "format": "date"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "uuid"},
    {"enum": list(TEXTS)},
    {"enum": [None, True, -1.5, 10**15, "x", [1, "é"], {"a": {"b": []}}]},
    {"const": {"device": 'the "big" lamp', "levels": [0, 0.5, 1e-7]}},
    {"type": ["string", "null"], "maxLength": 5},
    {"type": ["integer", "boolean"], "minimum": 7, "maximum": 70},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 5},
    {"type": "array", "items": _LEVEL, "maxItems": 1},
    {"type": "array", "items": {"type": "array", "items": _string(0, 3), "maxItems": 2}, "minItems": 1, "maxItems": 2},
    {"type": "array", "prefixItems": [_string(1, 4), _LEVEL, {"type": "null"}], "items": False},
    {"anyOf": [_LEVEL, {"type": "string", "enum": ["auto", "off"]}, {"type": "null"}]},
    {"anyOf": [_object(kind={"const": "lamp"}, level=_LEVEL), _object(kind={"const": "door"}, open=_SWITCH)]},
    _object(),
    _object(a=_LEVEL),
    _object([], a=_LEVEL, b={"type": "boolean"}, c=_string(0, 3)),
    _object(["b"], a=_LEVEL, b={"type": "boolean"}, c=_string(0, 3)),
    _object(["d"], a={"type": "null"}, b={"type": "null"}, c={"type": "null"}, d={"type": "null"}, e={"type": "null"}),
    _object(**{"naïve ключ": _LEVEL, 'with "quotes"': {"type": "boolean"}, "tab\t": {"type": "null"}, "": _LEVEL}),
    _object(action={"enum": ["dim", "lock", "unlock"]}, room=_string(1, 12), value={"anyOf": [_LEVEL, _NULL]}),
    _object(user=_object(n=_string(1, 9), tags={"type": "array", "items": _string(1, 4), "maxItems": 3}), ok=_SWITCH),
    {**_POINT, **_object(start={"$ref": "#/$defs/point"}, end={"$ref": "#/$defs/point"})},
    {**_POINT, "type": "array", "items": {"$ref": "#/$defs/point"}, "minItems": 1, "maxItems": 3},
    {"definitions": {"a/b~c": _LEVEL}, **_object(v={"$ref": "#/definitions/a~1b~0c"})},
    {"allOf": [_object(only=_LEVEL)]},
    {"title": "Lamp", "description": "documented", "properties": {"on": {"type": "boolean", "default": True}}},
]  # fmt: skip
"""What llama.cpp's grammar and llguidance both enforce."""

FOREIGN: list[Schema] = [
    {"type": "string", "pattern": "^[a-z]{2,5}-[0-9]{3}$"},
    {"type": "string", "pattern": "^(red|green|naïve|\"q\")$"},
    {"type": "string", "pattern": "^\\w{1,6}$"},
    {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 500},
    _object(id={"type": "string", "pattern": "^[A-F0-9]{4}$"}, level=_LEVEL),
    {"type": "array", "items": {"type": "string", "pattern": "^x+y{1,2}$", "maxLength": 6}, "maxItems": 3},
    {"allOf": [_object(a=_LEVEL), {"type": "object", "properties": {"a": {"minimum": 50}}}]},
    {"oneOf": [{"type": "boolean"}, _string(0, 5)]},
    {"type": "integer", "enum": [1, 2, 30], "maximum": 10},
    {"type": "object", "patternProperties": {"^k[0-9]$": _LEVEL}, "additionalProperties": False, "maxProperties": 3},
    {"type": "array", "prefixItems": [_LEVEL], "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
]  # fmt: skip
"""What llguidance alone enforces; on llama.cpp it is used for these."""


def random_schema(draw: random.Random, depth: int = 2) -> Schema:
    """Return a schema of kinds that both enforce, at most ``depth`` deep in arrays and objects."""
    kinds = ["null", "boolean", "integer", "number", "string", "enum"] + (["array", "object", "anyOf"] if depth else [])
    kind = draw.choice(kinds)
    if kind == "integer":
        low = draw.choice((-1, 1)) * draw.randrange(10 ** draw.randrange(1, 12))
        return {"type": kind, "minimum": low, "maximum": low + draw.randrange(10 ** draw.randrange(1, 12))}
    if kind == "number":
        low = draw.randrange(-200, 200)
        bounds = (draw.choice(("minimum", "exclusiveMinimum")), draw.choice(("maximum", "exclusiveMaximum")))
        return {"type": kind, bounds[0]: low, bounds[1]: low + draw.randrange(1, 300)}
    if kind == "string":
        least = draw.randrange(5)
        return _string(least, least + draw.randrange(5))
    if kind == "enum":
        return {"enum": [*draw.sample(TEXTS, 3), draw.randrange(100), draw.random()]}
    if kind == "array":
        least = draw.randrange(3)
        return {
            "type": kind,
            "items": random_schema(draw, depth - 1),
            "minItems": least,
            "maxItems": least + draw.randrange(2),
        }
    if kind == "object":
        names = draw.sample(TEXTS, draw.randrange(1, 4))
        properties = {name: random_schema(draw, depth - 1) for name in names}
        return _object([name for name in names if draw.random() < 0.6], **properties)
    if kind == "anyOf":
        return {"anyOf": [random_schema(draw, depth - 1) for _ in range(draw.randrange(1, 4))]}
    return {"type": kind}
