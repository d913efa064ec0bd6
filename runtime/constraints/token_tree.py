"""The tokens as a tree of prefixes: what a grammar refuses after a prefix it refuses after every longer token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class TokenTree:
    """Each of ``ids`` hangs under the longest other token that its bytes begin with."""

    def __init__(self, pieces: Sequence[bytes], ids: Ids) -> None:
        ordered = sorted(ids.tolist(), key=pieces.__getitem__)
        parents = np.empty(len(ordered), np.int64)
        path: list[tuple[int, bytes]] = []  # the tokens that the one before begins with, and itself
        for place, number in enumerate(ordered):
            piece = pieces[number]
            while path and not piece.startswith(path[-1][1]):
                path.pop()
            parents[place] = path[-1][0] if path else -1
            path.append((number, piece))
        order = np.argsort(parents, kind="stable")
        self._children = np.array(ordered, np.int64)[order]
        begins = np.searchsorted(parents[order], np.arange(-1, len(pieces) + 1))
        self.roots: Ids = self._children[: begins[1]]
        self._first = begins[1:-1]  # by token: where its children begin ...
        self._count = np.diff(begins[1:])  # ... and how many it has
        sizes = np.ones(len(pieces), np.int64)
        for place in range(len(ordered) - 1, -1, -1):  # children come after their parents
            if parents[place] >= 0:
                sizes[parents[place]] += sizes[ordered[place]]
        self.sizes: Ids = sizes
        """By token: how many tokens begin with it, itself among them."""

    def allowed(self, allows: Callable[[Ids], NDArray[np.bool_]], roots: Ids) -> Ids:
        """Return, in order, the tokens among and under ``roots`` that ``allows``; none below a refused one is asked."""
        found = []
        level = roots
        while len(level):
            level = level[allows(level)]
            found.append(level)
            level = self._below(level)
        return np.sort(np.concatenate([np.empty(0, np.int64), *found]))

    def _below(self, ids: Ids) -> Ids:
        """Return the children of all ``ids``."""
        counts = self._count[ids]
        ends = counts.cumsum()
        if not len(ends) or not ends[-1]:
            return np.empty(0, np.int64)
        places = np.arange(ends[-1]) + np.repeat(self._first[ids] - ends + counts, counts)
        children: Ids = self._children[places]
        return children
