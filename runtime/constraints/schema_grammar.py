"""JSON schemas (draft 2020-12) to grammars of compact JSON.

Whatever the grammar lets through satisfies the schema. It doesn't let through everything that does: no white
space, properties in the schema's order, none beyond those listed (where ``properties`` are), characters written as
themselves rather than as ``\\uXXXX``, numbers with bounded digits. A keyword that isn't enforced is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn

from edgestill.errors import InputError, UnsupportedError
from edgestill.runtime.constraints.grammar import (
    EMPTY,
    ROOT,
    Alt,
    Chars,
    Foreign,
    Lexeme,
    Node,
    Ref,
    Repeat,
    Rules,
    Seq,
    Text,
    optional,
    refuse_left_recursion,
)
from edgestill.runtime.constraints.number_ranges import (
    MAX_BOUND,
    MAX_INTEGER,
    any_integer,
    any_number,
    integers,
    numbers,
)
from edgestill.runtime.constraints.schema_check import (
    ANNOTATIONS,
    KEYWORDS_OF_TYPE,
    TYPES,
    check_for_llguidance,
    check_schema,
    pointed,
    type_of,
)
from edgestill.runtime.constraints.string_formats import FORMATS

Schema = Mapping[str, object]

_ANY: Final = "any-value"
_CHARACTER: Final = Alt(
    (
        Chars(((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)), negated=True),
        Seq((Text("\\"), Chars(tuple((ord(letter), ord(letter)) for letter in '"\\/bfnrt')))),
    )
)
_COMMA: Final = Text(",")
_MAX_REFERENCES: Final = 30


def schema_grammar(schema: Schema, *, foreign: bool) -> Rules:
    """Return the grammar of the compact JSON texts that satisfy ``schema``.

    With ``foreign``, a part that only llguidance can enforce (``pattern``, ``format``, ...) becomes a Foreign node;
    else it raises UnsupportedError that names keyword and place. Raises InputError for a schema that is malformed,
    has an unknown keyword, or that nothing satisfies.
    """
    check_schema(schema)
    return _Compiler(schema, foreign).rules


class _Compiler:
    def __init__(self, schema: Schema, foreign: bool) -> None:
        self._schema = schema
        self._foreign = foreign
        self._by_pointer: dict[str, str] = {}
        self._references = 0  # being followed now
        self.rules: dict[str, Node] = {ROOT: EMPTY}
        self.rules[ROOT] = self._value(schema, "#")
        refuse_left_recursion(self.rules, "schema")

    def _rule(self, node: Node) -> Ref:
        name = f"r{len(self.rules)}"
        self.rules[name] = node
        return Ref(name)

    def _beyond(self, schema: Schema, place: str, what: str) -> Node:
        """Leave a part to llguidance, or say that llama.cpp's grammar doesn't enforce it."""
        if not self._foreign:
            raise UnsupportedError(f"schema, {place}: llama.cpp's grammar does not enforce {what}")
        check_for_llguidance(self._schema, schema, place)
        definitions = {key: self._schema[key] for key in ("$defs", "definitions") if key in self._schema}
        whole = {**definitions, **schema, "x-guidance": {"whitespace_flexible": False}}
        return self._rule(Foreign(json.dumps(whole)))

    def _value(self, schema: object, place: str) -> Node:
        if schema is True:
            return self._any()
        if not isinstance(schema, Mapping):
            _impossible(place, "the schema false")
        keys = set(schema) - ANNOTATIONS
        if not keys:
            return self._any()
        if "$ref" in keys:
            return self._reference(schema, place) if keys == {"$ref"} else self._beyond(schema, place, "$ref with more")
        if "const" in keys or "enum" in keys:
            return self._fixed(schema, place, keys)
        if keys == {"anyOf"} or (keys == {"allOf"} and len(_list(schema, "allOf")) == 1):
            (key,) = keys
            options = _list(schema, key)
            return Alt(tuple(self._value(option, f"{place}/{key}/{n}") for n, option in enumerate(options)))
        if other := keys & {"anyOf", "allOf", "oneOf"}:
            return self._beyond(schema, place, f"{min(other)} here")
        return self._typed(schema, place, keys)

    def _reference(self, schema: Schema, place: str) -> Node:
        pointer = str(schema["$ref"])
        name = self._by_pointer.get(pointer)
        if name is None:
            reference = self._rule(EMPTY)
            name = self._by_pointer[pointer] = reference.name
            self._references += 1
            if self._references > _MAX_REFERENCES:
                raise InputError(f"schema, {place}/$ref: references lead {_MAX_REFERENCES} deep; shorten the chain")
            self.rules[name] = self._value(pointed(self._schema, pointer, place), pointer)
            self._references -= 1
        return Ref(name)

    def _fixed(self, schema: Schema, place: str, keys: set[str]) -> Node:
        if len(keys - {"type"}) > 1:
            return self._beyond(schema, place, "const or enum with more")
        values = [schema["const"]] if "const" in keys else _list(schema, "enum")
        if "type" in keys:
            allowed = _types(schema)
            values = [
                one for one in values if type_of(one) in allowed or (type_of(one) == "integer" and "number" in allowed)
            ]
        if not values:
            _impossible(place, "const or enum, which leaves no value")
        return Alt(tuple(_constant(value) for value in values))

    def _typed(self, schema: Schema, place: str, keys: set[str]) -> Node:
        named = _types(schema) if "type" in keys else ()
        # Without a type, keywords of one type say what is meant; other types would satisfy the schema as well.
        types = named or [kind for kind in TYPES if keys & KEYWORDS_OF_TYPE[kind]] or list(TYPES)
        if "number" in types:
            types = [kind for kind in types if kind != "integer"]
        writers: dict[str, Callable[[Schema, str, set[str]], Node]] = {
            "null": lambda *_: Lexeme(Text("null")),
            "boolean": lambda *_: Alt((Lexeme(Text("true")), Lexeme(Text("false")))),
            "integer": self._integer,
            "number": self._number,
            "string": self._string,
            "array": self._array,
            "object": self._object,
        }
        options = []
        for kind in types:
            own = keys & KEYWORDS_OF_TYPE[kind]
            options.append(writers[kind]({"type": kind, **{k: v for k, v in schema.items() if k in own}}, place, own))
        return options[0] if len(options) == 1 else Alt(tuple(options))

    def _integer(self, schema: Schema, place: str, keys: set[str]) -> Node:
        if "multipleOf" in keys:
            return self._beyond(schema, place, "multipleOf")
        if not keys:
            return any_integer()
        lowest, above, highest, below = _bounds(schema)
        low = -MAX_INTEGER if lowest is None else math.floor(lowest) + 1 if above else math.ceil(lowest)
        high = MAX_INTEGER if highest is None else math.ceil(highest) - 1 if below else math.floor(highest)
        if max(abs(low), abs(high)) > MAX_INTEGER:
            return self._beyond(schema, place, f"a bound beyond {MAX_INTEGER}")
        node = integers(low, high)
        return node if node is not None else _impossible(place, f"integers from {low} to {high}")

    def _number(self, schema: Schema, place: str, keys: set[str]) -> Node:
        if "multipleOf" in keys:
            return self._beyond(schema, place, "multipleOf")
        if not keys:
            return any_number()
        lowest, above, highest, below = _bounds(schema)
        low, high = -MAX_BOUND if lowest is None else lowest, MAX_BOUND if highest is None else highest
        if low != int(low) or high != int(high) or max(abs(low), abs(high)) > MAX_BOUND:
            return self._beyond(schema, place, f"bounds that aren't integers of at most {MAX_BOUND}")
        node = numbers(int(low), int(high), above=above, below=below)
        return node if node is not None else _impossible(place, f"numbers from {low} to {high}")

    def _string(self, schema: Schema, place: str, keys: set[str]) -> Node:
        if keys == {"format"} and (written := FORMATS.get(str(schema["format"]))) is not None:
            return _string_of(written)
        if other := keys - {"minLength", "maxLength"}:
            return self._beyond(schema, place, min(other))
        least, most = _counts(schema, "minLength", "maxLength", place)
        return _string_of(Repeat(_CHARACTER, least, most))

    def _array(self, schema: Schema, place: str, keys: set[str]) -> Node:
        if other := keys - {"items", "prefixItems", "minItems", "maxItems"}:
            return self._beyond(schema, place, min(other))
        least, most = _counts(schema, "minItems", "maxItems", place)
        first = _list(schema, "prefixItems") if "prefixItems" in keys else []
        items = schema.get("items", True)
        if isinstance(items, list):
            return self._beyond(schema, place, "a list of items (draft 7; write prefixItems)")
        if first:
            # All of the tuple and nothing after it, where the schema lets it.
            if not least <= len(first) <= (len(first) if most is None else most):
                return self._beyond(schema, place, "prefixItems of another length than minItems and maxItems")
            parts = [self._value(one, f"{place}/prefixItems/{number}") for number, one in enumerate(first)]
            return Seq((Text("["), *_joined(parts), Text("]")))
        if most == 0 or (items is False and least == 0):
            return Text("[]")
        item = self._rule(self._value(items, f"{place}/items"))
        return Seq((Text("["), _listed(item, least, most), Text("]")))

    def _object(self, schema: Schema, place: str, keys: set[str]) -> Node:
        if other := keys - {"properties", "required", "additionalProperties"}:
            return self._beyond(schema, place, min(other))
        properties = schema.get("properties", {})
        assert isinstance(properties, Mapping)  # check_schema
        required = [str(name) for name in _list(schema, "required")] if "required" in keys else []
        more = schema.get("additionalProperties", True)
        if properties and isinstance(more, Mapping):
            return self._beyond(schema, place, "properties with a schema for additionalProperties")
        if missing := [name for name in required if name not in properties]:
            if more is False:
                _impossible(place, f"the required property {missing[0]!r}, which additionalProperties forbids")
            properties = {**properties, **{name: more for name in missing}}
        if not properties:
            if more is False:
                return Text("{}")
            value = self._any() if more is True else self._value(more, f"{place}/additionalProperties")
            pair = self._rule(Seq((_string_of(Repeat(_CHARACTER, 0, None)), Text(":"), value)))
            return Seq((Text("{"), _listed(pair, 0, None), Text("}")))
        pairs = [
            (Seq((_constant(name), Text(":"), self._value(one, f"{place}/properties/{name}"))), name in required)
            for name, one in properties.items()
            if one is not False or name in required
        ]
        return Seq((Text("{"), self._members(pairs), Text("}")))

    def _members(self, pairs: Sequence[tuple[Node, bool]]) -> Node:
        """Return the node of the pairs in order, those that aren't required each there or not."""
        first: Node = EMPTY  # what may follow while nothing is written yet
        later: Node = EMPTY
        for pair, needed in reversed(pairs):
            shared = self._rule(pair)
            begun, going = Seq((shared, later)), Seq((_COMMA, shared, later))
            first = self._rule(begun if needed else Alt((begun, first)))
            later = self._rule(going if needed else Alt((going, later)))
        return first

    def _any(self) -> Node:
        if _ANY not in self.rules:
            string = _string_of(Repeat(_CHARACTER, 0, None))
            pair = Seq((string, Text(":"), Ref(_ANY)))
            self.rules[_ANY] = Alt(
                (
                    Seq((Text("{"), _listed(pair, 0, None), Text("}"))),
                    Seq((Text("["), _listed(Ref(_ANY), 0, None), Text("]"))),
                    string,
                    any_number(),
                    *(Lexeme(Text(word)) for word in ("true", "false", "null")),
                )
            )
        return Ref(_ANY)


