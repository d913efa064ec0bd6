"""Filters that look at one row."""

from __future__ import annotations

import hashlib
import itertools
import re
from typing import Final

from edgestill.dataset import Example, prompt_key, question_of
from edgestill.distill.curate import Context, Fault, register
from edgestill.errors import InputError, MissingDependencyError
from edgestill.filters import (
    AnswerFilter,
    ContaminationFilter,
    JudgeFilter,
    LanguageFilter,
    LengthFilter,
    RefusalFilter,
    SchemaFilter,
    TruncationFilter,
)

# How assistants begin when they won't or can't; a refusal in mid-answer is none.
_REFUSAL: Final = re.compile(
    r"\s*(?:(?:i'?m|i am) (?:really |very |so )?(?:sorry|afraid|unable|not able)\b(?:[^.!?\n]{0,60}?"
    r"\b(?:can't|can ?not|cannot|won't|unable|not able|don't|do not)|(?<=able)) "
    r"|i (?:can't|can ?not|won't|will not|am unable to|am not able to) (?:help|assist|answer|provide|do|comply)\b"
    r"|(?:sorry|apologies|unfortunately),? (?:but )?i (?:can't|can ?not|won't|will not|do not have|don't have)\b"
    r"|as an? (?:ai|artificial intelligence|(?:large )?language model)\b)",
    re.IGNORECASE,
)
_ENDS: Final = ".!?…。！？)]}\"'”’»`*:;>"
_LONG: Final = 12


@register(SchemaFilter)
def schema(section: SchemaFilter, context: Context) -> Fault:
    """Refuse conversations whose turns don't alternate, or hold nothing."""

    def fault(example: Example) -> str | None:
        if example.text is not None:
            return None if example.text.strip() else "empty text"
        roles = [message.role for message in example.messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if not turns or turns[0] != "user" or any(a == b for a, b in itertools.pairwise(turns)):
            return "turns of user and assistant don't alternate"
        if "system" in turns:
            return "a system message in the middle"
        if any(not message.content.strip() for message in example.messages):
            return "an empty message"
        return None if roles[-1] == "assistant" else "no answer"

    return fault


@register(LengthFilter)
def length(section: LengthFilter, context: Context) -> Fault:
    """Refuse answers (texts) of too few or too many words, and prompts of too many."""

    def fault(example: Example) -> str | None:
        words = len((example.completion or example.text or "").split())
        if words < section.min_words:
            return f"fewer than {section.min_words} words"
        if section.max_words is not None and words > section.max_words:
            return f"more than {section.max_words} words"
        asked = sum(len(message.content.split()) for message in example.prompt)
        if section.max_prompt_words is not None and asked > section.max_prompt_words:
            return f"a prompt of more than {section.max_prompt_words} words"
        return None

    return fault


@register(RefusalFilter)
def refusal(section: RefusalFilter, context: Context) -> Fault:
    """Refuse answers that begin as assistants refuse, and those that hold one of ``phrases``."""
    own = [phrase.lower() for phrase in section.phrases]

    def fault(example: Example) -> str | None:
        answer = example.completion or ""
        refuses = _REFUSAL.match(answer) or any(phrase in answer.lower() for phrase in own)
        return "the teacher refuses" if refuses else None

    return fault


@register(TruncationFilter)
def truncation(section: TruncationFilter, context: Context) -> Fault:
    """Refuse answers of a dozen words and more that end without a mark, or in an open code fence."""

    def fault(example: Example) -> str | None:
        answer = (example.completion or "").rstrip()
        if answer.count("```") % 2:
            return "an open code fence"
        if len(answer.split()) >= _LONG and answer[-1] not in _ENDS and not answer[-1].isdigit():
            return "ends in the middle of a sentence"
        return None

    return fault


@register(AnswerFilter)
def answer(section: AnswerFilter, context: Context) -> Fault:
    """Refuse what the task's own check refuses."""
    return context.fault or (lambda example: None)


@register(LanguageFilter)
def language(section: LanguageFilter, context: Context) -> Fault:
    """Refuse answers in another language; those of few words are let through, as nothing can be said of them."""
    try:
        import py3langid
    except ImportError as error:
        raise MissingDependencyError("the language filter needs py3langid: pip install 'edgestill[curate]'") from error

    def fault(example: Example) -> str | None:
        shown = example.completion or example.text or ""
        if len(shown.split()) < section.min_words:
            return None
        found = py3langid.classify(shown)[0]
        return None if found in section.is_ else f"in {found}"

    return fault


@register(ContaminationFilter)
def contamination(section: ContaminationFilter, context: Context) -> Fault:
    """Refuse prompts that a test row asks (see prompt_key), or that share n words in a row with one."""
    whole = {prompt_key(row) for row in context.test}
    parts = {gram for row in context.test for gram in _grams(row, section.words)}

    def fault(example: Example) -> str | None:
        if prompt_key(example) in whole:
            return "a test prompt"
        if parts and not parts.isdisjoint(_grams(example, section.words)):
            return f"{section.words} words in a row of a test prompt"
        return None

    return fault


@register(JudgeFilter)
def judged(section: JudgeFilter, context: Context) -> Fault:
    """Refuse answers that the judge rates too low, or not at all; rows without an answer are let through.

    Raises InputError when nobody judged.
    """
    if context.rating is None:
        raise InputError("a filter of kind 'judge' needs ratings; see edgestill.distill.judge")
    rating = context.rating

    def fault(example: Example) -> str | None:
        if example.completion is None:
            return None
        found = rating(example)
        if found is None:
            return "the judge gave no rating"
        return f"rated below {section.min_rating:g}" if found < section.min_rating else None

    return fault


def _grams(example: Example, n: int) -> set[int]:
    # Eight bytes an n-gram instead of its text; the same on every machine.
    words = re.findall(r"\w+", question_of(example).lower())
    grams = (" ".join(words[at : at + n]) for at in range(len(words) - n + 1))
    return {int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "little") for gram in grams}
