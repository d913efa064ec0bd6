"""The JSON document of ``plan``: ways to run a bundle on a device, measured or derived, and which one is chosen."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edgestill.figure import Document, Figure, Record

Verdict = Literal["fits", "thrashes", "doesn't fit"]


class Limits(Record):
    """What the user asks for: seconds, tokens a second, bytes, a fraction. Null: no limit."""

    max_ttft: float | None = None
    min_decode_rate: float | None = None
    max_memory: float | None = None
    min_accuracy: float | None = None


class PlanRow(Record):
    """One way to run an artifact on the device.

    ``memory`` is the peak, ``largest_context`` the longest that fits. ``misses`` says which limits it misses and by how
    much, ``shortfall`` the worst of that as a fraction. ``frontier``: no other row that fits is better in decode rate,
    memory and accuracy at once. ``fit`` is null where the free memory isn't known.
    """

    artifact: str
    engine: str
    threads: int
    context: int
    decode: Figure
    ttft: Figure
    memory: Figure
    accuracy: Figure | None
    size_bytes: int
    fit: Verdict | None
    why: str
    largest_context: int | None
    misses: tuple[str, ...] = ()
    shortfall: float = 0.0
    frontier: bool = False
    chosen: bool = False


class PlanDocument(Document):
    """What ``plan`` prints; ``refusal`` says why nothing is chosen."""

    schema_: Annotated[Literal["edgestill.plan/1"], Field(alias="schema")] = "edgestill.plan/1"
    bundle: str
    device: str
    title: str
    prompt_tokens: int
    limits: Limits
    metric: str | None
    rows: tuple[PlanRow, ...]
    refusal: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def chosen(self) -> PlanRow | None:
        """The row that is chosen."""
        return next((row for row in self.rows if row.chosen), None)
