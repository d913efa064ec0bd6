"""The floors of the house: who may import whom, and what may be imported while loading."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("distill", "export", "quantize", "runtime", "devices")
GROUND = (
    *("errors", "recipe", "artifact", "bundle", "results", "dataset", "storage", "progress"),
    *("section", "sections", "filters"),
    *("safetensors", "tensor_file", "child", "threads", "weight_blocks", "onnx_file", "comparison", "figure"),
    *("bench_results", "documents", "turns", "signing"),
    *("fleet_results", "store_results", "plan_results", "device_documents"),
)
HEAVY = frozenset(
    {
        *("torch", "transformers", "accelerate", "optimum", "matplotlib", "pyarrow"),
        *("onnx", "onnx_ir", "onnxruntime", "llama_cpp", "gguf", "onnxscript"),
    }
)
LIGHT_ROOTS = ("edgestill", "edgestill.cli", "edgestill.runtime")


def python_files() -> dict[str, Path]:
    """Return module name -> file for every module of the package."""
    found = {}
    places = [("edgestill", ROOT / "edgestill"), *((f"edgestill.{stage}", ROOT / stage) for stage in STAGES)]
    for package, folder in places:
        for path in sorted(folder.rglob("*.py")):
            relative = path.relative_to(folder).with_suffix("")
            if "__pycache__" in relative.parts or (package == "edgestill" and relative.parts[0] in STAGES):
                continue
            parts = relative.parts[:-1] if relative.name == "__init__" else relative.parts
            found[".".join((package, *parts))] = path
    return found


FILES = python_files()


def imports(path: Path, *, at_load: bool) -> Iterator[tuple[str, int]]:
    """Yield (module, line) of imports; ``at_load`` leaves out functions and ``if TYPE_CHECKING``."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module), node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif at_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            # Types cost nothing at run time but still show who leans on whom.
            waiting += node.orelse if at_load else [*node.body, *node.orelse]
        else:
            waiting += ast.iter_child_nodes(node)


def room(module: str) -> str:
    """Return the part of the house that a module is in: ``runtime`` for ``edgestill.runtime.session``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


# Whatever is neither ground nor a stage is the top, which only the top may import.
TOP = tuple(sorted({room(module) for module in FILES} - {"", *GROUND, *STAGES}))


def broken(modules: list[str], forbidden: frozenset[str]) -> list[str]:
    """Return ``file:line imports module`` for every import of a forbidden room."""
    return [
        f"{FILES[module].relative_to(ROOT)}:{line} imports {name}"
        for module in modules
        for name, line in imports(FILES[module], at_load=False)
        if name.startswith("edgestill.") and room(name) in forbidden
    ]


def reached(start: str) -> set[str]:
    """Return every module of ours that is loaded when ``start`` is imported (packages above it too)."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in FILES:
            continue
        seen.add(name)
        waiting.append(name.rpartition(".")[0])
        waiting += [target for target, _ in imports(FILES[name], at_load=True)]
    return seen


def test_the_ground_floor_imports_no_stage() -> None:
    ground = [module for module in FILES if room(module) in GROUND]
    assert ground
    assert not broken(ground, frozenset(STAGES + TOP))


def test_the_runtime_imports_the_ground_floor_only() -> None:
    modules = [module for module in FILES if room(module) == "runtime"]
    assert modules
    assert not broken(modules, frozenset((set(STAGES) - {"runtime"}) | set(TOP)))


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "runtime"])
def test_a_stage_imports_ground_and_runtime_only(stage: str) -> None:
    modules = [module for module in FILES if room(module) == stage]
    assert modules
    assert not broken(modules, frozenset((set(STAGES) - {"runtime", stage}) | set(TOP)))


def test_the_top_imports_a_stage_only_inside_functions() -> None:
    loaded = [
        f"{FILES[module].relative_to(ROOT)}:{line} imports {name}"
        for module in FILES
        if room(module) in TOP
        for name, line in imports(FILES[module], at_load=True)
        if name.startswith("edgestill.") and room(name) in STAGES
    ]
    assert not loaded


def test_imports_of_our_own_begin_with_edgestill() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in FILES.values()
        for name, line in imports(path, at_load=False)
        if name.partition(".")[0] in STAGES or name.startswith("None")
    ]
    assert not bare


@pytest.mark.parametrize("start", LIGHT_ROOTS)
def test_importing_the_front_door_loads_no_heavy_library(start: str) -> None:
    modules = reached(start)
    assert start in modules
    heavy = [
        f"{FILES[module].relative_to(ROOT)}:{line} imports {name}"
        for module in sorted(modules)
        for name, line in imports(FILES[module], at_load=True)
        if name.partition(".")[0] in HEAVY
    ]
    assert not heavy


def test_the_ground_floor_and_every_package_load_no_heavy_library() -> None:
    starts = [m for m in FILES if room(m) in GROUND or FILES[m].name == "__init__.py"]
    heavy = [
        f"{start}: {FILES[module].relative_to(ROOT)}:{line} imports {name}"
        for start in starts
        for module in sorted(reached(start))
        for name, line in imports(FILES[module], at_load=True)
        if name.partition(".")[0] in HEAVY
    ]
    assert not heavy
