"""Grammars by themselves: GBNF read, schemas compiled, what is refused; judged by llguidance and jsonschema."""

from __future__ import annotations

import itertools
import json
from typing import Any

import jsonschema
import llguidance
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgestill.errors import InputError, UnsupportedError
from edgestill.runtime import Grammar, JsonSchema
from edgestill.runtime.constraints.gbnf import parse_gbnf
from edgestill.runtime.constraints.grammar import Lexeme, Node
from edgestill.runtime.constraints.grammar_text import to_gbnf, to_lark
from edgestill.runtime.constraints.number_ranges import integers, numbers
from edgestill.runtime.constraints.schema_grammar import schema_grammar
from edgestill.runtime.constraints.token_tree import TokenTree
from edgestill.runtime.constraints.utf8 import unfinished

BYTES = llguidance.LLTokenizer("byte")


def accepts(lark: str, text: str) -> bool:
    """Whether llguidance, byte by byte, takes the text as a whole."""
    matcher = llguidance.LLMatcher(BYTES, llguidance.LLMatcher.grammar_from_lark(lark))
    assert not matcher.is_error(), matcher.get_error()
    data = text.encode()
    return matcher.try_consume_tokens(list(data)) == len(data) and matcher.is_accepting()


def schema_accepts(schema: dict[str, Any], value: object) -> bool:
    return accepts(to_lark(schema_grammar(schema, foreign=True)), compact(value))


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def node_accepts(node: Node | None, text: str) -> bool:
    return node is not None and accepts(to_lark({"root": node}), text)