def _string_of(characters: Node) -> Node:
    return Lexeme(Seq((Text('"'), characters, Text('"'))))


def _listed(item: Node, least: int, most: int | None) -> Node:
    """Return the node of items with commas between them."""
    rest = Repeat(Seq((_COMMA, item)), max(0, least - 1), None if most is None else most - 1)
    some = Seq((item, rest)) if most != 1 else item
    return some if least else optional(some)


def _joined(parts: Sequence[Node]) -> list[Node]:
    return [node for number, part in enumerate(parts) for node in ((_COMMA, part) if number else (part,))]


def _constant(value: object) -> Node:
    """Return the node of one JSON value, each of its tokens a terminal."""
    if isinstance(value, Mapping):
        pairs = [Seq((_constant(str(key)), Text(":"), _constant(one))) for key, one in value.items()]
        return Seq((Text("{"), *_joined(pairs), Text("}")))
    if isinstance(value, list | tuple):
        return Seq((Text("["), *_joined([_constant(one) for one in value]), Text("]")))
    text = json.dumps(value, ensure_ascii=False)
    surrogates = any("\ud800" <= letter <= "\udfff" for letter in text)  # no UTF-8 can hold one
    return Lexeme(Text(json.dumps(value) if surrogates else text))


def _list(schema: Schema, key: str) -> list[object]:
    value = schema[key]
    assert isinstance(value, list | tuple)  # check_schema
    return list(value)


