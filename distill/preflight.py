"""A look at a training before it starts: a few rows go the whole way, and are compared with what they should be.

Mistakes that make distillation silently wrong (a mask that is off by one, a prompt that the runtime never
shows, a temperature that never reaches the loss) change numbers that can be computed another way. Each is
computed so here, on a handful of rows, from the student's files alone, and any difference is a finding.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example, prompt_key
from edgestill.distill.encode import ChatTokenizer, Encoded
from edgestill.distill.vocabulary import vocabulary_sha256
from edgestill.runtime.session import render_prompt
from edgestill.runtime.tokenizer import FastTokenizer
from edgestill.sections import KlLoss, Loss, SftLoss

if TYPE_CHECKING:
    from edgestill.distill.signals import TeacherSignal

SAMPLE: Final = 6
_TOLERANCE: Final = 2e-3
_KL_TOLERANCE: Final = 0.01  # a cache holds float16
_MARKER: Final = re.compile(r"<\|[^|<>\s]{1,40}\|>")
_ENDS: Final = ".!?…。！？)]}\"'”’»`*:;>"
_LONG: Final = 16
_LARGEST: Final = 8 << 30
"""Bytes of weights beyond which the models are not loaded only to be looked at."""
_CUT_SHARE: Final = 0.05


Rows = Sequence[tuple[Example, Encoded]]


@dataclass(frozen=True)
class Setup:
    """What is about to be trained: ``rows`` are examples with their encoding, as the trainer will see them.

    ``teacher`` and ``signal`` are those of a kl loss; ``test`` the rows that will be scored. A handful of
    rows goes through the models; all are looked at as texts.
    """

    student: Checkpoint
    rows: Rows
    losses: Sequence[Loss]
    teacher: Checkpoint | None = None
    signal: TeacherSignal | None = None
    test: Sequence[Example] = ()


@dataclass(frozen=True)
class Finding:
    """One mistake: which check found it, and one line on what is wrong and what to do."""

    check: str
    message: str


def preflight(setup: Setup) -> list[Finding]:
    """Return what is wrong with a training; nothing when nothing was found."""
    chosen = [setup.rows[number] for number in _sample(setup.rows)]
    tokenizer = ChatTokenizer.open(setup.student)
    findings = [
        *_prompts(setup.student, chosen),
        *_answers(tokenizer, chosen),
        *_markers(tokenizer, chosen),
        *_truncated(tokenizer, setup.rows),
        *_contaminated(setup.rows, setup.test),
        *_tied(setup.student),
        *_vocabulary(setup),
    ]
    weights = [file for model in (setup.student, setup.teacher) if model is not None for file in model.weight_files()]
    small = sum(file.stat().st_size for file in weights) <= _LARGEST
    if small and not any(finding.check == "vocabulary" for finding in findings):
        findings += _losses(setup, tokenizer.pad_id)
    return findings


def _sample(rows: Rows) -> list[int]:
    """Return the numbers of rows of different lengths, so that a batch of them is padded."""
    order = sorted(range(len(rows)), key=lambda n: (len(rows[n][1].input_ids), n))
    picks = {order[round(at)] for at in np.linspace(0, len(order) - 1, min(SAMPLE, len(order)))}
    return sorted(picks)


def _runs(row: Encoded) -> list[tuple[int, int]]:
    """Return (start, stop) of each run of learnt tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], row.labels_mask.astype(int), [0]))))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _prompts(student: Checkpoint, rows: Rows) -> Iterator[Finding]:
    """What precedes the last learnt run must be the very ids that the runtime shows for the same prompt."""
    tokenizer = FastTokenizer(student.path)
    for example, row in rows:
        if example.text is not None or example.completion is None or not row.labels_mask.any():
            continue
        shown = render_prompt(tokenizer, example.prompt)
        before = row.input_ids[: _runs(row)[-1][0]].tolist()
        if before != shown:
            yield Finding(
                "prompt",
                f"{example.source}: training shows {_text(tokenizer, before)!r}, the runtime will show "
                f"{_text(tokenizer, shown)!r}; use the student's own chat template and tokenizer for both",
            )
            return


def _text(tokenizer: FastTokenizer, ids: Sequence[int]) -> str:
    text = tokenizer.decode(ids, skip_special=False)
    return text if len(text) <= 80 else f"... {text[-80:]}"


def _answers(tokenizer: ChatTokenizer, rows: Rows) -> Iterator[Finding]:
    """Each run of learnt tokens must be one answer, whole, and end in an end token."""
    for example, row in rows:
        if example.text is not None:
            continue
        ids = row.input_ids.tolist()
        said = [turn.content for turn in example.messages if turn.role == "assistant"]
        runs = _runs(row)
        if not runs:
            yield Finding("mask", f"{example.source}: nothing of it is learnt; check the loss mask")
            return
        for (start, stop), content in zip(runs, said[-len(runs) :], strict=False):
            ended = ids[stop - 1] in tokenizer.end_ids
            learnt = tokenizer.tokenizer.decode(ids[start : stop - ended], skip_special_tokens=False)
            if not ended:
                yield Finding(
                    "end",
                    f"{example.source}: the learnt tokens end in {learnt[-10:]!r}, not in an end token of the model; "
                    "a student would never learn to stop",
                )
                return
            if "".join(learnt.split()) != "".join(content.split()):
                yield Finding(
                    "mask",
                    f"{example.source}: the loss covers {learnt[:80]!r}, the answer is {content[:80]!r}; "
                    "the mask must cover the answer and its end token, and nothing else",
                )
                return


