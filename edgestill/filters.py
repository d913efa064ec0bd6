"""The sections of a recipe that say which rows are worth learning from; edgestill/distill/curate does it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from edgestill.section import Section


class Filter(Section):
    """What all filters have."""

    kind: str


class SchemaFilter(Filter):
    """Turns alternate, none is empty, the last is an answer."""

    kind: Literal["schema"] = "schema"


class LengthFilter(Filter):
    """Answers of ``min_words`` to ``max_words``, prompts of at most ``max_prompt_words``."""

    kind: Literal["length"]
    min_words: int = Field(default=1, ge=0)
    max_words: int | None = Field(default=None, gt=0)
    max_prompt_words: int | None = Field(default=None, gt=0)


class RefusalFilter(Filter):
    """No answer in which the teacher refuses; ``phrases`` are further signs of it."""

    kind: Literal["refusal"]
    phrases: tuple[str, ...] = ()


class TruncationFilter(Filter):
    """No answer that ends in the middle of a sentence."""

    kind: Literal["truncation"]


class LanguageFilter(Filter):
    """Answers in one of the languages ``is`` (ISO 639-1); those under ``min_words`` are let through."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    kind: Literal["language"]
    is_: tuple[str, ...] = Field(alias="is", min_length=1)
    min_words: int = Field(default=6, gt=0)


class AnswerFilter(Filter):
    """Only answers that the task's own check lets through (a valid label, a final number, one JSON object)."""

    kind: Literal["answer"] = "answer"


class ContaminationFilter(Filter):
    """No prompt of the test split, nor one that shares ``words`` words in a row with one."""

    kind: Literal["contamination"] = "contamination"
    words: int = Field(default=13, gt=2)


class JudgeFilter(Filter):
    """Only answers that ``synthesize.judge`` rates at least ``min_rating``, of 1 to 10.

    It is asked about what the filters before this one let through.
    """

    kind: Literal["judge"] = "judge"
    min_rating: float = Field(default=7, ge=1, le=10)


class ExactFilter(Filter):
    """No row twice."""

    kind: Literal["exact"] = "exact"


class NearFilter(Filter):
    """No row that is nearly an earlier one: ``similarity`` is Jaccard's, of byte 5-grams."""

    kind: Literal["near"]
    similarity: float = Field(default=0.8, ge=0.5, le=1)


AnyFilter = Annotated[
    SchemaFilter
    | LengthFilter
    | RefusalFilter
    | TruncationFilter
    | LanguageFilter
    | AnswerFilter
    | ContaminationFilter
    | JudgeFilter
    | ExactFilter
    | NearFilter,
    Field(discriminator="kind"),
]


class Balance(Section):
    """No group of rows has more than ``ratio`` times the smallest one's: by answer, or by the answer's length."""

    by: Literal["label", "length"]
    ratio: float = Field(default=2.0, ge=1)
