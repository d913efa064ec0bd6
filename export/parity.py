"""Does a file still compute its checkpoint? Its logits against torch's, position by position, case by case.

Every file meets the recipe's gates on held-out text. A file that claims full precision (fp32, f32) also meets, in
every case, gates that no recipe can loosen: those of :mod:`edgestill.export.parity_comparison`, and its tokenizer gives
the original's ids. Where the engine itself doesn't compute in float32 (llama.cpp's GELU is a table of float16) they
can't be met by any file, and the limits are those of other precisions: finite logits, and a KV cache that agrees with
the prompt run at once.
"""

from __future__ import annotations

import functools
import re
from typing import Final, cast

import numpy as np

from edgestill.artifact import Artifact
from edgestill.errors import CheckpointError, ModelFileError
from edgestill.export.parity_cases import Case, Run
from edgestill.export.parity_comparison import EXACT_MAX_ABS_DIFF, Rows, Tally
from edgestill.export.parity_reference import Reference, first_bad, reference_logits, walk
from edgestill.export.parity_sessions import Session, sessions
from edgestill.export.tokenizer_parity import compare_tokenizer, unusable_tokenizer
from edgestill.figure import Figure
from edgestill.progress import SILENT, Progress, Task
from edgestill.results import Parity, ParityCase, TokenizerParity
from edgestill.runtime.divergence import kl_divergence
from edgestill.runtime.engine import Engine
from edgestill.storage import sha256_file

__all__ = ["Reference", "check_parity", "reference_logits"]

EXACT_PRECISIONS: Final = ("fp32", "f32")

STEP_MAX_KL: Final = 0.01
"""With the KV cache against all at once, on one text: for files that aren't full precision, mean KL in nats
(kernels for one row and for many may round differently; a broken KV cache is off by whole nats)."""

_CACHED: Final = {"steps": "token by token", "chunks": "in pieces, after rewinds"}
"""Cases that are also compared with the file's own logits of the prompt run at once, and how a person says it."""

_WINDOW_NOTE: Final = re.compile(r"llama\.cpp ignores .*sliding window: from token (\d+) on")


class _NotFiniteError(Exception):
    """A file's logits aren't finite; the text says where."""


def check_parity(
    artifact: Artifact,
    reference: Reference,
    *,
    min_top1_agreement: float,
    max_kl: float,
    progress: Progress = SILENT,
) -> Parity:
    """Compare an artifact's logits and tokenizer with the reference's and say whether it passes.

    Top-1 agreement counts equal argmax plainly; KL(reference || file) is in nats, from float64
    log-softmax, averaged over positions. The recipe's gates hold on the first case. A file that can't be loaded, or
    gives logits that aren't finite, is refused with that as its reason; nothing is raised for a bad file.
    """
    from edgestill.runtime.engines import open_engine
    from edgestill.runtime.model_source import locate_model

    refused = functools.partial(Parity.refused, artifact.name, reference.name, len(reference.texts))
    rows: dict[str, ParityCase] = {}
    notes: list[str] = []
    tokenizer: TokenizerParity | None = None
    total = sum(run.positions for case in reference.cases for run in case.runs)
    with progress.task(f"parity of {artifact.name}", total, "positions") as task:
        for session in sessions(artifact.format, reference):
            try:
                engine = open_engine(locate_model(artifact.model_path), context_length=session.context_length)
            except ModelFileError as error:
                return refused(str(error))
            try:
                if reason := _unfit(engine, session, reference):
                    return refused(reason)
                check = _Check(artifact, reference, engine, session, task)
                for case in session.cases:
                    rows[case.name] = check.case(case)
                if artifact.precision in EXACT_PRECISIONS and not engine.float32:
                    notes = [f"{engine.name} doesn't compute this architecture in float32: limits of other precisions"]
                if tokenizer is None and reference.tokens is not None:
                    tokenizer = _tokenizer_parity(artifact, reference, engine)
            except (_NotFiniteError, ModelFileError) as error:
                return refused(str(error), tuple(rows.values()))
            finally:
                engine.close()

    cases = tuple(rows[case.name] for case in reference.cases)
    first = cases[0]
    reasons = []
    if first.positions:
        agreement, mean_kl = first.top1_agreement.value or 0.0, first.mean_kl.value or 0.0
        if agreement < min_top1_agreement:
            reasons.append(f"top-1 agreement {agreement:.4f} is below min_top1_agreement {min_top1_agreement:g}")
        if mean_kl > max_kl:
            reasons.append(f"mean KL {mean_kl:.4g} nats is above max_kl {max_kl:g}")
    else:
        reasons.append(f"no position of the {first.name} text can be compared: {first.note}")
    reasons += [f"{case.name}: {reason}" for case in cases for reason in case.reasons]
    if tokenizer is not None and artifact.precision in EXACT_PRECISIONS:
        reasons += [f"tokenizer: {reason}" for reason in tokenizer.reasons]
    return Parity(
        reference=reference.name,
        texts=first.texts,
        positions=first.positions,
        top1_agreement=first.top1_agreement,
        mean_kl=first.mean_kl,
        max_abs_diff=first.max_abs_diff,
        passed=not reasons,
        reasons=tuple(reasons),
        cases=cases,
        tokenizer=tokenizer,
        notes=tuple(notes),
    )


