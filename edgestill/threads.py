"""How OpenMP's threads wait for each other: asleep while training, spinning while latency is measured.

torch and llama.cpp share work out with OpenMP. By default its threads spin at every barrier, which on a
machine that does anything else costs dearly: with two threads on two cores and two busy processes beside
them, a training step took 4,400 ms spinning and 180 ms asleep (94 and 120 ms on a quiet machine).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

_POLICY: Final = "OMP_WAIT_POLICY"
_OURS: Final = "EDGESTILL_SET_OMP_WAIT_POLICY"


def wait_asleep() -> None:
    """Let OpenMP's threads sleep at barriers, unless the user chose otherwise; call it before torch is imported."""
    if _POLICY not in os.environ:
        os.environ[_POLICY] = "PASSIVE"
        os.environ[_OURS] = "1"


def measuring_environment() -> Mapping[str, str]:
    """Return the environment for a process that measures: as the user set it, without our own choice above."""
    ours = {_POLICY, _OURS} if _OURS in os.environ else set()
    return {name: value for name, value in os.environ.items() if name not in ours}
