"""The Android app: its classes run on a desktop JVM with the host's library; all of its files are consistent."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from edgestill.bundle import Bundle
from edgestill.dataset import Message
from edgestill.devices.apps import write_app
from edgestill.runtime.generation import GenerationOptions
from edgestill.runtime.native.binding import NativeLibrary
from edgestill.runtime.native.build import NativeBuild
from edgestill.runtime.session import Session

HERE = Path(__file__).resolve().parent / "android_jvm"
KOTLIN = HERE.parents[2] / "build" / "kotlin" / "node_modules" / "kotlin-compiler" / "lib"
JSON = Path("/usr/share/java/json-android.jar")
TEXTS = (
    "Once upon a time",
    "naïve café — 東京 \U0001f600\U0001f469\u200d\U0001f4bb",
    'a\x00b "${x}"',
    "\u00e9\ufeff\u200d",
)
MESSAGE = 'say \U0001f600 "東" \\ ${x} \x01'
ANDROID = "{http://schemas.android.com/apk/res/android}"


@pytest.fixture(scope="module")
def app(hostile_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("android") / "app"
    write_app(hostile_bundle.folder, "android", out)
    return out


def sources(app: Path) -> Path:
    return app / "app" / "src" / "main"


def carried(app: Path) -> Path:
    return sources(app) / "assets" / "bundle"


def run(command: list[str | Path], **options: Any) -> str:
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def jni(app: Path, native_build: NativeBuild, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JNI shim for this machine, linked to the host's library; the folder that it lies in."""
    java = shutil.which("javac")
    if java is None or shutil.which("c++") is None:
        pytest.skip("no javac or no c++: apt-get install openjdk-17-jdk-headless g++")
    headers = Path(java).resolve().parents[1] / "include"
    assert native_build.library is not None
    library = native_build.library.parent
    out = tmp_path_factory.mktemp("jni")
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
    include = [f"-I{app / 'native' / 'include'}", f"-I{headers}", f"-I{headers / 'linux'}"]
    shim = sources(app) / "cpp" / "edgestill_jni.cpp"
    link = [f"-L{library}", "-ledgestill", f"-Wl,-rpath,{library}"]
    run(["c++", *flags, *include, shim, *link, "-o", out / "libedgestill_jni.so"])
    return out


