"""Batches: rows of like length, padded on the right, with the positions that are learnt.

Imports torch: import it inside a function.

There is no attention mask: behind a causal model, padding on the right can't reach a real token, and
attention without a mask runs on the fast path. Instead of labels with -100 a batch carries the flat
``positions`` that predict, and their ``targets``: everything after the decoder runs on those alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np
import torch  # noqa: TID253
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler  # noqa: TID253

from edgestill.distill.encode import Encoded

_SORTED_BATCHES = 50


class Batch(TypedDict):
    """``input_ids`` ``[batch, time]``; ``positions`` and ``targets`` ``[positions]``; all int64.

    ``positions`` index the flattened ``[batch * time]``, in order of rows; ``rows`` ``[batch]`` are the
    rows' numbers in the data; ``tokens`` (scalar) counts what isn't padding.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor
    tokens: torch.Tensor


def collate(rows: Sequence[tuple[int, Encoded]], pad_id: int) -> Batch:
    """Pad numbered rows on the right into one batch."""
    longest = max(len(row.input_ids) for _, row in rows)
    ids = np.full((len(rows), longest), pad_id, np.int64)
    learnt = np.zeros((len(rows), longest), np.bool_)
    for index, (_, row) in enumerate(rows):
        ids[index, : len(row.input_ids)] = row.input_ids
        learnt[index, : len(row.labels_mask)] = row.labels_mask
    flat = np.flatnonzero(learnt)
    return {
        "input_ids": torch.from_numpy(ids),
        "positions": torch.from_numpy(flat - 1),  # the logits one token earlier predict a target
        "targets": torch.from_numpy(ids.reshape(-1)[flat]),
        "rows": torch.tensor([number for number, _ in rows]),
        "tokens": torch.tensor(sum(len(row.input_ids) for _, row in rows)),
    }


class NumberedRows(Dataset[tuple[int, Encoded]]):
    """Rows with their numbers, as a torch Dataset."""

    def __init__(self, rows: Sequence[Encoded]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Encoded]:
        return index, self.rows[index]


class LengthSampler(Sampler[int]):
    """Shuffled row numbers in which every ``batch_size`` neighbours have like lengths.

    The order depends on ``seed`` and epoch alone, so a resumed run sees what an undisturbed one would.
    """

    def __init__(self, lengths: Sequence[int] | NDArray[np.int64], batch_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.Generator(np.random.PCG64([self.seed, self.epoch]))
        order = random.permutation(len(self.lengths))
        span = self.batch_size * _SORTED_BATCHES
        batches: list[np.ndarray] = []
        for start in range(0, len(order), span):
            block = order[start : start + span]
            block = block[np.argsort(self.lengths[block], kind="stable")]
            batches += [block[at : at + self.batch_size] for at in range(0, len(block), self.batch_size)]
        # A short batch can only be the last one: the loader cuts the sequence every batch_size.
        short = batches.pop() if len(batches[-1]) < self.batch_size else order[:0]
        for index in random.permutation(len(batches)):
            yield from batches[index].tolist()
        yield from short.tolist()
