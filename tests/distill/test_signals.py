from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example
from edgestill.distill import CachedSignal, ChatTokenizer, EncodedData, OnlineSignal, cache_signal, encode_examples
from edgestill.distill.collate import Batch, collate
from edgestill.distill.losses.kl import distributions, divergence
from edgestill.errors import InputError

Requests = Callable[[int], list[Example]]


def encoded(checkpoint: Checkpoint, examples: list[Example]) -> EncodedData:
    return encode_examples(examples, ChatTokenizer.open(checkpoint), max_length=96)


def a_batch(data: EncodedData, numbers: list[int]) -> Batch:
    return collate([(n, data.rows[n]) for n in numbers], 0)


def halves(count: int) -> list[slice]:
    return [slice(0, count // 2), slice(count // 2, count)]


def test_a_cached_signal_is_the_live_one_up_to_float16(
    sharp_teacher: Checkpoint, requests: Requests, tmp_path: Path
) -> None:
    data = encoded(sharp_teacher, requests(30))
    batch = a_batch(data, [17, 3, 29])
    count = len(batch["targets"])
    live = OnlineSignal(sharp_teacher).for_batch(batch)(0, count)
    student = live.scores + torch.randn(live.scores.shape, generator=torch.Generator().manual_seed(0))
    seen: dict[int, torch.Tensor] = {}
    for k in (8, 64, 1000):  # 1000 is more than the vocabulary: all of it
        folder = tmp_path / str(k)
        read = cache_signal(sharp_teacher, data, folder, temperatures=[1.0, 2.0], k=k, batch_tokens=200).for_batch(
            batch
        )
        parts = [read(part.start, part.stop) for part in halves(count)]
        if k < live.scores.shape[-1]:
            exact = (live.scores / 2).log_softmax(-1).exp()
            ids = torch.cat([part.ids for part in parts if part.ids is not None])
            logs = [distributions(student[s], part, 2.0)[0] for s, part in zip(halves(count), parts, strict=True)]
            expected = torch.cat((exact.gather(-1, ids), exact.scatter(-1, ids, 0).sum(-1, keepdim=True)), -1)
            torch.testing.assert_close(torch.cat(logs).exp(), expected, rtol=4e-3, atol=1e-5)
        seen[k] = torch.cat(
            [divergence(*distributions(student[s], p, 2.0), 0.0) for s, p in zip(halves(count), parts, strict=True)]
        )
    whole = divergence(*distributions(student, live, 2.0), 0.0)
    torch.testing.assert_close(seen[1000], whole, rtol=1e-3, atol=1e-4)
    assert (seen[8] <= seen[64] + 1e-3).all()  # merging outcomes can only hide divergence
    assert (seen[64] <= whole + 1e-3).all()


def test_the_cache_serves_the_same_rows_in_another_order(
    sharp_teacher: Checkpoint, requests: Requests, tmp_path: Path
) -> None:
    data = encoded(sharp_teacher, requests(12))
    cache_signal(sharp_teacher, data, tmp_path / "signal", temperatures=[2.0], k=16)
    other = EncodedData(tuple(reversed(data.rows)), 96)
    ours = CachedSignal(tmp_path / "signal", other).for_batch(a_batch(other, [0]))
    theirs = CachedSignal(tmp_path / "signal", data).for_batch(a_batch(data, [11]))
    count = int(data.rows[11].labels_mask.sum())
    torch.testing.assert_close(ours(0, count).scores, theirs(0, count).scores, rtol=0, atol=0)


def test_a_row_temperature_or_byte_that_the_cache_lacks_is_refused(
    sharp_teacher: Checkpoint, requests: Requests, tmp_path: Path
) -> None:
    data = encoded(sharp_teacher, requests(6))
    folder = tmp_path / "signal"
    cached = cache_signal(sharp_teacher, data, folder, temperatures=[2.0], k=16)
    with pytest.raises(InputError, match=r"temperature 3\.0"):
        cached.for_batch(a_batch(data, [0]))(0, 1).tail_at(3.0)
    with pytest.raises(InputError, match="2 of 8 rows are not in it"):
        CachedSignal(folder, encoded(sharp_teacher, requests(8)))
    (folder / "scores.f16").write_bytes((folder / "scores.f16").read_bytes()[:-2])
    with pytest.raises(InputError, match=r"scores\.f16.*bytes are expected"):
        CachedSignal(folder, data)


def test_an_interrupted_pass_leaves_nothing(
    sharp_teacher: Checkpoint, requests: Requests, interrupting: type, tmp_path: Path
) -> None:
    data = encoded(sharp_teacher, requests(12))
    with pytest.raises(KeyboardInterrupt):
        cache_signal(
            sharp_teacher, data, tmp_path / "signal", temperatures=[2.0], batch_tokens=60, progress=interrupting(2)
        )
    assert list(tmp_path.iterdir()) == []


def test_the_index_says_what_it_was_made_from(sharp_teacher: Checkpoint, requests: Requests, tmp_path: Path) -> None:
    data = encoded(sharp_teacher, requests(3))
    cache_signal(sharp_teacher, data, tmp_path / "signal", temperatures=[2.0])
    index = json.loads((tmp_path / "signal" / "index.json").read_text())
    assert index["teacher"] == sharp_teacher.sha256()
    assert index["positions"] == data.target_tokens
