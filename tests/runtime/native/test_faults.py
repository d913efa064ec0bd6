"""A table of faults, each in a bundle that says it is whole: what a converter, a packer or a copy did wrong.

Files that changed after packing are found by their hashes, what was packed wrong by the golden answers: here they are
those of the right artifact, and the manifest is the wrong one's own.

On another processor: EDGESTILL_RUNNER="qemu-aarch64-static FOLDER/edgestill-run" pytest .../test_faults.py
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgestill.artifact import Artifact
from edgestill.bundle import Bundle
from edgestill.errors import EdgestillError, GateError, ModelFileError
from edgestill.runtime.native.binding import NativeLibrary

gguf = pytest.importorskip("gguf")

Change = Callable[[Any], Any]


def rewrite(model: Path, keys: Mapping[str, Change], tensors: Mapping[str, Change]) -> None:
    """Write a GGUF file again with some entries and tensors changed; None leaves one out."""
    reader = gguf.GGUFReader(model)
    architecture = reader.fields["general.architecture"].contents()
    target = model.with_suffix(".new")
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = keys.get(name, lambda kept: kept)(field.contents())
        if value is not None:
            sub = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, value, field.types[0], sub_type=sub)
    for tensor in reader.tensors:
        data = tensors.get(tensor.name, lambda kept: kept)(np.array(tensor.data))
        if data is not None:
            writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    target.replace(model)


def swapped_tokens(tokens: list[str]) -> list[str]:
    """Exchange two letters of the vocabulary."""
    one, other = tokens.index("e"), tokens.index("o")
    tokens[one], tokens[other] = tokens[other], tokens[one]
    return tokens


def halves_exchanged(rows: Any) -> Any:
    """Exchange the two halves of each head's rows: what a forgotten permutation of q and k does."""
    heads = rows.reshape(-1, 2, 8, *rows.shape[1:])
    return np.ascontiguousarray(heads[:, ::-1]).reshape(rows.shape)


PACKED_WRONG: dict[str, tuple[dict[str, Change], dict[str, Change]]] = {
    "dropped chat template": ({"tokenizer.chat_template": lambda _: None}, {}),
    "another chat template": ({"tokenizer.chat_template": lambda text: text.replace("<|end|>", "")}, {}),
    "another rope base": ({"llama.rope.freq_base": lambda _: 500.0}, {}),
    "another epsilon": ({"llama.attention.layer_norm_rms_epsilon": lambda _: 0.5}, {}),
    "swapped tokenizer": ({"tokenizer.ggml.tokens": swapped_tokens}, {}),
    "another pre-tokenizer": ({"tokenizer.ggml.pre": lambda _: "default"}, {}),
    "a BOS nobody wants": (
        {"tokenizer.ggml.add_bos_token": lambda _: True, "tokenizer.ggml.bos_token_id": lambda _: 5},
        {},
    ),
    "permuted heads": ({}, {"blk.0.attn_q.weight": halves_exchanged}),
    "exchanged rows of the head": ({}, {"token_embd.weight": lambda rows: np.roll(rows, 1, axis=0)}),
    "missing tied head": ({}, {"token_embd.weight": lambda _: None}),
    "missing tensor": ({}, {"blk.1.ffn_down.weight": lambda _: None}),
    "a layer of zeros": ({}, {"blk.1.ffn_down.weight": np.zeros_like}),
    "wrong context length": ({"llama.context_length": lambda _: 16}, {}),
    "one layer less": ({"llama.block_count": lambda _: 1}, {}),
}

LOUD: dict[str, type[EdgestillError]] = {
    "missing tied head": ModelFileError,
    "missing tensor": ModelFileError,
    "one layer less": ModelFileError,
}
"""Found before an answer differs."""


SelfTest = Callable[[Path, str], dict[str, Any]]