def _markers(tokenizer: ChatTokenizer, rows: Rows) -> Iterator[Finding]:
    """A template of another model writes markers that this tokenizer has to spell out."""
    for example, _ in rows:
        if example.text is not None or tokenizer.template is None:
            continue
        text = tokenizer.rendered(example.messages, add_generation_prompt=False)
        for message in example.messages:
            text = text.replace(message.content, "", 1)
        markers = set(_MARKER.findall(text))
        spelt = sorted(marker for marker in markers if tokenizer.tokenizer.token_to_id(marker) is None)
        added = {token.content for token in tokenizer.tokenizer.get_added_tokens_decoder().values()}
        unused = sorted(token for token in added - markers if _MARKER.fullmatch(token))
        if spelt and unused:
            yield Finding(
                "template",
                f"the chat template writes {spelt[0]}, which is no token of this tokenizer (it has {unused[0]}): "
                "it is another model's template; take the one that belongs to the tokenizer",
            )
        return


def _truncated(tokenizer: ChatTokenizer, rows: Rows) -> Iterator[Finding]:
    """Answers that were cut stop at one length, in the middle of a sentence."""
    lengths = [(_runs(row)[-1][1] - _runs(row)[-1][0], example) for example, row in rows if row.labels_mask.any()]
    longest = max((length for length, _ in lengths), default=0)
    cut = [
        example
        for length, example in lengths
        if length == longest and (example.completion or "").rstrip()[-1:] not in _ENDS and longest > _LONG
        if not (example.completion or "").rstrip()[-1:].isdigit()
    ]
    different = len({example.completion for example in cut})  # labels may be of one length, but are the same
    if different >= 3 and different >= len(cut) / 2 and len(cut) / len(lengths) >= _CUT_SHARE:
        yield Finding(
            "truncated",
            f"{len(cut)} of {len(lengths)} answers end at {longest - 1} tokens in the middle of a sentence, such as "
            f"{(cut[0].completion or '')[-60:]!r}; raise synthesize.max_new_tokens, or drop what isn't finished",
        )


def _contaminated(rows: Rows, test: Sequence[Example]) -> Iterator[Finding]:
    tested = {prompt_key(example) for example in test}
    found = [example for example, _ in rows if prompt_key(example) in tested]
    if tested and found:
        yield Finding(
            "contamination",
            f"{len(found)} of {len(rows)} rows to learn have a prompt of the test split, such as {found[0].source}; "
            "leave them out (synthesize.filters: contamination)",
        )


