"""Does a classifier's file still compute its checkpoint? The logits of whole texts, alone and padded in a batch.

The gates are those of :mod:`edgestill.export.parity`: a recipe's own, and for full precision the absolute ones.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgestill.artifact import Artifact
from edgestill.errors import GateError, InputError, ModelFileError
from edgestill.export.parity import EXACT_PRECISIONS
from edgestill.export.parity_comparison import EXACT_MAX_ABS_DIFF, ROUNDING_TIE
from edgestill.figure import Figure
from edgestill.progress import SILENT, Progress
from edgestill.results import Parity
from edgestill.runtime.classifier import Classifier
from edgestill.runtime.divergence import kl_divergence

BATCH: Final = 8
LONGEST: Final = 512
"""Tokens of the longest text that is compared: the texts one after the other, cut to what the model reads."""


@dataclass(frozen=True)
class ClassifierReference:
    """A classifier's logits on some token ids, each text alone and then in padded batches: ``[2 * texts, labels]``.

    ``name`` is the model's path.
    """

    name: str
    description: str
    texts: list[list[int]]
    labels: tuple[str, ...]
    logits: NDArray[np.float32]

    def close(self) -> None:
        """Nothing is held that must be freed; a decoder's reference has a file."""

    def __enter__(self) -> ClassifierReference:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def classifier_reference(model: Path, texts: Sequence[str], *, progress: Progress = SILENT) -> ClassifierReference:
    """Run a classifier on ``texts``, on their first words, and on all of them as one.

    Raises InputError when there is no text, GateError when the logits aren't finite.
    """
    given = [text for text in texts if text.strip()]
    if not given:
        raise InputError("parity: no text to compare on; give at least one that isn't empty")
    with Classifier.open(model, context_length=LONGEST) as classifier:
        asked = [*given, given[0].split()[0], " ".join(given)]
        ids = [classifier.encode(text).ids for text in asked]
        logits = _logits(classifier, ids, f"parity reference on {classifier.network.name}", progress)
        if not np.isfinite(logits).all():
            raise GateError(f"{model}: its own logits are not finite; its weights are damaged, save or train it again")
        description = f"{model.name} on {classifier.network.name}"
        return ClassifierReference(str(model), description, ids, classifier.labels, logits)


def check_classifier_parity(
    artifact: Artifact,
    reference: ClassifierReference,
    *,
    min_top1_agreement: float,
    max_kl: float,
    progress: Progress = SILENT,
) -> Parity:
    """Compare a classifier's file with the reference and say whether it passes; nothing is raised for a bad file.

    ``positions`` are texts as they were run: each alone, and each in a batch. KL(reference || file) is over labels.
    """
    refused = functools.partial(Parity.refused, artifact.name, reference.name, len(reference.texts))
    try:
        with Classifier.open(artifact.model_path, context_length=LONGEST) as classifier:
            if classifier.labels != reference.labels:
                return refused(f"its labels aren't the {len(reference.labels)} of the reference")
            found = _logits(classifier, reference.texts, f"parity of {artifact.name}", progress)
    except ModelFileError as error:
        return refused(str(error))
    if not np.isfinite(found).all():
        return refused("logits not finite")
    expected, rows = reference.logits, len(reference.logits)
    best = found.argmax(axis=-1)
    margin = expected.max(axis=-1) - expected[np.arange(rows), best]
    agreed = int((best == expected.argmax(axis=-1)).sum())
    mean_kl = max(0.0, float(kl_divergence(expected, found).mean()))
    largest = float(np.abs(found - expected).max())
    reasons = []
    if agreed / rows < min_top1_agreement:
        reasons.append(f"top-1 agreement {agreed / rows:.4f} is below min_top1_agreement {min_top1_agreement:g}")
    if mean_kl > max_kl:
        reasons.append(f"mean KL {mean_kl:.4g} nats is above max_kl {max_kl:g}")
    if artifact.precision in EXACT_PRECISIONS:
        if different := int((margin > ROUNDING_TIE).sum()):
            reasons.append(f"{different} of {rows} labels differ; in {artifact.precision} none may")
        if largest > EXACT_MAX_ABS_DIFF:
            limit = f"{EXACT_MAX_ABS_DIFF:g}, the limit for {artifact.precision}"
            reasons.append(f"largest |logit difference| {largest:.4g} is above {limit}")
    source = f"{artifact.name} against {reference.description}, each text alone and in a padded batch"
    return Parity(
        reference=reference.name,
        texts=len(reference.texts),
        positions=rows,
        top1_agreement=Figure.proportion(agreed, rows, source),
        mean_kl=Figure(value=mean_kl, unit="nats", n=rows, source=source),
        max_abs_diff=Figure(value=largest, unit="logits", n=rows, source=source),
        passed=not reasons,
        reasons=tuple(reasons),
    )


def _logits(classifier: Classifier, texts: Sequence[list[int]], label: str, progress: Progress) -> NDArray[np.float32]:
    """Return the logits of each text alone, then of batches in which all but the longest are padded."""
    batches = [[text] for text in texts] + [list(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)]
    rows = []
    with progress.task(label, len(batches), "batches") as task:
        for batch in batches:
            rows.append(classifier.logits(batch))
            task.advance()
    return np.concatenate(rows)
