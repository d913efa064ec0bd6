"""Export or quantise, then prove the file at once: what passes keeps its name, what fails is set aside.

The result lies in the artifact's folder as ``parity.json``. A file that a gate refuses is renamed to
``<name>.refused``, so that nothing later takes it for good.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from edgestill.accuracy_level import settle_accuracy_level
from edgestill.artifact import PARITY_FILE, Artifact, Checkpoint, Format
from edgestill.dataset import Example, read_examples
from edgestill.errors import InputError, ModelFileError
from edgestill.progress import Progress
from edgestill.recipe import Gates
from edgestill.results import ArtifactRecord, ArtifactsDocument, Parity, ParityDocument, Refused
from edgestill.storage import remove, write_text

if TYPE_CHECKING:
    from edgestill.export.classifier_parity import ClassifierReference
    from edgestill.export.parity_cases import CaseName
    from edgestill.export.parity_reference import Reference
    from edgestill.runtime.tokenizer import Tokenizer

    AnyReference = Reference | ClassifierReference

UNQUANTISED: Final = ("fp32", "fp16", "f32", "f16", "bf16")
MAX_TEXTS: Final = 64
MAX_POSITIONS: Final = 4096

BUILT_IN_TEXT: Final = (
    "The old lighthouse keeper climbed the stairs each evening, lit the lamp, and wrote one line in his book.",
    "To reset the thermostat, hold the left button for ten seconds; the display then shows 20.5 °C.",
    "She said: “It's not the wind, it's the tide.” Nobody answered, because nobody knew.",
    '{"name": "probe", "values": [1, 2, 3.25], "nested": {"ok": true, "note": null}}',
    "def area(width, height):\n    # rectangles only\n    return width * height\n",
    "Zürich, São Paulo, 東京 and Москва are cities; 🚲 is a bicycle. Call 555-0199 before 9:30 a.m.",
    "Once there was a little girl who had a red ball. One day the ball rolled under a big tree, and she was sad.",
    "Total: 1,234.56 EUR (19% VAT incl.); paid 2024-02-29, order #00017.",
)
"""Plain text for the parity check of a checkpoint that comes without held-out data; written for this."""


def built_in_gates(precision: str) -> Gates:
    """Return the gates of a bare ``export``: for quantised files, of which a recipe says how near they must be, a
    loose one; for the others top-1 agreement as 16 bits keep it, beside parity's own absolute limits."""
    if precision in UNQUANTISED:
        return Gates(min_top1_agreement=0.98, max_kl=0.05)
    return Gates(min_top1_agreement=0.0, max_kl=1.0)


def held_out_ids(tokenizer: Tokenizer, examples: Iterable[Example]) -> list[list[int]]:
    """Return token ids of whole held-out rows: conversations with their answer, or texts.

    At most ``MAX_TEXTS`` rows and ``MAX_POSITIONS`` tokens. Raises InputError when no row has two tokens.
    """
    from edgestill.runtime.session import render_prompt

    chosen: list[list[int]] = []
    room = MAX_POSITIONS
    for example in examples:
        ids = render_prompt(tokenizer, example.text if example.text is not None else example.prompt)
        if example.completion is not None:
            ids = [*ids, *tokenizer.encode(example.completion, add_special=False)]
        if len(ids[:room]) >= 2:
            chosen.append(ids[:room])
            room -= len(chosen[-1])
        if len(chosen) == MAX_TEXTS or room < 2:
            break
    if not chosen:
        raise InputError("no held-out text to check parity on; give a data file with rows")
    return chosen


def rows_or_built_in(data: Path | None) -> list[Example]:
    """Return the rows of a data file, or the built-in texts."""
    if data is None:
        return [Example(text=text, source="built-in") for text in BUILT_IN_TEXT]
    return list(read_examples(data, limit=MAX_TEXTS))


def record_of(artifact: Artifact, parity: Parity | None, extra_notes: Sequence[str] = ()) -> ArtifactRecord:
    """Return an artifact as commands print it."""
    return ArtifactRecord(
        name=artifact.name,
        path=str(artifact.model_path),
        format=artifact.format,
        precision=artifact.precision,
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
        parity=parity,
        notes=(*artifact.notes, *extra_notes),
    )


