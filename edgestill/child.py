"""Starting one of our modules in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import edgestill


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs ``module`` with this Python.

    Unlike ``python -m`` it doesn't search the working folder for imports, where a user may keep a
    ``json.py`` or a folder called ``tokenizers``.
    """
    home = str(Path(edgestill.__file__).resolve().parent.parent)
    start = (
        "import runpy, sys; sys.path[:] = [entry for entry in sys.path if entry]; "
        f"sys.path.append({home!r}); runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-c", start, *arguments]