@pytest.fixture
def self_test(library: NativeLibrary) -> SelfTest:
    """Open a bundle's artifact and test it: by the library, or by the program that EDGESTILL_RUNNER names."""
    runner = os.environ.get("EDGESTILL_RUNNER")

    def by_library(folder: Path, artifact: str) -> dict[str, Any]:
        with library.open(folder, artifact) as session:
            return session.selftest()

    def by_program(folder: Path, artifact: str) -> dict[str, Any]:
        command = [*shlex.split(str(runner)), "selftest", folder, "--artifact", artifact]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found: dict[str, Any] = json.loads(done.stdout)
            return found
        assert done.returncode in (1, 2), f"it ended by {done.returncode}"
        said = done.stderr.strip()
        raise (GateError if "golden prompt" in said else ModelFileError)(said)

    return by_program if runner else by_library


@pytest.fixture
def wrong(artifacts: list[Artifact], tmp_path: Path) -> Artifact:
    """The f16 artifact in a folder that a fault may spoil."""
    source = next(artifact for artifact in artifacts if artifact.name == "gguf-f16")
    folder = Path(shutil.copytree(source.folder, tmp_path / "wrong" / "gguf-f16"))
    return replace(source, folder=folder)


@pytest.mark.parametrize("fault", PACKED_WRONG)
def test_what_was_packed_wrong_is_found(
    fault: str, wrong: Artifact, packed: Bundle, repack: Callable[..., Path], self_test: SelfTest
) -> None:
    rewrite(wrong.model_path, *PACKED_WRONG[fault])
    folder = repack((packed.folder / "golden.jsonl").read_text(), [wrong])
    with pytest.raises(LOUD.get(fault, GateError)):
        self_test(folder, "gguf-f16")


def test_the_same_bundle_without_a_fault_passes(
    wrong: Artifact, packed: Bundle, repack: Callable[..., Path], self_test: SelfTest
) -> None:
    rewrite(wrong.model_path, {}, {})
    assert self_test(repack((packed.folder / "golden.jsonl").read_text(), [wrong]), "gguf-f16")["prompts"] == 3


def test_a_wrong_end_is_found(
    wrong: Artifact, packed: Bundle, repack: Callable[..., Path], self_test: SelfTest
) -> None:
    rows = [json.loads(line) for line in (packed.folder / "golden.jsonl").read_text().splitlines()]
    end = rows[0]["token_ids"]["gguf-f16"][4]
    rewrite(wrong.model_path, {"tokenizer.ggml.eos_token_id": lambda _: end}, {})
    folder = repack("".join(json.dumps(row) + "\n" for row in rows), [wrong])
    with pytest.raises(GateError, match="golden prompt 1: the answer differs at token"):
        self_test(folder, "gguf-f16")


def test_stale_golden_answers_are_found(
    artifacts: list[Artifact], packed: Bundle, repack: Callable[..., Path], self_test: SelfTest
) -> None:
    text = (packed.folder / "golden.jsonl").read_text().replace("[", "[7, ", 1)
    with pytest.raises(GateError):
        self_test(repack(text, artifacts), "gguf-f16")


@pytest.mark.parametrize(
    ("fault", "spoil"),
    [
        ("a flipped nibble", lambda data: data[:-300] + bytes([data[-300] ^ 0x10]) + data[-299:]),
        ("a truncated file", lambda data: data[: len(data) // 2]),
        ("another quantisation under the same name", None),
    ],
)
def test_what_changed_after_packing_is_found(
    fault: str, spoil: Callable[[bytes], bytes] | None, bundle: Path, self_test: SelfTest
) -> None:
    model = bundle / "artifacts" / "gguf-q4_0" / "model.gguf"
    other = bundle / "artifacts" / "gguf-q8_0" / "model.gguf"
    model.write_bytes(other.read_bytes() if spoil is None else spoil(model.read_bytes()))
    with pytest.raises(ModelFileError, match=r"gguf-q4_0/model\.gguf"):
        self_test(bundle, "gguf-q4_0")
