"""Evaluate a sequence classifier: the label of each text, beside the right one."""

from __future__ import annotations

import time
from collections.abc import Sequence

from edgestill.dataset import Example
from edgestill.errors import DataError, InputError
from edgestill.figure import Figure
from edgestill.progress import SILENT, Progress
from edgestill.results import EvalRecord
from edgestill.runtime.classifier import Classifier
from edgestill.runtime.evaluate import Evaluation, Prediction
from edgestill.runtime.tasks import Task
from edgestill.runtime.tasks.classification import ClassificationTask


def check_task(model: str, name: str, task: Task | None) -> ClassificationTask:
    """Return the task when a classifier can be scored on it. Raises InputError for any but ``classification``."""
    if not isinstance(task, ClassificationTask):
        raise InputError(
            f"{model}: a sequence classifier can't be scored on task {name!r}, which asks for text; "
            "give --task classification"
        )
    return task


def evaluate_classifier(
    classifier: Classifier,
    task: ClassificationTask,
    examples: Sequence[Example],
    *,
    model_name: str,
    progress: Progress = SILENT,
) -> Evaluation:
    """Classify each example's text, one after the other, and score the labels.

    The metrics are the task's, with ``answer_seconds`` (median wall seconds from text to label). A text that is
    longer than the model reads is cut at its end, and ``progress`` is told. Raises DataError when there are no
    examples, one isn't a single text with a label, or no example's label is one of the model's.
    """
    if not examples:
        raise DataError(f"no examples to evaluate {model_name} on; give a data file with rows in it")
    golds = [task.gold(example) for example in examples]
    texts = [text_of(example) for example in examples]
    known = set(classifier.labels)
    if not any(gold[0].strip() in known for gold in golds):
        raise DataError(
            f"{examples[0].source}: label {golds[0][0]!r} is not one of {model_name}'s ({_some(classifier.labels)}), "
            "nor is any other row's; write the names of its labels into id2label of its config.json"
        )
    predictions, cut = [], 0
    with progress.task(f"evaluating {model_name}", len(texts), "answers") as under_way:
        for example, text, gold in zip(examples, texts, golds, strict=True):
            started = time.perf_counter()
            read = classifier.encode(text)
            label = classifier.labels[int(classifier.logits([read])[0].argmax())]
            seconds = time.perf_counter() - started
            cut += read.cut
            predictions.append(Prediction(example.source, label, tuple(gold), seconds, len(read.ids), 0, "label"))
            under_way.advance()
    if cut:
        progress.note(f"{model_name}: {cut} of {len(texts)} texts were cut to the {classifier.longest} tokens it reads")
    labels = [row.text for row in predictions]
    seconds_each = [row.seconds for row in predictions]
    source = "wall clock per text, from text to label, one after the other"
    metrics = {**task.score(labels, golds), "answer_seconds": Figure.median(seconds_each, "seconds", source)}
    record = EvalRecord(model=model_name, metrics=metrics)
    return Evaluation(record, task.statistics(labels, golds), tuple(predictions))


def text_of(example: Example) -> str:
    """Return the text that a classifier reads of an example: its text, or its only message.

    Raises DataError, naming the row, for a conversation of several messages.
    """
    if example.text is not None:
        return example.text
    prompt = example.prompt
    if len(prompt) != 1:
        raise DataError(
            f"{example.source}: {len(prompt)} messages before the label; a sequence classifier reads one text "
            "(no system message)"
        )
    return prompt[0].content


def _some(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:3])
    return shown if len(labels) <= 3 else f"{shown} and {len(labels) - 3} more"
