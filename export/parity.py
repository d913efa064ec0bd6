"""Does a file still compute its checkpoint? Its logits against torch's, position by position.

Every file meets the recipe's gates. A file that claims full precision (fp32, f32) also meets gates that
no recipe can loosen: no logit off by more than 1e-3, and the same top-1 token everywhere, but for ties
that float32 rounding decides. Where the engine itself doesn't compute in float32 (llama.cpp's GELU is a table
of float16) they can't be met by any file, and the limits are those of other precisions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edgestill.artifact import Artifact, Checkpoint
from edgestill.errors import GateError, InputError, ModelFileError
from edgestill.progress import SILENT, Progress
from edgestill.results import Figure, Parity
from edgestill.runtime.divergence import kl_divergence
from edgestill.runtime.engine import Engine

MAX_POSITIONS: Final = 4096
MAX_REFERENCE_BYTES: Final = 1 << 30
"""A reference keeps at most so many positions, and so many bytes of logits, on disk."""

EXACT_PRECISIONS: Final = ("fp32", "f32")
EXACT_MAX_ABS_DIFF: Final = 1e-3
ROUNDING_TIE: Final = 1e-5
"""Two reference logits nearer than this are a tie that the order of float32 sums decides."""

STEP_TOKENS: Final = 64
STEP_MAX_KL: Final = 0.01
"""Token by token against all at once, on one text: for files that aren't full precision, mean KL in nats
(kernels for one row and for many may round differently; a broken KV cache is off by whole nats)."""


class Reference:
    """A model's logits on some texts, float32, in a temporary file that it owns.

    ``name`` is the model's path, ``texts`` are the token ids. Use in a ``with`` block, or call :meth:`close`.
    """

    def __init__(self, name: str, description: str, texts: list[list[int]], vocab_size: int) -> None:
        self.name = name
        self.description = description
        self.texts = texts
        self.vocab_size = vocab_size
        self._folder = tempfile.TemporaryDirectory(prefix="edgestill-parity-")
        shape = (self.positions, vocab_size)
        self._rows: NDArray[np.float32] = np.memmap(
            Path(self._folder.name) / "logits", dtype=np.float32, mode="w+", shape=shape
        )

    @property
    def positions(self) -> int:
        """How many positions are compared."""
        return sum(len(text) for text in self.texts)

    def logits(self, index: int) -> NDArray[np.float32]:
        """Return the logits of text ``index``, ``[time, vocab]``, a view into the file."""
        start = sum(len(text) for text in self.texts[:index])
        return self._rows[start : start + len(self.texts[index])]

    def close(self) -> None:
        """Delete the temporary file."""
        self._rows = np.empty((0, self.vocab_size), np.float32)
        self._folder.cleanup()

    def __enter__(self) -> Reference:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def reference_logits(
    model: Checkpoint | Path, token_ids: Sequence[Sequence[int]], *, progress: Progress = SILENT
) -> Reference:
    """Run a model on ``token_ids`` (one sequence a text) and keep its logits.

    A checkpoint runs in torch; where there is none, the file that another was made from (its path) can
    be the reference, in its own engine. A text is cut to the model's context; texts past 4096 positions
    or 1 GiB of logits are left out, and ``progress`` is told. Raises InputError when there is no token
    to compare on, GateError when the reference itself gives logits that aren't finite.
    """
    from edgestill.runtime.engines import open_engine
    from edgestill.runtime.model_source import locate_model

    path = model.path if isinstance(model, Checkpoint) else model
    engine = open_engine(locate_model(path))
    try:
        room = min(MAX_POSITIONS, MAX_REFERENCE_BYTES // (4 * engine.vocab_size))
        texts = _within(token_ids, engine.context_length, room)
        if not texts:
            raise InputError("parity: no tokens to compare on; give at least one text that isn't empty")
        wanted = sum(len(ids) for ids in token_ids)
        reference = Reference(str(path), f"{path.name} on {engine.name}", texts, engine.vocab_size)
        if reference.positions < wanted:
            progress.note(f"parity compares {reference.positions} of {wanted} positions")
        try:
            with progress.task(f"parity reference on {engine.name}", len(texts), "texts") as task:
                for index, text in enumerate(texts):
                    logits = engine.logits(text)
                    if not np.isfinite(logits).all():
                        raise GateError(
                            f"{path}: its own logits are not finite ({_first_bad(logits, index)}); "
                            "its weights are damaged, save or train it again"
                        )
                    reference.logits(index)[:] = logits
                    task.advance()
        except BaseException:
            reference.close()
            raise
        return reference
    finally:
        engine.close()


def check_parity(
    artifact: Artifact,
    reference: Reference,
    *,
    min_top1_agreement: float,
    max_kl: float,
    progress: Progress = SILENT,
) -> Parity:
    """Compare an artifact's logits with the reference's and say whether it passes.

    Top-1 agreement counts equal argmax plainly; KL(reference || file) is in nats, from float64
    log-softmax, averaged over positions. The first text is also decoded token by token, which must give
    what the whole prompt at once gives. A file that can't be loaded, or gives logits that aren't finite,
    is refused with that as its reason; nothing is raised for a bad file.
    """
    from edgestill.runtime.engines import open_engine
    from edgestill.runtime.model_source import locate_model

    try:
        engine = open_engine(locate_model(artifact.model_path))
    except ModelFileError as error:
        return _refused(artifact, reference, str(error))
    try:
        if engine.vocab_size != reference.vocab_size:
            sizes = f"{engine.vocab_size} logits a position, the reference has {reference.vocab_size}"
            return _refused(artifact, reference, sizes)
        exact = artifact.precision in EXACT_PRECISIONS and engine.float32
        agreed = beyond_rounding = 0
        total_kl = largest = 0.0
        step_reason = None
        with progress.task(f"parity of {artifact.name}", len(reference.texts), "texts") as task:
            for index, text in enumerate(reference.texts):
                found, expected = engine.logits(text), reference.logits(index)
                if not np.isfinite(found).all():
                    return _refused(artifact, reference, f"logits not finite ({_first_bad(found, index)})")
                best = found.argmax(axis=-1)
                margin = expected.max(axis=-1) - expected[np.arange(len(text)), best]
                agreed += int((best == expected.argmax(axis=-1)).sum())
                beyond_rounding += int((margin > ROUNDING_TIE).sum())
                total_kl += float(kl_divergence(expected, found).sum())
                largest = max(largest, float(np.abs(found - expected).max()))
                if index == 0:
                    step_reason = _compare_steps(engine, text[:STEP_TOKENS], found, exact)
                task.advance()
    finally:
        engine.close()

    positions = reference.positions
    mean_kl = max(0.0, total_kl / positions)
    reasons = [] if step_reason is None else [step_reason]
    if agreed / positions < min_top1_agreement:
        reasons.append(f"top-1 agreement {agreed / positions:.4f} is below min_top1_agreement {min_top1_agreement:g}")
    if mean_kl > max_kl:
        reasons.append(f"mean KL {mean_kl:.4g} nats is above max_kl {max_kl:g}")
    if exact and beyond_rounding:
        reasons.append(f"{beyond_rounding} of {positions} top-1 tokens differ; in {artifact.precision} none may")
    if exact and largest > EXACT_MAX_ABS_DIFF:
        limit = f"{EXACT_MAX_ABS_DIFF:g}, the limit for {artifact.precision}"
        reasons.append(f"largest |logit difference| {largest:.4g} is above {limit}")
    source = f"{artifact.name} against {reference.description}"
    return Parity(
        reference=reference.name,
        texts=len(reference.texts),
        positions=positions,
        top1_agreement=Figure.proportion(agreed, positions, source),
        mean_kl=Figure(value=mean_kl, unit="nats", n=positions, source=source),
        max_abs_diff=Figure(value=largest, unit="logits", n=positions, source=source),
        passed=not reasons,
        reasons=tuple(reasons),
    )


def _within(token_ids: Sequence[Sequence[int]], context_length: int, room: int) -> list[list[int]]:
    """Return the texts that are kept: none empty, each within the context, all within ``room`` positions."""
    texts = []
    for ids in token_ids:
        text = [int(token) for token in ids[: min(context_length, room)]]
        if text:
            texts.append(text)
            room -= len(text)
    return texts


def _compare_steps(engine: Engine, text: Sequence[int], whole: NDArray[np.float32], exact: bool) -> str | None:
    """Decode ``text`` token by token and return why it differs from ``whole`` too much, if it does."""
    engine.rewind(0)
    steps = np.stack([engine.append([token]).copy() for token in text])
    engine.rewind(0)
    if not np.isfinite(steps).all():
        return f"token by token, logits not finite ({_first_bad(steps, 0)})"
    if exact:
        largest = float(np.abs(steps - whole[: len(steps)]).max())
        if largest > EXACT_MAX_ABS_DIFF:
            return (
                f"token by token, logits differ by {largest:.4g} from the whole prompt's (limit {EXACT_MAX_ABS_DIFF:g})"
            )
        return None
    mean_kl = float(kl_divergence(whole[: len(steps)], steps).mean())
    if mean_kl > STEP_MAX_KL:
        return f"token by token, mean KL from the whole prompt's logits is {mean_kl:.4g} nats (limit {STEP_MAX_KL:g})"
    return None


def _first_bad(logits: NDArray[np.float32], text: int) -> str:
    position = int(np.argmin(np.isfinite(logits).all(axis=-1)))
    return f"first at text {text}, position {position}"


def _refused(artifact: Artifact, reference: Reference, reason: str) -> Parity:
    why = f"{artifact.name} was refused: {reason}"
    return Parity(
        reference=reference.name,
        texts=len(reference.texts),
        positions=0,
        top1_agreement=Figure.missing("fraction", why),
        mean_kl=Figure.missing("nats", why),
        max_abs_diff=Figure.missing("logits", why),
        passed=False,
        reasons=(reason,),
    )
