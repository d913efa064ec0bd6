"""The text task: how well a model predicts plain text, in bits per byte; nothing is generated.

Every token of a text is scored once. It is predicted from what the tokenizer puts before a text (bos);
where it puts nothing, from bos or else eos, as a document's start is marked in pre-training. A text
longer than the window is cut into windows that overlap by half: the KV cache is reset, the second half
of the last window is read again as context, and only tokens not yet scored are counted, so that each
has at least half a window of context.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edgestill.dataset import Example, Message
from edgestill.errors import DataError, UnsupportedError
from edgestill.figure import Figure
from edgestill.progress import SILENT, Progress
from edgestill.runtime.intervals import bootstrap_interval
from edgestill.runtime.tasks import LikelihoodTask, register

if TYPE_CHECKING:
    from edgestill.runtime.engine import Engine, Logits
    from edgestill.runtime.session import Session

MAX_WINDOW: Final = 2048
"""Longest window in tokens, however long the model's context: logits take window x vocabulary x 4 bytes."""

_ROWS_AT_ONCE: Final = 64


@register
class TextTask(LikelihoodTask):
    """Bits per byte of whole texts, and perplexity per token."""

    name = "text"
    primary_metric = "bits_per_byte"
    higher_is_better = False

    def prompt(self, example: Example) -> Sequence[Message]:
        """Return nothing: the model is shown no prompt."""
        return ()

    def check(self, example: Example) -> None:
        """Raise DataError, naming the row, when the example is a conversation or empty."""
        self.text(example)

    def text(self, example: Example) -> str:
        """Return the text. Raises DataError, naming the row, when the example is a conversation or empty."""
        if not example.text:
            raise DataError(f"{example.source}: no text in it; task 'text' needs rows with 'text' or a .txt file")
        return example.text

    def combine(self, sums: NDArray[np.float64]) -> float:
        """Return bits per byte of summed (nats, tokens, bytes)."""
        return bits_per_byte(sums)

    def measure(
        self, session: Session, examples: Sequence[Example], *, progress: Progress = SILENT
    ) -> tuple[dict[str, Figure], NDArray[np.float64]]:
        """Return ``bits_per_byte`` and ``perplexity`` with bootstrap intervals over the texts; (nats, tokens, bytes).

        Bits per byte is the sum of all tokens' -log2 p over the sum of all texts' UTF-8 bytes;
        perplexity the exponential of the mean nats per token.
        """
        texts = [self.text(example) for example in examples]
        before = start_tokens(session)
        window = min(session.engine.context_length, MAX_WINDOW)
        rows: list[tuple[float, int, int]] = []
        with progress.task("scoring text", len(texts), "texts") as under_way:
            for text in texts:
                tokens = [int(token) for token in session.tokenizer.encode(text, add_special=False)]
                rows.append((text_nats(session.engine, before, tokens, window), len(tokens), len(text.encode())))
                under_way.advance()
        session.reset()
        counts = np.array(rows, dtype=np.float64).reshape(-1, 3)
        return _figures(counts), counts


def bits_per_byte(sums: NDArray[np.float64]) -> float:
    """Return -log2 p per byte of summed (nats, tokens, bytes)."""
    nats, _, size = sums
    return float(nats / math.log(2) / size) if size else math.nan


def start_tokens(session: Session) -> list[int]:
    """Return the token ids from which a text's first token is predicted.

    Raises UnsupportedError when the tokenizer has neither bos nor eos.
    """
    tokenizer = session.tokenizer
    marked = [int(token) for token in tokenizer.encode("a", add_special=True)]
    plain = [int(token) for token in tokenizer.encode("a", add_special=False)]
    for start in range(1, len(marked) - len(plain) + 1):
        if marked[start : start + len(plain)] == plain:
            return marked[:start]
    if tokenizer.bos_id is not None:
        return [tokenizer.bos_id]
    if tokenizer.eos_ids:
        return [min(tokenizer.eos_ids)]
    raise UnsupportedError("the tokenizer has neither bos nor eos, so nothing predicts a text's first token; add one")


def text_nats(engine: Engine, before: Sequence[int], tokens: Sequence[int], window: int) -> float:
    """Return -ln p(tokens | before), reading at most ``window`` tokens at a time."""
    ids = np.array([*before, *tokens], dtype=np.int64)
    nats = 0.0
    for start, first, end in windows(len(ids), len(before), window):
        logits = engine.logits(ids[start : end - 1])
        nats += token_nats(logits[first - 1 - start :], ids[first:end])
    return nats


def windows(total: int, first: int, window: int) -> Iterator[tuple[int, int, int]]:
    """Yield ``(start, first, end)``: read ``ids[start:end - 1]``, score ``ids[first:end]``.

    Each of the ``total`` ids from ``first`` on is scored exactly once; ``end - 1 - start <= window``.
    """
    start = 0
    while first < total:
        end = min(total, start + window + 1)
        yield start, first, end
        first = end
        start = end - 1 - window // 2


def token_nats(logits: Logits, targets: NDArray[np.int64]) -> float:
    """Return the sum of -ln softmax(logits)[target]; ``logits`` float32 ``[time, vocab]``, targets ``[time]``.

    Works on a few rows at a time in float64, so that no second copy of the logits is made.
    """
    nats = 0.0
    for at in range(0, len(targets), _ROWS_AT_ONCE):
        rows = logits[at : at + _ROWS_AT_ONCE].astype(np.float64)
        picked = rows[np.arange(len(rows)), targets[at : at + _ROWS_AT_ONCE]]
        highest = rows.max(axis=1)
        nats += float(np.sum(highest + np.log(np.exp(rows - highest[:, None]).sum(axis=1)) - picked))
    return nats


def _figures(rows: NDArray[np.float64]) -> dict[str, Figure]:
    """Make the figures from ``[texts, (nats, tokens, bytes)]``."""

    def bits(picked: NDArray[np.int64]) -> float:
        return bits_per_byte(rows[picked].sum(axis=0))

    def perplexity(picked: NDArray[np.int64]) -> float:
        nats, tokens, _ = rows[picked].sum(axis=0)
        return float(np.exp(nats / tokens))

    n = len(rows)
    everything = np.arange(n)
    _, tokens, size = rows.sum(axis=0)
    source = f"{n} texts, {int(tokens)} tokens, {int(size)} UTF-8 bytes; percentile bootstrap over texts"
    return {
        name: Figure(value=value(everything), unit=unit, n=n, ci95=bootstrap_interval(n, value), source=source)
        for name, unit, value in (
            ("bits_per_byte", "bits/byte", bits),
            ("perplexity", "1", perplexity),
        )
    }
