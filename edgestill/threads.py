"""How OpenMP's threads wait for each other: a short spin while training, as it comes while latency is measured.

torch and llama.cpp share work out with OpenMP (GNU's, on Linux). By default its threads spin for
milliseconds at every barrier, which costs dearly on a machine that does anything else: with two threads on
two cores and two busy processes beside them a training step took 4,400 ms. Threads that sleep at once pay
for it on a quiet machine. Measured with a step of 3M parameters on 448 tokens, quiet and beside two busy
processes: asleep 140 and 269 ms, a spin of 1,000 turns 76 and 166 ms, the default 74 ms when quiet.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

_SPIN: Final = "GOMP_SPINCOUNT"
_TURNS: Final = "1000"
_POLICY: Final = "OMP_WAIT_POLICY"
_OURS: Final = "EDGESTILL_SET_GOMP_SPINCOUNT"


def spin_briefly() -> None:
    """Let OpenMP's threads spin briefly at barriers, unless the user chose; call it before torch is imported."""
    if _SPIN not in os.environ and _POLICY not in os.environ:
        os.environ[_SPIN] = _TURNS
        os.environ[_OURS] = "1"


def measuring_environment() -> Mapping[str, str]:
    """Return the environment for a process that measures: as the user set it, without our own choice above."""
    ours = {_SPIN, _OURS} if _OURS in os.environ else set()
    return {name: value for name, value in os.environ.items() if name not in ours}
