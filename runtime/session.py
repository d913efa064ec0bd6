"""Session: a loaded model that answers prompts, over any engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from edgestill.dataset import Message
from edgestill.errors import CheckpointError, ContextFullError, InputError, ModelFileError
from edgestill.runtime.answer_loop import AnswerLoop
from edgestill.runtime.chat_template import render
from edgestill.runtime.classifier import refuse_classifier
from edgestill.runtime.constrained_sampling import ConstrainedSampler
from edgestill.runtime.constraints import ConstraintCompiler
from edgestill.runtime.engine import Engine, KeepsState, Logits
from edgestill.runtime.engine_options import DEFAULTS, EngineOptions
from edgestill.runtime.engines import open_engine
from edgestill.runtime.generation import Chunk, FinishReason, Generation, GenerationOptions, GenerationStatistics
from edgestill.runtime.model_source import ModelSource, locate_model
from edgestill.runtime.prefix_state import PREFIX_FILE, PrefixState, open_prefix_state
from edgestill.runtime.sampling import Sampler
from edgestill.runtime.stop_strings import StopStrings
from edgestill.runtime.tokenizer import FastTokenizer, GgufTokenizer, StreamDecoder, Tokenizer

if TYPE_CHECKING:
    from edgestill.runtime.engines.llama_cpp import LlamaCppEngine

__all__ = [
    "Chunk",
    "FinishReason",
    "Generation",
    "GenerationOptions",
    "GenerationStatistics",
    "Session",
    "read_tokenizer",
]

_WORTH_READING: Final = 1 / 8  # of a prefix's tokens; a token is read at least 15 times as fast as it is computed

Prompt = str | Sequence[Message] | Sequence[int]


class _Begun(NamedTuple):
    """A prompt that was read: its ids (a list of their own), the logits after it; what the statistics say of it."""

    ids: list[int]
    logits: Logits
    prompt_tokens: int
    reused_tokens: int
    prefill_seconds: float


class Session:
    """One loaded model with its tokenizer; answers one prompt at a time.

    Between calls the KV cache is kept, and what a prompt shares with the sequence before isn't computed
    again. Whoever uses ``engine`` directly calls :meth:`reset` before the next answer. ``last`` is the
    answer of the last :meth:`generate` or exhausted :meth:`stream`. ``prefix`` is the state of a system prompt that
    prompts begin from (see :meth:`use_prefix`), ``prefix_misfit`` why the one beside the model isn't used.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, model: ModelSource | None = None) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.model = model
        self.last: Generation | None = None
        self.prefix: PrefixState | None = None
        self.prefix_misfit: str | None = None
        self._constraints = ConstraintCompiler(engine, tokenizer)
        self._sequence: list[int] = []  # the ids in the engine's KV cache
        self._cancelled = bytearray(1)  # not 0: cancelled

    @classmethod
    def open(
        cls,
        model: str | Path | ModelSource,
        *,
        engine: str | None = None,
        threads: int | None = None,
        context_length: int | None = None,
        options: EngineOptions = DEFAULTS,
        tokenizer: FastTokenizer | None = None,
    ) -> Session:
        """Load a MODEL argument (see :func:`locate_model`) into an engine (see :func:`open_engine`).

        ``tokenizer`` is one that was read already (see :func:`read_tokenizer`).
        A prefix state that lies beside the model (a bundle's) is used where it fits; ``prefix_misfit`` says why not.
        Raises InputError and its kinds when it can't be read or is a classifier, MissingDependencyError when the
        engine's package isn't installed.
        """
        source = model if isinstance(model, ModelSource) else locate_model(model)
        refuse_classifier(source)
        if tokenizer is None:
            tokenizer = read_tokenizer(source)
        opened = open_engine(source, engine=engine, threads=threads, context_length=context_length, options=options)
        if tokenizer is None:
            session = cls(opened, GgufTokenizer(cast("LlamaCppEngine", opened), source.tokenizer_folder), source)
        else:
            session = cls(opened, tokenizer, source)
        if (source.folder / PREFIX_FILE).is_file():
            try:
                session.use_prefix(source.folder / PREFIX_FILE)
            except ModelFileError as error:
                session.prefix_misfit = str(error)
        return session

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        self._sequence.clear()
        self.engine.close()

    def reset(self) -> None:
        """Forget the sequence in the KV cache."""
        self._sequence.clear()
        self.engine.rewind(0)

    def use_prefix(self, path: Path | None) -> None:
        """Begin prompts from a prefix state where they share more with it than with the cache (None: no longer).

        Its file is read at the first such prompt. Raises ModelFileError when it isn't one, or was made for another
        model or engine.
        """
        self.prefix = None
        if path is None:
            return
        prefix = open_prefix_state(path)
        if misfit := prefix.misfit(self.engine, "" if self.model is None else self.model.sha256()):
            raise ModelFileError(misfit)
        self.prefix = prefix

    def cancel(self) -> None:
        """End the answer under way after the token being computed; may be called from another thread."""
        self._cancelled[0] = 1

    def prompt_ids(self, prompt: str | Sequence[Message]) -> list[int]:
        """Return the token ids of a prompt; see :func:`render_prompt`."""
        return render_prompt(self.tokenizer, prompt)

    def logits(self, token_ids: Sequence[int]) -> Logits:
        """Return the logits after each of ``token_ids``, ``[time, vocab]``; the KV cache is empty after."""
        self._sequence.clear()
        return self.engine.logits(token_ids)

    def read(self, token_ids: Sequence[int]) -> Logits:
        """Return the logits after the last of ``token_ids``, ``[vocab]``; valid until the next call.

        What they share with the sequence before isn't computed again; they are the sequence afterwards.
        """
        return self._prefill(self._ids(token_ids))[1]

    def shared(self, token_ids: Sequence[int]) -> int:
        """Return how many of ``token_ids``, from the first on, are in the KV cache."""
        return _common(self._sequence, token_ids)

    def generate(self, prompt: Prompt, options: GenerationOptions | None = None) -> Generation:
        """Answer a prompt: raw text, messages, or token ids.

        Raises ContextFullError when the prompt doesn't fit the context, InputError when it is empty; over a
        constraint as :meth:`edgestill.runtime.constraints.ConstraintCompiler.compiled`, and StageError when the
        vocabulary can't go on with it.
        """
        options = options or GenerationOptions()
        if not options.stop and options.constraint is None:
            return self._text_last(prompt, options)
        for _ in self.stream(prompt, options):
            pass
        assert self.last is not None  # the stream ran to its end
        return self.last

    def _text_last(self, prompt: Prompt, options: GenerationOptions) -> Generation:
        """Answer as :meth:`stream` does, but write the text at the end, and let the engine go from token to token."""
        started = perf_counter()
        history, logits, prompt_tokens, reused, prefill_seconds = self._begin(prompt)
        sampler = Sampler(options.sampling)
        ends = frozenset() if options.ignore_eos else self.tokenizer.eos_ids
        limit = min(options.max_new_tokens, self.engine.context_length - prompt_tokens + 1)
        new = [sampler.pick(logits, history)]
        marked = perf_counter()
        ttft_seconds = marked - started
        loop = AnswerLoop(new, limit, ends, self._cancelled, history, marked)
        # If an error ends it, the sequence stays shorter than the engine's, and the next prompt is read anew.
        reason = loop.run(self.engine, sampler)
        self._sequence.extend(new[:-1])  # the last one wasn't run
        text = self.tokenizer.decode(new[:-1] if reason == "eos" else new)
        total = perf_counter() - started
        statistics = GenerationStatistics(
            prompt_tokens, len(new), reused, ttft_seconds, prefill_seconds, tuple(loop.gaps), total
        )
        self.last = Generation(text, tuple(new), prompt_tokens, reason, statistics)
        return self.last

    def stream(self, prompt: Prompt, options: GenerationOptions | None = None) -> Iterator[Chunk]:
        """Answer a prompt piece by piece, one chunk a token; afterwards ``last`` is the whole answer.

        Text that may begin a stop string is held back until it is known. Raises as :meth:`generate`.
        """
        started = perf_counter()
        options = options or GenerationOptions()
        constrained = self._constrained(options) if options.constraint is not None else None
        # The history grows with the answer.
        history, logits, prompt_tokens, reused, prefill_seconds = self._begin(prompt)

        engine = self.engine
        append = engine.append
        pick = (constrained or Sampler(options.sampling)).pick
        decoder = StreamDecoder(self.tokenizer)
        push = decoder.push
        stop = StopStrings(options.stop) if options.stop else None
        ends = frozenset() if options.ignore_eos else self.tokenizer.eos_ids
        limit = min(options.max_new_tokens, engine.context_length - prompt_tokens + 1)
        sequence = self._sequence
        new: list[int] = []
        gaps: list[float] = []
        texts: list[str] = []
        reason: FinishReason | None = None

        token = pick(logits, history)
        marked = perf_counter()
        ttft_seconds = marked - started
        while True:
            new.append(token)
            if token in ends:
                reason = "eos"
                text = decoder.finish()
            else:
                history.append(token)
                text = push(token)
                if constrained is not None and constrained.finished:
                    reason = "complete"
                    text += decoder.finish()
                elif len(new) == limit:
                    reason = "length"
                    text += decoder.finish()
            if stop is not None:
                text = stop.push(text)
                if stop.found:
                    reason = "stop"
                elif reason is not None:
                    text += stop.finish()
            texts.append(text)
            if reason is not None:
                break
            yielded = perf_counter()
            yield Chunk(text, token)
            marked += perf_counter() - yielded
            if self._cancelled[0]:
                reason = "cancelled"
                text = decoder.finish()
                if stop is not None:
                    text = stop.push(text)
                    text += "" if stop.found else stop.finish()
                texts.append(text)
                break
            logits = append((token,))
            sequence.append(token)
            token = pick(logits, history)
            now = perf_counter()
            gaps.append(now - marked)
            marked = now
        total = perf_counter() - started
        statistics = GenerationStatistics(
            prompt_tokens, len(new), reused, ttft_seconds, prefill_seconds, tuple(gaps), total
        )
        outcome = constrained.outcome(cut=reason == "stop") if constrained is not None else None
        self.last = Generation("".join(texts), tuple(new), prompt_tokens, reason, statistics, outcome)
        yield Chunk(text, None if reason == "cancelled" else token, reason)

    def _begin(self, prompt: Prompt) -> _Begun:
        """Read a prompt. Raises as :meth:`generate`."""
        self._cancelled[0] = 0
        ids = self._ids(prompt)
        prompt_tokens, started = len(ids), perf_counter()
        reused, logits = self._prefill(ids)
        return _Begun(ids, logits, prompt_tokens, reused, perf_counter() - started)

    def _constrained(self, options: GenerationOptions) -> ConstrainedSampler:
        """Return the sampler of an answer under its constraint."""
        assert options.constraint is not None  # asked by the caller
        compiled = self._constraints.compiled(options.constraint)
        ends = () if options.ignore_eos else tuple(self.tokenizer.eos_ids)
        return ConstrainedSampler(options.sampling, compiled.matcher(), ends, compiled.backend, compiled.note)

    def _ids(self, prompt: Prompt) -> list[int]:
        """Return the prompt's ids in a fresh list, checked."""
        if isinstance(prompt, str) or (len(prompt) > 0 and isinstance(prompt[0], Message)):
            ids = self.prompt_ids(cast("str | Sequence[Message]", prompt))
        else:
            ids = [int(number) for number in cast("Sequence[int]", prompt)]
            if ids and not (min(ids) >= 0 and max(ids) < self.engine.vocab_size):
                raise InputError(f"a prompt's token id is outside the vocabulary of {self.engine.vocab_size}")
        if not ids:
            raise InputError("the prompt is empty; at least one token is expected")
        if len(ids) > self.engine.context_length:
            raise ContextFullError(
                f"the prompt has {len(ids)} tokens and the context {self.engine.context_length}; "
                "shorten it or open the model with a longer context"
            )
        return ids

    def _prefill(self, ids: list[int]) -> tuple[int, Logits]:
        """Bring the KV cache to ``ids``; return how many were there already and the logits after the last."""
        engine, sequence = self.engine, self._sequence
        if engine.position != len(sequence):  # someone else used the engine
            self.reset()
        common = self.shared(ids[:-1])
        # Cleared first: an engine that fails half-way leaves nothing that could be reused wrongly.
        sequence.clear()
        if self.prefix is not None:
            held = self.prefix.token_ids
            kept = _common(held, ids[:-1])
            # All of the file is read for what they share: a BOS token alone isn't worth it.
            if kept - common >= len(held) * _WORTH_READING:
                cast("KeepsState", engine).restore_state(self.prefix.read(), len(held))
                common = kept
        engine.rewind(common)
        common = engine.position
        logits = engine.append(ids[common:] if common else ids)
        sequence.extend(ids)
        return common, logits


def render_prompt(tokenizer: Tokenizer, prompt: str | Sequence[Message]) -> list[int]:
    """Return the token ids of a prompt.

    A string is raw text, encoded with what the model expects around a text (BOS). Messages go through the
    chat template, ready for the assistant's turn; the template writes its own BOS. Without a template they
    are plain lines (see :func:`edgestill.runtime.chat_template.render`), encoded like raw text.
    """
    if isinstance(prompt, str):
        return tokenizer.encode(prompt)
    template = tokenizer.chat_template
    text = render(template, prompt, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token)
    return tokenizer.encode(text, add_special=template is None)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences have in common, from the first on."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (ours, asked) in pairs if ours != asked), min(len(one), len(other)))


def read_tokenizer(source: ModelSource) -> FastTokenizer | None:
    """Return the tokenizer beside a model; None for a GGUF file, whose own is read with it. Raises CheckpointError."""
    if source.kind == "gguf":
        return None
    if source.tokenizer_folder is None:
        raise CheckpointError(f"{source}: no tokenizer.json beside the model; put its tokenizer there")
    return FastTokenizer(source.tokenizer_folder)
