"""The loops of an answer whose text is written at its end, from the first token on, which is chosen already."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from time import perf_counter

from edgestill.runtime.engine import DecodesGreedily, Engine
from edgestill.runtime.generation import FinishReason
from edgestill.runtime.sampling import Sampler


@dataclass
class AnswerLoop:
    """An answer under way.

    ``tokens`` begin with the first one, at most ``limit`` in all; ``marked`` is when it was chosen. ``gaps`` are the
    seconds that each further one took. A token of ``ends`` ends it, and so does ``cancelled[0]`` when it isn't 0 any
    more; another thread may write that. ``history`` are the ids so far, prompt included.
    """

    tokens: list[int]
    limit: int
    ends: Set[int]
    cancelled: bytearray
    history: list[int]
    marked: float
    gaps: list[float] = field(default_factory=list)

    def run(self, engine: Engine, sampler: Sampler) -> FinishReason:
        """Go on to the answer's end; return why it is there. Raises what the engine and the sampler do."""
        if sampler.sampling.greedy and isinstance(engine, DecodesGreedily) and engine.decodes_greedily:
            return self._together(engine)
        return self._one_by_one(engine, sampler)

    def _together(self, engine: DecodesGreedily) -> FinishReason:
        tokens, limit = self.tokens, self.limit
        while True:
            if tokens[-1] in self.ends:
                return "eos"
            if len(tokens) == limit:
                return "length"
            if self.cancelled[0]:
                return "cancelled"
            taken, seconds = engine.decode_greedily(tokens[-1], limit - len(tokens), self.ends, self.cancelled)
            now = perf_counter()
            seconds[0] += now - self.marked - sum(seconds)  # the way there and back
            self.marked = now
            tokens += taken
            self.gaps += seconds

    def _one_by_one(self, engine: Engine, sampler: Sampler) -> FinishReason:
        append, pick, greedy = engine.append, sampler.pick, sampler.sampling.greedy
        remembers = sampler.sampling.repetition_penalty != 1.0
        new, gaps, ends, cancelled, history = self.tokens, self.gaps, self.ends, self.cancelled, self.history
        token, marked = new[-1], self.marked
        for _ in range(self.limit - len(new)):
            if token in ends:
                return "eos"
            if cancelled[0]:
                return "cancelled"
            if remembers:
                history.append(token)
            logits = append((token,))
            # As the sampler does it: its call alone is a hundredth of a small model's time. A NaN is its to report.
            token = int(logits.argmax()) if greedy else -1
            if token < 0 or (value := logits.item(token)) != value:
                token = pick(logits, history)
            now = perf_counter()
            new.append(token)
            gaps.append(now - marked)
            marked = now
        return "eos" if token in ends else "length"