def check(artifact: Artifact, reference: AnyReference, gates: Gates, progress: Progress) -> tuple[Artifact, Parity]:
    """Settle how a file multiplies, compare it with a reference, write parity.json; return it as it is then.

    A failing one is renamed to ``<name>.refused``.
    """
    from edgestill.export.classifier_parity import ClassifierReference, check_classifier_parity
    from edgestill.export.parity import check_parity

    limits = {"min_top1_agreement": gates.min_top1_agreement, "max_kl": gates.max_kl}
    if isinstance(reference, ClassifierReference):
        parity = check_classifier_parity(artifact, reference, **limits, progress=progress)
    else:
        with contextlib.suppress(ModelFileError):  # the check itself says so
            artifact = settle_accuracy_level(artifact, reference, progress)
        parity = check_parity(artifact, reference, **limits, progress=progress)
    document = ParityDocument(
        name=artifact.name,
        format=artifact.format,
        precision=artifact.precision,
        sha256=artifact.sha256,
        parity=parity,
    )
    write_text(artifact.folder / PARITY_FILE, document.to_json() + "\n")
    if not parity.passed:
        refused = artifact.folder.with_name(artifact.folder.name + ".refused")
        remove(refused)
        artifact.folder.rename(refused)
        artifact = replace(artifact, folder=refused)
    return artifact, parity


def recorded_parity(artifact: Artifact) -> Parity | None:
    """Return what parity.json says of an artifact; None when there is none, or it is about other bytes.

    Raises ModelFileError when the file isn't what the check writes.
    """
    path = artifact.folder / PARITY_FILE
    if not path.is_file():
        return None
    try:
        document = ParityDocument.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise ModelFileError(f"{path}: not a parity result ({str(error).splitlines()[0]}); remove it") from error
    return document.parity if document.sha256 == artifact.sha256 else None


def export_checked(
    checkpoint: Checkpoint,
    format: Format,
    precision: str,
    out: Path,
    *,
    gates: Gates | None,
    data: Path | None,
    progress: Progress,
) -> ArtifactsDocument:
    """Export one format and check it against the checkpoint on torch (``gates`` None: don't check)."""
    from edgestill.export import export_checkpoint

    rows = rows_or_built_in(data)
    artifact = export_checkpoint(checkpoint, format, precision, out, progress=progress)
    if gates is None:
        return ArtifactsDocument(artifacts=(record_of(artifact, None),))
    with reference_of(checkpoint.path, rows, progress, _case_name(data)) as reference:
        return _document(*check(artifact, reference, gates, progress))


def quantize_checked(
    source: Artifact,
    precision: str,
    out: Path,
    *,
    reference: Checkpoint | None,
    gates: Gates | None,
    data: Path | None,
    progress: Progress,
) -> ArtifactsDocument:
    """Quantise one artifact and check it against ``reference``, or against its source."""
    from edgestill.quantize import quantize_artifact

    rows = rows_or_built_in(data)
    artifact = quantize_artifact(source, precision, out, progress=progress)
    if gates is None:
        return ArtifactsDocument(artifacts=(record_of(artifact, None),))
    model = source.model_path if reference is None else reference.path
    with reference_of(model, rows, progress, _case_name(data)) as against:
        return _document(*check(artifact, against, gates, progress))


def reference_of(model: Path, rows: Iterable[Example], progress: Progress, name: CaseName = "held-out") -> AnyReference:
    """Return the logits of a checkpoint (on torch) or of an artifact on the rows' tokens and on the hard cases."""
    from edgestill.export.classifier_parity import classifier_reference
    from edgestill.export.parity_reference import reference_logits
    from edgestill.runtime.classifier import is_classifier
    from edgestill.runtime.evaluate_classifier import text_of
    from edgestill.runtime.model_source import locate_model
    from edgestill.runtime.session import Session
    from edgestill.runtime.tokenizer import FastTokenizer

    if is_classifier(locate_model(model)):
        return classifier_reference(model, [text_of(row) for row in rows], progress=progress)
    if (model / "tokenizer.json").is_file():
        tokenizer = FastTokenizer(model)
        ids = held_out_ids(tokenizer, rows)
        return reference_logits(model, ids, name=name, tokenizer=tokenizer, progress=progress)
    with Session.open(model) as session:  # a GGUF file brings its tokenizer inside
        ids = held_out_ids(session.tokenizer, rows)
    return reference_logits(model, ids, name=name, progress=progress)


def _case_name(data: Path | None) -> CaseName:
    return "built-in" if data is None else "held-out"


def _document(artifact: Artifact, parity: Parity) -> ArtifactsDocument:
    if parity.passed:
        return ArtifactsDocument(artifacts=(record_of(artifact, parity),))
    return ArtifactsDocument(artifacts=(), refused=(Refused(name=artifact.name, reasons=parity.reasons),))