def _tied(student: Checkpoint) -> Iterator[Finding]:
    """Embedding and head must be one matrix or two, in the weights as in config.json."""
    import safetensors

    tied = bool(student.config().get("tie_word_embeddings", True))
    found: dict[str, Any] = {}
    for file in student.weight_files():
        with safetensors.safe_open(str(file), framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                if name in ("lm_head.weight", "model.embed_tokens.weight"):
                    # One slice of rows says enough, and needs no second matrix in memory.
                    found[name] = tensors.get_slice(name)[:64]
    if len(found) < 2:
        return
    head, embedding = (np.asarray(value) for value in found.values())
    same = bool(np.array_equal(head, embedding))
    if tied != same:
        what = "differ, but config.json ties them" if tied else "are equal, but config.json doesn't tie them"
        cure = "the head would be lost on loading" if tied else "they would drift apart, and the model grow"
        yield Finding("tied", f"{student.path}: the weights of embedding and head {what}: {cure}; correct one of them")


def _vocabulary(setup: Setup) -> Iterator[Finding]:
    if setup.signal is not None and setup.signal.vocabulary != vocabulary_sha256(setup.student):
        yield Finding(
            "vocabulary",
            "the teacher's signal was made with another vocabulary than the student's tokenizer; make it again with "
            "the student's, or drop the kl loss",
        )


def _losses(setup: Setup, pad_id: int) -> list[Finding]:
    """Compute each loss on one batch as the trainer does, and again row by row from the formula."""
    import torch

    from edgestill.distill.collate import collate
    from edgestill.distill.models import load_model
    from edgestill.distill.trainer import LossModel

    findings = []
    numbers = _sample(setup.rows)
    rows = [setup.rows[number][1] for number in numbers]
    sections = [section for section in setup.losses if section.weight > 0]
    student = load_model(setup.student).eval()
    teacher = None if setup.teacher is None else load_model(setup.teacher).eval()
    with torch.no_grad():
        batch = collate(list(zip(numbers, rows, strict=True)), pad_id)
        if (wrong := _wrong_targets(batch, rows)) is not None:
            return [wrong]
        signal = None if setup.signal is None else setup.signal.for_batch(batch)
        said = None if signal is None else signal(0, 1)
        kept = None if said is None or said.ids is None else said.ids.shape[-1]
        _, values = LossModel(student, sections)(batch["input_ids"], batch["positions"], batch["targets"], signal)
        ours = _log_probabilities(student, rows)
        theirs = None if teacher is None else _log_probabilities(teacher, rows)
        targets = np.concatenate([row.input_ids[row.labels_mask] for row in rows])
    nll = float(-ours[np.arange(len(targets)), targets].mean())
    for section, value in zip(sections, values.tolist(), strict=True):
        if isinstance(section, SftLoss):
            expected, tolerance, hint = nll, _TOLERANCE, "the batch must learn the masked tokens alone, each once"
        elif isinstance(section, KlLoss) and theirs is not None:
            expected = _divergence(ours, theirs, section, kept)
            tolerance, hint = _KL_TOLERANCE, "teacher, student, temperature and beta must be those of the recipe"
        else:
            continue
        if not math.isclose(value, expected, rel_tol=tolerance, abs_tol=tolerance):
            findings.append(
                Finding(
                    "loss", f"the {section.kind} loss of a batch is {value:.4f}, by its formula {expected:.4f}; {hint}"
                )
            )
    if theirs is not None and teacher is not None:
        findings += _swapped(student, teacher, nll, theirs, targets)
    return findings


def _wrong_targets(batch: Any, rows: Sequence[Encoded]) -> Finding | None:
    """Each learnt token must be predicted once, from the position before it, and nothing else."""
    time = batch["input_ids"].shape[1]
    pairs = zip(batch["positions"].tolist(), batch["targets"].tolist(), strict=True)
    found = sorted((at // time, at % time, target) for at, target in pairs)
    expected = sorted(
        (number, at - 1, int(row.input_ids[at]))
        for number, row in enumerate(rows)
        for at in np.flatnonzero(row.labels_mask).tolist()
    )
    if found == expected:
        return None
    more = len(set(found) - set(expected))
    return Finding(
        "loss",
        f"a batch learns {len(found)} tokens where its rows have {len(expected)}, {more} of them wrong: padding in the "
        "loss, or labels that are shifted; the batch must learn the masked tokens alone, each from the one before it",
    )


def _log_probabilities(model: Any, rows: Sequence[Encoded]) -> Any:
    """Return log p ``[learnt, vocab]`` (float64) of each row by itself, without padding, at the learnt tokens."""
    import torch

    found = []
    for row in rows:
        logits = model(input_ids=torch.tensor(row.input_ids[None].astype(np.int64))).logits[0].double()
        at = np.flatnonzero(row.labels_mask) - 1
        found.append(torch.log_softmax(logits[at], -1).numpy())
    return np.concatenate(found)


def _divergence(student: Any, teacher: Any, section: KlLoss, kept: int | None) -> float:
    """Return the generalised JSD times temperature squared, from log-probabilities, in numpy.

    ``kept`` is how many of the teacher's largest the signal holds, the rest in one bucket (None: all).
    """
    width = min(student.shape[-1], teacher.shape[-1])

    def at_temperature(log_p: Any) -> Any:
        scaled = log_p[:, :width] / section.temperature
        return (
            scaled
            - np.log(np.exp(scaled - scaled.max(-1, keepdims=True)).sum(-1, keepdims=True))
            - scaled.max(-1, keepdims=True)
        )

    p, q = at_temperature(teacher), at_temperature(student)
    if kept is not None and kept < width:
        largest = np.argsort(-p, axis=-1, kind="stable")[:, :kept]
        p, q = (_bucketed(log_p, largest) for log_p in (p, q))

    def kl(a: Any, b: Any) -> float:
        return float((np.exp(a) * (a - b)).sum(-1).mean())

    if section.beta in (0.0, 1.0):
        value = kl(p, q) if section.beta == 0 else kl(q, p)
    else:
        m = np.logaddexp(p + math.log(section.beta), q + math.log1p(-section.beta))
        value = section.beta * kl(p, m) + (1 - section.beta) * kl(q, m)
    return value * section.temperature**2


def _bucketed(log_p: Any, kept: Any) -> Any:
    """Return the log-probabilities of the kept ids, and of all others together."""
    chosen = np.take_along_axis(log_p, kept, -1)
    rest = log_p.copy()
    np.put_along_axis(rest, kept, -np.inf, -1)
    highest = rest.max(-1, keepdims=True)
    return np.concatenate((chosen, highest + np.log(np.exp(rest - highest).sum(-1, keepdims=True))), -1)


def _swapped(student: Any, teacher: Any, nll: float, theirs: Any, targets: Any) -> Iterator[Finding]:
    """A teacher that is smaller and knows the answers less than the student is most likely the student."""
    sizes = [sum(weight.numel() for weight in model.parameters()) for model in (teacher, student)]
    known = float(-theirs[np.arange(len(targets)), targets].mean())
    if sizes[0] < sizes[1] and known > nll:
        yield Finding(
            "swapped",
            f"the teacher has {sizes[0]:,} parameters and gives the answers {known:.2f} nats a token, the student "
            f"{sizes[1]:,} and {nll:.2f}: they seem to be swapped",
        )
