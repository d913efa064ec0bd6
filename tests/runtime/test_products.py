"""llama.cpp's own products are measured: every kind of weights, within the memory that is given."""

from __future__ import annotations

from typing import get_args

import pytest

from edgestill.errors import StageError
from edgestill.runtime import products
from edgestill.runtime.products import SIZES, ProductWeights, measure_products


def test_each_kind_of_weights_is_measured_in_the_sizes_that_the_memory_allows() -> None:
    found, why = measure_products([1], 8 * SIZES[0])
    assert why is None
    assert [one.weights for one in found] == list(get_args(ProductWeights))
    for one in found:
        assert one.threads == 1
        assert one.read_bytes == pytest.approx(SIZES[0], rel=0.1)
        assert 1e6 < one.bytes_per_second < 1e13


def test_without_memory_nothing_is_measured() -> None:
    assert measure_products([1], 8 * SIZES[0] - 1) == ((), None)


def test_a_failure_is_said_beside_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_module: str, _request: object, handle: object, **_words: object) -> None:
        assert callable(handle)
        handle({"event": "product", "weights": "f16", "threads": 2, "read_bytes": 8, "rate": 3.0})
        raise StageError("the worker was killed")

    monkeypatch.setattr(products, "run_in_worker", fail)
    found, why = measure_products([2])
    assert why == "the worker was killed"
    assert found == (products.Product("f16", 2, 8, 3.0),)
