"""Twelve seeded mistakes are each found, twenty sound set-ups are left in peace."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example, Message
from edgestill.distill import ChatTokenizer, OnlineSignal, cache_signal, encode_examples
from edgestill.distill.encode import Encoded
from edgestill.distill.preflight import Finding, Setup, preflight
from edgestill.sections import KlLoss, SftLoss

Requests = Callable[[int], list[Example]]
SFT = SftLoss(kind="sft", weight=0.5)
TEST = [Example((Message("user", f"subtract {n} and 3"), Message("assistant", "{}"))) for n in range(20)]


def kl(temperature: float = 2.0, beta: float = 0.0) -> KlLoss:
    return KlLoss(kind="kl", weight=0.5, temperature=temperature, beta=beta)


def encoded(student: Checkpoint, examples: list[Example]) -> list[tuple[Example, Encoded]]:
    tokenizer = ChatTokenizer.open(student)
    return [(example, tokenizer.encode(example)) for example in examples]


@pytest.fixture
def setup(untrained: Checkpoint, sharp_teacher: Checkpoint, requests: Requests) -> Setup:
    """A sound set-up with both losses and a live teacher."""
    rows = encoded(untrained, requests(30))
    return Setup(untrained, rows, (SFT, kl()), sharp_teacher, OnlineSignal(sharp_teacher), TEST)


def found(setup: Setup, check: str) -> Finding:
    """The preflight finds exactly this, in under five seconds."""
    started = time.process_time()
    findings = preflight(setup)
    assert time.process_time() - started < 5
    assert check in {finding.check for finding in findings}, findings
    assert all("\n" not in finding.message for finding in findings)
    return next(finding for finding in findings if finding.check == check)


def changed(setup: Setup, change: Callable[[Encoded], Encoded]) -> Setup:
    return dataclasses.replace(setup, rows=[(example, change(row)) for example, row in setup.rows])


def copied(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    shutil.copytree(checkpoint.path, folder)
    return Checkpoint.open(folder)


# 1 to 12: each as it happens


def test_a_mask_that_is_off_by_one(setup: Setup) -> None:
    shifted = changed(setup, lambda row: Encoded(row.input_ids, np.roll(row.labels_mask, -1)))
    found(shifted, "prompt")
    late = changed(setup, lambda row: Encoded(row.input_ids, np.append(row.labels_mask[:1], row.labels_mask[:-1])))
    found(late, "mask")


def test_padding_in_the_loss(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgestill.distill import collate as module

    real = module.collate

    def careless(rows: Any, pad_id: int) -> Any:
        batch = real(rows, pad_id)
        ids = batch["input_ids"].reshape(-1)
        padded = torch.nonzero(ids[1:] == pad_id).squeeze(1)
        batch["positions"] = torch.cat((batch["positions"], padded))
        batch["targets"] = torch.cat((batch["targets"], ids[padded + 1]))
        return batch

    monkeypatch.setattr(module, "collate", careless)
    found(dataclasses.replace(setup, losses=(SFT,), teacher=None, signal=None), "loss")


def test_the_chat_template_of_another_model(setup: Setup, tmp_path: Path) -> None:
    student = copied(setup.student, tmp_path / "student")
    chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    generation = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    (student.path / "chat_template.jinja").write_text(chatml + generation)
    rows = encoded(student, [example for example, _ in setup.rows])
    assert "<|im_start|>" in found(dataclasses.replace(setup, student=student, rows=rows), "template").message


def test_teacher_and_student_swapped(setup: Setup, requests: Requests, tmp_path: Path) -> None:
    from edgestill.distill import make_student
    from edgestill.recipe import PrunedStudent

    assert setup.teacher is not None
    small = make_student(PrunedStudent(kind="pruned", layers=1), setup.student, tmp_path / "small", seed=0)
    rows = encoded(setup.teacher, requests(30))
    swapped = dataclasses.replace(setup, student=setup.teacher, teacher=small, signal=OnlineSignal(small), rows=rows)
    found(swapped, "swapped")


def test_a_temperature_that_never_reaches_the_loss(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgestill.distill import losses
    from edgestill.distill.losses.kl import kl as real

    def cold(logits: Any, targets: Any, teacher: Any, section: KlLoss) -> Any:
        return real(logits, targets, teacher, section.model_copy(update={"temperature": 1.0}))

    monkeypatch.setitem(losses._LOSSES, "kl", losses.RegisteredLoss("kl", cold, True))
    found(setup, "loss")


def test_the_divergence_the_other_way_round(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgestill.distill import losses
    from edgestill.distill.losses.kl import kl as real

    def reverse(logits: Any, targets: Any, teacher: Any, section: KlLoss) -> Any:
        return real(logits, targets, teacher, section.model_copy(update={"beta": 1.0 - section.beta}))

    monkeypatch.setitem(losses._LOSSES, "kl", losses.RegisteredLoss("kl", reverse, True))
    found(setup, "loss")


def test_a_signal_made_with_another_tokenizer(setup: Setup, requests: Requests, tmp_path: Path) -> None:
    other = copied(setup.student, tmp_path / "other")
    value = json.loads((other.path / "tokenizer.json").read_text())
    vocab = value["model"]["vocab"]
    a, b = sorted(vocab, key=vocab.get)[40:42]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    (other.path / "tokenizer.json").write_text(json.dumps(value))
    found(dataclasses.replace(setup, signal=OnlineSignal(other)), "vocabulary")


def test_labels_shifted_twice(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgestill.distill import collate as module

    real = module.collate

    def twice(rows: Any, pad_id: int) -> Any:
        batch = real(rows, pad_id)
        batch["positions"] = (batch["positions"] - 1).clamp(min=0)
        return batch

    monkeypatch.setattr(module, "collate", twice)
    found(setup, "loss")


def test_truncated_answers(setup: Setup) -> None:
    tokenizer = ChatTokenizer.open(setup.student)
    rng = random.Random(0)
    words = ["please", "add", "and", "sum"]
    examples = []
    for number in range(40):
        said = " ".join(rng.choice(words) for _ in range(rng.randrange(10, 60))) + "."
        ids = tokenizer.ids(said)
        examples.append(Example((Message("user", f"say {number}"), Message("assistant", tokenizer.decode(ids[:40])))))
    rows = encoded(setup.student, examples)
    assert "max_new_tokens" in found(dataclasses.replace(setup, rows=rows), "truncated").message


def test_an_end_that_is_never_learnt(setup: Setup) -> None:
    def endless(row: Encoded) -> Encoded:
        mask = row.labels_mask.copy()
        mask[-1] = False
        return Encoded(row.input_ids, mask)

    found(changed(setup, endless), "end")


@pytest.mark.parametrize("tied_in_config", [True, False])
def test_tied_weights_that_came_apart(setup: Setup, tmp_path: Path, tied_in_config: bool) -> None:
    student = copied(setup.student, tmp_path / "student")
    weights = safetensors.torch.load_file(student.path / "model.safetensors")
    config = json.loads((student.path / "config.json").read_text())
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + (0.1 if tied_in_config else 0.0)
    safetensors.torch.save_file(weights, student.path / "model.safetensors", {"format": "pt"})
    (student.path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": tied_in_config}))
    found(dataclasses.replace(setup, student=student), "tied")


def test_a_prompt_that_the_runtime_never_shows(setup: Setup) -> None:
    tokenizer = ChatTokenizer.open(setup.student)
    talkative = str(tokenizer.template).replace("{{ message['content'] }}", " {{ message['content'] }}")
    polite = dataclasses.replace(tokenizer, template=talkative)
    rows = [(example, polite.encode(example)) for example, _ in setup.rows]
    assert "the runtime will show" in found(dataclasses.replace(setup, rows=rows), "prompt").message


def test_test_rows_among_those_to_learn(setup: Setup) -> None:
    learnt = [example for example, _ in setup.rows]
    leaked = Example((Message("user", learnt[7].prompt[-1].content.upper() + "!"), Message("assistant", "{}")))
    found(dataclasses.replace(setup, test=[*TEST, leaked]), "contamination")


# sound set-ups

LOSSES: dict[str, tuple[Any, ...]] = {
    "sft": (SFT,),
    "forward kl": (SFT, kl(2.0)),
    "cool kl": (SFT, kl(1.0)),
    "hot kl": (kl(4.0),),
    "jsd": (SFT, kl(1.5, 0.3)),
    "reverse kl": (kl(1.0, 1.0),),
}


def talk(count: int) -> list[Example]:
    rows = []
    for n in range(count):
        turns = [Message("system", "be brief")] if n % 2 else []
        for turn in range(1 + n % 3):
            turns += [Message("user", f"add {n} and {turn}"), Message("assistant", f"it is {n + turn}")]
        rows.append(Example(tuple(turns), None, f"talk:{n}"))
    return rows


def labels(count: int) -> list[Example]:
    """Answers of one length, without a mark at the end: no sign of truncation."""
    answer = "please add the sum and please add the other sum and then please add it"
    return [
        Example((Message("user", f"which, {n}?"), Message("assistant", answer)), None, f"l:{n}") for n in range(count)
    ]


@pytest.mark.parametrize("signal", ["online", "cached", "top-k"])
@pytest.mark.parametrize("losses", LOSSES)
def test_sound_trainings_are_left_in_peace(
    untrained: Checkpoint, sharp_teacher: Checkpoint, requests: Requests, losses: str, signal: str, tmp_path: Path
) -> None:
    examples = requests(24)
    rows = encoded(untrained, examples)
    teacher = sharp_teacher if losses != "sft" else None
    source: Any = None
    if teacher is not None and signal == "online":
        source = OnlineSignal(teacher)
    elif teacher is not None:
        data = encode_examples(examples, ChatTokenizer.open(untrained), max_length=96)
        temperatures = [section.temperature for section in LOSSES[losses] if isinstance(section, KlLoss)]
        k = 64 if signal == "top-k" else None
        source = cache_signal(teacher, data, tmp_path / "signal", temperatures=temperatures, k=k)
    assert preflight(Setup(untrained, rows, LOSSES[losses], teacher, source, TEST)) == []


@pytest.mark.parametrize("kind", ["conversations", "texts", "one row", "self-distillation", "pruned", "tiny", "qwen2"])
def test_other_sound_trainings_are_left_in_peace(
    kind: str,
    untrained: Checkpoint,
    sharp_teacher: Checkpoint,
    requests: Requests,
    tiny_checkpoint: Path,
    tiny_qwen2: Path,
    tmp_path: Path,
) -> None:
    from edgestill.distill import make_student
    from edgestill.recipe import PrunedStudent

    student, examples, teacher = untrained, requests(20), None
    if kind == "conversations":
        examples = talk(20)
    elif kind == "texts":
        examples = [Example(text=f"please add {n} and {n * n}", source=f"t:{n}") for n in range(20)]
    elif kind == "one row":
        examples = requests(1)
    elif kind == "self-distillation":
        student = teacher = sharp_teacher
    elif kind == "pruned":
        student = make_student(PrunedStudent(kind="pruned", layers=1), sharp_teacher, tmp_path / "pruned", seed=0)
        teacher = sharp_teacher
    elif kind in ("tiny", "qwen2"):
        student = Checkpoint.open(tiny_checkpoint if kind == "tiny" else tiny_qwen2)
        examples = [*talk(12), *requests(12)]
    losses = (SFT,) if teacher is None else (SFT, kl())
    signal = None if teacher is None else OnlineSignal(teacher)
    assert preflight(Setup(student, encoded(student, examples), losses, teacher, signal, TEST)) == []


def test_answers_of_one_length_are_no_sign_of_truncation(untrained: Checkpoint) -> None:
    rows = encoded(untrained, labels(20))
    findings = preflight(Setup(untrained, rows, (SFT,), test=TEST))
    assert [finding.check for finding in findings] == []
