"""Pack artifacts into a bundle: golden answers, generation defaults, licences, provenance."""

from __future__ import annotations

import datetime
import functools
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgestill.artifact import Artifact, Checkpoint, read_json_object
from edgestill.bench_results import BenchRecord
from edgestill.bundle import Bundle, BundleArtifact, Contents, GenerationDefaults, pack_bundle
from edgestill.dataset import Example, Message, read_examples
from edgestill.errors import DataError, InputError
from edgestill.figure import Figure
from edgestill.parity_gate import recorded_parity
from edgestill.progress import Progress
from edgestill.results import Headline, Parity
from edgestill.steps import tool_versions

_GOLDEN_CONTEXT: Final = 256
"""Text rows are cut to this many characters to make a golden prompt."""


def now() -> str:
    """Return the present time as ISO 8601, UTC, seconds."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def golden_prompts(rows: Sequence[Example], count: int) -> list[tuple[Message, ...] | str]:
    """Return prompts spread evenly over ``rows``: messages, or the beginning of a text."""
    if not rows:
        raise DataError("no rows to make golden answers from")
    stride = max(len(rows) // count, 1)
    return [row.text[:_GOLDEN_CONTEXT] if row.text is not None else row.prompt for row in list(rows)[::stride][:count]]


def describe(
    artifact: Artifact, parity: Parity | None, metrics: dict[str, Figure], bench: BenchRecord | None
) -> BundleArtifact:
    """Return an artifact as the manifest lists it."""
    return BundleArtifact(
        name=artifact.name,
        format=artifact.format,
        precision=artifact.precision,
        entry=artifact.entry,
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
        parity=parity,
        metrics=metrics,
        bench=bench,
        notes=artifact.notes,
    )


def licenses_of(checkpoint: Checkpoint, stated: str | None) -> dict[str, str]:
    """Return the licence texts to travel with the model: those beside the checkpoint, and what the recipe states."""
    found = {path.name: path.read_text(encoding="utf-8", errors="replace") for path in checkpoint.license_files()}
    if stated is not None:
        found["STATED.txt"] = stated + "\n"
    return found


def write_bundle(
    out: Path,
    checkpoint: Checkpoint,
    artifacts: Sequence[tuple[Artifact, BundleArtifact]],
    *,
    name: str,
    task: str,
    ship: str | None,
    golden: str,
    max_new_tokens: int,
    headline: Headline | None,
    report_html: str,
    license: str | None,
    created: str,
    provenance: dict[str, object],
    system: str | None = None,
) -> Bundle:
    """Pack what a run made into ``out``; with ``system``, what each artifact computes for that system prompt too."""
    from edgestill.runtime.tokenizer import FastTokenizer

    tokenizer = FastTokenizer(checkpoint.path)
    context = read_json_object(checkpoint.path / "config.json").get("max_position_embeddings")
    if not isinstance(context, int):
        raise InputError(f"{checkpoint.path / 'config.json'}: max_position_embeddings must be a whole number")
    contents = Contents(
        name=name,
        created=created,
        task=task,
        ship=ship,
        chat_template=tokenizer.chat_template,
        generation=GenerationDefaults(max_new_tokens=max_new_tokens, eos_token_ids=tuple(sorted(tokenizer.eos_ids))),
        context_length=context,
        headline=headline,
        artifacts=artifacts,
        tokenizer_files={checkpoint.relative(file): file for file in checkpoint.tokenizer_files()},
        golden=golden,
        report_html=report_html,
        licenses=licenses_of(checkpoint, license),
        provenance=provenance,
        complete=None if system is None else functools.partial(_write_prefix, system),
    )
    return pack_bundle(contents, out)


def _write_prefix(system: str, artifact: Artifact, folder: Path) -> None:
    from edgestill.runtime.prefix_state import PREFIX_FILE, system_prefix, write_prefix_state
    from edgestill.runtime.session import Session

    with Session.open(artifact.model_path) as session:
        ids = system_prefix(session.tokenizer, system)
        write_prefix_state(folder / PREFIX_FILE, session.engine, ids, model_sha256=artifact.sha256, system=system)


def pack_artifacts(
    checkpoint: Checkpoint,
    artifacts: Sequence[Artifact],
    *,
    prompts: Path,
    out: Path,
    name: str,
    task: str,
    golden_prompts_count: int,
    max_new_tokens: int,
    ship: str | None,
    progress: Progress,
    system: str | None = None,
) -> Bundle:
    """Pack artifacts that were made by hand: nothing was measured but the parity that ``export`` left beside them."""
    from edgestill.runtime.golden import make_golden

    names = [artifact.name for artifact in artifacts]
    for twice in {artifact for artifact in names if names.count(artifact) > 1}:
        raise InputError(f"two artifacts are called {twice!r}; give one of them")
    if ship is not None and ship not in names:
        raise InputError(f"--ship {ship!r} is not one of {', '.join(names)}")
    rows = golden_prompts(list(read_examples(prompts)), golden_prompts_count)
    golden = make_golden(
        {artifact.name: artifact.folder for artifact in artifacts}, rows, max_new_tokens, progress=progress
    )
    return write_bundle(
        out,
        checkpoint,
        [(artifact, describe(artifact, recorded_parity(artifact), {}, None)) for artifact in artifacts],
        name=name,
        task=task,
        ship=ship,
        golden=golden,
        max_new_tokens=max_new_tokens,
        headline=None,
        report_html=f"<!doctype html><title>{html.escape(task)}</title><p>Packed by hand: nothing was measured.</p>\n",
        license=None,
        created=now(),
        provenance={"checkpoint_sha256": checkpoint.sha256(), "versions": tool_versions()},
        system=system,
    )
