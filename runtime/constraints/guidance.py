"""llguidance as the backend of every engine whose own grammar doesn't enforce a constraint."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgestill.errors import InputError, StageError, UnsupportedError
from edgestill.runtime.constraint import Constraint, JsonSchema
from edgestill.runtime.constraints import register
from edgestill.runtime.constraints.gbnf import parse_gbnf
from edgestill.runtime.constraints.grammar_text import to_lark
from edgestill.runtime.constraints.schema_grammar import schema_grammar
from edgestill.runtime.constraints.vocabulary import Vocabulary
from edgestill.runtime.engines import require


def library() -> Any:
    """Return the llguidance module. Raises MissingDependencyError when it isn't installed."""
    return require("llguidance", engine="constraint on this", extra="constrained")


_tokenizers: weakref.WeakKeyDictionary[Vocabulary, Any] = weakref.WeakKeyDictionary()


@register("llguidance")
def compile_for_llguidance(constraint: Constraint, vocabulary: Vocabulary) -> Callable[[], GuidanceMatcher]:
    """Compile a constraint; raises as :class:`edgestill.runtime.constraints.ConstraintCompiler`."""
    if isinstance(constraint, JsonSchema):
        text = to_lark(schema_grammar(constraint.schema, foreign=True))
    else:
        text = constraint.text if constraint.syntax == "lark" else to_lark(parse_gbnf(constraint.text))
    llguidance = library()
    grammar = llguidance.LLMatcher.grammar_from_lark(text)
    failed, messages = llguidance.LLMatcher.validate_grammar_with_warnings(grammar, None)
    if failed:
        reason = " ".join(str(messages[0]).split("\n")[0].split())
        if isinstance(constraint, JsonSchema):
            raise UnsupportedError(
                f"schema: llguidance can't enforce it ({reason.partition('failed to compile ')[2] or reason})"
            )
        raise InputError(f"grammar: llguidance can't read it (line(column): {reason})")
    tokenizer = _tokenizer(vocabulary)
    first = llguidance.LLMatcher(tokenizer, grammar)  # a copy costs microseconds, another one a millisecond
    return lambda: GuidanceMatcher(first.deep_copy(), int(tokenizer.vocab_size), vocabulary)


class _Pieces:
    """The tokens as llguidance asks for them."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary.pieces
        self.eos_token_id = int(vocabulary.end_ids[0]) if len(vocabulary.end_ids) else None
        self.special_token_ids: list[int] = []

    def __call__(self, text: str) -> list[int]:
        raise AssertionError("nothing is forced, so nothing is tokenized")


def _tokenizer(vocabulary: Vocabulary) -> Any:
    """Return llguidance's own form of the tokens, made once for a vocabulary."""
    made = _tokenizers.get(vocabulary)
    if made is None:
        made = _tokenizers[vocabulary] = library().LLTokenizer(_Pieces(vocabulary))
    return made


class GuidanceMatcher:
    """One answer under llguidance; see :class:`edgestill.runtime.constraint.Matcher`."""

    def __init__(self, matcher: Any, size: int, vocabulary: Vocabulary) -> None:
        self._matcher = matcher
        self._text_ids = vocabulary.text_ids
        self._words = np.zeros((size + 31) // 32, np.uint32)
        self._forbidden: NDArray[np.bool_] | None = vocabulary.spaced_ids
        self._mask: NDArray[np.bool_] | None = None
        self._refuse_error()

    def allows(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        return self._mask_now()[ids]

    def few(self) -> bool:
        return True  # the mask is there in any case

    def allowed(self) -> NDArray[np.int64]:
        return np.flatnonzero(self._mask_now())

    def accept(self, token_id: int) -> None:
        if not self._matcher.consume_token(token_id):
            self._refuse_error()
        self._mask = self._forbidden = None

    @property
    def complete(self) -> bool:
        return bool(self._matcher.is_accepting())

    @property
    def finished(self) -> bool:
        return bool(self._matcher.is_stopped()) or (self.complete and not self._mask_now().any())

    def close(self) -> None:
        self._matcher = None

    def _mask_now(self) -> NDArray[np.bool_]:
        """Return ``[vocab]``: whether each token may come next."""
        if self._mask is None:
            size = len(self._text_ids)
            if self._matcher.is_stopped():
                self._refuse_error()
                self._mask = np.zeros(size, bool)
            else:
                self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
                bits = np.unpackbits(self._words.view(np.uint8), bitorder="little", count=size)
                self._mask = bits.view(bool) & self._text_ids
                if self._forbidden is not None:
                    self._mask &= ~self._forbidden
        return self._mask

    def _refuse_error(self) -> None:
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())
            raise StageError(f"llguidance gave up on the constraint ({reason[:200]}); simplify it")
