from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example
from edgestill.distill import (
    ChatTokenizer,
    EncodedData,
    OnlineSignal,
    TrainSettings,
    cache_signal,
    check_same_vocabulary,
    encode_examples,
    train,
    train_teacher,
)
from edgestill.distill.models import load_model
from edgestill.distill.training import steps_of
from edgestill.errors import InputError, StageError
from edgestill.recipe import Architecture, KlLoss, SftLoss, TrainedTeacher

Requests = Callable[[int], list[Example]]
BOTH = (SftLoss(kind="sft", weight=0.5), KlLoss(kind="kl", weight=0.5))
SETTINGS = TrainSettings(learning_rate=3e-3, batch_size=8, epochs=3, losses=BOTH)


@pytest.fixture(scope="module")
def data(untrained: Checkpoint, requests: Requests) -> EncodedData:
    return encode_examples(requests(44), ChatTokenizer.open(untrained), max_length=96)


def weights(checkpoint: Checkpoint) -> bytes:
    return (checkpoint.path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("stop_after", [1, 4, 6, 11, 17])
def test_a_stopped_run_continues_to_bit_identical_weights(
    untrained: Checkpoint,
    sharp_teacher: Checkpoint,
    data: EncodedData,
    interrupting: type,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: int,
) -> None:
    monkeypatch.setattr("edgestill.distill.trainer._SHOW_SECONDS", 0.0)
    monkeypatch.setattr("edgestill.distill.trainer._SAVE_SPACING", 0)
    signal = cache_signal(sharp_teacher, data, tmp_path / "signal", temperatures=[2.0], k=16)
    whole = train(untrained, data, SETTINGS, tmp_path / "whole", signal=signal, seed=5)
    often = dataclasses.replace(SETTINGS, save_every_seconds=1e-9)
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train(untrained, data, often, out, signal=signal, seed=5, progress=interrupting(stop_after))
    assert not out.exists()
    checkpoints = sorted((tmp_path / ".stopped.training" / "checkpoints").glob("checkpoint-*"))
    assert len(checkpoints) == min(2, stop_after - 1)
    if checkpoints:  # what a kill while writing would leave
        torn = checkpoints[0].with_name("checkpoint-18")
        torn.mkdir()
        (torn / "model.safetensors").write_bytes(b"half")
    resumed = train(untrained, data, SETTINGS, out, signal=signal, seed=5)
    assert weights(resumed) == weights(whole)
    ours, theirs = (json.loads((c.path / "training.json").read_text()) for c in (resumed, whole))
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["signal", "stopped", "whole"]


def test_what_is_whole_is_not_trained_again(
    untrained: Checkpoint, data: EncodedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill may come after the last rename and before anyone noted that the training was done."""
    settings = dataclasses.replace(SETTINGS, losses=(SftLoss(kind="sft"),), epochs=1)
    first = train(untrained, data, settings, tmp_path / "out", seed=5)
    before = (first.path / "training.json").read_bytes()
    (tmp_path / ".out.training").mkdir()  # the kill came before it was removed
    with monkeypatch.context() as patch:
        patch.setattr("edgestill.distill.models.load_model", lambda *_, **__: pytest.fail("trained again"))
        train(untrained, data, settings, tmp_path / "out", seed=5)
    assert (first.path / "training.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    train(untrained, data, settings, tmp_path / "out", seed=6)
    assert json.loads((tmp_path / "out" / "training.json").read_text())["seed"] == 6


@pytest.mark.parametrize("grow_from", [None, 1])
def test_a_whole_teacher_is_not_trained_again(
    requests: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grow_from: int | None
) -> None:
    sizes = Architecture(hidden_size=16, intermediate_size=32, layers=2, heads=2, kv_heads=1, context=96)
    section = TrainedTeacher(kind="trained", architecture=sizes, vocab_size=300, epochs=1, grow_from=grow_from)
    first = train_teacher(section, requests(20), tmp_path / "out", max_length=96, seed=1)
    before = weights(first)
    monkeypatch.setattr("edgestill.distill.training.train", lambda *_, **__: pytest.fail("trained again"))
    assert weights(train_teacher(section, requests(20), tmp_path / "out", max_length=96, seed=1)) == before
    with pytest.raises(pytest.fail.Exception):
        train_teacher(section, requests(21), tmp_path / "out", max_length=96, seed=1)


def test_other_inputs_start_afresh(
    untrained: Checkpoint, data: EncodedData, interrupting: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgestill.distill.trainer._SHOW_SECONDS", 0.0)
    monkeypatch.setattr("edgestill.distill.trainer._SAVE_SPACING", 0)
    settings = TrainSettings(learning_rate=3e-3, batch_size=16, epochs=2, save_every_seconds=1e-9)
    with pytest.raises(KeyboardInterrupt):
        train(untrained, data, settings, tmp_path / "a", seed=1, progress=interrupting(4))
    ours = train(untrained, data, settings, tmp_path / "a", seed=2)
    assert weights(ours) == weights(train(untrained, data, settings, tmp_path / "b", seed=2))


def test_training_learns_and_writes_a_whole_model_folder(
    sharp_teacher: Checkpoint,
) -> None:
    written = json.loads((sharp_teacher.path / "training.json").read_text())
    assert written["losses"]["sft"] < 2.0 < written["curve"][0]["sft"]
    assert written["steps"] == 90
    names = {path.name for path in sharp_teacher.path.iterdir()}
    assert names >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
    }
    assert load_model(sharp_teacher).config.eos_token_id == 1


def test_the_trainer_prints_nothing(
    untrained: Checkpoint, data: EncodedData, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = TrainSettings(learning_rate=1e-3, batch_size=16, epochs=0.5)
    trained = train(untrained, data, settings, tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    written = json.loads((trained.path / "training.json").read_text())
    assert written["steps"] == steps_of(len(data.rows), settings) == 2


def test_kl_from_a_live_teacher_pulls_the_student_to_it(
    untrained: Checkpoint, sharp_teacher: Checkpoint, data: EncodedData, tmp_path: Path
) -> None:
    settings = TrainSettings(learning_rate=5e-3, batch_size=8, epochs=6, losses=(KlLoss(kind="kl", temperature=1.0),))
    student = train(untrained, data, settings, tmp_path / "out", signal=OnlineSignal(sharp_teacher))
    curve = json.loads((student.path / "training.json").read_text())["curve"]
    assert curve[-1]["kl"] < 0.5 * curve[0]["kl"]


def test_kl_without_a_signal_is_refused(untrained: Checkpoint, data: EncodedData, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="loss 'kl' needs a teacher's signal"):
        train(untrained, data, SETTINGS, tmp_path / "out")


def test_kl_between_two_vocabularies_is_refused(
    untrained: Checkpoint, tiny_checkpoint: Path, data: EncodedData, tmp_path: Path
) -> None:
    other = Checkpoint(tiny_checkpoint)
    with pytest.raises(InputError, match="kl needs one vocabulary"):
        check_same_vocabulary(untrained, other)
    with pytest.raises(InputError, match="another vocabulary"):
        train(other, data, SETTINGS, tmp_path / "out", signal=OnlineSignal(untrained))


def test_a_loss_that_explodes_stops_the_run_and_leaves_no_model(
    untrained: Checkpoint, data: EncodedData, tmp_path: Path
) -> None:
    settings = TrainSettings(learning_rate=1e30, batch_size=8, epochs=3, warmup_fraction=0.0, max_grad_norm=0.0)
    with pytest.raises(StageError, match="lower learning_rate"):
        train(untrained, data, settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bf16_autocast_trains_fp32_weights(untrained: Checkpoint, data: EncodedData, tmp_path: Path) -> None:
    settings = TrainSettings(learning_rate=3e-3, batch_size=8, epochs=2, precision="bf16")
    trained = train(untrained, data, settings, tmp_path / "out")
    assert load_model(trained, dtype=torch.float32).dtype == torch.float32
    assert trained.config()["dtype"] == "float32"
