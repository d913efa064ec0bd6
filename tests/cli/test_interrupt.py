"""Ctrl-C that arrives while a library is imported still ends in status 130."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

INTERRUPTED_IN_EXEC = """
import sys
from edgestill.cli.interrupt import forget_interrupt
try:
    exec("raise KeyboardInterrupt")  # as dataclasses do while a module is imported
except KeyboardInterrupt:
    forget_interrupt()
sys.exit(130)
"""


def test_an_interrupt_inside_exec_does_not_kill_the_process_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED_IN_EXEC)
    command = [sys.executable, "-m", "interrupted"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 130
