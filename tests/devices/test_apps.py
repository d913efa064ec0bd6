"""Writing an app's project: what it carries, what is refused, and values that attack the files they go into."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgestill.bundle import Bundle
from edgestill.devices.apps import template_names, write_app
from edgestill.devices.apps.escaping import escaper_for
from edgestill.devices.apps.template import read_template
from edgestill.devices.apps.values import _slug, values_of
from edgestill.errors import BundleError, InputError
from edgestill.storage import files_below

ATTACKS = (
    '"; system("rm -rf /"); //',
    "${x} $y $(id) `id` %s %% %1$s",
    "line one\nline two\r\n\ttabbed",
    "back\\slash \\u0022 \\n \\\\",
    "</script><script>alert(1)</script> &amp; ]]>",
    "'''\"\"\"{{ 7 * 7 }}{% raw %}",
    "\u202etxt.exe\u2066 \u2028 \u0000 \x1b[31m \x7f",
    "??/ ??= trigraphs *\\/ */ #define",
    "café 東京 \U0001f469\u200d\U0001f4bb \U000e0001",
    "@string/x ?attr/y",
    "- # * [a](javascript:b) <b> | ~~x~~ _y_",
)


def strings(read: Callable[[str], str]) -> Callable[[str, str], None]:
    """Return a check: a literal that was made of a text, in ``"..."``, is that text again."""

    def check(kind: str, text: str) -> None:
        assert read('"' + escaper_for(kind)(text) + '"') == text

    return check


@pytest.mark.parametrize("text", ATTACKS)
@pytest.mark.parametrize(
    ("kind", "read"),
    [("a.json", json.loads), ("a.js", json.loads), ("a.yaml", json.loads), ("a.py", ast.literal_eval)],
)
def test_a_literal_is_the_text_again(kind: str, read: Callable[[str], str], text: str) -> None:
    strings(read)(kind, text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_any_text_survives_json_python_and_xml(text: str) -> None:
    strings(json.loads)("a.json", text)
    strings(ast.literal_eval)("a.py", text)
    escaped = escaper_for("a.xml")(text)
    element = ElementTree.fromstring(f'<a b="{escaped}">{escaped}</a>')
    assert element.text or element.attrib["b"] == ""
    assert "\n" not in escaper_for("a.md")(text)
    assert "\n" not in escaper_for("a.service")(text)


@pytest.mark.parametrize("text", ATTACKS)
def test_toml_and_c_read_the_text_again(text: str, tmp_path: Path) -> None:
    if sys.version_info >= (3, 11):
        import tomllib

        assert tomllib.loads(f'a = "{escaper_for("a.toml")(text)}"')["a"] == text
    if "\0" in text:
        return
    source = tmp_path / "a.c"
    escaped = escaper_for("a.c")(text)
    source.write_text(f'#include <stdio.h>\nint main(void) {{ fputs("{escaped}", stdout); }}\n', encoding="utf-8")
    subprocess.run(["cc", "-std=c99", "-trigraphs", source, "-o", tmp_path / "a"], check=True)
    assert subprocess.run([tmp_path / "a"], capture_output=True, check=True).stdout.decode() == text


@pytest.mark.parametrize("text", ATTACKS)
def test_a_shell_and_cmake_read_no_command_in_it(text: str, tmp_path: Path) -> None:
    shown = "".join(one for one in escaper_for("a.txt")(text))
    done = subprocess.run(
        ["sh", "-c", f'printf %s "{escaper_for("a.sh")(text)}"'], capture_output=True, text=True, check=True
    )
    assert done.stdout == shown
    script = tmp_path / "a.cmake"
    script.write_text(f'set(A "{escaper_for("a.cmake")(text)}")\nfile(WRITE out.txt "${{A}}")\n', encoding="utf-8")
    subprocess.run(["cmake", "-P", script], cwd=tmp_path, check=True)
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == shown


def test_a_kind_of_file_that_has_no_escaping_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a\.xyz"):
        escaper_for("a.xyz")


def test_every_template_has_files_and_says_what_it_is() -> None:
    assert {"c", "python"} <= set(template_names())
    for name in template_names():
        template = read_template(name)
        assert template.about.description
        assert any(path.name.startswith("README.md") for path in template.files), name


@pytest.mark.parametrize("name", template_names())
def test_a_hostile_name_renders_in_every_template(name: str, hostile_bundle: Bundle, tmp_path: Path) -> None:
    app = write_app(hostile_bundle.folder, name, tmp_path / "app")
    place = read_template(name).about.bundle
    for path in app.files:
        file = tmp_path / "app" / path
        assert file.suffix != ".jinja" or path.is_relative_to(place)
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix in (".xml", ".plist", ".svg"):
            ElementTree.parse(file)
        elif file.suffix == ".py":
            compile(file.read_text(encoding="utf-8"), file, "exec")
        elif file.suffix == ".sh":
            subprocess.run(["bash", "-n", file], check=True)
    carried = tmp_path / "app" / place
    for entry in hostile_bundle.manifest.files:
        if (carried / entry.path).exists():
            assert (carried / entry.path).read_bytes() == (hostile_bundle.folder / entry.path).read_bytes()
    assert (carried / "golden.jsonl").is_file()
    assert not (carried / "report.html").exists()


def test_an_app_carries_the_shipped_artifact_and_what_is_asked_for(hostile_bundle: Bundle, tmp_path: Path) -> None:
    assert write_app(hostile_bundle.folder, "c", tmp_path / "c").artifacts == ("gguf-f32",)
    assert write_app(hostile_bundle.folder, "python", tmp_path / "p").artifacts == ("gguf-f32",)
    asked = write_app(hostile_bundle.folder, "python", tmp_path / "o", artifacts=["onnx-fp32"])
    assert asked.artifacts == ("onnx-fp32",)
    assert not (tmp_path / "o" / "bundle" / "artifacts" / "gguf-f32").exists()
    with pytest.raises(InputError, match="uses gguf"):
        write_app(hostile_bundle.folder, "c", tmp_path / "x", artifacts=["onnx-fp32"])
    with pytest.raises(InputError, match="carries one"):
        write_app(hostile_bundle.folder, "python", tmp_path / "x", artifacts=["onnx-fp32", "gguf-f32"])
    with pytest.raises(BundleError, match="no artifact 'gguf-x'"):
        write_app(hostile_bundle.folder, "c", tmp_path / "x", artifacts=["gguf-x"])
    assert not (tmp_path / "x").exists()


def test_what_can_not_be_written_is_refused(hostile_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'desktop' is not one of .*\bc\b.*python"):
        write_app(hostile_bundle.folder, "desktop", tmp_path / "x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "main.c").write_text("int x;")
    with pytest.raises(InputError, match="not empty"):
        write_app(hostile_bundle.folder, "c", tmp_path / "mine")
    for package in ("Org.Example", "org..example", "org.class", "../x", "org.example;x", ""):
        with pytest.raises(InputError, match="package"):
            write_app(hostile_bundle.folder, "c", tmp_path / "x", package=package)
    spoilt = Path(shutil.copytree(hostile_bundle.folder, tmp_path / "spoilt"))
    model = spoilt / "artifacts" / "gguf-f32" / "model.gguf"
    model.write_bytes(model.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BundleError, match=r"model\.gguf: its bytes changed"):
        write_app(spoilt, "c", tmp_path / "x")
    model.unlink()
    model.symlink_to(hostile_bundle.folder / "artifacts" / "gguf-f32" / "model.gguf")
    with pytest.raises(BundleError, match="no file"):
        write_app(spoilt, "c", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    assert [path.name for path in files_below(tmp_path) if path.name.endswith(".partial")] == []


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=60))
def test_names_made_of_any_name_are_names(name: str, hostile_bundle: Bundle) -> None:
    slug = _slug(name)
    assert slug
    assert all(one.isascii() and (one.isalnum() or one == "-") for one in slug)
    manifest = hostile_bundle.manifest.model_copy(update={"name": name})
    values = values_of(Bundle(hostile_bundle.folder, manifest), [], [], "org.example")
    assert values.identifier.isidentifier()
    assert values.package == f"org.example.{values.identifier}"


def test_the_command_prints_what_it_wrote(hostile_bundle: Bundle, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgestill.cli", "app", str(hostile_bundle.folder), "--template"]
    done = subprocess.run(
        [*command, "c", "--out", str(tmp_path / "a"), "--json"], capture_output=True, text=True, check=True
    )
    document = json.loads(done.stdout)
    assert document["schema"] == "edgestill.app/1"
    assert document["artifacts"] == ["gguf-f32"]
    assert sorted(document["files"]) == [path.as_posix() for path in files_below(tmp_path / "a")]
    done = subprocess.run([*command, "x", "--out", str(tmp_path / "b")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: template 'x' is not one of")
