from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example, Message
from edgestill.distill.collate import LengthSampler, collate
from edgestill.distill.encode import ChatTokenizer, Encoded, EncodedRows, encode_examples
from edgestill.distill.models import head_logits, hidden_states, load_model
from edgestill.errors import DataError

TALK = Example(
    (
        Message("user", "turn on the lamp"),
        Message("assistant", '{"on": 1}'),
        Message("user", "and the hall too"),
        Message("assistant", '{"on": 2}'),
    ),
    None,
    "talk:1",
)


def learnt(tokenizer: ChatTokenizer, row: Encoded) -> str:
    return tokenizer.tokenizer.decode(row.input_ids[row.labels_mask].tolist(), skip_special_tokens=False)


def test_the_loss_covers_each_answer_and_its_end_token_and_nothing_else(untrained: Checkpoint) -> None:
    tokenizer = ChatTokenizer.open(untrained)
    assert learnt(tokenizer, tokenizer.encode(TALK)) == '{"on": 1}<|end|>{"on": 2}<|end|>'
    assert learnt(tokenizer, tokenizer.encode(TALK, turns="final")) == '{"on": 2}<|end|>'


def test_what_the_template_writes_after_the_end_token_is_left_out(tiny_checkpoint: Path) -> None:
    tokenizer = ChatTokenizer.open(Checkpoint(tiny_checkpoint))  # its template writes a newline after <|end|>
    row = tokenizer.encode(TALK)
    assert learnt(tokenizer, row) == '{"on": 1}<|end|>{"on": 2}<|end|>'
    assert row.input_ids[-1] == 1


def test_the_prompt_in_training_is_the_prompt_at_run_time(untrained: Checkpoint) -> None:
    tokenizer = ChatTokenizer.open(untrained)
    row, prompt = tokenizer.encode(TALK, turns="final"), tokenizer.prompt_ids(TALK)
    assert row.input_ids[: len(prompt)].tolist() == prompt
    assert not row.labels_mask[: len(prompt)].any()


def test_a_text_row_is_learnt_whole_and_ends_with_eos(untrained: Checkpoint) -> None:
    row = ChatTokenizer.open(untrained).encode(Example(text="once upon a time"))
    assert row.input_ids[-1] == 1
    assert row.labels_mask.tolist() == [False] + [True] * (len(row.input_ids) - 1)


def test_without_a_template_only_the_last_answer_is_learnt_and_eos_added(untrained: Checkpoint) -> None:
    tokenizer = dataclasses.replace(ChatTokenizer.open(untrained), template=None)
    assert learnt(tokenizer, tokenizer.encode(TALK)) == '{"on": 2}<|end|>'


def test_a_long_row_is_dropped_and_counted_never_cut(untrained: Checkpoint) -> None:
    tokenizer = ChatTokenizer.open(untrained)
    long = Example((Message("user", "hi"), Message("assistant", "word " * 80)), None, "long:7")
    silent = Example((Message("user", "hi"),), None, "silent:8")
    data = encode_examples([TALK, long, silent], tokenizer, max_length=64)
    assert (len(data.rows), data.too_long, data.unanswered) == (1, 1, 1)
    assert data.dropped_sources == ("long:7", "silent:8")
    with pytest.raises(DataError, match="no row to train on: 1 longer than max_length 64"):
        encode_examples([long], tokenizer, max_length=64)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{% for m in messages %}{% if loop.last %}!{% endif %}{{ m.content }}<|end|>{% endfor %}"
            "{% if add_generation_prompt %}>{% endif %}",
            "renders the prompt of turn 2 differently",
        ),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "tokens of turn|end tokens"),
        (
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}",
            "would never learn to stop",
        ),
    ],
)
def test_a_template_whose_prompt_is_no_prefix_is_refused(untrained: Checkpoint, template: str, reason: str) -> None:
    tokenizer = dataclasses.replace(ChatTokenizer.open(untrained), template=template)
    with pytest.raises(DataError, match=reason) as caught:
        tokenizer.encode(TALK)
    assert str(caught.value).startswith("talk:1:")


def test_padding_on_the_right_changes_no_logits(untrained: Checkpoint) -> None:
    tokenizer = ChatTokenizer.open(untrained)
    short = tokenizer.encode(Example((Message("user", "hi"), Message("assistant", "yes")), None, ""))
    model = load_model(untrained).eval()
    alone, padded = collate([(0, short)], 0), collate([(0, short), (1, tokenizer.encode(TALK))], 0)
    with torch.inference_mode():
        ours = head_logits(model, hidden_states(model, padded["input_ids"], padded["positions"]))
        theirs = model(input_ids=alone["input_ids"]).logits[0, alone["positions"]]
    torch.testing.assert_close(ours[: len(theirs)], theirs, rtol=1e-5, atol=1e-5)
    assert padded["targets"][: len(theirs)].tolist() == short.input_ids[short.labels_mask].tolist()


def test_batches_are_of_like_length_and_repeat_by_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(5, 90, 403).tolist()
    sampler = LengthSampler(lengths, 8, 3)
    first = list(sampler)
    assert sorted(first) == list(range(403))
    spread = [np.ptp([lengths[i] for i in first[at : at + 8]]) for at in range(0, 400, 8)]
    assert np.mean(spread) < 8
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_rows_on_disk_are_the_rows_in_memory(tiny_checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = ChatTokenizer.open(Checkpoint.open(tiny_checkpoint))
    examples = [
        Example((Message("user", f"dim the lights to {n}"), Message("assistant", "yes " * (n % 5 + 1))))
        for n in range(40)
    ]
    memory = encode_examples(examples, tokenizer, max_length=64)
    disk = encode_examples(examples, tokenizer, max_length=64, spill=tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing that a kill could leave
    assert disk.sha256() == memory.sha256()
    assert isinstance(disk.rows, EncodedRows)
    assert disk.rows.lengths.tolist() == [len(row.input_ids) for row in memory.rows]
    for ours, theirs, example in zip(disk.rows, memory.rows, examples, strict=True):
        alone = tokenizer.encode(example)
        for row in (ours, theirs):
            assert row.input_ids.tolist() == alone.input_ids.tolist()
            assert row.labels_mask.tolist() == alone.labels_mask.tolist()
    assert [row.input_ids.tolist() for row in disk.rows[-2:]] == [row.input_ids.tolist() for row in memory.rows[38:]]
    with pytest.raises(IndexError):
        disk.rows[40]
