"""How fast llama.cpp multiplies a matrix of weights by a vector here, measured: what decoding a token consists of.

A roofline takes a device to read as fast as its best reader. llama.cpp's products of few bits read at a half or a third
of that on some machines, and other models of processors differ in which; so its own products are measured, over as
much as models of several sizes have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from edgestill.errors import EdgestillError
from edgestill.runtime.worker import Event, run_in_worker

ProductWeights = Literal["f32", "f16", "q8_0", "q4_0"]
SIZES: Final = (16 << 20, 128 << 20, 512 << 20)
"""Bytes of weights: of a model that a cache holds, of one that a large cache may, and of one that none does."""
_SHARE: Final = 8
"""At most one part in so many of the memory is taken."""


@dataclass(frozen=True)
class Product:
    """The bytes of ``weights`` a second that ``threads`` threads multiply, of ``read_bytes`` that are read in turn."""

    weights: ProductWeights
    threads: int
    read_bytes: int
    bytes_per_second: float


def measure_products(threads: list[int], memory_bytes: int = 0) -> tuple[tuple[Product, ...], str | None]:
    """Measure products by each number of threads, and return them, or what was measured and why no more was.

    Each is the median of at least three passes. It takes about ten seconds, in a process of its own; sizes beyond an
    eighth of ``memory_bytes`` (0: unknown) are left out.
    """
    found: list[Product] = []

    def take(event: Event) -> None:
        if event["event"] == "product":
            found.append(Product(event["weights"], event["threads"], event["read_bytes"], event["rate"]))

    request = {
        "weights": get_args(ProductWeights),
        "threads": threads,
        "sizes": [size for size in SIZES if not memory_bytes or _SHARE * size <= memory_bytes],
    }
    try:
        run_in_worker(
            "edgestill.runtime.products_worker",
            request,
            take,
            what="measuring llama.cpp's products",
            reached=lambda: f"{len(found)} of them",
            timeout_seconds=180,
        )
    except EdgestillError as error:
        return tuple(found), str(error)
    return tuple(found), None
