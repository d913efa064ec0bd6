"""From a teacher to a student checkpoint: tokenizer, answers, signal, losses, training.

The pieces compose; the pipeline strings them together:

    train_teacher     a new model trained on gold answers (or load_teacher: one that exists)
    answer_prompts    the teacher's answers to fresh prompts, validated and deduplicated
    make_student      pretrained, pruned from the teacher, or new
    encode_examples   conversations as token ids and a mask of what is learnt
    cache_signal      the teacher's top-k distributions on disk, once (or OnlineSignal: live)
    train             the loop, on transformers' Trainer; resumable bit by bit

Importing this package is cheap; torch and transformers load with the first name that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgestill.distill.answers import AnswersResult, Dropped, answer_prompts
    from edgestill.distill.encode import ChatTokenizer, Encoded, EncodedData, encode_examples
    from edgestill.distill.new_model import initialize, renew
    from edgestill.distill.settings import TrainSettings
    from edgestill.distill.signals import CachedSignal, OnlineSignal, TeacherSignal, cache_signal
    from edgestill.distill.student import make_student
    from edgestill.distill.teacher import load_teacher, train_teacher
    from edgestill.distill.tokenizer import train_tokenizer
    from edgestill.distill.training import train
    from edgestill.distill.vocabulary import check_same_vocabulary

__all__ = [
    "AnswersResult",
    "CachedSignal",
    "ChatTokenizer",
    "Dropped",
    "Encoded",
    "EncodedData",
    "OnlineSignal",
    "TeacherSignal",
    "TrainSettings",
    "answer_prompts",
    "cache_signal",
    "check_same_vocabulary",
    "encode_examples",
    "initialize",
    "load_teacher",
    "make_student",
    "renew",
    "train",
    "train_teacher",
    "train_tokenizer",
]

_MODULES = {
    "answers": ("AnswersResult", "Dropped", "answer_prompts"),
    "encode": ("ChatTokenizer", "Encoded", "EncodedData", "encode_examples"),
    "new_model": ("initialize", "renew"),
    "settings": ("TrainSettings",),
    "signals": ("CachedSignal", "OnlineSignal", "TeacherSignal", "cache_signal"),
    "student": ("make_student",),
    "teacher": ("load_teacher", "train_teacher"),
    "tokenizer": ("train_tokenizer",),
    "training": ("train",),
    "vocabulary": ("check_same_vocabulary",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"edgestill.distill.{_HOME[name]}"), name)
    globals()[name] = value
    return value
