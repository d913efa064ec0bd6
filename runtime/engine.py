"""Engine: the one contract under every session.

An engine holds one sequence of tokens and its KV cache. It knows token ids and logits, nothing of
text: tokenizers, chat templates, sampling and stop strings live in :mod:`edgestill.runtime.session`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgestill.bench_results import EngineBuild
from edgestill.errors import ContextFullError, InputError

Logits = NDArray[np.float32]

NOT_NUMBERS: Final = "the model's logits are not numbers (NaN); the file is damaged or overflows"


@runtime_checkable
class Engine(Protocol):
    """One loaded model with one sequence.

    ``name`` is ``torch``, ``onnxruntime`` or ``llama.cpp``; ``context_length`` is the most tokens the
    sequence may hold; ``position`` how many it holds now; ``weights_bytes`` the bytes of the weights as
    loaded (null when the engine can't say). ``float32`` says that a float32 file is computed in float32 throughout.
    """

    name: str
    vocab_size: int
    context_length: int
    threads: int
    weights_bytes: int | None
    float32: bool

    @property
    def position(self) -> int:
        """Tokens now in the KV cache."""

    def append(self, token_ids: Sequence[int] | NDArray[np.integer]) -> Logits:
        """Run ``token_ids`` after what is in the cache; return the logits after the last one.

        Shape ``[vocab]``, float32. The array may be a view into the engine's own buffer: it is valid
        until the next call. Raises ContextFullError when the tokens don't fit ``context_length``.
        """

    def logits(self, token_ids: Sequence[int] | NDArray[np.integer]) -> Logits:
        """Forget the sequence, run ``token_ids``, and return the logits after each: ``[time, vocab]``.

        The array is the caller's own. The sequence is empty afterwards (``position`` 0). Raises
        ContextFullError when the tokens don't fit ``context_length``.
        """

    def rewind(self, position: int) -> None:
        """Forget everything after the first ``position`` tokens (0: all).

        An engine that can't cut there (a recurrent state) forgets more: read ``position`` afterwards.
        """

    def close(self) -> None:
        """Free the model; the engine must not be used after."""


@runtime_checkable
class KeepsState(Protocol):
    """An engine that gives its KV cache as bytes and takes it back, to the bit.

    ``state_layout`` names what must be equal where a state is taken back: the engine, the version that its bytes depend
    on, the cache's precision and shape.
    """

    @property
    def state_layout(self) -> str:
        """What the bytes depend on."""

    def save_state(self) -> NDArray[np.uint8]:
        """Return the keys and values of the ``position`` tokens in the cache, uint8, the caller's own."""

    def restore_state(self, state: NDArray[np.uint8], tokens: int) -> None:
        """Replace the sequence by the ``tokens`` of ``state``; ``position`` is ``tokens`` afterwards.

        Raises ModelFileError when the bytes don't fit; the sequence is empty then.
        """


@runtime_checkable
class DecodesGreedily(Protocol):
    """An engine that takes the likeliest token again and again by itself, where ``decodes_greedily`` is True."""

    @property
    def decodes_greedily(self) -> bool:
        """Whether it can now."""

    def decode_greedily(
        self, token: int, count: int, ends: Iterable[int], cancelled: bytearray
    ) -> tuple[list[int], list[float]]:
        """Run ``token``, take the likeliest one after it, run that, and so on.

        Return the tokens that were taken, 1 to ``count``, and the seconds that each took. The last one was taken and
        not run. It comes back earlier after a token of ``ends``, when ``cancelled[0]`` isn't 0 any more (another thread
        may write it), and after some tenths of a second, so that signals are looked after. Raises as
        :meth:`Engine.append`, and StageError where a logit isn't a number.
        """


@runtime_checkable
class DescribedEngine(Protocol):
    """An engine that can say how its library was built and how it was opened."""

    def describe(self) -> EngineBuild:
        """Return what a benchmark keeps beside its times."""


@dataclass(frozen=True)
class MemoryPart:
    """One thing that an engine holds in memory of no file, by its own account.

    ``kind``: copied weights, keys and values, or buffers to compute in. ``allocated`` bytes (None: the engine doesn't
    say), ``resident`` those of them that are in memory (None: the engine knows no address to ask for). ``source`` says
    where the figures are from.
    """

    kind: Literal["weights", "kv_cache", "compute"]
    name: str
    allocated: int | None
    resident: int | None
    source: str


@runtime_checkable
class AccountsForMemory(Protocol):
    """An engine that tells how its memory is used: ``settings`` in effect, ``kv_precision`` of its KV cache."""

    kv_precision: str
    settings: Mapping[str, bool | str]

    def memory(self) -> tuple[MemoryPart, ...]:
        """Return what the engine holds now; file mappings aren't in it."""

    def open_bare(self) -> Callable[[], None] | None:
        """Open the model once more without copies of its weights and without its caches; return what frees it.

        How much memory that takes is what a load needs besides. None: the engine can't.
        """


def check_room(engine: Engine, tokens: int) -> None:
    """Raise ContextFullError when ``tokens`` more don't fit, InputError when there are none."""
    if tokens < 1:
        raise InputError("no tokens to run; at least one is expected")
    if engine.position + tokens > engine.context_length:
        raise ContextFullError(
            f"{engine.position} + {tokens} tokens don't fit the context of {engine.context_length}; "
            "shorten the prompt or open the model with a longer context"
        )
