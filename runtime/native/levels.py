"""One program with kernels for several ISA levels, of which it takes at its start what the core has.

The kernels are compiled once for each level, and every symbol of them is renamed by its level (see
:mod:`edgestill.runtime.native.elf`). What the rest of the program calls of them is defined here: a jump through a table
that is filled, before ``main``, with the functions of the best level that the core has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from edgestill.errors import StageError
from edgestill.runtime.native.elf import ObjectFile


@dataclass(frozen=True)
class Level:
    """An ISA level: a name for symbols, zig's flags and those of clang and gcc, and whether the core has it, in C.

    ``header``, in the folder of our sources, is included before each kernel.
    """

    name: str
    zig: tuple[str, ...]
    flags: tuple[str, ...]
    has: str
    header: str | None = None


@dataclass(frozen=True)
class Processor:
    """How one kind of processor jumps to where a table's entry ``{at}`` (bytes) points, and how it is asked."""

    jump: str
    include: str
    levels: tuple[Level, ...]
    pointer: int = 8


_AUXILIARY: Final = "#include <sys/auxv.h>"

# Not __builtin_cpu_supports: in zig's static programs it says no to everything.
_CPUID: Final = """#include <cpuid.h>
static unsigned leaf(unsigned number, int part) {
    unsigned found[4] = {0, 0, 0, 0};
    __get_cpuid_count(number, 0, &found[0], &found[1], &found[2], &found[3]);
    return found[part];
}
static int all(unsigned found, unsigned wanted) { return (found & wanted) == wanted; }
static int has_v2(void) { /* SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT */
    return all(leaf(1, 2), 1u | 1u << 9 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 23);
}
static int has_v3(void) { /* FMA, MOVBE, OSXSAVE, AVX, F16C; BMI1, AVX2, BMI2; LZCNT; and the system */
    unsigned low, high;
    if (!has_v2() || !all(leaf(1, 2), 1u << 12 | 1u << 22 | 1u << 27 | 1u << 28 | 1u << 29)) return 0;
    if (!all(leaf(7, 1), 1u << 3 | 1u << 5 | 1u << 8) || !all(leaf(0x80000001u, 2), 1u << 5)) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return all(low, 6);
}"""

PROCESSORS: Final[Mapping[str, Processor]] = MappingProxyType(
    {
        "x86": Processor(
            "jmp *edgestill_kernels+{at}(%rip)",
            _CPUID,
            (
                Level("v1", ("-mcpu=x86_64",), ("-march=x86-64",), "1"),
                Level("v2", ("-mcpu=x86_64_v2",), ("-march=x86-64-v2",), "has_v2()"),
                Level("v3", ("-mcpu=x86_64_v3",), ("-march=x86-64-v3",), "has_v3()"),
            ),
        ),
        "arm64": Processor(
            "adrp x16, edgestill_kernels+{at}\\n ldr x16, [x16, :lo12:edgestill_kernels+{at}]\\n br x16",
            _AUXILIARY,
            (
                Level("v80", ("-mcpu=generic",), ("-march=armv8-a",), "1"),
                # HWCAP_ASIMDDP, and HWCAP_ASIMDHP for half precision, which every core with dot products has.
                Level(
                    "dotprod",
                    ("-mcpu=generic+v8_2a+dotprod+fullfp16",),
                    ("-march=armv8.2-a+dotprod+fp16",),
                    "(getauxval(16) >> 20 & getauxval(16) >> 10 & 1)",
                ),
                # HWCAP2_I8MM
                Level(
                    "i8mm",
                    ("-mcpu=generic+v8_2a+dotprod+fullfp16+i8mm",),
                    ("-march=armv8.2-a+dotprod+fp16+i8mm",),
                    "(getauxval(16) >> 20 & getauxval(16) >> 10 & getauxval(26) >> 13 & 1)",
                ),
            ),
        ),
        "arm32": Processor(
            # The address is reached from the program counter, which is 8 bytes ahead.
            "ldr ip, 1f\\n0: add ip, pc, ip\\n ldr ip, [ip]\\n bx ip\\n1: .word edgestill_kernels+{at}-(0b+8)",
            _AUXILIARY,
            (
                Level(
                    "v7",
                    ("-mcpu=generic+v7a+neon",),
                    ("-march=armv7-a", "-mfpu=neon"),
                    "1",
                    header="neon_without_half.h",
                ),
                # HWCAP_VFPv4: fused multiplication and half precision, which Cortex-A8 and A9 haven't.
                Level(
                    "vfp4",
                    ("-mcpu=generic+v7a+neon+vfp4",),
                    ("-march=armv7-a", "-mfpu=neon-vfpv4"),
                    "(getauxval(16) >> 16 & 1)",
                ),
            ),
            pointer=4,
        ),
    }
)
"""Those with more than one level."""


