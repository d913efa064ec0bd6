"""What files are compared with: a model's logits on every case, and its tokenizer's ids, computed once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, cast

import numpy as np

from edgestill.artifact import Checkpoint, read_json_object
from edgestill.errors import GateError, InputError
from edgestill.export.parity_cases import (
    BOUNDARY_POSITIONS,
    Case,
    CaseName,
    HardIds,
    Model,
    RopeBoundary,
    Run,
    Tokens,
    boundary_length,
    plan_cases,
    rope_boundary,
)
from edgestill.export.parity_comparison import Rows
from edgestill.export.parity_texts import UNICODE_TEXTS
from edgestill.export.tokenizer_parity import OriginalTokens, original_tokens
from edgestill.progress import SILENT, Progress
from edgestill.runtime.engine import Engine
from edgestill.runtime.tokenizer import FastTokenizer, GgufTokenizer, Tokenizer
from edgestill.storage import sha256_file

if TYPE_CHECKING:
    from edgestill.runtime.engines.llama_cpp import LlamaCppEngine
    from edgestill.runtime.model_source import ModelSource

_Key = tuple[Literal["whole", "walked", "ends"], Run]
"""All positions of a text run whole; those after each piece; those after each piece of the same text run whole."""

_NO_TOKENS: Final = "parity: no tokens to compare on; give at least one text that isn't empty"


class Reference:
    """A model's logits on the cases' texts, float32, in a temporary file that it owns.

    ``name`` is the model's path. ``tokens`` is what its tokenizer makes of the corpus (None: it has none). Use in
    a ``with`` block, or call :meth:`close`.
    """

    def __init__(
        self,
        name: str,
        description: str,
        cases: Sequence[Case],
        vocab_size: int,
        *,
        boundary: RopeBoundary | None = None,
        tokens: OriginalTokens | None = None,
    ) -> None:
        self.name = name
        self.description = description
        self.cases = tuple(cases)
        self.vocab_size = vocab_size
        self.boundary = boundary
        self.tokens = tokens
        self._starts: dict[_Key, tuple[int, int]] = {}
        total = 0
        for key in self._keys():
            if key not in self._starts:
                count = key[1].positions
                self._starts[key] = (total, total + count)
                total += count
        self._folder = tempfile.TemporaryDirectory(prefix="edgestill-parity-")
        self._rows: Rows = np.memmap(
            Path(self._folder.name) / "logits", dtype=np.float32, mode="w+", shape=(max(total, 1), vocab_size)
        )

    @property
    def texts(self) -> tuple[Tokens, ...]:
        """The texts of the first case."""
        return tuple(run.text for run in self.cases[0].runs)

    @property
    def positions(self) -> int:
        """How many positions of the first case are compared."""
        return sum(map(len, self.texts))

    def logits(self, index: int) -> Rows:
        """Return the logits of text ``index`` of the first case, ``[time, vocab]``, a view into the file."""
        return self.whole(self.texts[index])

    def whole(self, text: Tokens) -> Rows:
        """Return the logits of every position of a text, ``[time, vocab]``, a view into the file."""
        return self._of(("whole", Run(text)))

    def after_pieces(self, case: Case, run: Run, *, beyond: bool = False) -> Rows:
        """Return the logits after each piece of a run, ``[pieces, vocab]``.

        They are those of the text run whole; at a boundary those of the same pieces, unless ``beyond``.
        """
        if case.name == "rope-boundary":
            return self._of(("ends" if beyond else "walked", run))
        return self.whole(run.text)[run.ends]

    def fill(self, engine: Engine, progress: Progress) -> None:
        """Run every text. Raises GateError when the logits aren't finite."""
        with progress.task(f"parity reference on {engine.name}", len(self._rows), "positions") as task:
            for kind, run in self._starts:
                if kind == "walked":
                    found = np.stack(list(walk(engine, run)))
                else:
                    found = engine.logits(run.text)
                    found = found[run.ends] if kind == "ends" else found
                if not np.isfinite(found).all():
                    raise GateError(
                        f"{self.name}: its own logits are not finite ({self._where(run, found)}); "
                        "its weights are damaged, save or train it again"
                    )
                self._of((kind, run))[:] = found
                task.advance(len(found))

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

    def _keys(self) -> Iterator[_Key]:
        for case in self.cases:
            for run in case.runs:
                if case.name != "rope-boundary":
                    yield ("whole", Run(run.text))
                    continue
                yield ("walked", run)
                if self.boundary is not None and self.boundary.follows_length:
                    yield ("ends", run)

    def _of(self, key: _Key) -> Rows:
        start, end = self._starts[key]
        return self._rows[start:end]

    def _where(self, run: Run, found: Rows) -> str:
        case, index = next(
            (case, index) for case in self.cases for index, one in enumerate(case.runs) if one.text == run.text
        )
        return f"{case.name}: {first_bad(found, index)}"