@pytest.mark.parametrize(
    ("grammar", "taken", "refused"),
    [
        ('root ::= "a" "bc" | "ab" "d"', ["abc", "abd"], ["a", "ab", "abcd"]),
        ('root ::= [a-z]* "z"', ["z", "abcz", "zzz"], ["", "abc"]),
        ("root ::= [^a-y\\n]{2,3}", ["zz", "éZ!"], ["z", "za", "zzzz", "z\n"]),
        ('root ::= ("-" | "+")? digit+ # a comment\ndigit ::= [0-9]', ["7", "-10", "+0"], ["", "-", "1-"]),
        ('root ::= (\n  "x" |\n  "y"\n) "\\u00e9\\U0001F600\\x41\\t"', ["xé\U0001f600A\t"], ["xé"]),
        ('root ::= "[" (item ("," item)*)? "]"\nitem ::= "1" | root', ["[]", "[1,[1],[]]"], ["[1,]", "[", "1"]),
        ("root ::= .{3}", ["a\n東"], ["ab"]),
        ('root ::= "" | "ab"', ["", "ab"], ["a"]),
        ("root ::= [\\]\\-a]+ [-b] [c-]", ["]-a-c", "ab-"], ["b"]),
    ],
)
def test_gbnf_means_what_llama_cpp_says_it_means(grammar: str, taken: list[str], refused: list[str]) -> None:
    rules = parse_gbnf(grammar)
    again = parse_gbnf(to_gbnf(rules))  # what is written for llama.cpp says the same
    for text in taken:
        assert accepts(to_lark(rules), text)
        assert accepts(to_lark(again), text)
    for text in refused:
        assert not accepts(to_lark(rules), text)
        assert not accepts(to_lark(again), text)


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        ('root = "a"', "line 1, column 6: '::=' "),
        ('root ::= "a" |\n  "b', "line 2, column 5: the end of the text"),
        ('root ::= "a"\nitem ::= ["b"', "line 2, column 14"),
        ('root ::= thing\nitem ::= "b"', "line 1, column 10: a rule 'thing'"),
        ('item ::= "b"', "no rule is called root"),
        ('root ::= ("a" "b"', r"column 18: '\)'"),
        ('root ::= "\\q"', "line 1, column 11: an escape"),
        ('root ::= "\\ud800"', "no surrogate"),
        ('root ::= "a"{3,2}', "line 1, column 13: a repetition of at least 3"),
        ("root ::= [z-a]", "line 1, column 11: a range"),
        ('root ::= * "a"', "column 10: something to repeat"),
        ('root ::= <think> "a"', "line 1, column 10: text; a token"),
        ('root ::= "a"\nroot ::= "b"', "line 2, column 1: one definition of 'root'"),
        ('root ::= item "a"\nitem ::= "b"? root', "left recursion"),
        ("root ::= " + "(" * 200 + '"a"' + ")" * 200, "nesting of at most 100"),
        ('root ::= "a" }', "the end of the rule"),
    ],
)
def test_a_grammar_that_does_not_parse_is_refused_by_line_and_column(grammar: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_gbnf(grammar)


@given(st.text(alphabet='root ::=|()[]{}*+?."\\\n#-abc^,0123<>!', max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_grammar_or_an_input_error(text: str) -> None:
    try:
        parse_gbnf("root ::= " + text)
    except InputError as error:
        assert str(error).startswith("grammar")


def test_repetitions_that_llama_cpp_would_drop_silently_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="at most 2000"):
        to_gbnf(parse_gbnf('root ::= "a"{0,2001}'))
    with pytest.raises(UnsupportedError, match="at most 2000"):
        to_gbnf(parse_gbnf('root ::= ("a"{0,50} "b"){0,50}'))


bounds = st.one_of(st.integers(-1200, 1200), st.integers(-(10**9), 10**9))


@given(bounds, st.integers(0, 2000), st.lists(st.integers(-3, 3), min_size=3, max_size=3))
@settings(max_examples=150, deadline=None)
def test_an_integer_is_written_exactly_when_it_is_in_the_range(low: int, width: int, near: list[int]) -> None:
    high = low + width
    node = integers(low, high)
    for value in (low - 1, low, high, high + 1, 0, *(low + step for step in near), *(high + step for step in near)):
        assert node_accepts(node, str(value)) == (low <= value <= high), value
    assert not node_accepts(node, "0" + str(abs(high)))


@given(
    st.integers(-1200, 1200),
    st.integers(0, 1200),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", ".0", ".000000", ".000001", ".5", ".999999"]),
)
@settings(max_examples=200, deadline=None)
def test_a_number_is_written_only_when_it_is_between_the_bounds(
    low: int, width: int, above: bool, below: bool, fraction: str
) -> None:
    high = low + width
    node = numbers(low, high, above=above, below=below)
    for whole in (low - 1, low, low + 1, high - 1, high, 0):
        text = str(whole) + fraction
        value = float(text)
        inside = (low < value or (low == value and not above)) and (value < high or (value == high and not below))
        # "-0.0" and "-0.5" are numbers too; "-0" alone need not be written.
        assert node_accepts(node, text) == inside, text
        assert not node_accepts(node, text) or low <= json.loads(text) <= high


NULL = {"type": "null"}
MIXED = ['a"b', "a", "ab", 1, 12, 1.5, "é", {"k": [None]}]
NESTED = {
    "$defs": {"n": {"anyOf": [NULL, {"type": "array", "items": {"$ref": "#/$defs/n"}}]}},
    "$ref": "#/$defs/n",
}
LAMP = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "string", "maxLength": 2}, "c": {"type": "null"}},
    "required": ["b"],
}


