"""How OpenMP's threads wait for each other: a short spin while training, a longer one while a model answers.

torch and llama.cpp share work out with OpenMP (GNU's, on Linux). By default its threads spin for
milliseconds at every barrier, which costs dearly on a machine that does anything else: with two threads on
two cores and two busy processes beside them a training step took 4,400 ms. Threads that sleep at once pay
for it on a quiet machine. Measured with a step of 3M parameters on 448 tokens, quiet and beside two busy
processes: asleep 140 and 269 ms, a spin of 1,000 turns 76 and 166 ms, the default 74 ms when quiet.

A token has a hundred short barriers and more, so there a spin of 1,000 turns costs a tenth on a quiet machine. One of
10,000 (half a millisecond) took 0.97, 0.99 and 1.02 of the default's time (135, 16 and 0.26 million parameters, 7 to 12
pairs of processes; the default beside itself 0.96, 0.99 and 1.01), and beside one busy process on two cores
a token of 135 million parameters took 154 ms, where with the default of 300,000 most took 1,300 to 5,500.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Final

_SPIN: Final = "GOMP_SPINCOUNT"
_TURNS: Final = "1000"
_POLICY: Final = "OMP_WAIT_POLICY"
_TURNS_ANSWERING: Final = "10000"
_OURS: Final = "EDGESTILL_SET_GOMP_SPINCOUNT"


def spin_briefly() -> None:
    """Let OpenMP's threads spin briefly at barriers, unless the user chose; call it before torch is imported."""
    if _SPIN not in os.environ and _POLICY not in os.environ:
        os.environ[_SPIN] = _TURNS
        os.environ[_OURS] = "1"


@contextlib.contextmanager
def spinning_while_answering() -> Iterator[None]:
    """Give an OpenMP that is loaded meanwhile the spin of a model that answers, unless the user or a training chose.

    It reads the environment as it is loaded, and never again: afterwards that is as it was before.
    """
    if _SPIN in os.environ or _POLICY in os.environ:
        yield
        return
    os.environ[_SPIN] = _TURNS_ANSWERING
    try:
        yield
    finally:
        os.environ.pop(_SPIN, None)


def measuring_environment() -> Mapping[str, str]:
    """Return the environment for a process that measures: as the user set it, without our own choice above."""
    ours = {_SPIN, _OURS} if _OURS in os.environ else set()
    return {name: value for name, value in os.environ.items() if name not in ours}
