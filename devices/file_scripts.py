"""The lines of shell that files are written, moved and put back by on a device; pure text, run in our folder there.

Each script that writes ends with 0 or one of the statuses below.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

from edgestill.devices.push import PARTIAL, Stored
from edgestill.devices.shell_words import quoted
from edgestill.devices.staging import REPLACED

SHORT, WRONG, NO_PLACE, GONE, BUSY, LINK = 71, 72, 73, 74, 75, 76
TOGETHER: Final = f"{PARTIAL}/together"

MARK: Final = ".edgestill"
"""An empty file in our folder that says whose it is: one without it is never deleted."""

PUSH_LOCK: Final = ".push.lock"
SEND_LOCK: Final = ".send.lock"
"""Held while bytes are appended or folders moved: what a killed host began may still be under way."""

BENCH_LOCK: Final = ".bench.lock"

ALONE: Final = f"if command -v flock >/dev/null; then exec 8>>{SEND_LOCK} && flock -n 8 || exit {BUSY}; fi"
"""Holds the second lock to the end of a script that runs in our folder."""


def no_links(folder: str) -> str:
    """Return lines that delete a link where one of our folders goes: nothing is written or deleted through it."""
    steps = [*reversed(PurePosixPath(folder).parents), PurePosixPath(folder)]
    places = quoted(*(f"./{step.as_posix()}" for step in steps if step.as_posix() != "."))
    return f'for d in {places}; do if [ -h "$d" ]; then rm -f "$d" || exit {LINK}; fi; done'


def taking_apart(files: Sequence[tuple[str, Stored]]) -> str:
    """Return lines that take one stream of small files apart, check all of them, and put them in their places."""
    numbered = list(enumerate(files, 1))
    cuts, puts, sums, at = [], [], [], 1
    for number, (name, wanted) in numbered:
        cuts.append(f"cut {at} {wanted.size} {number}")
        puts.append(f"put {number} {quoted(f'./{name}')}")
        sums.append(f"{wanted.sha256}  {PARTIAL}/{number}")
        at += wanted.size
    every = " ".join(f"{PARTIAL}/{number}" for number, _ in numbered)
    modes: dict[str, list[str]] = {}
    for number, (_, wanted) in numbered:
        modes.setdefault(mode_of(wanted), []).append(f"{PARTIAL}/{number}")
    chmods = "\n".join(f"chmod {mode} {' '.join(paths)} || exit {NO_PLACE}" for mode, paths in modes.items())
    # The stream is kept in a file first: of a pipe, head and dd may take more than they give.
    return f"""
b={TOGETHER}
cat >$b || exit {NO_PLACE}
[ "$(wc -c <$b)" -eq {at - 1} ] || exit {SHORT}
cut() {{
  if [ "$2" -eq 0 ]; then : >{PARTIAL}/$3; else tail -c "+$1" $b | head -c "$2" >{PARTIAL}/$3; fi || exit {NO_PLACE}
}}
put() {{
  if [ -d "$2" ] && [ ! -h "$2" ]; then rm -rf "$2"; fi
  [ -d "${{2%/*}}" ] || mkdir -p "${{2%/*}}" || exit {NO_PLACE}
  mv -f {PARTIAL}/$1 "$2" || exit {NO_PLACE}
}}
{chr(10).join(cuts)}
[ "$(sha256sum {every})" = {quoted(chr(10).join(sums))} ] || {{ rm -f $b {every}; exit {WRONG}; }}
{chmods}
{synced(every)}
{chr(10).join(puts)}
rm -f $b
rmdir {PARTIAL} 2>/dev/null
exit 0"""


def restoring(folders: Sequence[str]) -> str:
    """Return lines, to be run in our folder, that put folders back which an interrupted ``replace`` moved away."""
    lines = []
    for folder in folders:
        place, old = quoted(f"./{folder}"), quoted(f"./{REPLACED}/{folder}")
        parent = quoted(f"./{PurePosixPath(folder).parent}")
        lines.append(f"if [ ! -e {place} ] && [ -d {old} ] && [ ! -h {old} ]; then")
        lines += [no_links(folder), f"mkdir -p {parent} && mv {old} {place}", "fi"]
    return "\n".join(lines)


def unless_pushing(lines: str) -> str:
    """Return lines that run in our folder when something was left from a ``replace`` that isn't under way."""
    return f"""[ ! -e ./{REPLACED} ] || (
if command -v flock >/dev/null; then
  exec 9>>{PUSH_LOCK} 8>>{SEND_LOCK}
  flock -n 9 && flock -n 8 || exit 0
fi
{lines}
)"""


def synced(words: str) -> str:
    """Return a line that waits until files are on the disk, all that there is where ``sync`` takes no names.

    What was renamed before is then in the file system's journal too: after a power cut no name has half a file.
    """
    return f"{{ sync {words} || sync; }} 2>/dev/null"


def mode_of(wanted: Stored) -> str:
    return "u+rwx" if wanted.executable else "u+rw,a-x"


def without_empty(folder: str) -> str:
    """Return lines that delete the folders above one where they are empty."""
    above = [parent.as_posix() for parent in PurePosixPath(folder).parents if parent.as_posix() != "."]
    return "\n".join(f"rmdir {quoted(f'./{parent}')} 2>/dev/null" for parent in above)
