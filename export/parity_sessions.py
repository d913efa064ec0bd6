"""With how long a context an artifact is opened for which cases, where that decides what it computes.

LongRoPE has two sets of rotary factors. transformers (and our ONNX graph) takes the long ones for a call whose
sequence is longer than the original context; llama.cpp for a session that is opened with room for one. A fair
comparison therefore opens llama.cpp twice: for texts within the original context, and for the one that crosses it,
which is compared with the whole text in one call of the reference. llama.cpp rounds a context up to a multiple of 256:
where the original context is shorter, there is no session of the first kind, and only longer texts are compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgestill.artifact import Format
from edgestill.export.parity_cases import Case, RopeBoundary, Run
from edgestill.export.parity_reference import Reference
from edgestill.runtime.engines import DEFAULT_CONTEXT


@dataclass(frozen=True)
class Session:
    """One opening of an artifact: its context (None: as usual) and the cases that run in it.

    ``beyond`` says that it is a llama.cpp session that takes LongRoPE's long factors from its first token.
    """

    cases: tuple[Case, ...]
    context_length: int | None = None
    boundary: RopeBoundary | None = None
    beyond: bool = False
    llama_cpp: bool = False

    def can_compare(self, case: Case, run: Run) -> bool:
        """Whether this session computes what the reference kept of a run."""
        boundary = self.boundary
        if boundary is None or not boundary.follows_length or case.name == "rope-boundary":
            return True
        if self.llama_cpp:
            return (len(run.text) > boundary.original) == self.beyond
        # Keys that were cached within the original context stay as they were: not so in the whole text at once.
        return len(run.text) <= boundary.original or not run.pieces

    def note(self, case: Case) -> str:
        """Return what the reader of a case's row should know about how it was compared."""
        boundary = self.boundary
        if boundary is None or (case.name != "rope-boundary" and not boundary.follows_length):
            return ""
        if not boundary.follows_length:
            return f"{boundary.kind}, original context {boundary.original:,}"
        if not self.llama_cpp:
            if case.name != "rope-boundary":
                return ""
            return (
                f"{boundary.kind}, original context {boundary.original:,}: fed in the same pieces as the reference; a "
                "piece that ends past it takes the long factors, what was cached before keeps the short ones"
            )
        taken = f"a llama.cpp session with room for more than {boundary.original:,} tokens takes the long factors from "
        taken += "its first token"
        if case.name == "rope-boundary":
            return f"{taken}: compared with the whole text in one call of the reference"
        return f"{taken}, and none is shorter than 256: only texts past the original context are compared"


def sessions(format: Format, reference: Reference) -> Iterator[Session]:
    """Yield the sessions that cover all cases, one after another."""
    boundary, cases = reference.boundary, reference.cases
    crossing = [case for case in cases if case.name == "rope-boundary"]
    length = max((len(run.text) for case in crossing for run in case.runs), default=0)
    context = max(DEFAULT_CONTEXT, length) if length else None
    if format != "gguf" or boundary is None or not boundary.follows_length:
        yield Session(cases, context, boundary)
    elif boundary.always_beyond:
        yield Session(cases, context, boundary, beyond=True, llama_cpp=True)
    elif not length:
        yield Session(cases, boundary.within, boundary, llama_cpp=True)
    else:
        near = tuple(case for case in cases if case not in crossing)
        yield Session(near, boundary.within, boundary, llama_cpp=True)
        yield Session(tuple(crossing), length, boundary, beyond=True, llama_cpp=True)