class _Check:
    """One session's part of the check."""

    def __init__(self, artifact: Artifact, reference: Reference, engine: Engine, session: Session, task: Task) -> None:
        self._artifact = artifact
        self._reference = reference
        self._engine = engine
        self._session = session
        self._task = task
        self._exact = artifact.precision in EXACT_PRECISIONS and engine.float32
        self._window_note, self._reach = _announced_window(artifact)

    def case(self, case: Case) -> ParityCase:
        """Run a case and return its row. Raises _NotFiniteError."""
        tally = Tally()
        runs = [run for run in case.runs if self._session.can_compare(case, run)]
        notes = [self._session.note(case)] if len(runs) < len(case.runs) or case.name == "rope-boundary" else []
        for index, run in enumerate(runs):
            within = _within(run, self._reach)
            if within is None or within.positions < run.positions:
                notes.append(self._window_note)
            if within is not None:
                self._compare(case, index, run, within, tally)
            self._task.advance(run.positions)
        notes = [note for note in dict.fromkeys(notes) if note]
        if not tally.positions:
            return _not_run(case, case.skipped or "; ".join(notes) or "nothing to compare")
        if self._exact:
            tally.refuse_inexact(self._artifact.precision)
        source = f"{self._artifact.name} against {self._reference.description}, {case.name}"
        return ParityCase(
            name=case.name,
            texts=tally.texts,
            positions=tally.positions,
            top1_agreement=Figure.proportion(tally.agreed, tally.positions, source),
            mean_kl=Figure(value=tally.mean_kl, unit="nats", n=tally.positions, source=source),
            max_abs_diff=Figure(value=tally.largest, unit="logits", n=tally.positions, source=source),
            passed=not tally.reasons,
            reasons=tuple(tally.reasons),
            note="; ".join(notes),
        )

    def _compare(self, case: Case, index: int, run: Run, within: Run, tally: Tally) -> None:
        if not run.pieces:
            found = self._engine.logits(within.text)
            expected = self._reference.whole(run.text)[: len(found)]
            lengths = np.arange(1, len(found) + 1)
        else:
            found = np.stack(list(walk(self._engine, within)))
            every = self._reference.after_pieces(case, run, beyond=self._session.beyond)
            expected = every[[run.pieces.index(piece) for piece in within.pieces]]
            lengths = np.array(within.ends) + 1
        if not np.isfinite(found).all():
            raise _NotFiniteError(f"{case.name}: logits not finite ({first_bad(found, index)})")
        tally.add(expected, found, lengths)
        if case.name in _CACHED and (reason := self._cache_reason(case, within, found)):
            tally.reasons.append(reason)

    def _cache_reason(self, case: Case, run: Run, found: Rows) -> str | None:
        """Return why the logits after pieces differ too much from those of the prompt at once, if they do."""
        whole = self._engine.logits(run.text[: max(run.ends) + 1])[run.ends]
        how = _CACHED[case.name]
        if self._exact:
            largest = float(np.abs(found - whole).max())
            if not largest <= EXACT_MAX_ABS_DIFF:
                limit = f"limit {EXACT_MAX_ABS_DIFF:g}"
                return f"{how}, logits differ by {largest:.4g} from the whole prompt's ({limit})"
            return None
        mean_kl = float(kl_divergence(whole, found).mean())
        if not mean_kl <= STEP_MAX_KL:
            return f"{how}, mean KL from the whole prompt's logits is {mean_kl:.4g} nats (limit {STEP_MAX_KL:g})"
        return None


def _within(run: Run, reach: int | None) -> Run | None:
    """Return the part of a run that lies within the first ``reach`` tokens, if any does."""
    if reach is None or len(run.text) <= reach:
        return run
    pieces = tuple(piece for piece in run.pieces if sum(piece) <= reach)
    return Run(run.text[:reach], pieces) if pieces or not run.pieces else None


def _announced_window(artifact: Artifact) -> tuple[str, int | None]:
    """Return the artifact's note that llama.cpp ignores a sliding window, and how many tokens that doesn't touch."""
    for note in artifact.notes:
        if found := _WINDOW_NOTE.search(note):
            return note, int(found[1])
    return "", None


def _unfit(engine: Engine, session: Session, reference: Reference) -> str | None:
    if engine.vocab_size != reference.vocab_size:
        return f"{engine.vocab_size} logits a position, the reference has {reference.vocab_size}"
    runs = ((case, run) for case in session.cases for run in case.runs)
    longest = max((len(run.text) for case, run in runs if session.can_compare(case, run)), default=0)
    if engine.context_length < longest:
        return f"it holds {engine.context_length} tokens, the reference has a text of {longest}"
    return None


def _tokenizer_parity(artifact: Artifact, reference: Reference, engine: Engine) -> TokenizerParity | None:
    from edgestill.runtime.engines.llama_cpp import LlamaCppEngine
    from edgestill.runtime.tokenizer import FastTokenizer, GgufTokenizer, Tokenizer

    original = reference.tokens
    if original is None:
        return None
    if artifact.format == "gguf":
        own: Tokenizer = GgufTokenizer(cast(LlamaCppEngine, engine))
        return compare_tokenizer(original, own, "llama.cpp", artifact.notes)
    file = artifact.folder / "tokenizer.json"
    if not file.is_file():
        return unusable_tokenizer(original, "tokenizers", "there is no tokenizer.json beside the model")
    try:
        beside = FastTokenizer(artifact.folder)
    except CheckpointError as error:
        return unusable_tokenizer(original, "tokenizers", str(error))
    same = original.sha256 == sha256_file(file)
    return compare_tokenizer(original, beside, "tokenizers", artifact.notes, same_file=same)


def _not_run(case: Case, why: str) -> ParityCase:
    return ParityCase(
        name=case.name,
        texts=0,
        positions=0,
        top1_agreement=Figure.missing("fraction", why),
        mean_kl=Figure.missing("nats", why),
        max_abs_diff=Figure.missing("logits", why),
        passed=None,
        note=why,
    )
