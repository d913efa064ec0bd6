"""The iOS app: its C module compiles and runs, its script compiles the right files, its Swift files hold together."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgestill.bundle import Bundle
from edgestill.devices.apps import write_app
from edgestill.runtime.native import build
from edgestill.runtime.native.build import NativeBuild
from edgestill.runtime.native.source import llama_source

PROGRAM = """
#pragma clang module import CEdgestill
#include <stdio.h>
static void show(void *user, const char *text, size_t length) { (void)user; fwrite(text, 1, length, stdout); }
int main(int count, char **texts) {
    es_session *session;
    if (count != 2 || es_abi_version() != ES_ABI_VERSION) return 2;
    if (es_open(texts[1], NULL, NULL, &session) != ES_OK || es_selftest(session, show, NULL) != ES_OK) {
        return fprintf(stderr, "%s", es_error()), 1;
    }
    es_close(session);
    return 0;
}
"""

STAND_IN = """#!/bin/sh
[ "$1" = --sdk ] || exit 1
while [ $# -gt 0 ]; do
    case $1 in
    -c) echo "$2" >>"$COMPILED" ;;
    -o) echo x >"$2" ;;
    esac
    shift
done
"""


@pytest.fixture(scope="module")
def app(hostile_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ios") / "app"
    write_app(hostile_bundle.folder, "ios", out)
    return out


@pytest.fixture(scope="module")
def clang() -> list[str]:
    if found := shutil.which("clang"):
        return [found]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", "-g0"]
    pytest.skip("no clang: apt-get install clang, or pip install ziglang")


def test_the_c_module_compiles_with_clang_and_passes_the_self_test(
    app: Path, clang: list[str], native_build: NativeBuild, tmp_path: Path
) -> None:
    assert native_build.library is not None
    source, compiled, program = tmp_path / "main.c", tmp_path / "main.o", tmp_path / "main"
    source.write_text(PROGRAM, encoding="utf-8")
    modules = ["-fmodules", f"-fmodules-cache-path={tmp_path / 'cache'}", "-I", str(app / "Sources/CEdgestill/include")]
    strict = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror"]
    environment = {**os.environ, "ZIG_LOCAL_CACHE_DIR": str(tmp_path / "zig")}
    for path in (source, app / "Sources" / "CEdgestill" / "abi.c"):
        command = [
            *clang,
            *strict,
            *modules,
            "-c",
            str(path),
            "-o",
            str(compiled if path == source else tmp_path / "abi.o"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
    folder = native_build.library.parent
    linked = ["cc", str(compiled), f"-L{folder}", "-ledgestill", f"-Wl,-rpath,{folder}", "-o", str(program)]
    subprocess.run(linked, check=True)
    bundle = app / "Sources" / "ModelUI" / "bundle"
    done = subprocess.run([str(program), str(bundle)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["prompts"] == 3


def test_the_script_compiles_what_the_runner_is_built_from(app: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (
        ("xcrun", STAND_IN),
        ("xcodebuild", "#!/bin/bash\nexit 0\n"),
        ("sysctl", "#!/bin/bash\necho 1\n"),
    ):
        (tools / name).write_text(text, encoding="utf-8")
        (tools / name).chmod(0o755)
    log = tmp_path / "compiled"
    tree = llama_source()
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "COMPILED": str(log)}
    script = [str(app / "scripts" / "build-xcframework.sh"), str(build.HERE), str(tree)]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    compiled = [Path(line) for line in log.read_text(encoding="utf-8").splitlines()]
    own = {path for path in (build.HERE / "src").glob("*.cpp") if path.name != "main.cpp"}
    assert {path for path in compiled if path.is_relative_to(build.HERE)} == own
    core = {path.relative_to(tree).as_posix() for path in compiled if path.is_relative_to(tree)}
    assert len(compiled) == 2 * (len(own) + len(core))  # a slice for devices, a slice for the simulator
    assert {"src/llama.cpp", "ggml/src/gguf.cpp", "ggml/src/ggml-cpu/arch/arm/quants.c", "common/json.cpp"} <= core
    models = {path.relative_to(tree).as_posix() for path in (tree / "src" / "models").glob("*.cpp")}
    assert models <= core


def test_the_script_says_how_it_is_called(app: Path) -> None:
    script = app / "scripts" / "build-xcframework.sh"
    assert os.access(script, os.X_OK)
    done = subprocess.run([str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "scripts/build-xcframework.sh NATIVE LLAMA" in done.stderr


def test_the_package_names_what_there_is(app: Path) -> None:
    package = (app / "Package.swift").read_text(encoding="utf-8")
    assert re.search(r'^    name: "[a-z0-9-]+",$', package, re.MULTILINE)
    targets = re.findall(r"\.target\(\s*name: \"(\w+)\"", package)
    assert sorted(targets) == ["CEdgestill", "Edgestill", "ModelUI"]
    assert sorted(path.name for path in (app / "Sources").iterdir()) == sorted(targets)
    assert (app / "Sources" / "ModelUI" / "bundle" / "manifest.json").is_file()
    assert '.copy("bundle")' in package
    header = app / "Sources" / "CEdgestill" / "include" / "edgestill.h"
    assert header.read_bytes() == (build.HERE / "include" / "edgestill.h").read_bytes()
    bundle = app / "Sources" / "ModelUI" / "bundle"
    assert not [path for path in app.rglob("*.jinja") if bundle not in path.parents]


def test_what_swift_calls_is_in_the_header(app: Path) -> None:
    header = (app / "Sources" / "CEdgestill" / "include" / "edgestill.h").read_text(encoding="utf-8")
    known = set(re.findall(r"\b(?:es|ES)_\w+", header))
    used: set[str] = set()
    for path in (app / "Sources").rglob("*.swift"):
        used |= set(re.findall(r"\b(?:es|ES)_\w+", path.read_text(encoding="utf-8")))
    assert "es_generate" in used
    assert used <= known
    fields = set(re.findall(r"(?:options|asked)\.(\w+) =", (app / "Sources/Edgestill/Edgestill.swift").read_text()))
    assert {"size", "max_new_tokens", "no_verify"} <= fields
    assert all(re.search(rf"\b{field}\b", header) for field in fields)


def test_every_swift_file_is_of_the_languages_grammar(app: Path) -> None:
    tree_sitter = pytest.importorskip("tree_sitter")
    swift = pytest.importorskip("tree_sitter_swift")
    parser = tree_sitter.Parser(tree_sitter.Language(swift.language()))
    files = sorted(app.rglob("*.swift"))
    assert len(files) >= 10
    for path in files:
        assert not parser.parse(path.read_bytes()).root_node.has_error, path


def test_a_hostile_name_stays_inside_its_text(app: Path) -> None:
    import yaml

    project = yaml.safe_load((app / "App" / "project.yml").read_text(encoding="utf-8"))
    assert re.fullmatch(r"[a-z0-9-]+", project["name"])
    identifier = project["targets"]["ModelApp"]["settings"]["PRODUCT_BUNDLE_IDENTIFIER"]
    assert re.fullmatch(r"[a-z0-9.-]+", identifier)
    heading = (app / "README.md").read_text(encoding="utf-8").splitlines()[0]
    assert heading.startswith("# ")
    assert "<b>" not in heading
    assert "${x}" not in heading


def test_the_readme_says_what_was_not_run(app: Path) -> None:
    readme = (app / "README.md").read_text(encoding="utf-8")
    assert "couldn't be run on a Linux machine" in readme
    assert "there was no Swift compiler" in readme
