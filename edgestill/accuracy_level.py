"""Choosing how a block-quantised ONNX file multiplies: with int8 activations unless they flip a greedy token.

MatMulNBits' ``accuracy_level`` 4 rounds activations to int8, which is many times as fast on a CPU; 1 keeps them in
float32 (2 and 3, float16 and bfloat16, compute like 1 on x86). Candidates are swept from the fastest on, each over
the parity text, against the same weights with float activations. A candidate is rejected when it changes a greedy
token that the weights' own rounding leaves decided: the reference and float activations agree on the token, and its
lead over the other is larger than the largest change that quantising the weights made to any logit there. Where the
lead is smaller, the token is a toss-up already; such changes are counted in the artifact's note and reject nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgestill.artifact import DESCRIPTION_FILE, Artifact
from edgestill.progress import Progress
from edgestill.storage import whole_folder
from edgestill.weight_blocks import GRIDS

if TYPE_CHECKING:
    import onnx_ir as ir

_FLOAT: Final = 1
_INT8: Final = 4
_ATTRIBUTE: Final = "accuracy_level"


class ReferenceLogits(Protocol):
    """Texts as token ids and the unquantised model's logits on each, ``[time, vocab]`` float32."""

    @property
    def texts(self) -> Sequence[Sequence[int]]: ...

    def logits(self, index: int) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Flips:
    """Greedy tokens of ``positions`` that differ from those with float activations; ``decided`` of them reject."""

    positions: int
    changed: int
    decided: int

    def __str__(self) -> str:
        which = f"{self.decided} of them decided" if self.decided else "none of them decided"
        return f"{self.changed} of {self.positions:,} greedy tokens differ from those with float ones, {which}"


_CANDIDATES: Final[tuple[tuple[str, tuple[str, ...] | None], ...]] = (
    ("int8 activations", ()),
    ("int8 activations, float ones in the MLP's last projection", ("down",)),
)
"""(what a person reads, the roles of projections whose activations stay float), the fastest first."""


def settle_accuracy_level(artifact: Artifact, reference: ReferenceLogits, progress: Progress) -> Artifact:
    """Set the fastest ``accuracy_level`` that flips no decided greedy token; return the artifact as it is then.

    Only int8 and int4 ONNX files with int8 activations are looked at; others are returned as they are. The choice and
    its figures become a note of the artifact, whose folder is replaced whole. Raises ModelFileError when onnxruntime
    can't run the file.
    """
    if artifact.format != "onnx" or artifact.precision not in GRIDS:
        return artifact
    import onnx_ir as ir

    model = ir.load(artifact.folder / artifact.entry)
    nodes = [node for node in model.graph if node.op_type == "MatMulNBits" and _level(node) == _INT8]
    if not nodes:
        return artifact
    notes: list[str] = []
    with _graphs_beside(artifact) as (floats, candidate):
        _save_with(model, nodes, None, floats)
        chosen: tuple[str, ...] | None = None
        for name, roles in _CANDIDATES:
            _save_with(model, nodes, roles, candidate)
            found = _flips(artifact, floats, candidate, reference, progress)
            if not found.decided:
                chosen = roles
                notes.insert(0, f"{name}: {found}")
                break
            notes.append(f"{name} rejected: {found}")
        else:
            notes.insert(0, "float activations (accuracy_level 1), many times slower than int8 ones")
    if len(notes) > 1:
        progress.note(f"{artifact.name}: {'; '.join(notes)}")
    return _rewritten(artifact, model, nodes, chosen, "; ".join(notes))


def _level(node: ir.Node) -> int:
    return node.attributes[_ATTRIBUTE].as_int() if _ATTRIBUTE in node.attributes else 0


def _save_with(model: ir.Model, nodes: Sequence[ir.Node], float_roles: tuple[str, ...] | None, path: Path) -> None:
    """Save the model with float activations in projections of some roles (None: all) and int8 ones elsewhere."""
    import onnx_ir as ir

    for node in nodes:
        is_float = float_roles is None or set((node.name or "").split(".")) & set(float_roles)
        node.attributes[_ATTRIBUTE] = ir.AttrInt64(_ATTRIBUTE, _FLOAT if is_float else _INT8)
    ir.save(model, path)


@contextmanager
def _graphs_beside(artifact: Artifact) -> Iterator[tuple[Path, Path]]:
    """Yield paths for two graphs that share the artifact's data file: they must lie beside it."""
    paths = artifact.folder / "float-activations.onnx", artifact.folder / "candidate.onnx"
    try:
        yield paths
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


def _flips(artifact: Artifact, floats: Path, candidate: Path, reference: ReferenceLogits, progress: Progress) -> Flips:
    """Compare the greedy tokens of two graphs over the reference's texts."""
    from edgestill.runtime.engines import open_engine
    from edgestill.runtime.model_source import ModelSource

    engines = [open_engine(ModelSource(str(path), "onnx", path)) for path in (floats, candidate)]
    positions = changed = decided = 0
    try:
        with progress.task(f"activations of {artifact.name}", len(reference.texts), "texts") as task:
            for index, text in enumerate(reference.texts):
                exact, found = (engine.logits(text) for engine in engines)
                changes, firm = count_flips(reference.logits(index), exact, found)
                positions, changed, decided = positions + len(text), changed + changes, decided + firm
                task.advance()
    finally:
        for engine in engines:
            engine.close()
    return Flips(positions, changed, decided)


def count_flips(
    reference: NDArray[np.float32], exact: NDArray[np.float32], found: NDArray[np.float32]
) -> tuple[int, int]:
    """Return how many greedy tokens of ``found`` aren't those of ``exact``, and how many of them were decided.

    All are logits ``[time, vocab]`` float32: of the unquantised model, and of the quantised weights with float
    activations and with those in question.
    """
    before, after = exact.argmax(axis=-1), found.argmax(axis=-1)
    rows = np.flatnonzero(before != after)
    lead = exact[rows, before[rows]] - exact[rows, after[rows]]
    rounding = np.abs(exact[rows] - reference[rows]).max(axis=-1, initial=0.0)
    agreed = reference[rows].argmax(axis=-1) == before[rows]
    return len(rows), int((agreed & (lead > rounding)).sum())


def _rewritten(
    artifact: Artifact, model: ir.Model, nodes: Sequence[ir.Node], float_roles: tuple[str, ...] | None, note: str
) -> Artifact:
    """Replace the artifact's folder by one with the chosen graph and another note; weights are linked, not copied."""
    with whole_folder(artifact.folder) as folder:
        for path in artifact.folder.iterdir():
            if path.name not in (DESCRIPTION_FILE, artifact.entry):
                _link(path, folder / path.name)
        _save_with(model, nodes, float_roles, folder / artifact.entry)
        Artifact.describe(
            folder,
            artifact.format,
            artifact.precision,
            artifact.entry,
            parent=artifact.parent,
            notes=(*artifact.notes, note),
        )
    return Artifact.open(artifact.folder)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
