"""Growing in depth: more layers, the same logits."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example, Message
from edgestill.distill import train_teacher
from edgestill.distill.grow import grow_depth
from edgestill.distill.models import load_model
from edgestill.errors import InputError
from edgestill.recipe import Architecture, TrainedTeacher


@pytest.mark.parametrize("layers", [3, 7])
def test_a_deeper_model_computes_the_same(tiny_checkpoint: Path, tmp_path: Path, layers: int) -> None:
    import torch

    shallow = Checkpoint.open(tiny_checkpoint)
    deep = grow_depth(shallow, layers, tmp_path / "deep")
    assert deep.config()["num_hidden_layers"] == layers
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        ours, theirs = load_model(deep)(ids).logits, load_model(shallow)(ids).logits
    assert torch.equal(ours, theirs)


def test_it_never_grows_downwards(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 layers"):
        grow_depth(Checkpoint.open(tiny_checkpoint), 2, tmp_path / "deep")


def test_a_grown_teacher_has_all_its_layers_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    section = TrainedTeacher(
        kind="trained",
        architecture=Architecture(hidden_size=32, intermediate_size=64, layers=4, heads=2, kv_heads=1, context=64),
        vocab_size=300,
        epochs=1,
        grow_from=2,
        grown_epochs=0.5,
        batch_size=8,
    )
    rows = [Example((Message("user", f"say {n}"), Message("assistant", f"{n}"))) for n in range(32)]
    teacher = train_teacher(section, rows, tmp_path / "teacher", max_length=32, seed=0)
    assert teacher.config()["num_hidden_layers"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]
