"""Near duplicates among millions of texts, in memory that doesn't grow with them.

MinHash (Broder, 1997) of the byte 5-grams of each text, case and spacing aside; 16 bands of 8 of 128 minima
bring together what is alike (locality-sensitive hashing: at a Jaccard similarity of 0.8 a pair meets with a
probability of 95%, at 0.5 with 6%), and the share of equal minima, an unbiased estimate of the similarity
with a standard deviation of at most 4.4%, decides. Signatures and bands lie in files; a band is sorted in
parts of a quarter of a million entries.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

MINIMA: Final = 128
BANDS: Final = 16
_GRAM: Final = 5
_PART: Final = 1 << 18
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
_LEADERS: Final = 8
_MOST: Final = 4096
"""Rows of one bucket that are compared; a larger one holds copies of a form, most of which the first meet."""


class Signatures:
    """The signatures of texts, one after another in files of ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.count = 0
        self._folder = folder
        random = np.random.default_rng(20)
        self._factors = (random.integers(0, 1 << 32, MINIMA, np.uint64) | np.uint64(1)).astype(np.uint32)
        self._offsets = random.integers(0, 1 << 32, MINIMA, np.uint64).astype(np.uint32)
        self._minima: IO[bytes] = (folder / "minima.u32").open("w+b")
        self._bands: list[IO[bytes]] = [(folder / f"band-{band}.u64").open("w+b") for band in range(BANDS)]

    def add(self, texts: Sequence[str]) -> None:
        """Append the signatures of some thousand texts."""
        if not texts:
            return
        minima = self.of(texts)
        self._minima.write(minima.tobytes())
        rows = minima.reshape(len(texts), BANDS, MINIMA // BANDS)
        for band, file in enumerate(self._bands):
            file.write(_mixed(rows[:, band]).tobytes())
        self.count += len(texts)

    def of(self, texts: Sequence[str]) -> NDArray[np.uint32]:
        """Return the minima ``[texts, 128]``."""
        grams, starts = _grams(texts)
        minima = np.empty((len(texts), MINIMA), np.uint32)
        for number in range(MINIMA):
            # Odd factors and a fold: 128 permutations of the 32-bit numbers, near enough to random ones.
            hashed = grams * self._factors[number] + self._offsets[number]
            hashed ^= hashed >> np.uint32(15)
            minima[:, number] = np.minimum.reduceat(hashed, starts)
        return minima

    def near(self, similarity: float, dropped: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return a bitmap (:func:`bit`) of the texts that are at least so similar to an earlier one that stays.

        Those of the bitmap ``dropped`` are gone already, and are looked at no more.
        """
        for file in (self._minima, *self._bands):
            file.flush()
        found = np.zeros(-(-self.count // 8), np.uint8)
        for file in self._bands:
            for rows in _groups(file, self.count):
                left = rows[~bits(found, rows)]
                if dropped is not None:
                    left = left[~bits(dropped, left)]
                if len(left) > 1:
                    self._compare(left[:_MOST], similarity, found)
        return found

    def _compare(self, rows: NDArray[np.int64], similarity: float, found: NDArray[np.uint8]) -> None:
        minima = np.stack([self._read(row) for row in rows.tolist()])
        alive = np.ones(len(rows), bool)
        for _ in range(_LEADERS):
            leader = int(np.argmax(alive))
            alive[leader] = False
            if not alive[leader:].any():
                return
            close = alive & ((minima == minima[leader]).mean(axis=1) >= similarity)
            for row in rows[close].tolist():
                found[row >> 3] |= np.uint8(1 << (row & 7))
            alive &= ~close

    def _read(self, row: int) -> NDArray[np.uint32]:
        return np.frombuffer(os.pread(self._minima.fileno(), 4 * MINIMA, 4 * MINIMA * row), np.uint32)

    def close(self) -> None:
        """Delete the files."""
        for file in (self._minima, *self._bands):
            file.close()
            Path(file.name).unlink(missing_ok=True)

    def __enter__(self) -> Signatures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Hashes:
    """64-bit hashes of rows in a file, to find the exact repetitions."""

    def __init__(self, file: Path) -> None:
        self.count = 0
        self._file: IO[bytes] = file.open("w+b")

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Append."""
        self._file.write(hashes.tobytes())
        self.count += len(hashes)

    def repeated(self) -> NDArray[np.uint8]:
        """Return a bitmap of the rows whose hash an earlier row has."""
        self._file.flush()
        found = np.zeros(-(-self.count // 8), np.uint8)
        for rows in _groups(self._file, self.count):
            later = rows[1:]
            np.bitwise_or.at(found, later >> 3, np.left_shift(1, later & 7).astype(np.uint8))
        return found

    def close(self) -> None:
        """Delete the file."""
        self._file.close()
        Path(self._file.name).unlink(missing_ok=True)


def bit(bitmap: NDArray[np.uint8], row: int) -> bool:
    """Tell whether a row's bit is set."""
    return bool(bitmap[row >> 3] >> (row & 7) & 1)


def bits(bitmap: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which of the rows have their bit set."""
    found: NDArray[np.bool_] = ((bitmap[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1).astype(bool)
    return found


def _groups(file: IO[bytes], count: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows (ascending) of each value that occurs more than once, a part of the values at a time."""
    parts = -(-count // _PART)
    for part in range(parts):
        values, rows = [], []
        for at in range(0, count, _PART):
            chunk = np.frombuffer(os.pread(file.fileno(), 8 * min(_PART, count - at), 8 * at), np.uint64)
            # The high bits choose the part: values are hashes, so parts are of one size.
            chosen = np.flatnonzero((chunk >> np.uint64(40)) % np.uint64(parts) == part)
            values.append(chunk[chosen])
            rows.append(chosen + at)
        together, numbers = np.concatenate(values), np.concatenate(rows)
        order = np.argsort(together, kind="stable")
        together, numbers = together[order], numbers[order]
        if not len(together):
            continue
        edges = np.flatnonzero(np.diff(together, prepend=~together[:1], append=~together[-1:]))
        for first in np.flatnonzero(np.diff(edges) > 1).tolist():
            yield numbers[edges[first] : edges[first + 1]]


def _grams(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return the hashed byte 5-grams of all texts, one text after another, and where each begins.

    Each text ends in four bytes of padding, so that the shortest has one, and none spans two texts.
    """
    padded = [" ".join(text.lower().split()).encode() + b"\0" * _GRAM for text in texts]
    data = np.frombuffer(b"".join(padded), np.uint8).astype(np.uint64)
    lengths = np.array([len(text) for text in padded], np.int64)
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    grams = np.zeros(len(data) - _GRAM + 1, np.uint64)
    for offset in range(_GRAM):
        grams |= data[offset : len(data) - _GRAM + 1 + offset] << np.uint64(8 * offset)
    keep = np.ones(len(data), bool)
    for offset in range(1, _GRAM):  # grams that begin in the padding, but for its first byte
        keep[np.cumsum(lengths) - offset] = False
    keep = keep[: len(grams)]
    mixed = ((grams * _MULTIPLIER) >> np.uint64(32)).astype(np.uint32)
    return mixed[keep], starts - (_GRAM - 1) * np.arange(len(texts))


def _mixed(rows: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return one 64-bit hash of each row ``[n, k]``."""
    value = np.zeros(len(rows), np.uint64)
    for column in range(rows.shape[1]):
        value = (value ^ rows[:, column].astype(np.uint64)) * _MULTIPLIER
        value ^= value >> np.uint64(29)
    return value
