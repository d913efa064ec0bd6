"""Works that take turns: in which order, what they return, and what is left when one of them fails."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from edgestill.turns import alternate, finish


def work(name: str, turns: int, said: list[str], fails: bool = False) -> Generator[None, None, str]:
    try:
        for number in range(turns):
            said.append(f"{name}{number}")
            yield
        if fails:
            raise ValueError(name)
    finally:
        said.append(f"{name} closed")
    return name


def test_turns_alternate_and_results_keep_their_order() -> None:
    said: list[str] = []
    assert alternate([work("a", 3, said), work("b", 1, said)]) == ["a", "b"]
    assert said == ["a0", "b0", "a1", "b closed", "a2", "a closed"]
    assert finish(work("c", 2, said)) == "c"


def test_where_one_fails_the_others_are_closed() -> None:
    said: list[str] = []
    with pytest.raises(ValueError, match="b"):
        alternate([work("a", 9, said), work("b", 1, said, fails=True)])
    assert said == ["a0", "b0", "a1", "b closed", "a closed"]
