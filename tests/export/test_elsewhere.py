"""Our ONNX files in other people's runtimes: onnxruntime-genai's loop and onnxruntime-web's WebAssembly."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgestill.artifact import Artifact, Checkpoint
from edgestill.export.onnx import export_onnx
from edgestill.runtime.engines import open_engine
from edgestill.runtime.model_source import locate_model

ARCHITECTURES = (
    "tiny_checkpoint", "tiny_qwen2", "tiny_qwen3", "tiny_mistral", "tiny_granite", "tiny_smollm3", "tiny_olmo2",
    "tiny_phi3", "tiny_gemma2", "tiny_gemma3", "tiny_gpt2",
)  # fmt: skip
PROMPT = [5, 17, 300, 42]
# Past tiny_phi3's original context of 64, and past the windows of 32.
TOTAL = 84
PACKAGES = Path(__file__).resolve().parents[2] / "build" / "web"


def exported(kind: str, precision: str, request: pytest.FixtureRequest, out: Path) -> Artifact:
    return export_onnx(Checkpoint.open(request.getfixturevalue(kind)), precision, out)


def greedy(artifact: Artifact) -> list[int]:
    engine = open_engine(locate_model(artifact.folder), threads=1)
    found, logits = list(PROMPT), engine.append(PROMPT)
    while len(found) < TOTAL:
        found.append(int(logits.argmax()))
        logits = engine.append(found[-1:])
    engine.close()
    return found


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_onnxruntime_genai_writes_the_same_greedy_tokens(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    for precision in ("fp32", "int4") if kind == "tiny_checkpoint" else ("fp32",):
        artifact = exported(kind, precision, request, tmp_path)
        model = genai.Model(str(artifact.folder))
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(max_length=TOTAL, min_length=TOTAL)
        generator = genai.Generator(model, parameters)
        generator.append_tokens(np.array([PROMPT], np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        assert generator.get_sequence(0).tolist() == greedy(artifact), precision


def test_onnxruntime_genai_finds_the_tokenizer(tiny_checkpoint: Path, tmp_path: Path) -> None:
    import tokenizers

    genai = pytest.importorskip("onnxruntime_genai")
    artifact = export_onnx(Checkpoint.open(tiny_checkpoint), "fp32", tmp_path)
    text = "dim the kitchen lights, 東京 <|user|>"
    own = tokenizers.Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    assert genai.Tokenizer(genai.Model(str(artifact.folder))).encode(text).tolist() == own.encode(text).ids


@pytest.mark.parametrize(
    ("kind", "precision"),
    [("tiny_checkpoint", "fp32"), ("tiny_checkpoint", "fp16"), ("tiny_checkpoint", "int4"), ("tiny_checkpoint", "int8")]
    + [("tiny_checkpoint", "int4_g128")]
    + [(kind, "fp32") for kind in ("tiny_phi3", "tiny_gemma3", "tiny_gpt2", "tiny_qwen3")],
)
def test_onnxruntime_web_computes_the_same_logits(
    kind: str, precision: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if shutil.which("node") is None or not (PACKAGES / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("no node, or no onnxruntime-web: npm install --prefix build/web onnxruntime-web")
    artifact = exported(kind, precision, request, tmp_path)
    script = Path(__file__).with_name("web_logits.mjs")
    command = ["node", script, PACKAGES, artifact.folder, ",".join(map(str, PROMPT))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout)
    found = np.array(answer["logits"], np.uint16 if answer["bits"] else np.float64)
    values = found.view(np.float16).astype(np.float64) if answer["bits"] else found
    engine = open_engine(locate_model(artifact.folder), threads=1)
    expected = engine.logits(PROMPT)[-1]
    # WebAssembly rounds the activations of int4 and int8 otherwise than x86 does.
    tolerance = {"fp32": 1e-4, "fp16": 0.05}.get(precision, 0.1)
    assert values.argmax() == expected.argmax()
    assert np.abs(values - expected).max() <= tolerance
