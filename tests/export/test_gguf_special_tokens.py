from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

gguf = pytest.importorskip("gguf")
pytest.importorskip("llama_cpp")

from edgestill.artifact import Checkpoint  # noqa: E402
from edgestill.errors import CheckpointError  # noqa: E402
from edgestill.export import export_checkpoint  # noqa: E402
from edgestill.export.gguf_special_tokens import chat_templates  # noqa: E402

OWN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
TOOLS = "{% for tool in tools %}{{ tool }}{% endfor %}"


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return folder


def _configure(folder: Path, **changed: object) -> None:
    path = folder / "tokenizer_config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key != "chat_template"}
    path.write_text(json.dumps({**config, **changed}))


def _keys(folder: Path, out: Path) -> dict[str, Any]:
    artifact = export_checkpoint(Checkpoint.open(folder), "gguf", "f16", out)
    return {key: field.contents() for key, field in gguf.GGUFReader(artifact.model_path).fields.items()}


def test_named_templates_of_transformers_4_are_all_kept(checkpoint: Path, tmp_path: Path) -> None:
    named = [{"name": "default", "template": OWN}, {"name": "tool use", "template": TOOLS}]
    _configure(checkpoint, chat_template=named)
    keys = _keys(checkpoint, tmp_path)
    assert keys["tokenizer.chat_template"] == OWN
    assert keys["tokenizer.chat_template.tool_use"] == TOOLS
    assert keys["tokenizer.chat_templates"] == ["tool_use"]


def test_templates_that_transformers_5_saves_are_all_kept(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.chat_template = {"default": OWN, "tool_use": TOOLS}
    tokenizer.save_pretrained(checkpoint)
    assert (checkpoint / "additional_chat_templates" / "tool_use.jinja").is_file()
    keys = _keys(checkpoint, tmp_path)
    assert keys["tokenizer.chat_template"] == OWN
    assert keys["tokenizer.chat_template.tool_use"] == TOOLS


def test_files_win_over_the_configuration_as_in_transformers(checkpoint: Path) -> None:
    _configure(checkpoint, chat_template=TOOLS)
    assert chat_templates(Checkpoint(checkpoint)) == {"default": TOOLS}
    (checkpoint / "chat_template.jinja").write_text(OWN)
    assert chat_templates(Checkpoint(checkpoint)) == {"default": OWN}
    assert transformers.AutoTokenizer.from_pretrained(checkpoint).chat_template == OWN


def test_a_template_that_is_not_text_is_an_error_that_names_the_file(checkpoint: Path) -> None:
    (checkpoint / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja"):
        chat_templates(Checkpoint(checkpoint))


def test_special_tokens_map_names_what_the_configuration_does_not(checkpoint: Path, tmp_path: Path) -> None:
    path = checkpoint / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if not key.endswith("_token")}))
    (checkpoint / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|user|>"}}))
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((checkpoint / name).read_text())
        (checkpoint / name).write_text(json.dumps({**settings, "eos_token_id": None}))
    keys = _keys(checkpoint, tmp_path)
    assert keys["tokenizer.ggml.tokens"][keys["tokenizer.ggml.eos_token_id"]] == "<|user|>"


def test_every_end_of_a_list_ends_generation(checkpoint: Path, tmp_path: Path) -> None:
    settings = json.loads((checkpoint / "generation_config.json").read_text())
    (checkpoint / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [1, 3, 4]}))
    keys = _keys(checkpoint, tmp_path)
    ends = {keys[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")}
    assert ends == {1, 3, 4}
