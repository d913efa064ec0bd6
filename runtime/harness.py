"""Tasks of lm-evaluation-harness, answered by a session: whatever the runtime serves can be scored on them.

Tokens, windows and truncation follow the harness's own model for transformers (``lm_eval.models.huggingface``),
so that scores are comparable with published ones. Requests are answered in the order of their tokens: what
one shares with the one before (a few-shot prompt, the question of several choices) is computed once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgestill.dataset import Message
from edgestill.errors import InputError, MissingDependencyError, UnsupportedError
from edgestill.figure import Figure
from edgestill.progress import SILENT, Progress, Task
from edgestill.runtime.chat_template import render
from edgestill.runtime.sampling import Sampling
from edgestill.runtime.tasks.text import start_tokens, token_nats

if TYPE_CHECKING:
    from edgestill.runtime.session import Session

_MAX_NEW_TOKENS: Final = 256
_STEP_COST: Final = 8
"""How many tokens of a prompt cost as much as one token appended alone; about, on two cores."""
_LOGITS_BYTES: Final = 2 << 30
"""The most that all logits of a text may take; beyond that it is read token by token."""


@dataclass(frozen=True)
class HarnessTask:
    """A task of the harness: its name, how much of it, and how its prompts are written.

    ``folder`` holds task files (YAML) beside those that come with the harness; ``chat`` applies the model's
    chat template, with ``system`` before it.
    """

    name: str
    limit: int | None = None
    folder: Path | None = None
    few_shot: int | None = None
    chat: bool = False
    system: str | None = None


@dataclass(frozen=True)
class HarnessScores:
    """What the harness found; ``statistics`` ``[rows, 2]`` are each row's score and 1, of the primary metric.

    They are empty where that metric is no mean over rows.
    """

    metrics: dict[str, Figure]
    primary_metric: str
    higher_is_better: bool
    statistics: NDArray[np.float64]


def check_harness(task: HarnessTask) -> None:
    """Raise MissingDependencyError without lm-eval, UnsupportedError when it has no such task or group."""
    manager = _manager(task)
    if task.name not in manager.task_index:
        raise UnsupportedError(f"lm-evaluation-harness has no task {task.name!r}; see `lm-eval ls tasks`")
    if task.name in manager.all_tags:
        tasks = ", ".join(sorted(manager.task_index[task.name].tags))
        raise UnsupportedError(f"{task.name!r} is a tag of lm-evaluation-harness, with no score of its own: {tasks}")


def _manager(task: HarnessTask) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise MissingDependencyError(
            f"task {task.name!r} isn't one of edgestill's; lm-evaluation-harness may have it: "
            "pip install 'edgestill[harness]'"
        ) from error
    if task.folder is None:
        return TaskManager()
    own = TaskManager(include_path=str(task.folder), include_defaults=False)
    # Those that come with the harness are 15,000 files: seconds to look through.
    return own if task.name in own.task_index else TaskManager(include_path=str(task.folder))


def score_harness(session: Session, task: HarnessTask, *, progress: Progress = SILENT) -> HarnessScores:
    """Run one task of the harness. Raises as :func:`check_harness`, and InputError for what it refuses."""
    manager = _manager(task)
    from lm_eval import simple_evaluate

    try:
        found = simple_evaluate(
            model=_adapter(session, progress),
            tasks=[task.name],
            num_fewshot=task.few_shot,
            limit=task.limit,
            task_manager=manager,
            apply_chat_template=task.chat,
            system_instruction=task.system,
            bootstrap_iters=1000,
        )
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"lm-evaluation-harness can't run {task.name!r}: {' '.join(str(error).split())}") from error
    return _scores(task.name, found)


def _scores(name: str, found: dict[str, Any]) -> HarnessScores:
    values = found.get("groups", {}).get(name) or found["results"][name]
    rows: list[dict[str, Any]] = found.get("samples", {}).get(name, [])
    subtasks = _leaves(name, found.get("group_subtasks", {}))
    n = sum(len({row["doc_id"] for row in found.get("samples", {}).get(leaf, [])}) for leaf in subtasks)
    metrics: dict[str, Figure] = {}
    means: dict[str, list[float]] = {}
    better: dict[str, bool] = {}
    for key, value in values.items():
        metric, comma, kept = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        shown = metric if kept == "none" else f"{metric} ({kept})"
        error = values.get(f"{metric}_stderr,{kept}")
        interval = None
        if isinstance(error, int | float) and math.isfinite(error):
            interval = (value - 1.959963984540054 * error, value + 1.959963984540054 * error)
        version = found.get("versions", {}).get(name)
        source = f"lm-evaluation-harness {name} version {version}; 1.96 standard errors"
        better[shown] = found.get("higher_is_better", {}).get(name, {}).get(metric) is not False
        own = [row[metric] for row in rows if row.get("filter", "none") == kept and metric in row]
        numbers = [float(one) for one in own if isinstance(one, int | float)]
        bounded = bool(numbers) and len(numbers) == len(own) and min(numbers) >= 0 and max(numbers) <= 1
        unit = "fraction" if bounded and 0 <= value <= 1 else "1"
        metrics[shown] = Figure(value=float(value), unit=unit, n=n, ci95=interval, source=source)
        if own and len(numbers) == len(own) and math.isclose(sum(numbers) / len(own), value, abs_tol=1e-9):
            means[shown] = numbers
    if not metrics:
        raise UnsupportedError(f"lm-evaluation-harness gave no number for {name!r}")
    primary = next(iter(metrics))
    statistics = np.array([[score, 1.0] for score in means.get(primary, [])], np.float64).reshape(-1, 2)
    return HarnessScores(metrics, primary, better[primary], statistics)


def _leaves(name: str, children: dict[str, list[str]]) -> list[str]:
    """Return the tasks below a group; of a task, itself."""
    below = [leaf for child in children.get(name, []) for leaf in _leaves(child, children)]
    return list(dict.fromkeys(below)) or [name]


def _adapter(session: Session, progress: Progress) -> Any:
    """Return the harness's model that answers through a session."""
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM

    tokenizer, engine = session.tokenizer, session.engine
    first = start_tokens(session)[-1]
    ends = tokenizer.eos_ids
    bos = tokenizer.bos_token

    class SessionLM(TemplateLM):  # type: ignore[misc]
        @property
        def eot_token_id(self) -> int:
            return min(ends) if ends else first

        @property
        def prefix_token_id(self) -> int:
            return first

        @property
        def max_length(self) -> int:
            return engine.context_length

        @property
        def max_gen_toks(self) -> int:
            return _MAX_NEW_TOKENS

        @property
        def tokenizer_name(self) -> str:
            return str(session.model).replace("/", "__")

        def chat_template(self, chat_template: bool | str = False) -> str | None:
            return tokenizer.chat_template or "" if chat_template else None

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            turns = [Message(turn["role"], turn["content"]) for turn in chat_history]  # type: ignore[arg-type]
            return render(
                tokenizer.chat_template,
                turns,
                add_generation_prompt=add_generation_prompt,
                bos_token=tokenizer.bos_token,
                eos_token=tokenizer.eos_token,
            )

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **rest: Any) -> list[int]:
            if add_special_tokens is None:
                add_special_tokens = not (bos and string.startswith(bos))
            return [int(token) for token in tokenizer.encode(string, add_special=add_special_tokens)]

        def _loglikelihood_tokens(
            self, requests: list[tuple[Any, list[int], list[int]]], **rest: Any
        ) -> list[tuple[float, bool]]:
            results: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
            groups: dict[tuple[int, ...], list[int]] = {}
            for number, (_, context, _) in enumerate(requests):
                groups.setdefault(tuple(context), []).append(number)
            order = sorted(groups)
            with progress.task("scoring choices", len(requests), "choices") as under_way:
                for shared, after in itertools.zip_longest(order, order[1:], fillvalue=()):
                    numbers = sorted(groups[shared], key=lambda number: requests[number][2])
                    choices = [requests[number][2] for number in numbers]
                    reading = _worth_reading(session, shared, choices, after)
                    for number, choice in zip(numbers, choices, strict=True):
                        results[number] = _likelihood(session, shared, choice, self.max_length, reading)
                        under_way.advance()
            return results

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            results = []
            with progress.task("scoring text", len(requests), "texts") as under_way:
                for request in requests:
                    tokens = self.tok_encode(request.args[0])
                    windows = utils.get_rolling_token_windows(tokens, first, self.max_length, 1)
                    nats = 0.0
                    for context, continuation in map(utils.make_disjoint_window, windows):
                        nats += _likelihood(session, context, continuation, self.max_length, False)[0]
                    results.append(nats)
                    under_way.advance()
            return results

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            with progress.task("answering", len(requests), "answers") as under_way:
                return [self._generated(request.args[0], request.args[1], under_way) for request in requests]

        def _generated(self, context: str, given: dict[str, Any], under_way: Task) -> str:
            from edgestill.runtime.session import GenerationOptions

            limit = int(given.get("max_gen_toks") or given.get("max_new_tokens") or _MAX_NEW_TOKENS)
            until = given.get("until") or []
            stops = tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop)
            room = engine.context_length - limit
            if room < 1:
                raise InputError(f"{limit} new tokens don't fit a context of {engine.context_length}")
            answer = session.generate(
                self.tok_encode(context)[-room:],
                GenerationOptions(max_new_tokens=limit, stop=stops, sampling=_sampling(given)),
            )
            under_way.advance()
            return answer.text

    return SessionLM()


