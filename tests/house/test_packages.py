"""What pyproject.toml lists is what lies on disk, and files keep the house rules."""

from __future__ import annotations

import ast
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("distill", "export", "quantize", "runtime", "devices")
MAX_LINES = 400
MAX_HELP_SECONDS = 0.3


def project() -> str:
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def listed(table: str, text: str) -> list[str]:
    """Return the quoted strings between a table's opening bracket and its closing one."""
    found = re.search(rf"^{re.escape(table)} = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return re.findall(r'"([^"]+)"', found[1])


def on_disk() -> list[str]:
    names = []
    for package, folder in [("edgestill", ROOT / "edgestill"), *((f"edgestill.{s}", ROOT / s) for s in STAGES)]:
        for init in folder.rglob("__init__.py"):
            parts = init.parent.relative_to(folder).parts
            if package == "edgestill" and parts[:1] and parts[0] in STAGES:
                continue
            names.append(".".join((package, *parts)))
    return sorted(names)


def source_files() -> list[Path]:
    folders = ("edgestill", *STAGES, "tests", "benchmarks", "examples")
    found = {path.resolve() for folder in folders for path in (ROOT / folder).rglob("*.py")}
    return sorted(path for path in found if "__pycache__" not in path.parts)


def test_the_listed_packages_are_the_folders_on_disk() -> None:
    assert sorted(listed("packages", project())) == on_disk()


def test_every_folder_of_python_files_is_a_package() -> None:
    loose = {
        path.parent
        for path in source_files()
        if path.relative_to(ROOT).parts[0] in ("edgestill", *STAGES) and not (path.parent / "__init__.py").is_file()
    }
    assert not loose


def test_every_stage_package_has_its_folder_in_package_dir() -> None:
    _, _, rest = project().partition("[tool.setuptools.package-dir]\n")
    pairs = dict(re.findall(r'^"([\w.]+)" = "([\w/]+)"$', rest.partition("\n[")[0], re.MULTILINE))
    expected = {"edgestill": "edgestill"} | {
        name: name.removeprefix("edgestill.").replace(".", "/")
        for name in on_disk()
        if name.split(".")[1:2] and name.split(".")[1] in STAGES
    }
    assert pairs == expected


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_linked_into_the_package(stage: str) -> None:
    link = ROOT / "edgestill" / stage
    assert link.is_symlink()
    assert os.readlink(link) == f"../{stage}"
    assert (link / "__init__.py").is_file()


def test_only_the_five_stages_are_links() -> None:
    assert sorted(path.name for path in (ROOT / "edgestill").iterdir() if path.is_symlink()) == sorted(STAGES)


def test_every_module_begins_with_a_docstring() -> None:
    modules = [path for path in source_files() if path.relative_to(ROOT).parts[0] != "tests"]
    bare = [path for path in modules if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert not [path.relative_to(ROOT).as_posix() for path in bare]


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in source_files()}
    assert not {path.relative_to(ROOT).as_posix(): lines for path, lines in lengths.items() if lines > MAX_LINES}


def test_the_public_names_exist_and_are_ours() -> None:
    import edgestill

    for name in edgestill.__all__:
        value = getattr(edgestill, name)
        assert getattr(value, "__module__", "edgestill").startswith("edgestill"), name
    assert sorted(edgestill.__all__) == sorted(set(edgestill.__all__))


def test_importing_the_public_names_loads_nothing_heavy() -> None:
    code = (
        "import sys, edgestill, edgestill.cli, edgestill.runtime; "
        "print(*({'torch', 'transformers', 'onnx', 'onnxruntime', 'llama_cpp', 'gguf', 'matplotlib', 'pyarrow'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.skipif(sys.platform == "win32", reason="CPU time of a child is read with getrusage")
def test_help_answers_within_its_cpu_time() -> None:
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", "from edgestill.cli import main; main()", "--help"], capture_output=True, text=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < MAX_HELP_SECONDS
