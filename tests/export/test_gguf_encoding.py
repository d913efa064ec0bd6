"""Our bytes against those of the gguf package, and what can't be written."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

gguf = pytest.importorskip("gguf")

from edgestill.errors import CheckpointError, UnsupportedError  # noqa: E402
from edgestill.export.gguf_encoding import BF16, F16, F32, Q8_0, Encoding  # noqa: E402
from edgestill.export.weights import float32  # noqa: E402

ROWS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.sampled_from([32, 96])),
    elements=st.one_of(
        st.floats(-60000, 60000, width=32),
        st.floats(-(2.0**-14), 2.0**-14, width=32),
        # Halves of a step of 1 / 127, where rounding decides.
        st.integers(-254, 254).map(lambda half: float(np.float32(half / 2))),
        st.just(0.0),
    ),
)


@pytest.mark.parametrize("encoding", [F32, F16, BF16, Q8_0], ids=lambda encoding: str(encoding.name))
@given(rows=ROWS)
def test_bytes_equal_those_of_the_gguf_package(
    encoding: Encoding, rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]
) -> None:
    expected = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[encoding.name])
    found = encoding.encode(rows)
    assert found.tobytes() == expected.tobytes()
    assert found.nbytes == encoding.nbytes(rows.size)
    assert encoding.number == gguf.GGMLQuantizationType[encoding.name]


@pytest.mark.parametrize("encoding", [F32, F16, BF16, Q8_0], ids=lambda encoding: str(encoding.name))
def test_every_bfloat16_is_encoded_as_its_float32_is(encoding: Encoding) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(-1, 32)
    values = float32(bits)
    rows = (np.abs(values) < 60000).all(axis=1)
    assert encoding.encode(bits[rows]).tobytes() == encoding.encode(values[rows]).tobytes()


@pytest.mark.parametrize("encoding", [F32, F16, BF16, Q8_0], ids=lambda encoding: str(encoding.name))
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(encoding: Encoding, bad: float) -> None:
    rows = np.ones((2, 32), np.float32)
    rows[1, 7] = bad
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        encoding.encode(rows)


@pytest.mark.parametrize(("encoding", "value"), [(F16, 70000.0), (BF16, 3.4e38), (Q8_0, 1e7 * 127)])
def test_values_too_large_are_refused(encoding: Encoding, value: float) -> None:
    rows = np.full((1, 32), value, np.float32)
    with pytest.raises(UnsupportedError):
        encoding.encode(rows)