@pytest.fixture(scope="module")
def classes(app: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """All of the app's Kotlin and the check, compiled; the class path to run it with."""
    if shutil.which("javac") is None or not JSON.is_file() or not KOTLIN.is_dir():
        pytest.skip(
            "no Kotlin here: apt-get install openjdk-17-jdk-headless libandroid-json-org-java; "
            "npm install --prefix build/kotlin kotlin-compiler"
        )
    base = tmp_path_factory.getbasetemp()
    # The same sources in each of pytest-xdist's processes: they are compiled by the first.
    out = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "android-classes"
    libraries = [KOTLIN / "kotlin-stdlib.jar", KOTLIN / "kotlinx-coroutines-core-jvm.jar", JSON]
    out.mkdir(exist_ok=True)
    with (out / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "compiled").exists():
            compile_kotlin(app, out, libraries)
            (out / "compiled").touch()
    return os.pathsep.join(map(str, [out / "app", *libraries]))


def compile_kotlin(app: Path, out: Path, libraries: list[Path]) -> None:
    """Compile the app's Kotlin and Check.kt into ``out/app``, against declarations of Android's classes."""
    java = [*stubs(out / "stubs"), resources(app, out / "stubs")]
    run(["javac", "-Xlint:-options", "-d", out / "android", *java])
    kotlin = sorted((app / "app" / "src").rglob("*.kt"))
    assert len(kotlin) > 10
    path = os.pathsep.join(map(str, [*libraries, out / "android"]))
    compiler = ["-cp", str(KOTLIN / "kotlin-compiler.jar"), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    memory = ["-Xmx900m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    options = ["-no-stdlib", "-no-reflect", "-Werror", "-jvm-target", "17", "-cp", path, "-d", str(out / "app")]
    run(["java", *memory, *compiler, *options, *kotlin, HERE / "Check.kt"])


def stubs(folder: Path) -> list[Path]:
    """Write the Java files of stubs.txt."""
    written = []
    for part in (HERE / "stubs.txt").read_text(encoding="utf-8").split("\n=== ")[1:]:
        name, _, text = part.partition("\n")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def resources(app: Path, folder: Path) -> Path:
    """Write the class R that the resources' names would give."""
    res = sources(app) / "res"
    names: dict[str, set[str]] = {"layout": set(), "menu": set(), "drawable": set(), "string": set(), "id": set()}
    for path in res.rglob("*.xml"):
        kind = path.parent.name
        if kind in names:
            names[kind].add(path.stem)
        names["id"].update(re.findall(r"@\+id/(\w+)", path.read_text(encoding="utf-8")))
    names["string"].update(one.attrib["name"] for one in ElementTree.parse(res / "values" / "strings.xml").getroot())
    package = namespace(app)
    inner = ""
    for kind, found in names.items():
        fields = " ".join(f"public static final int {name} = 0;" for name in sorted(found))
        inner += f"public static final class {kind} {{ {fields} }}\n"
    path = folder / "R.java"
    path.write_text(f"package {package};\npublic final class R {{\n{inner}}}\n", encoding="utf-8")
    return path


def namespace(app: Path) -> str:
    found = re.search(
        r'^    namespace = "([a-z0-9_.]+)"$', (app / "app" / "build.gradle.kts").read_text(), re.MULTILINE
    )
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def checked(app: Path, jni: Path, classes: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the app's classes did on the JVM with the bundle in its assets."""
    scratch = tmp_path_factory.mktemp("checked")
    asked = scratch / "asked.json"
    asked.write_text(json.dumps({"texts": TEXTS, "message": MESSAGE}), encoding="utf-8")
    options = ["-Xcheck:jni", "-Xmx400m", "-XX:TieredStopAtLevel=1", f"-Djava.library.path={jni}", "-cp", classes]
    # The JVM takes the encoding of file names from the locale; on Android it is always UTF-8.
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    command: list[str | Path] = ["java", *options, "-Dfile.encoding=UTF-8", "CheckKt", carried(app), scratch, asked]
    value: dict[str, Any] = json.loads(run(command, env=environment, timeout=120))
    return value


def test_the_bundle_passes_its_self_test_through_jni(checked: dict[str, Any]) -> None:
    selftest = checked["selftest"]
    assert selftest["artifact"] == "gguf-f32"
    assert selftest["prompts"] == 3
    assert selftest["close_tokens"] == 0


def test_greedy_tokens_and_texts_are_those_of_the_session(
    checked: dict[str, Any], hostile_bundle: Bundle, native_library: NativeLibrary
) -> None:
    with Session.open(hostile_bundle.artifact_folder("gguf-f32")) as session:
        for text, found in zip(TEXTS, checked["texts"], strict=True):
            session.reset()
            answer = session.generate(found["ids"], GenerationOptions(max_new_tokens=24))
            assert tuple(found["answer"]) == answer.token_ids, text
            assert found["text"] == answer.text
    with native_library.open(hostile_bundle.folder, threads=1) as native:
        assert [found["ids"] for found in checked["texts"]] == [native.tokenize(text) for text in TEXTS]
        assert checked["template"] == native.apply_template([Message("user", MESSAGE)])


def test_a_flow_gives_the_same_tokens_and_ends_when_its_collector_does(checked: dict[str, Any]) -> None:
    flow = checked["flow"]
    assert flow["tokens"] == checked["texts"][0]["answer"]
    assert flow["text"] == checked["texts"][0]["text"]
    assert flow["some"] == 3
    assert flow["failed"].startswith("1: the prompt is empty")


def test_an_answer_ends_when_another_thread_or_its_listener_says_so(checked: dict[str, Any]) -> None:
    assert checked["endings"]["cancel"] == {"finish": "cancelled", "tokens": 3, "after": 4}
    assert checked["endings"]["listener"] == {"finish": "cancelled", "tokens": 1}
    assert checked["thrown"] == "IllegalStateException: mine"
    assert checked["nested"].startswith("IllegalStateException: a listener")


def test_a_session_is_closed_by_any_thread_and_then_refuses_work(checked: dict[str, Any]) -> None:
    closed = checked["close"]
    assert (closed["finish"], closed["own"]) == ("cancelled", "cancelled")
    assert closed["bench"] == "8: cancelled"
    assert closed["later"] == closed["own_later"] == "1: the session is closed"


def test_failures_are_exceptions_with_a_status_and_a_text(checked: dict[str, Any]) -> None:
    assert checked["wrong"].startswith("2: ")
    assert "no-東: can't be read" in checked["wrong"]
    assert checked["no_artifact"].startswith("2: no artifact 'gguf-none' in the bundle")
    assert checked["empty_prompt"].startswith("1: the prompt is empty")


def test_stop_strings_state_and_bench_work_through_jni(checked: dict[str, Any]) -> None:
    assert checked["stopped_by"] == "stop true"
    assert checked["state"] is True
    assert checked["bench"]["schema"].startswith("edgestill.bench/")
    assert checked["statistics"]["schema"] == "edgestill.session/1"


def test_the_bundle_is_copied_whole_or_not_at_all(checked: dict[str, Any], hostile_bundle: Bundle) -> None:
    install = checked["install"]
    assert install["broken"].startswith("7: artifacts/gguf-f32/model.gguf: can't be copied (killed)")
    assert install["half"] is False
    assert install["changed"].startswith("3: artifacts/gguf-f32/model.gguf: its bytes changed")
    assert install["full"].startswith("7: too little room for the model: free another")
    assert (install["whole"], install["prompts"]) == (True, 3)
    assert install["left"] == [f"bundle-{hostile_bundle.manifest.digest[:16]}"]


def test_threads_are_those_of_the_fast_cores(checked: dict[str, Any]) -> None:
    assert checked["cores"] == {"mixed": 4, "one_kind": 4, "nobody_tells": 4, "small_model": 1, "large_model": 4}


def test_example_prompts_are_the_golden_ones(checked: dict[str, Any]) -> None:
    assert checked["golden"][0] == "Once upon a time"
    assert checked["golden"][2] == "dim the kitchen lights \U0001f600"


def test_every_xml_file_parses_and_names_what_there_is(app: Path) -> None:
    files = sorted(sources(app).rglob("*.xml"))
    assert len(files) >= 8
    roots = {path.relative_to(sources(app)).as_posix(): ElementTree.parse(path).getroot() for path in files}
    strings = {one.attrib["name"] for one in roots["res/values/strings.xml"]}
    for path in files:
        used = set(re.findall(r"@string/(\w+)", path.read_text(encoding="utf-8")))
        assert used <= strings, path
    application = roots["AndroidManifest.xml"].find("application")
    assert application is not None
    assert application.attrib[f"{ANDROID}allowBackup"] == "false"
    assert roots["AndroidManifest.xml"].find("uses-permission") is None


def test_the_package_is_one_in_gradle_folders_and_manifest(app: Path) -> None:
    package = namespace(app)
    gradle = (app / "app" / "build.gradle.kts").read_text(encoding="utf-8")
    assert f'applicationId = "{package}"' in gradle
    folder = sources(app) / "kotlin" / Path(*package.split("."))
    for name in re.findall(r'android:name="\.(\w+)"', (sources(app) / "AndroidManifest.xml").read_text()):
        text = (folder / f"{name}.kt").read_text(encoding="utf-8")
        assert text.startswith(f"package {package}\n")
    assert all(path.parent == folder or "org/edgestill" in path.as_posix() for path in app.rglob("*.kt"))
    assert not [path for path in app.rglob("*.jinja") if carried(app) not in path.parents]


def test_native_names_agree_between_kotlin_c_and_the_rules_for_r8(app: Path) -> None:
    shim = (sources(app) / "cpp" / "edgestill_jni.cpp").read_text(encoding="utf-8")
    kotlin = (sources(app) / "kotlin" / "org" / "edgestill" / "EdgestillNative.kt").read_text(encoding="utf-8")
    declared = re.findall(r"external fun (\w+)\(", kotlin)
    assert sorted(declared) == sorted(re.findall(r"^EDGESTILL\(\w+, (\w+)\)", shim, re.MULTILINE))
    rules = (app / "app" / "proguard-rules.pro").read_text(encoding="utf-8")
    for name in (
        "org.edgestill.EdgestillNative ",
        "org.edgestill.EdgestillNative$OnToken",
        "org.edgestill.EdgestillException",
    ):
        assert name in rules
        assert name.strip().replace(".", "/") in shim or name.endswith(" ")


def test_gradle_uses_the_aliases_of_the_version_catalog(app: Path) -> None:
    catalog = (app / "gradle" / "libs.versions.toml").read_text(encoding="utf-8")
    aliases = {name.replace("-", ".") for name in re.findall(r"^([a-z-]+) = \{", catalog, re.MULTILINE)}
    scripts = "".join(path.read_text(encoding="utf-8") for path in app.rglob("*.kts"))
    used = set(re.findall(r"libs\.(?:plugins\.)?([a-z.]+)", scripts))
    assert used
    assert used <= aliases


def test_without_onnx_in_the_bundle_onnxruntime_is_left_out(hostile_bundle: Bundle, app: Path, tmp_path: Path) -> None:
    write_app(hostile_bundle.folder, "android", tmp_path / "app", artifacts=["gguf-f32"])
    assert "onnx" in (app / "app" / "build.gradle.kts").read_text(encoding="utf-8").split("dependencies")[1]
    without = (tmp_path / "app" / "app" / "build.gradle.kts").read_text(encoding="utf-8")
    assert "onnx" not in without.split("dependencies")[1]
    bench = next((tmp_path / "app").rglob("BenchActivity.kt")).read_text(encoding="utf-8")
    assert "Onnx" not in bench


def test_the_readme_says_what_was_not_run(app: Path) -> None:
    readme = (app / "README.md").read_text(encoding="utf-8")
    assert "couldn't be run on a Linux machine" in readme
    assert "edgestill runner build --target android" in readme
