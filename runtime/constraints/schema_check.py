"""What a JSON schema may hold here: known keywords of the right types, references inside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import unquote

from edgestill.errors import InputError, UnsupportedError

Schema = Mapping[str, object]

TYPES: Final = ("null", "boolean", "integer", "number", "string", "array", "object")
_NUMERIC: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
KEYWORDS_OF_TYPE: Final[Mapping[str, frozenset[str]]] = {
    "null": frozenset(),
    "boolean": frozenset(),
    "integer": _NUMERIC,
    "number": _NUMERIC,
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains", "additionalItems"}),
    "object": frozenset(
        {
            *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
            *("minProperties", "maxProperties", "dependentRequired", "dependentSchemas"),
        }
    ),
}
ANNOTATIONS: Final = frozenset(
    {
        *("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples"),
        *("deprecated", "readOnly", "writeOnly"),
    }
)
"""Keywords that constrain nothing (definitions do where they are referred to)."""

_KNOWN: Final = frozenset({"type", "const", "enum", "anyOf", "oneOf", "allOf", "$ref"}).union(
    ANNOTATIONS, *KEYWORDS_OF_TYPE.values()
)
_SCHEMAS_IN_LIST: Final = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_SCHEMAS_BY_NAME: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_ONE_SCHEMA: Final = frozenset({"items", "additionalProperties", "propertyNames", "contains", "additionalItems"})
_COUNTS: Final = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
_MAX_CHARACTERS: Final = 1 << 20
_MAX_DEPTH: Final = 60


def check_schema(schema: Schema) -> None:
    """Raise InputError, naming the place, for a keyword that is unknown or has a value of the wrong kind."""
    try:
        size = len(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"schema: not JSON ({error})") from error
    if size > _MAX_CHARACTERS:
        raise InputError(f"schema: {size} characters are more than {_MAX_CHARACTERS}; shorten it")
    for part, place in _parts(schema, "#"):
        for key, value in part.items():
            if key not in _KNOWN:
                raise UnsupportedError(f"schema, {place}: the keyword {key!r} is not enforced; leave it out")
            if (wanted := _wrong(key, value)) is not None:
                raise InputError(f"schema, {place}/{key}: {wanted} is expected, not {json.dumps(value)[:60]}")


def _parts(schema: object, place: str, depth: int = 0) -> Iterator[tuple[Schema, str]]:
    """Yield every schema inside a schema with its place, itself first; true and false are left out."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        raise InputError(f"schema, {place}: an object (or true) is expected, not {json.dumps(schema)[:60]}")
    if depth > _MAX_DEPTH:
        raise InputError(f"schema, {place}: nested more than {_MAX_DEPTH} deep")
    yield schema, place
    for key, value in schema.items():
        inside: list[tuple[object, str]] = []
        if key in _ONE_SCHEMA and not isinstance(value, list):
            inside = [(value, key)]
        elif (key in _SCHEMAS_IN_LIST or key == "items") and isinstance(value, list | tuple):
            inside = [(one, f"{key}/{number}") for number, one in enumerate(value)]
        elif key in _SCHEMAS_BY_NAME and isinstance(value, Mapping):
            inside = [(one, f"{key}/{name}") for name, one in value.items()]
        for one, below in inside:
            yield from _parts(one, f"{place}/{below}", depth + 1)


def _wrong(key: str, value: object) -> str | None:
    """Return what a keyword's value should have been, None when it is right."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key in _COUNTS:
        return None if number and isinstance(value, int) and value >= 0 else "a whole number, at least 0,"
    if key in _NUMERIC:
        return None if number else "a number"
    if key in ("pattern", "format", "$ref"):
        return None if isinstance(value, str) else "a text"
    if key == "uniqueItems":
        return None if isinstance(value, bool) else "true or false"
    if key in _SCHEMAS_BY_NAME:
        return None if isinstance(value, Mapping) else "an object"
    if key in _SCHEMAS_IN_LIST or key == "enum":
        return None if isinstance(value, list | tuple) and value else "a list that isn't empty"
    if key == "required":
        good = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
        return None if good else "a list of names"
    if key == "type":
        listed = value if isinstance(value, list | tuple) and value else [value]
        return None if all(one in TYPES for one in listed) else f"one or more of {', '.join(TYPES)}"
    return None


def type_of(value: object) -> str:
    """Return the JSON type of a value; a float that is whole is an ``integer``, as in the specification."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if value == int(value) else "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Mapping) else "array"


def pointed(schema: Schema, pointer: str, place: str) -> object:
    """Return the part of a schema that ``#/a/b`` points to (RFC 6901). Raises InputError when there is none."""
    if pointer != "#" and not pointer.startswith("#/"):
        raise UnsupportedError(f"schema, {place}/$ref: only references inside the schema (#/...), not {pointer!r}")
    found: object = schema
    for raw in pointer.split("/")[1:]:
        step = unquote(raw).replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and step in found:
            found = found[step]
        elif isinstance(found, list | tuple) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            raise InputError(f"schema, {place}/$ref: {pointer!r} points to nothing; there is no {step!r}")
    return found


def check_for_llguidance(whole: Schema, part: Schema, place: str) -> None:
    """Raise UnsupportedError for what llguidance would accept without enforcing it for every reader.

    An exclusive bound of a number, as 0.99999999999999999 is 1 once read; a multiple of a fraction, which readers
    compute in binary; a least number of properties, as one may be written twice; formats (30 February passes).
    """
    for key in ("$defs", "definitions"):
        if isinstance(definitions := whole.get(key), Mapping):
            for name, one in definitions.items():
                _refuse_loose(one, f"#/{key}/{name}")
    _refuse_loose(part, place)


def _refuse_loose(schema: object, place: str) -> None:
    for part, where in _parts(schema, place):
        only_integers = part.get("type") == "integer"
        loose = {"exclusiveMinimum", "exclusiveMaximum"} & part.keys() if not only_integers else set()
        if "multipleOf" in part and not (only_integers and isinstance(part["multipleOf"], int)):
            loose.add("multipleOf")
        if "format" in part:
            raise UnsupportedError(
                f"schema, {where}: format {part['format']!r} is not enforced here; leave it out, or write a pattern "
                "(date, time, date-time, uuid and ipv4 are, without other keywords)"
            )
        if isinstance(least := part.get("minProperties"), int) and least > 1:
            loose.add("minProperties")
        reference = part.get("$ref")
        if isinstance(reference, str) and not reference.startswith(("#/$defs/", "#/definitions/")):
            raise UnsupportedError(
                f"schema, {where}/$ref: beside keywords that need llguidance, only #/$defs/... is followed"
            )
        if loose:
            raise UnsupportedError(
                f"schema, {where}: {min(loose)} can't be enforced here for every reader; leave it out"
            )
