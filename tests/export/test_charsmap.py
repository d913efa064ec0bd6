from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgestill.export.charsmap import build_charsmap, read_charsmap, rewrite

KEYS = st.binary(min_size=1, max_size=5).filter(lambda key: 0 not in key)
TEXTS = st.binary(max_size=6).filter(lambda text: 0 not in text)


@given(st.dictionaries(KEYS, TEXTS, max_size=40))
@settings(max_examples=200, deadline=None)
def test_a_map_holds_just_the_rules_that_it_was_built_from(rules: dict[bytes, bytes]) -> None:
    assert read_charsmap(build_charsmap(rules), 8) == rules


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_a_damaged_map_is_a_value_error_or_other_rules(data: bytes) -> None:
    try:
        read_charsmap(data, 4)
    except ValueError:
        return


def test_a_run_of_spaces_of_any_length_is_one_space() -> None:
    rules = {b" ": b"_", b" a": b" A", b"a": b"a"}
    found = read_charsmap(build_charsmap(rules, [b" ", b"\t", b"\xe3\x80\x80"], [b"\x01"]), 6)
    assert found[b" "] == found[b"\t"] == found[b"\xe3\x80\x80"] == found[b" \t \t  "] == found[b" \x01\x01"] == b"_"
    assert found[b" a"] == found[b"\ta"] == found[b"     a"] == found[b" \x01 a"] == b" A"
    assert b"\x01" not in found


def test_the_longest_rule_wins_and_the_rest_stays() -> None:
    assert rewrite({b"ab": b"1", b"abc": b"2", b"c": b""}, b"abcabcx") == b"22x"
    assert rewrite({}, b"abc") == b"abc"


@pytest.mark.parametrize("rules", [{b"": b"x"}, {b"\0": b"x"}, {b"x": b"\0"}])
def test_a_rule_that_the_format_can_t_say_is_a_value_error(rules: dict[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="can't be said"):
        build_charsmap(rules)
