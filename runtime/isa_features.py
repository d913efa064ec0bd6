"""Which instruction sets a processor has that inference engines use, from the kernel's list."""

from __future__ import annotations

import re
from typing import Final

_X86: Final = re.compile(r"sse|ssse|avx|amx|f16c$|fma$|bmi[12]$|pni$")
_ARM: Final = re.compile(r"asimd|sve|sme|neon$|vfpv4$|fphp$|i8mm$|bf16$")
_STANDARD: Final = {
    "pni": "sse3",
    "avx512vbmi": "avx512_vbmi",
    "avx512ifma": "avx512_ifma",
    "asimd": "neon",
    "asimdhp": "fp16_vector",
    "asimddp": "dotprod",
}
"""The kernel's names that nobody else uses, and what the makers call them."""


def isa_features(cpuinfo: str) -> tuple[str, ...] | None:
    """Return the vector extensions that every listed processor has, sorted; None when the text lists none at all.

    ``cpuinfo`` is the text of Linux's /proc/cpuinfo: ``flags`` on x86, ``Features`` on Arm, ``isa`` on RISC-V.
    """
    found: list[set[str]] = []
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        match key.strip():
            case "flags":
                found.append({word for word in value.split() if _X86.match(word)})
            case "Features":
                found.append({word for word in value.split() if _ARM.match(word)})
            case "isa":
                found.append(set(value.split("_")) if value.strip() else set())
    if not found:
        return None
    return tuple(sorted({_STANDARD.get(word.strip(), word.strip()) for word in set.intersection(*found)}))


def under_hypervisor(cpuinfo: str) -> bool | None:
    """Tell whether an x86 processor says that a hypervisor runs it; None where no processor says anything of it."""
    flags = [value.split() for key, _, value in (line.partition(":") for line in cpuinfo.splitlines())
             if key.strip() == "flags"]  # fmt: skip
    return any("hypervisor" in words for words in flags) if flags else None
