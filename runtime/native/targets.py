"""The machines that the native runtime is built for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

HOST: Final = "host"
ANDROID: Final = "android"
_ANDROID_API: Final = 24
"""Android 7: the first whose C library has all that llama.cpp calls."""


@dataclass(frozen=True)
class Target:
    """A machine: its name to clang and zig, ggml's folder of kernels for it, and the ISA levels it has kernels for.

    ``levels`` names an entry of PROCESSORS; None: one level, whose flags are ``zig``'s, or ``flags`` for clang and gcc.
    """

    triple: str
    kernels: str
    levels: str | None = None
    zig: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()


TARGETS: Final[Mapping[str, Target]] = MappingProxyType(
    {
        "aarch64-linux-musl": Target("aarch64-linux-musl", "arm", "arm64"),
        "armv7-linux-musleabihf": Target("arm-linux-musleabihf", "arm", "arm32"),
        "riscv64-linux-musl": Target(
            "riscv64-linux-musl",
            "riscv",
            zig=("-mcpu=baseline_rv64", "-U__riscv_v_intrinsic"),
            flags=("-march=rv64gc", "-U__riscv_v_intrinsic"),
        ),
        "x86_64-linux-musl": Target("x86_64-linux-musl", "x86", "x86"),
    }
)
"""One static program each."""

ANDROID_ABIS: Final[Mapping[str, Target]] = MappingProxyType(
    {
        "arm64-v8a": Target(f"aarch64-linux-android{_ANDROID_API}", "arm", "arm64"),
        "armeabi-v7a": Target(f"armv7a-linux-androideabi{_ANDROID_API}", "arm", "arm32"),
        "x86_64": Target(f"x86_64-linux-android{_ANDROID_API}", "x86", "x86"),
    }
)
"""One shared library each, in the folder where an Android project looks for it."""
