"""What a C++ program of the tests says of its memory."""

from __future__ import annotations

from typing import Final

RESIDENT: Final = r"""
#include <cstdio>

// Memory of the process's own, kB.
static long resident() {
    FILE *file = std::fopen("/proc/self/status", "r");
    char line[256];
    long kilobytes = 0;
    while (std::fgets(line, sizeof line, file)) std::sscanf(line, "RssAnon: %ld", &kilobytes);
    std::fclose(file);
    return kilobytes;
}
"""
