from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example, Message
from edgestill.distill import losses
from edgestill.distill.collate import collate
from edgestill.distill.encode import ChatTokenizer
from edgestill.distill.losses.kl import distributions, divergence
from edgestill.distill.models import load_model
from edgestill.distill.signals import TeacherChunk
from edgestill.distill.trainer import LossModel
from edgestill.errors import UnsupportedError
from edgestill.recipe import KlLoss, SftLoss


def reference(teacher: np.ndarray, student: np.ndarray, temperature: float, beta: float) -> np.ndarray:
    p = scipy.special.softmax(teacher.astype(np.float64) / temperature, -1)
    q = scipy.special.softmax(student.astype(np.float64) / temperature, -1)
    if beta == 0:
        value = scipy.stats.entropy(p, q, axis=-1)
    elif beta == 1:
        value = scipy.stats.entropy(q, p, axis=-1)
    else:
        m = beta * p + (1 - beta) * q
        value = beta * scipy.stats.entropy(p, m, axis=-1) + (1 - beta) * scipy.stats.entropy(q, m, axis=-1)
    return value * temperature**2


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_kl_equals_the_fp64_reference(beta: float, temperature: float) -> None:
    random = np.random.default_rng(0)
    teacher, student = (random.normal(0, 4, (20, 50)).astype(np.float32) for _ in range(2))
    section = KlLoss(kind="kl", temperature=temperature, beta=beta)
    ours = losses.find("kl").function(
        torch.from_numpy(student), torch.zeros(20), TeacherChunk(torch.from_numpy(teacher)), section
    )
    np.testing.assert_allclose(ours.numpy(), reference(teacher, student, temperature, beta), rtol=2e-5, atol=2e-6)


def test_the_half_way_divergence_is_scipys_jensen_shannon() -> None:
    random = np.random.default_rng(1)
    p, q = (scipy.special.softmax(random.normal(0, 2, 30)) for _ in range(2))
    ours = divergence(torch.from_numpy(np.log(p)), torch.from_numpy(np.log(q)), 0.5)
    assert ours.item() == pytest.approx(scipy.spatial.distance.jensenshannon(p, q) ** 2, rel=1e-9)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_top_k_with_a_tail_bucket_equals_the_divergence_of_the_bucketed_distributions(beta: float) -> None:
    random = np.random.default_rng(2)
    teacher, student = (random.normal(0, 3, (6, 40)) for _ in range(2))
    k, temperature = 8, 2.0
    log_p = torch.from_numpy(teacher).log_softmax(-1)
    top = log_p.topk(k)
    tail = (log_p.scatter(-1, top.indices, -torch.inf) / temperature).logsumexp(-1)
    chunk = TeacherChunk(top.values, top.indices, {temperature: tail})
    ours = divergence(*distributions(torch.from_numpy(student), chunk, temperature), beta)
    p, q = (scipy.special.softmax(x / temperature, -1) for x in (teacher, student))
    chosen = top.indices.numpy()
    buckets = []
    for x in (p, q):
        kept = np.take_along_axis(x, chosen, -1)
        buckets.append(np.concatenate([kept, 1 - kept.sum(-1, keepdims=True)], -1))
    expected = reference(np.log(buckets[0]), np.log(buckets[1]), 1.0, beta)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-8)


def test_chunked_losses_and_gradients_equal_the_unchunked_formula(
    untrained: Checkpoint, tiny_checkpoint: object
) -> None:
    tokenizer = ChatTokenizer.open(untrained)
    rows = [
        (n, tokenizer.encode(Example((Message("user", "hi " * n), Message("assistant", f"yes {n}!")), None, "")))
        for n in range(4)
    ]
    batch = collate(rows, 0)
    sections = (SftLoss(kind="sft", weight=0.3), KlLoss(kind="kl", weight=0.7, temperature=2.0, beta=0.5))
    model = load_model(untrained)
    vocab = model.config.vocab_size
    said = torch.randn(len(batch["targets"]), vocab, generator=torch.Generator().manual_seed(0))
    chunks: list[int] = []

    def read(start: int, stop: int) -> TeacherChunk:
        chunks.append(stop - start)
        return TeacherChunk(said[start:stop])

    chunked = LossModel(model, sections, chunk_elements=5 * vocab)
    loss, _ = chunked(batch["input_ids"], batch["positions"], batch["targets"], read)
    loss.backward()
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    assert max(chunks) == 5
    model.zero_grad()
    logits = model(input_ids=batch["input_ids"]).logits.flatten(0, 1)[batch["positions"]]
    log_p, log_q = (said / 2).log_softmax(-1), (logits / 2).log_softmax(-1)
    log_m = torch.log((log_p.exp() + log_q.exp()) / 2)
    jsd = 0.5 * (log_p.exp() * (log_p - log_m)).sum(-1) + 0.5 * (log_q.exp() * (log_q - log_m)).sum(-1)
    expected = 0.3 * torch.nn.functional.cross_entropy(logits, batch["targets"]) + 0.7 * 4 * jsd.mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_an_unknown_loss_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="'hidden' is not one of kl, sft"):
        losses.find("hidden")


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_teacher_ids_past_the_students_head_count_for_nothing(beta: float) -> None:
    """Qwen2.5's 7B pads its vocabulary to 152,064 rows, the 0.5B to 151,936: the rows between are no tokens."""
    random = np.random.default_rng(5)
    student = torch.from_numpy(random.normal(0, 3, (6, 40)))
    log_p = torch.from_numpy(random.normal(0, 3, (6, 40))).log_softmax(-1)
    top = log_p.topk(8)
    tails = {2.0: (log_p.scatter(-1, top.indices, -torch.inf) / 2).logsumexp(-1)}
    expected = divergence(*distributions(student, TeacherChunk(top.values, top.indices, tails), 2.0), beta)
    padded = TeacherChunk(
        torch.cat((top.values, torch.full((6, 2), -1.0)), -1),
        torch.cat((top.indices, torch.tensor([[40, 43]] * 6)), -1),
        tails,
    )
    logits = student.clone().requires_grad_()
    ours = divergence(*distributions(logits, padded, 2.0), beta)
    np.testing.assert_allclose(ours.detach().numpy(), expected.numpy(), rtol=1e-12)
    ours.sum().backward()
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
