"""llama.cpp's own grammar as the backend of its engine.

Its sampler is applied to the tokens in question only: the whole vocabulary takes it 20 to 40 ms at 150,000 tokens.
It throws (and ends the process) when told of a token that it didn't allow, so nothing else is ever accepted.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from edgestill.errors import UnsupportedError
from edgestill.runtime.constraint import Constraint, JsonSchema
from edgestill.runtime.constraints import register
from edgestill.runtime.constraints.gbnf import parse_gbnf
from edgestill.runtime.constraints.grammar_text import to_gbnf
from edgestill.runtime.constraints.schema_grammar import schema_grammar
from edgestill.runtime.constraints.token_tree import TokenTree
from edgestill.runtime.constraints.utf8 import Utf8Filter, unfinished
from edgestill.runtime.constraints.vocabulary import Vocabulary
from edgestill.runtime.engines.llama_cpp import library

if TYPE_CHECKING:
    from edgestill.runtime.engines.llama_cpp import LlamaCppEngine

_FEW: Final = 4096
_CANDIDATE: Final = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

_tokens: weakref.WeakKeyDictionary[Vocabulary, _Tokens] = weakref.WeakKeyDictionary()


@register("llama.cpp", engines=("llama.cpp",))
def compile_for_llama(constraint: Constraint, vocabulary: Vocabulary) -> Callable[[], LlamaGrammarMatcher]:
    """Compile a constraint; raises as :class:`edgestill.runtime.constraints.ConstraintCompiler`."""
    if isinstance(constraint, JsonSchema):
        rules = schema_grammar(constraint.schema, foreign=False)
    elif constraint.syntax == "gbnf":
        rules = parse_gbnf(constraint.text)
    else:
        raise UnsupportedError("grammar: llama.cpp reads GBNF, not Lark")
    text = to_gbnf(rules).encode()
    tokens = _tokens.get(vocabulary)
    if tokens is None:
        tokens = _tokens[vocabulary] = _Tokens(vocabulary)
    LlamaGrammarMatcher(text, tokens).close()  # refused here rather than when an answer begins
    return functools.partial(LlamaGrammarMatcher, text, tokens)


class _Tokens:
    """What is computed once for a vocabulary: usable tokens, the tree of them, a token that is an end."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.engine = engine = cast("LlamaCppEngine", vocabulary.engine)
        self.llama = llama = library()
        self.pieces = pieces = vocabulary.pieces
        self.usable = vocabulary.text_ids.copy()
        self.spaced = vocabulary.spaced_ids
        # The grammar must read of a token what the answer's text will say.
        buffer = ctypes.create_string_buffer(256)
        for number in np.flatnonzero(self.usable).tolist():
            piece = pieces[number]
            size = llama.llama_token_to_piece(engine.vocab_pointer, number, buffer, len(buffer), 0, True)
            self.usable[number] = size == len(piece) and buffer.raw[:size] == piece
        is_end = llama.llama_vocab_is_eog
        ends = [number for number in vocabulary.end_ids.tolist() if is_end(engine.vocab_pointer, number)]
        if not ends:
            raise UnsupportedError(f"{engine.path}: llama.cpp's grammar needs a token that ends an answer; it has none")
        self.end = np.array(ends[:1], np.int64)
        self.utf8 = Utf8Filter(pieces)
        self.tree = TokenTree(pieces, np.flatnonzero(self.usable))


class LlamaGrammarMatcher:
    """One answer under llama.cpp's grammar; see :class:`edgestill.runtime.constraint.Matcher`."""

    def __init__(self, grammar: bytes, tokens: _Tokens) -> None:
        self._tokens = tokens
        self._llama = tokens.llama
        self._sampler: Any = self._llama.llama_sampler_init_grammar(tokens.engine.vocab_pointer, grammar, b"root")
        if not self._sampler:
            raise UnsupportedError("llama.cpp refuses the grammar (its reason is on stderr)")
        self._begun = b""  # the bytes of a character that isn't whole yet
        self._usable = tokens.usable & ~tokens.spaced if tokens.spaced.any() else tokens.usable
        self._complete: bool | None = None
        self._roots: NDArray[np.int64] | None = None

    def __del__(self) -> None:
        self.close()

    def allows(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        allowed: NDArray[np.bool_] = self._usable[ids] & self._tokens.utf8.after(self._begun)[ids]
        asked = np.flatnonzero(allowed)
        allowed[asked] = self._apply(ids[asked])
        return allowed

    def few(self) -> bool:
        return int(self._tokens.tree.sizes[self._allowed_roots()].sum()) <= _FEW

    def allowed(self) -> NDArray[np.int64]:
        return self._tokens.tree.allowed(self.allows, self._allowed_roots())

    def accept(self, token_id: int) -> None:
        self._llama.llama_sampler_accept(self._sampler, token_id)
        begun = unfinished(self._begun + self._tokens.pieces[token_id])
        assert begun is not None  # only what was allowed is accepted
        self._begun = begun
        self._usable = self._tokens.usable
        self._complete = self._roots = None

    @property
    def complete(self) -> bool:
        if self._complete is None:
            self._complete = not self._begun and bool(self._apply(self._tokens.end)[0])
        return self._complete

    @property
    def finished(self) -> bool:
        return self.complete and not len(self._allowed_roots())

    def close(self) -> None:
        if self._sampler:
            self._llama.llama_sampler_free(self._sampler)
            self._sampler = None

    def _allowed_roots(self) -> NDArray[np.int64]:
        if self._roots is None:
            roots = self._tokens.tree.roots
            self._roots = roots[self.allows(roots)]
        return self._roots

    def _apply(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of ``ids`` llama.cpp's grammar leaves standing."""
        candidates = np.zeros(len(ids), _CANDIDATE)
        candidates["id"] = ids
        pointer = candidates.ctypes.data_as(ctypes.POINTER(self._llama.llama_token_data))
        array = self._llama.llama_token_data_array(data=pointer, size=len(ids), selected=-1, sorted=False)
        self._llama.llama_sampler_apply(self._sampler, ctypes.byref(array))
        standing: NDArray[np.bool_] = candidates["logit"] == 0
        return standing
