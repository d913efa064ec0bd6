"""Ctrl-C that arrives while a library is imported still ends in status 130."""

from __future__ import annotations

import signal
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


SLOW_IMPORT = """
import time
print("importing", flush=True)
time.sleep(0.5)
print("imported", flush=True)
"""
IMPORTS_IT = """
import sys, time
from edgestill.cli.interrupt import forget_interrupt, remember_interrupts
remember_interrupts()
try:
    import slow
    time.sleep(30)
except KeyboardInterrupt:
    forget_interrupt()
    sys.exit(130)
"""


def test_an_interrupt_waits_until_an_import_is_over(tmp_path: Path) -> None:
    """In the middle of it, a compiled module may abort the process."""
    (tmp_path / "slow.py").write_text(SLOW_IMPORT)
    (tmp_path / "main.py").write_text(IMPORTS_IT)
    process = subprocess.Popen([sys.executable, "main.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=20)
    assert rest == "imported\n"
    assert process.returncode == 130


IN_A_CALLBACK = """
import ctypes, os, signal, sys, time
from edgestill.cli.interrupt import forget_interrupt, remember_interrupts
remember_interrupts()
@ctypes.CFUNCTYPE(None)
def callback():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
try:
    callback()
    time.sleep(30)
except KeyboardInterrupt:
    forget_interrupt()
    sys.exit(130)
"""


def test_an_interrupt_in_a_callback_from_c_is_not_printed_and_not_lost(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(IN_A_CALLBACK)
    result = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert (result.returncode, result.stderr) == (130, "")
