"""The student's files: exported, quantised, each checked against the student as soon as it is made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgestill.artifact import Artifact, Checkpoint, Format, split_name
from edgestill.errors import GateError
from edgestill.example_file import ExampleFile
from edgestill.parity_gate import built_in_gates, check, reference_of
from edgestill.progress import Progress
from edgestill.recipe import Recipe
from edgestill.results import Parity
from edgestill.steps import Steps
from edgestill.storage import remove
from edgestill.training import Trained

if TYPE_CHECKING:
    from edgestill.parity_gate import AnyReference

PLAIN: dict[Format, str] = {"onnx": "fp32", "gguf": "f32", "onnx-portable": "fp32"}
"""The precision in which a format holds the checkpoint exactly: the teacher's, and what is quantised."""


EXPORTED: dict[Format, tuple[str, ...]] = {"onnx": ("fp32",), "gguf": ("f32", "f16"), "onnx-portable": ("fp32",)}


@dataclass(frozen=True)
class Made:
    """One file of the student and what the parity check said; a refused one lies in ``<name>.refused``."""

    artifact: Artifact
    parity: Parity

    @property
    def accepted(self) -> bool:
        """Whether every gate let it through."""
        return self.parity.passed

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it was refused."""
        return self.parity.reasons


def make_plain(
    steps: Steps, role: str, checkpoint: Checkpoint, sha256: str, format: Format, trained: Trained, progress: Progress
) -> Made:
    """Export the teacher or the baseline as it is (fp32), to be measured; not part of the bundle.

    It is checked like an artifact, by parity's own limits: what is measured is the model it stands for.
    Raises GateError when it isn't.
    """
    folder = steps.out_dir / "compared" / role

    def work() -> Any:
        from edgestill.export import export_checkpoint

        written = export_checkpoint(checkpoint, format, PLAIN[format], folder, progress=progress)
        with contextlib.closing(reference_of(checkpoint.path, ExampleFile(trained.held_out), progress)) as reference:
            _, parity = check(written, reference, built_in_gates(PLAIN[format]), progress)
        if not parity.passed:
            reasons = ", ".join(parity.reasons)
            raise GateError(f"the {role}'s {format} export isn't the {role} ({reasons}); report this as a bug")
        return parity.model_dump(mode="json")

    final = folder / f"{format}-{PLAIN[format]}"
    depends = [sha256, format, trained.held_out_sha256]
    done = steps.run(f"export-{role}-{format}", depends, work, outputs=[final])
    return Made(Artifact.open(final), Parity.model_validate(done.value))


def make_artifacts(steps: Steps, recipe: Recipe, trained: Trained, progress: Progress) -> list[Made]:
    """Export and quantise the student as the recipe says; a file that fails parity is refused, the others go on."""
    folder = steps.out_dir / "artifacts"
    references = _References(trained, progress)
    made: list[Made] = []

    def make(name: str, depends: Any, write: Callable[[], Artifact]) -> Made:
        final, refused = folder / name, folder / f"{name}.refused"

        def work() -> Any:
            remove(refused)
            _, parity = check(write(), references.student(), recipe.gates, progress)
            return parity.model_dump(mode="json")

        limits = [recipe.gates.min_top1_agreement, recipe.gates.max_kl]
        depends = [depends, limits, trained.held_out_sha256]
        done = steps.run(f"artifact-{name}", depends, work, outputs=[final, refused], title=f"making {name}")
        parity = Parity.model_validate(done.value)
        if not parity.passed:
            progress.note(f"{name} refused: {', '.join(parity.reasons)}")
        return Made(Artifact.open(final if parity.passed else refused), parity)

    def export(format: Format, precision: str) -> Made:
        from edgestill.export import export_checkpoint

        return make(
            f"{format}-{precision}",
            trained.student_sha256,
            lambda: export_checkpoint(trained.student, format, precision, folder, progress=progress),
        )

    def quantize(source: Artifact, precision: str) -> Made:
        from edgestill.quantize import quantize_artifact

        return make(
            f"{source.format}-{precision}",
            source.sha256,
            lambda: quantize_artifact(source, precision, folder, progress=progress),
        )

    try:
        for format in recipe.export:
            made += [export(format, precision) for precision in EXPORTED[format]]
        for target in recipe.quantize:
            wanted, precision = split_name(target)
            source = next(one for one in made if one.artifact.format == wanted)
            if source.accepted:
                made.append(quantize(source.artifact, precision))
            else:
                progress.note(f"{target} left out: {source.artifact.name}, which it is made from, was refused")
    finally:
        references.close()
    return made


class _References:
    """The student's logits on held-out text, computed once and only when a file must be checked."""

    def __init__(self, trained: Trained, progress: Progress) -> None:
        self._trained = trained
        self._progress = progress
        self._student: AnyReference | None = None

    def student(self) -> AnyReference:
        if self._student is None:
            rows = ExampleFile(self._trained.held_out)
            self._student = reference_of(self._trained.student.path, rows, self._progress)
        return self._student

    def close(self) -> None:
        if self._student is not None:
            self._student.close()
