"""A process that loads a model once, its files dropped from the page cache before or read into it, and ends.

Started by :mod:`edgestill.runtime.load_times` (see :mod:`edgestill.runtime.worker`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from edgestill.runtime.bench_worker import import_packages, prompt_ids
from edgestill.runtime.engine_options import EngineOptions
from edgestill.runtime.model_source import locate_model
from edgestill.runtime.page_cache import cached_share, evict, warm
from edgestill.runtime.worker import Emit, serve_request


def serve(request: Mapping[str, Any], emit: Emit) -> None:
    """Load ``model``, ``cold`` or not; say how long it took, and how long the first token took after it."""
    from edgestill.runtime.session import Session

    source = locate_model(str(request["model"]))
    import_packages(source)
    files = source.files()
    (evict if request["cold"] else warm)(files)
    share = cached_share(files)
    started = time.perf_counter()
    with Session.open(
        source,
        engine=request["engine"],
        threads=request["threads"],
        context_length=request["context_length"],
        options=EngineOptions(**request["options"]),
    ) as session:
        loaded = time.perf_counter()
        ids = prompt_ids(session, 1)
        begun = time.perf_counter()
        # Weights that are mapped are read when they are first computed with.
        session.read(ids)
        ended = time.perf_counter()
    emit(
        {
            "event": "finished",
            "load_seconds": loaded - started,
            "first_token_seconds": ended - begun,
            "cached_share": share,
        }
    )


if __name__ == "__main__":
    sys.exit(serve_request(serve))
