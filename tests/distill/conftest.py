"""A tiny trained teacher, made once, and what the distillation tests share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from edgestill.artifact import Checkpoint
from edgestill.dataset import Example, Message
from edgestill.distill.teacher import new_model
from edgestill.recipe import Architecture, TrainedTeacher

SIZES = Architecture(hidden_size=32, intermediate_size=64, layers=3, heads=4, kv_heads=2, context=96)


def requests(count: int) -> list[Example]:
    """Questions of several lengths with short answers."""
    rows = []
    for number in range(count):
        question = "please " * (number % 4) + f"add {number} and {number % 7}"
        answer = f'{{"sum": {number + number % 7}}}'
        rows.append(Example((Message("user", question), Message("assistant", answer)), None, f"requests:{number}"))
    return rows


class Interrupting:
    """A progress that presses Ctrl-C when a task has advanced ``after`` times."""

    def __init__(self, after: int) -> None:
        self.left = after

    @contextlib.contextmanager
    def task(self, label: str, total: float | None = None, unit: str = "") -> Iterator[Interrupting]:
        yield self

    def advance(self, amount: float = 1, **fields: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def set_total(self, total: float) -> None:
        pass

    def note(self, text: str) -> None:
        pass


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A new three-layer Llama with a tokenizer trained on the requests."""
    section = TrainedTeacher(kind="trained", architecture=SIZES, vocab_size=320)
    return new_model(section, requests(40), tmp_path_factory.mktemp("untrained") / "model", seed=0)


@pytest.fixture(scope="session")
def sharp_teacher(untrained: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The same architecture after some training: its distributions are no longer flat."""
    from edgestill.distill import ChatTokenizer, TrainSettings, encode_examples, train

    data = encode_examples(requests(60), ChatTokenizer.open(untrained), max_length=96)
    settings = TrainSettings(learning_rate=3e-3, batch_size=10, epochs=15)
    return train(untrained, data, settings, tmp_path_factory.mktemp("teacher") / "model", seed=0)


@pytest.fixture(name="requests", scope="session")
def requests_fixture() -> Callable[[int], list[Example]]:
    """The function that makes questions with answers."""
    return requests


@pytest.fixture(scope="session")
def interrupting() -> type[Interrupting]:
    """The progress that presses Ctrl-C."""
    return Interrupting


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One torch thread: tests share few cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