@pytest.mark.parametrize(
    ("schema", "taken", "refused"),
    [
        (LAMP, [{"b": ""}, {"a": 1, "b": "é\U0001f600"}, {"b": "x", "c": None}], [{}, {"b": "xyz"}, {"b": "", "a": 1}]),
        ({"properties": {"a": {"type": "null"}}}, [{}, {"a": None}], ["text", {"a": 1}, {"z": 1}]),
        ({"type": "object", "additionalProperties": {"type": "null"}}, [{}, {"x": None, "y": None}], [{"x": 1}]),
        ({"type": "object", "additionalProperties": False}, [{}], [{"x": 1}]),
        ({"required": ["z"], "properties": {"a": NULL}}, [{"z": [1]}, {"a": None, "z": 1}], [{}, {"a": None}]),
        ({}, [None, {"a": [1, {"b": ""}]}, [[]], 'q"\\\n'], []),
        ({"type": "array", "items": NULL, "minItems": 1, "maxItems": 2}, [[None], [None] * 2], [[], [None] * 3]),
        ({"type": "array", "items": False}, [[]], [[1]]),
        ({"prefixItems": [{"type": "null"}, {"enum": [1, 2]}]}, [[None, 2]], [[None, 3], [None, 1, 1]]),
        ({"enum": MIXED}, MIXED, ["b", 2, {"k": []}]),
        ({"enum": [1, "1", None], "type": ["string", "null"]}, ["1", None], [1]),
        ({"const": "tab\tnul\0"}, ["tab\tnul\0"], ["tab"]),
        ({"anyOf": [{"enum": ["abc"]}, {"type": "string", "maxLength": 1}]}, ["abc", "a", ""], ["ab"]),
        ({"anyOf": [{"const": {"a": 1}}, {"properties": {"a": {"const": 2}}}]}, [{"a": 1}, {"a": 2}, {}], [{"a": 3}]),
        ({"type": "string", "minLength": 2, "maxLength": 2}, ["\n\t", "é東"], ["a", "abc"]),
        ({"type": "string", "format": "date"}, ["2024-02-28", "1999-12-31"], ["2023-02-30", "0000-01-01"]),
        ({"type": "string", "format": "ipv4"}, ["0.10.255.199"], ["256.1.1.1", "01.1.1.1", "1.1.1"]),
        ({"type": "string", "pattern": "^a+\\d$"}, ["aa1"], ["a", "ba1"]),
        (NESTED, [None, [], [[None], []]], [1, [2]]),
        ({"properties": {"next": {"$ref": "#"}}}, [{}, {"next": {"next": {}}}], [{"next": 1}]),
        ({"type": "number", "minimum": 0.5, "maximum": 1.5}, [0.5, 1.25], [0.4, 1.6]),
    ],
)
def test_a_schema_takes_and_refuses_as_jsonschema_does(
    schema: dict[str, Any], taken: list[object], refused: list[object]
) -> None:
    validator = jsonschema.Draft202012Validator(schema)
    for value in taken:
        validator.validate(value)
        assert schema_accepts(schema, value), value
    for value in refused:
        assert not schema_accepts(schema, value), value


