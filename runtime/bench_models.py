"""Models measured one after the other: what one of them ended in takes nothing from the others."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence

from edgestill.bench_results import BenchDocument, BenchFailure, BenchRecord
from edgestill.errors import EdgestillError, InputError
from edgestill.progress import SILENT, Progress
from edgestill.runtime.bench import BenchInterrupted, bench_model
from edgestill.runtime.bench_options import BenchOptions
from edgestill.runtime.environment import describe_environment


def bench_models(
    cases: Sequence[tuple[str, BenchOptions]],
    *,
    finished: Callable[[BenchDocument], None] = lambda document: None,
    progress: Progress = SILENT,
) -> BenchDocument:
    """Measure MODEL arguments in turn, each with its options; ``finished`` gets the document so far after each of them.

    A model that fails is a row that says why, with the repetitions that it had finished. Ctrl-C goes on as
    KeyboardInterrupt after ``finished`` got what there was. Raises InputError when a single model can't be opened:
    then there is nothing to tell beside it.
    """
    created = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    before = describe_environment()
    records: list[BenchRecord] = []
    failures: list[BenchFailure] = []

    def so_far() -> BenchDocument:
        return BenchDocument(
            environment=before,
            results=tuple(records),
            failures=tuple(failures),
            created=created,
            environment_after=describe_environment(),
        )

    for model, options in cases:
        try:
            records.append(bench_model(model, options, keep_finished=True, progress=progress))
        except InputError as error:
            if len(cases) == 1:
                raise
            failures.append(BenchFailure(model=model, error=str(error)))
        except EdgestillError as error:
            failures.append(BenchFailure(model=model, error=str(error)))
        except BenchInterrupted as interrupt:
            records.append(interrupt.record)
            finished(so_far())
            raise
        except KeyboardInterrupt:
            failures.append(BenchFailure(model=model, error="stopped by Ctrl-C before a repetition had finished"))
            finished(so_far())
            raise
        finished(so_far())
    return so_far()