def walk(engine: Engine, run: Run) -> Iterator[Rows]:
    """Feed a run's pieces to an engine; yield the logits after each, ``[vocab]``. The sequence is empty afterwards."""
    engine.rewind(0)
    for start, length in run.pieces:
        engine.rewind(start)
        if engine.position < start:  # it couldn't forget just so much
            engine.append(run.text[engine.position : start])
        yield engine.append(run.text[start : start + length]).copy()
    engine.rewind(0)


def first_bad(logits: Rows, text: int) -> str:
    """Return where the first logits that aren't finite are."""
    position = int(np.argmin(np.isfinite(logits).all(axis=-1)))
    return f"first at text {text}, position {position}"


def reference_logits(
    model: Checkpoint | Path,
    token_ids: Sequence[Sequence[int]],
    *,
    name: CaseName = "held-out",
    tokenizer: Tokenizer | None = None,
    progress: Progress = SILENT,
) -> Reference:
    """Run a model on ``token_ids`` (one sequence a text) and on the hard cases, and keep its logits.

    A checkpoint runs in torch; where there is none, the file that another was made from (its path) can be the
    reference, in its own engine. ``tokenizer`` is the model's, when it is open already. A text is cut to the model's
    context; texts past 4096 positions, or past the bytes of logits that are left, aren't kept, and ``progress`` is
    told. Raises InputError when there is no token to compare on, GateError when the reference itself gives logits
    that aren't finite.
    """
    from edgestill.runtime.engines import BYTES_PER_THREAD, DEFAULT_CONTEXT, available_cpus, open_engine
    from edgestill.runtime.model_source import locate_model

    path = model.path if isinstance(model, Checkpoint) else model
    source = locate_model(path)
    boundary = _boundary_of(source)
    length = boundary_length(boundary)
    context = max(DEFAULT_CONTEXT, length) if length is not None and length <= BOUNDARY_POSITIONS else None
    # As for the other engines: in a small model threads wait for each other longer than they work.
    threads = max(1, min(available_cpus(), -(-source.size_bytes // BYTES_PER_THREAD)))
    engine = open_engine(source, threads=threads, context_length=context)
    try:
        tokenizer = tokenizer or _tokenizer_of(source, engine)
        weights = engine.weights_bytes or source.size_bytes
        sizes = Model(engine.vocab_size, engine.context_length, weights, boundary)
        if source.kind == "gguf":
            sizes = replace(sizes, no_boundary="the reference is a GGUF file, which doesn't tell where one is")
        cases = plan_cases(name, token_ids, hard_ids(source, tokenizer, engine.vocab_size), sizes)
        if not cases[0].runs:
            raise InputError(_NO_TOKENS)
        file = _tokenizer_file(source)
        digest = None if file is None else sha256_file(file)
        tokens = None if tokenizer is None else original_tokens(str(path), digest, tokenizer)
        reference = Reference(
            str(path), f"{path.name} on {engine.name}", cases, engine.vocab_size, boundary=boundary, tokens=tokens
        )
        wanted = sum(len(ids) for ids in token_ids)
        if reference.positions < wanted:
            progress.note(f"parity compares {reference.positions} of {wanted} positions of the {name} text")
        try:
            reference.fill(engine, progress)
        except BaseException:
            reference.close()
            raise
        return reference
    finally:
        engine.close()
        if source.kind == "transformers":
            import torch

            torch.set_num_threads(available_cpus())  # it is the process's: what comes next may be a training


def hard_ids(source: ModelSource, tokenizer: Tokenizer | None, vocab_size: int) -> HardIds:
    """Return the ids of the hard texts and of every special and added token that has a row in the embedding."""
    if tokenizer is None:
        return HardIds()
    special = set(tokenizer.special_ids)
    file = _tokenizer_file(source)
    if file is not None:
        added = read_json_object(file).get("added_tokens")
        entries = [entry.get("id") for entry in added if isinstance(entry, dict)] if isinstance(added, list) else []
        special |= {number for number in entries if isinstance(number, int)}
    known = sorted(number for number in special if 0 <= number < vocab_size)
    unicode = (tuple(number for number in tokenizer.encode(text) if number < vocab_size) for text in UNICODE_TEXTS)
    return HardIds(tuple(ids for ids in unicode if ids), tuple(known))


def _boundary_of(source: ModelSource) -> RopeBoundary | None:
    # A GGUF file and its reference run in equal sessions: there is nothing to tell apart.
    file = source.folder / "config.json"
    return rope_boundary(read_json_object(file)) if source.kind != "gguf" and file.is_file() else None


def _tokenizer_file(source: ModelSource) -> Path | None:
    """Return the model's tokenizer.json; None where it has none, or brings its tokenizer inside."""
    if source.kind == "gguf" or source.tokenizer_folder is None:
        return None
    file = source.tokenizer_folder / "tokenizer.json"
    return file if file.is_file() else None


def _tokenizer_of(source: ModelSource, engine: Engine) -> Tokenizer | None:
    if source.kind == "gguf":
        return GgufTokenizer(cast("LlamaCppEngine", engine))
    file = _tokenizer_file(source)
    return None if file is None else FastTokenizer(file.parent)
