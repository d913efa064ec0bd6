"""Which revision of a user's own work a measurement was taken beside."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from edgestill.bench_results import Repository

_SECONDS: Final = 10.0
_STATUS: Final = (
    *("git", "--no-optional-locks", "-c", "core.fsmonitor=false"),
    *("status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=dirty"),
)
"""Takes no lock, starts no program that the repository names, and says commit and changes at once."""


def describe_repository(folder: Path | None = None) -> Repository | None:
    """Return commit and state of the git repository around a folder (None: where the user is).

    None outside of a repository, before its first commit, without git, and where git needs more than ten seconds.
    """
    try:
        done = subprocess.run(
            _STATUS, cwd=folder, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else parse_status(done.stdout)


def parse_status(text: str) -> Repository | None:
    """Read what ``git status --porcelain=v2 --branch`` prints; None when there is no commit in it."""
    commit, dirty = "", False
    for line in text.splitlines():
        if line.startswith("# branch.oid "):
            commit = line.removeprefix("# branch.oid ")
        elif line and not line.startswith("#"):
            dirty = True
    return Repository(commit=commit, dirty=dirty) if commit and commit != "(initial)" else None
