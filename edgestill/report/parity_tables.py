"""What a report says of parity: the held-out text in one table, every case in another."""

from __future__ import annotations

from typing import Final

from edgestill.report.format import MISSING, bare_text, figure_text, printable
from edgestill.report.table import Cell, Section, figure_cell, rows
from edgestill.results import ModelRecord, ParityCase, ReportDocument, TokenizerParity

_LABELS: Final = {"special-tokens": "special tokens", "rope-boundary": "RoPE boundary"}


def parity_section(document: ReportDocument) -> Section:
    """Return each file's figures on the held-out text, and the verdict over everything."""
    parities = [model.parity for model in document.models if model.parity]
    positions = max(parity.positions for parity in parities)
    return Section(
        "Parity",
        f"Logits of each file against its reference on the same token ids, position by position ({positions:,} "
        "positions of held-out text). KL is KL(reference ‖ file).",
        ("reference", "top-1 agreement", "mean KL, nats", "max |Δ logit|", "verdict"),
        tuple(row for row in rows(document, _cells) if row.cells),
    )


def cases_section(document: ReportDocument) -> Section:
    """Return one row a file and one column a case of the parity check; a case that no file ran is named instead."""
    found = [case for model in document.models if model.parity for case in model.parity.cases]
    run = {case.name for case in found if case.positions}
    names = tuple(name for name in dict.fromkeys(case.name for case in found) if name in run)
    skipped = dict.fromkeys((case.name, case.note) for case in found if case.name not in names)
    left_out = "".join(f" Not run: {_label(name)} ({printable(note)})." for name, note in skipped)
    return Section(
        "Parity by case",
        "Top-1 agreement, and below it the largest |Δ logit|, on every case: hard texts, prompts of many lengths, with "
        f"and without the KV cache; the tokenizer on hard texts.{left_out}",
        (*map(_label, names), "tokenizer"),
        tuple(row for row in rows(document, lambda model: _case_cells(model, names)) if row.cells),
    )


def _cells(model: ModelRecord) -> tuple[Cell, ...]:
    parity = model.parity
    if parity is None:
        return ()
    verdict = Cell("passed") if parity.passed else Cell("refused", title="; ".join(map(printable, parity.reasons)))
    return (
        Cell(printable(parity.reference)),
        figure_cell(parity.top1_agreement),
        figure_cell(parity.mean_kl, text=bare_text(parity.mean_kl)),
        figure_cell(parity.max_abs_diff, text=bare_text(parity.max_abs_diff)),
        verdict,
    )


def _case_cells(model: ModelRecord, names: tuple[str, ...]) -> tuple[Cell, ...]:
    if model.parity is None or not model.parity.cases:
        return ()
    cases = {case.name: case for case in model.parity.cases}
    return (*(_case_cell(cases.get(name)) for name in names), _tokenizer_cell(model.parity.tokenizer))


def _case_cell(case: ParityCase | None) -> Cell:
    if case is None or not case.positions:
        return Cell(MISSING, title=printable(case.note) if case is not None else "not part of this file's check")
    about = f"{case.positions:,} positions, mean KL {bare_text(case.mean_kl)} nats"
    title = "; ".join(printable(part) for part in (about, *case.reasons, case.note) if part)
    text = "refused" if case.passed is False else figure_text(case.top1_agreement)
    return Cell(text, bare_text(case.max_abs_diff), title)


def _tokenizer_cell(tokenizer: TokenizerParity | None) -> Cell:
    if tokenizer is None:
        return Cell(MISSING, title="the reference has no tokenizer")
    title = f"{tokenizer.runtime}: {tokenizer.ids_equal} of {tokenizer.texts} texts with equal ids, "
    title += f"{tokenizer.round_trips} decoded to the same bytes"
    announced = [mismatch.announced for mismatch in tokenizer.mismatches if mismatch.announced]
    notes = dict.fromkeys((*tokenizer.reasons, *announced))
    detail = f"{tokenizer.announced} announced" if tokenizer.announced else ""
    equal = f"{tokenizer.ids_equal}/{tokenizer.texts}"
    return Cell(equal, detail, "; ".join(printable(part) for part in (title, *notes)))


def _label(name: str) -> str:
    return _LABELS.get(name, printable(name))