def _types(schema: Schema) -> list[str]:
    value = schema["type"]
    return [value] if isinstance(value, str) else [str(one) for one in _list(schema, "type")]


def _bounds(schema: Schema) -> tuple[float | None, bool, float | None, bool]:
    """Return lowest, whether it is left out, highest, whether it is left out."""

    def tightest(plain: str, exclusive: str, sign: int) -> tuple[float | None, bool]:
        found = [
            (sign * value, key == exclusive)
            for key in (plain, exclusive)
            if isinstance(value := schema.get(key), int | float)
        ]
        return (None, False) if not found else (sign * max(found)[0], max(found)[1])

    lowest, above = tightest("minimum", "exclusiveMinimum", 1)
    highest, below = tightest("maximum", "exclusiveMaximum", -1)
    return lowest, above, highest, below


def _counts(schema: Schema, least: str, most: str, place: str) -> tuple[int, int | None]:
    low, high = schema.get(least, 0), schema.get(most)
    assert isinstance(low, int)  # check_schema
    assert high is None or isinstance(high, int)
    if high is not None and high < low:
        _impossible(place, f"{least} {low} with {most} {high}")
    return low, high


def _impossible(place: str, what: str) -> NoReturn:
    raise InputError(f"schema, {place}: no value satisfies {what}; correct the schema")