def _sampling(given: dict[str, Any]) -> Sampling:
    """Return the sampling of a request: greedy unless it says ``do_sample``, as in transformers."""
    temperature = float(given.get("temperature") or 0.0)
    if not given.get("do_sample", temperature > 0):
        return Sampling()
    return Sampling(
        temperature=temperature or 1.0,
        top_p=float(given.get("top_p") or 1.0),
        top_k=int(given.get("top_k") or 0),
        seed=int(given.get("seed") or 0),
    )


def _worth_reading(
    session: Session, context: Sequence[int], choices: Sequence[Sequence[int]], after: Sequence[int]
) -> bool:
    """Tell whether choices are read token by token after a context that is kept, or each with it as a whole.

    What the next context, ``after``, shares with this one needn't be computed again when it is kept.
    """
    ahead = next((at for at, (a, b) in enumerate(zip(context, after, strict=False)) if a != b), None)
    saved = min(len(context), len(after)) if ahead is None else ahead
    steps = sum(len(choice) - 1 for choice in choices) * _STEP_COST
    whole = sum(len(context) + len(choice) for choice in choices)
    return len(context) - session.shared(context) + steps - saved <= whole


def _likelihood(
    session: Session, context: Sequence[int], continuation: Sequence[int], longest: int, reading: bool
) -> tuple[float, bool]:
    """Return ln p(continuation | context), and whether each of its tokens is the most probable one.

    With ``reading`` the context stays in the KV cache and the continuation goes token by token.
    """
    if not context or not continuation:
        raise InputError("a request of lm-evaluation-harness has no context, or nothing to score")
    ids = [*context, *continuation][-(longest + 1) :]
    count = len(continuation)
    if count > longest:
        raise InputError(f"a choice of {count} tokens doesn't fit a context of {longest}")
    targets = np.array(ids[-count:], np.int64)
    given = len(ids) - count
    if reading or count == 1 or len(ids) * session.engine.vocab_size * 4 > _LOGITS_BYTES:
        nats, greedy = 0.0, True
        for at, target in enumerate(targets):
            logits = session.read(ids[: given + at])
            nats += token_nats(logits[None], targets[at : at + 1])
            greedy = greedy and int(logits.argmax()) == target
        return -nats, greedy
    rows = session.logits(ids[:-1])[given - 1 :]
    return -token_nats(rows, targets), bool((rows.argmax(axis=1) == targets).all())