def join_levels(
    processor: Processor, kernels: Sequence[Sequence[Path]], rest: Sequence[Path], folder: Path
) -> list[Path]:
    """Write the renamed objects of each level and the table's source into ``folder``; return them, the source last.

    ``kernels`` are the objects of each of the processor's levels, ``rest`` the program's others. Raises StageError
    where a level above the first has code that runs before the table is filled, or where ``rest`` uses data of theirs.
    """
    made: list[Path] = []
    functions: set[str] = set()
    others: set[str] = set()
    for level, paths in zip(processor.levels, kernels, strict=True):
        objects = [ObjectFile(path) for path in paths]
        if level is not processor.levels[0] and (early := [one.path.name for one in objects if one.runs_at_start()]):
            raise StageError(f"{early[0]} at level {level.name} runs before the core is asked: an old core would stop")
        symbols = [symbol for one in objects for symbol in one.symbols() if symbol.defined]
        functions |= {symbol.name for symbol in symbols if symbol.function}
        others |= {symbol.name for symbol in symbols if not symbol.function}
        names = {symbol.name for symbol in symbols}
        for number, one in enumerate(objects):
            path = folder / f"{level.name}-{number}-{one.path.name}"
            one.rename(names, f"_{level.name}", path)
            made.append(path)
    used = {symbol.name for path in rest for symbol in ObjectFile(path).symbols() if not symbol.defined}
    defined = {symbol.name for path in rest for symbol in ObjectFile(path).symbols() if symbol.defined}
    called = sorted(used & functions - defined)
    if data := sorted(used & others - functions - defined):
        raise StageError(f"the program uses {data[0]}, which each level has its own of")
    source = folder / "levels.c"
    source.write_text(_source(processor, called), encoding="utf-8")
    return [*made, source]


def _source(processor: Processor, called: Sequence[str]) -> str:
    """Return the table, what fills it, and the jumps through it."""
    levels = [level.name for level in processor.levels]
    declared = "".join(f"extern void {name}_{level}(void);\n" for level in levels for name in called)
    rows = "".join("    {" + ", ".join(f"{name}_{level}" for name in called) + "},\n" for level in levels)
    # Of an inline function each object may have its own: this one is as good, and weak as they are. Hidden, as in a
    # shared library another one's function of that name would be called.
    jumps = ""
    for number, name in enumerate(called):
        jump = processor.jump.format(at=processor.pointer * number)
        arm = ".arm\\n.balign 4\\n" if processor.pointer == 4 else ""
        jumps += (
            f'__asm__(".text\\n{arm}.weak {name}\\n.hidden {name}\\n.type {name},%function\\n{name}:\\n {jump}\\n");\n'
        )
    chosen = "".join(f"    if ({level.has}) level = {number};\n" for number, level in enumerate(processor.levels))
    return (
        f"#include <string.h>\n{processor.include}\n"
        f"typedef void (*function)(void);\n{declared}"
        f"enum {{ LEVELS = {len(levels)}, CALLED = {len(called)} }};\n"
        f"static const function by_level[LEVELS][CALLED] = {{\n{rows}}};\n"
        f'__attribute__((visibility("hidden"), used)) function edgestill_kernels[CALLED];\n{jumps}'
        "__attribute__((constructor(101))) static void choose(void) {\n"
        f"    int level = 0;\n{chosen}"
        "    memcpy(edgestill_kernels, by_level[level], sizeof edgestill_kernels);\n}\n"
    )
