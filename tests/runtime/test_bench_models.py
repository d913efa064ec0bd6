"""Several models in turn: what one ended in takes nothing from the others, and is told after each."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from edgestill.bench_results import BenchDocument, BenchRecord
from edgestill.errors import InputError, StageError
from edgestill.runtime import bench_models as module
from edgestill.runtime.bench import BenchInterrupted
from edgestill.runtime.bench_models import bench_models
from edgestill.runtime.bench_options import BenchOptions


def record(model: str) -> BenchRecord:
    return BenchRecord.model_construct(model=model)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[BenchDocument]]:
    """Measure the models ``a``, ``b``, ``c``, the second of which ends in ``how``; return what was told."""
    monkeypatch.setattr(
        module, "BenchDocument", lambda **parts: BenchDocument.model_construct(**{"failures": (), **parts})
    )
    monkeypatch.setattr(module, "describe_environment", lambda: SimpleNamespace())

    def run(how: BaseException, models: str = "abc") -> list[BenchDocument]:
        def bench(model: str, options: BenchOptions, **_: Any) -> BenchRecord:
            if model == "b":
                raise how
            return record(model)

        monkeypatch.setattr(module, "bench_model", bench)
        told: list[BenchDocument] = []
        try:
            bench_models([(model, BenchOptions()) for model in models], finished=told.append)
        except KeyboardInterrupt:
            told.append(BenchDocument.model_construct(results=(), failures=()))  # the mark of an interrupt
        return told

    return run


def names(document: BenchDocument) -> tuple[list[str], list[str]]:
    return [one.model for one in document.results], [one.model for one in document.failures]


@pytest.mark.parametrize("how", [StageError("died"), InputError("not a model")])
def test_the_document_so_far_is_told_after_each_model(measured: Any, how: Exception) -> None:
    told = measured(how)
    assert [names(one) for one in told] == [(["a"], []), (["a"], ["b"]), (["a", "c"], ["b"])]
    assert told[-1].failures[0].error == str(how)
    assert told[0].created is not None
    assert told[0].environment_after is not None


def test_a_single_model_that_cannot_be_opened_is_an_error_and_one_that_died_a_row(measured: Any) -> None:
    with pytest.raises(InputError, match="not a model"):
        measured(InputError("not a model"), "b")
    assert [names(one) for one in measured(StageError("died"), "b")] == [([], ["b"])]


def test_ctrl_c_tells_what_there_is_and_goes_on(measured: Any) -> None:
    first, second, last = measured(KeyboardInterrupt())
    assert names(first) == (["a"], [])
    assert names(second) == (["a"], ["b"])
    assert second.failures[0].error == "stopped by Ctrl-C before a repetition had finished"
    assert names(last) == ([], [])
    _, second, last = measured(BenchInterrupted(record("b")))
    assert names(second) == (["a", "b"], [])
    assert names(last) == ([], [])
