from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example
from edgestill.distill import load_teacher, make_student, train_teacher
from edgestill.distill.models import load_model
from edgestill.distill.new_model import renew
from edgestill.distill.student import kept_layers, kept_neurons
from edgestill.errors import CheckpointError, InputError
from edgestill.recipe import Architecture, ConfigStudent, PretrainedStudent, PrunedStudent, TrainedTeacher

Requests = Callable[[int], list[Example]]
IDS = torch.arange(5, 25).unsqueeze(0)


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = load_model(checkpoint).eval()(input_ids=IDS).logits
    return result


def test_kept_layers_are_evenly_spaced_with_first_and_last() -> None:
    assert kept_layers(8, 8) == list(range(8))
    assert kept_layers(8, 4) == [0, 2, 5, 7]
    assert kept_layers(12, 2) == [0, 11]
    assert kept_layers(5, 1) == [0]


def test_pruning_nothing_computes_the_teacher(sharp_teacher: Checkpoint, tmp_path: Path) -> None:
    student = make_student(PrunedStudent(kind="pruned", layers=3), sharp_teacher, tmp_path / "s", seed=0)
    torch.testing.assert_close(logits(student), logits(sharp_teacher), rtol=0, atol=0)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "granite", "olmo2"])
def test_a_pruned_student_holds_the_teachers_own_layers_and_neurons(
    sharp_teacher: Checkpoint, request: pytest.FixtureRequest, tmp_path: Path, family: str
) -> None:
    teacher = sharp_teacher if family == "llama" else Checkpoint(request.getfixturevalue(f"tiny_{family}"))
    section = PrunedStudent(kind="pruned", layers=2, intermediate_size=24)
    student = make_student(section, teacher, tmp_path / "s", seed=0)
    big, small = load_model(teacher).base_model.layers, load_model(student).base_model.layers
    assert len(small) == 2
    mlp = big[-1].mlp
    neurons = kept_neurons(mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight, 24)
    assert torch.equal(small[1].mlp.down_proj.weight, mlp.down_proj.weight[:, neurons])
    assert torch.equal(small[0].self_attn.q_proj.weight, big[0].self_attn.q_proj.weight)
    assert (student.path / "tokenizer.json").read_bytes() == (teacher.path / "tokenizer.json").read_bytes()


def test_the_layers_to_keep_can_be_named(sharp_teacher: Checkpoint, tmp_path: Path) -> None:
    section = PrunedStudent(kind="pruned", layers=(0, 1))
    student = make_student(section, sharp_teacher, tmp_path / "s", seed=0)
    big, small = load_model(sharp_teacher).base_model.layers, load_model(student).base_model.layers
    assert len(small) == 2
    for kept, layer in zip(small, big, strict=False):
        assert torch.equal(kept.mlp.down_proj.weight, layer.mlp.down_proj.weight)
    with pytest.raises(InputError, match="names layer 3; the teacher's are 0 to 2"):
        make_student(PrunedStudent(kind="pruned", layers=(0, 3)), sharp_teacher, tmp_path / "t", seed=0)


def test_a_renewed_student_has_the_same_shapes_and_none_of_the_weights(
    sharp_teacher: Checkpoint, tmp_path: Path
) -> None:
    section = PrunedStudent(kind="pruned", layers=2, intermediate_size=24)
    pruned = make_student(section, sharp_teacher, tmp_path / "pruned", seed=0)
    old = load_model(pruned).state_dict()
    new = load_model(renew(pruned, tmp_path / "new", seed=0)).state_dict()
    assert {name: value.shape for name, value in old.items()} == {name: value.shape for name, value in new.items()}
    assert not [name for name, value in new.items() if value.ndim == 2 and torch.equal(value, old[name])]


def test_sizes_beyond_the_teachers_are_refused(sharp_teacher: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layers 4 is more than the teacher's 3"):
        make_student(PrunedStudent(kind="pruned", layers=4), sharp_teacher, tmp_path / "s", seed=0)
    with pytest.raises(InputError, match="intermediate_size 65"):
        make_student(
            PrunedStudent(kind="pruned", layers=2, intermediate_size=65), sharp_teacher, tmp_path / "s", seed=0
        )
    assert list(tmp_path.iterdir()) == []


def test_a_new_student_depends_on_its_seed_alone(sharp_teacher: Checkpoint, tmp_path: Path) -> None:
    sizes = Architecture(hidden_size=16, intermediate_size=32, layers=1, heads=2, kv_heads=1, context=64)
    made = [
        make_student(ConfigStudent(kind="config", architecture=sizes), sharp_teacher, tmp_path / name, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert made[0].sha256() == made[1].sha256() != made[2].sha256()
    assert "eos_token_id" in (made[0].path / "generation_config.json").read_text()


def test_a_pretrained_student_is_used_where_it_lies(sharp_teacher: Checkpoint, tmp_path: Path) -> None:
    section = PretrainedStudent(kind="pretrained", model=str(sharp_teacher.path))
    assert make_student(section, sharp_teacher, tmp_path / "s", seed=0).path == sharp_teacher.path


def test_a_teacher_that_is_no_folder_and_no_hub_name_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load_teacher("./nowhere/at/all")


def test_a_truncated_safetensors_file_is_named(sharp_teacher: Checkpoint, tmp_path: Path) -> None:
    for file in sharp_teacher.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="can't be loaded"):
        load_model(Checkpoint(tmp_path))


def test_a_teacher_is_trained_from_gold_answers_and_leaves_one_folder(requests: Requests, tmp_path: Path) -> None:
    sizes = Architecture(hidden_size=16, intermediate_size=32, layers=1, heads=2, kv_heads=1, context=64)
    section = TrainedTeacher(kind="trained", architecture=sizes, vocab_size=300, epochs=1)
    teacher = train_teacher(section, requests(20), tmp_path / "teacher", max_length=512, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]
    assert teacher.config()["num_hidden_layers"] == 1


def test_importing_the_package_loads_nothing_heavy() -> None:
    script = (
        "import sys, edgestill.distill as d; assert 'torch' not in sys.modules and 'numpy' not in sys.modules; "
        "from edgestill.distill.teacher import train_teacher; assert 'torch' not in sys.modules; "
        "from edgestill.distill.training import train; assert d.train is train; "
        "assert all(getattr(d, name) is not None for name in d.__all__)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