@pytest.mark.parametrize(
    "text", ['"\x01"', '"\x7f', '{"b": "x"}', '{"b":"x"} ', '{"b":"\\ud800"}', '{"b":"\n"}', '{"b":"x",}']
)
def test_what_is_not_compact_json_is_not_taken(text: str) -> None:
    assert not accepts(to_lark(schema_grammar(LAMP, foreign=True)), text)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "string", "minlength": 3}, "#: the keyword 'minlength' is not enforced"),
        ({"properties": {"a": {"not": {}}}}, "#/properties/a: the keyword 'not'"),
        ({"items": {"type": "strin"}}, '#/items/type: one or more of null.*"strin"'),
        ({"type": "string", "minLength": -1}, "#/minLength: a whole number"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "minLength 3 with maxLength 2"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "integers from 5 to 4"),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 1}, "numbers from 1 to 1"),
        ({"enum": []}, "#/enum: a list that isn't empty"),
        ({"const": 1, "type": "string"}, "leaves no value"),
        ({"$ref": "#/$defs/x"}, "points to nothing; there is no '\\$defs'"),
        ({"$ref": "https://example.org/a.json"}, "only references inside"),
        ({"$ref": "#"}, "left recursion"),
        ({"properties": {"a": False}, "required": ["a"]}, "#/properties/a: no value satisfies the schema false"),
        ({"required": ["a"], "additionalProperties": False}, "the required property 'a'"),
        ({"properties": {"a": 1}}, "#/properties/a: an object .* is expected, not 1"),
        ({"const": float("nan")}, "not JSON"),
        ({"type": "number", "multipleOf": 0.1}, "multipleOf can't be enforced"),
        ({"patternProperties": {"a": {"exclusiveMaximum": 1}}}, "exclusiveMaximum can't be enforced"),
        ({"type": "string", "format": "hostname"}, "format 'hostname' is not enforced"),
        ({"type": "object", "additionalProperties": {}, "minProperties": 3}, "minProperties can't be enforced"),
    ],
)
def test_what_would_not_be_enforced_is_refused_by_place(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        schema_grammar(schema, foreign=True)


@pytest.mark.parametrize("key", ["pattern", "multipleOf", "oneOf", "patternProperties", "uniqueItems", "maxProperties"])
def test_what_only_llguidance_enforces_is_not_left_to_llama_cpp(key: str) -> None:
    schemas: dict[str, dict[str, Any]] = {
        "pattern": {"type": "string", "pattern": "a"},
        "multipleOf": {"type": "integer", "multipleOf": 2},
        "oneOf": {"oneOf": [{"type": "null"}]},
        "patternProperties": {"patternProperties": {}},
        "uniqueItems": {"type": "array", "uniqueItems": True},
        "maxProperties": {"type": "object", "maxProperties": 2},
    }
    with pytest.raises(UnsupportedError, match=f"llama.cpp's grammar does not enforce {key}"):
        schema_grammar({"properties": {"x": schemas[key]}}, foreign=False)


scalars = st.one_of(st.none(), st.booleans(), st.integers(-(10**6), 10**6), st.text(max_size=4))
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def encodable(value: object) -> bool:
    text = compact(value)
    return not any("\ud800" <= letter <= "\udfff" for letter in text) and "\\u00" not in text and "\x7f" not in text


@given(documents.filter(encodable))
@settings(max_examples=150, deadline=None)
def test_any_document_satisfies_the_empty_schema_and_its_own_constant(value: object) -> None:
    assert schema_accepts({}, value)
    assert schema_accepts({"const": value}, value)
    assert not schema_accepts({"const": [value]}, value)


def test_bytes_are_the_beginning_of_utf8_exactly_when_some_bytes_make_them_whole() -> None:
    def whole(data: bytes) -> bool:
        try:
            data.decode()
        except UnicodeDecodeError:
            return False
        return True

    edges = [0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xFF]
    going_on = (0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF)
    ends = [bytes(end) for count in range(4) for end in itertools.product(going_on, repeat=count)]
    for count in (1, 2, 3):
        for data in map(bytes, itertools.product(edges, repeat=count)):
            assert (unfinished(data) is not None) == any(whole(data + end) for end in ends), data


@given(st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=40), st.integers(0, 255))
def test_a_token_tree_finds_what_asking_every_token_finds(pieces: list[bytes], limit: int) -> None:
    tree = TokenTree(pieces, np.arange(len(pieces)))

    def allows(ids: np.ndarray) -> np.ndarray:  # closed under prefixes, as a grammar is
        return np.array([all(byte <= limit for byte in pieces[number]) for number in ids], bool)

    expected = np.flatnonzero(allows(np.arange(len(pieces))))
    np.testing.assert_array_equal(tree.allowed(allows, tree.roots), expected)
    assert tree.sizes[tree.roots].sum() == len(pieces)


def test_the_types_of_a_constraint_are_checked() -> None:
    with pytest.raises(InputError, match="a JSON schema is an object"):
        JsonSchema([1])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="gbnf or lark"):
        Grammar("root", "ebnf")  # type: ignore[arg-type]
    assert isinstance(integers(1, 2), Lexeme)
