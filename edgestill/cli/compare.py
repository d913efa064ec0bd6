"""``edgestill compare``: is the second model slower than the first?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from edgestill.cli import console
from edgestill.cli.given import option_text, written
from edgestill.cli.numbers import fraction

_OF_A_STORE: Final = ("store", "device", "artifact", "baseline")
_OF_TWO: Final = (
    "width",
    "max_seconds",
    "min_rounds",
    "prompt_tokens",
    "new_tokens",
    "repetitions",
    "threads",
    "force",
)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare")(compare)


def compare(
    context: typer.Context,
    first: Annotated[
        str | None,
        typer.Argument(
            help="A model, or a result of bench --json (FILE.json or FILE.json#MODEL); without it, what devices did."
        ),
    ] = None,
    second: Annotated[str | None, typer.Argument(help="The same: what is compared with the first.")] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="What decides: answer_seconds, ttft_seconds, prefill_tokens_per_second, decode_tokens_per_second, "
            "load_seconds, peak_rss_bytes or pss_bytes."
        ),
    ] = "answer_seconds",
    fail_if_slower: Annotated[
        str | None,
        typer.Option(help="Exit with status 1 when the second is shown to differ and is slower by so much, e.g. 5%."),
    ] = None,
    width: Annotated[str, typer.Option(help="Run until the ratio is known this well.")] = "2%",
    max_seconds: Annotated[float, typer.Option(min=1, help="Start no further round after about this time.")] = 120.0,
    min_rounds: Annotated[int, typer.Option(min=8, help="Rounds (a process of each) that are run at least.")] = 10,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to generate.")] = 64,
    repetitions: Annotated[
        int | None, typer.Option(min=1, help="Counted repetitions in each process (default: 5 to 25, by their time).")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads (default: the cores this may use).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare results of different conditions.")] = False,
    store: Annotated[
        Path | None, typer.Option(help="Results of devices, latest against earlier (default: the user's own store).")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(help="Of the store: this device only; several times.")] = None,
    artifact: Annotated[list[str] | None, typer.Option(help="Of the store: this artifact only; several times.")] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Of the store: compare with the last result up to a date (2026-01-31), or of a bundle's hash "
            "(default: with the result before)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Run two models in turn, each time in a fresh process, or compare two results; say what differs, and how surely.

    Without models: each device's latest results in the store against those before. Exit status 1 with --fail-if-slower
    when the second, or any device, is slower by that much.
    """
    from edgestill.errors import GateError, InputError
    from edgestill.runtime.bench_comparison import CompareOptions, compare_in_turn, find, slower_by
    from edgestill.runtime.bench_options import BenchOptions
    from edgestill.runtime.result_comparison import compare_results

    limit = None if fail_if_slower is None else fraction("--fail-if-slower", fail_if_slower)
    for name in written(context):
        if name in (_OF_TWO if first is None else _OF_A_STORE):
            what = "two models or results" if first is None else "what a store holds, without models"
            raise InputError(f"{option_text(name)} is for {what}; leave it out")
    if first is None:
        from edgestill.cli.compare_store import compare_stored

        compare_stored(
            store,
            devices=device or (),
            artifacts=artifact or (),
            metric=metric,
            limit=limit,
            baseline=baseline,
            as_json=as_json,
        )
        return
    if second is None:
        raise InputError(f"{first} can't be compared with nothing; give two models or two results")
    stored = [text.rpartition("#")[0].endswith(".json") or text.endswith(".json") for text in (first, second)]
    if stored[0] != stored[1]:
        raise InputError(f"{first} and {second}: give two models or two results, not one of each")
    if stored[0]:
        document = compare_results(Path(first), Path(second), metric=metric, force=force)
    else:
        options = CompareOptions(
            bench=BenchOptions(prompt_tokens=prompt_tokens, new_tokens=new_tokens, threads=threads),
            repetitions=repetitions,
            metric=metric,
            width=fraction("--width", width),
            min_rounds=min_rounds,
            max_rounds=max(100, min_rounds),
            max_seconds=max_seconds,
        )
        with console.open_progress() as progress:
            document = compare_in_turn(first, second, options, progress=progress)
    decided = find(document.metrics, metric)
    if as_json:
        console.print_json(document.to_json())
    else:
        rows = [
            [
                one.metric,
                *(console.figure(value) for value in (one.first, one.second)),
                _ratio(one.ratio.value, one.ratio.ci95),
                "—" if one.p_value is None else f"{one.p_value:.3g}",
            ]
            for one in document.metrics
        ]
        console.print_table(["metric", "first", "second", "second / first", "p"], rows)
        said = document.verdict if document.verdict == "no difference shown" else f"the second is {document.verdict}"
        console.print_line(f"{metric}: {said}, {_ratio(decided.ratio.value, decided.ratio.ci95)} times the first")
        for line in (*document.forced, *document.warnings):
            console.say(line)
    if limit is not None and document.verdict in ("slower", "larger") and slower_by(decided) >= limit:
        raise GateError(f"{second} is {document.verdict} by {slower_by(decided):.1%} in {metric}, limit {limit:.1%}")


def _ratio(value: float | None, interval: tuple[float, float] | None) -> str:
    shown = "—" if value is None else f"{value:.3f}"
    return shown if interval is None else f"{shown} ({interval[0]:.3f} to {interval[1]:.3f})"
