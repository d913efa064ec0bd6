"""Recipe: what a user writes, checked before any work starts.

An unknown key, a wrong type or an impossible combination raises RecipeError that names the key,
the value and the cure. Variants (teachers, students, losses) are discriminated by ``kind``.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from edgestill.artifact import split_name
from edgestill.errors import RecipeError
from edgestill.filters import JudgeFilter
from edgestill.section import Section
from edgestill.sections import (
    ON_REQUEST,
    AnthropicTeacher,
    Architecture,
    Asked,
    Bench,
    BundleSection,
    Columns,
    ConfigStudent,
    Data,
    Distill,
    ExportFormat,
    Gates,
    GgufTeacher,
    KlLoss,
    Loss,
    OpenAITeacher,
    PretrainedStudent,
    Price,
    PrunedStudent,
    Quantization,
    RemoteTeacher,
    SftLoss,
    Student,
    Synthesize,
    TaskName,
    Teacher,
    TrainedTeacher,
    TransformersTeacher,
)

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = [
    "AnthropicTeacher",
    "Architecture",
    "Asked",
    "Bench",
    "BundleSection",
    "Columns",
    "ConfigStudent",
    "Data",
    "Distill",
    "ExportFormat",
    "Gates",
    "GgufTeacher",
    "KlLoss",
    "Loss",
    "OpenAITeacher",
    "PretrainedStudent",
    "Price",
    "PrunedStudent",
    "Quantization",
    "Recipe",
    "RemoteTeacher",
    "Section",
    "SftLoss",
    "Student",
    "Synthesize",
    "TaskName",
    "Teacher",
    "TrainedTeacher",
    "TransformersTeacher",
    "load_recipe",
    "parse_recipe",
]

AskedSection = TypeVar("AskedSection", bound=Asked)

RECIPE_VERSION: Final = 1
_MAX_BYTES: Final = 1 << 20


def _targets(formats: Sequence[object]) -> tuple[Quantization, ...]:
    """Return every quantisation of the exported ``formats``."""
    usual = (target for target in get_args(Quantization) if target not in ON_REQUEST)
    return tuple(target for target in usual if split_name(target)[0] in formats)


class Recipe(Section):
    """A whole run: teacher -> student -> files -> bundle -> report."""

    version: Literal[1]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    task: TaskName
    task_options: dict[str, bool | int | str] = Field(default={})
    data: Data
    teachers: tuple[Teacher, ...] = Field(min_length=1, max_length=8)
    synthesize: Synthesize = Synthesize()
    student: Student
    distill: Distill = Distill()
    export: tuple[ExportFormat, ...] = Field(default=("onnx", "gguf"), min_length=1)
    quantize: tuple[Quantization, ...] = _targets(("onnx", "gguf"))
    gates: Gates = Gates()
    bench: Bench = Bench()
    bundle: BundleSection = BundleSection()
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _quantize_what_is_exported(cls, value: Any) -> Any:
        """Without ``quantize``: everything there is in the exported formats."""
        if not isinstance(value, dict) or "quantize" in value or not isinstance(value.get("export"), list):
            return value
        return {**value, "quantize": _targets(value["export"])}

    @field_validator("export", "quantize")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"names one twice: {', '.join(names)}")
        return names

    def has_local_teacher(self) -> bool:
        """Tell whether there is one teacher alone, and its logits can be had."""
        return len(self.teachers) == 1 and isinstance(self.teachers[0], TransformersTeacher | TrainedTeacher)

    @model_validator(mode="after")
    def _teachable(self) -> Recipe:
        if self.synthesize.samples > 1 and self.synthesize.temperature == 0:
            raise ValueError("synthesize.samples above 1 needs a temperature above 0: greedy answers are all the same")
        self._check_judge()
        self._check_prices()
        if self.has_local_teacher():
            return self
        if any(isinstance(teacher, TrainedTeacher) for teacher in self.teachers):
            raise ValueError("a teacher of kind 'trained' must be the only one")
        if any(isinstance(loss, KlLoss) and loss.weight > 0 for loss in self.distill.losses):
            raise ValueError("a kl loss needs one teacher alone, of kind 'transformers' or 'trained'; use sft")
        if not isinstance(self.student, PretrainedStudent):
            raise ValueError(
                f"student of kind {self.student.kind!r} needs one teacher alone, of kind 'transformers' or 'trained'; "
                "give a student of kind 'pretrained'"
            )
        if self.task == "text":
            raise ValueError("task 'text' needs one teacher alone, of kind 'transformers' or 'trained'")
        if self.synthesize.combine == "route" and not any(teacher.when for teacher in self.teachers):
            raise ValueError("combine 'route' needs a rule: give at least one teacher 'when'")
        return self

    def _check_judge(self) -> None:
        section = self.synthesize
        filtered = any(isinstance(one, JudgeFilter) for one in section.filters)
        if (section.combine == "judge" or filtered) and section.judge is None:
            wants = "a filter of kind 'judge'" if filtered else "combine 'judge'"
            raise ValueError(f"{wants} needs synthesize.judge: {{teacher: {{kind, model}}}}")
        if section.combine == "judge" and len(self.teachers) == 1 and section.samples == 1:
            raise ValueError("combine 'judge' has nothing to choose from: give several teachers, or samples")
        if section.judge is not None and section.combine != "judge" and not filtered:
            raise ValueError("synthesize.judge is never asked: use combine 'judge', or a filter of kind 'judge'")

    def _check_prices(self) -> None:
        asked: list[Section] = [*self.teachers]
        if self.synthesize.judge is not None:
            asked.append(self.synthesize.judge.teacher)
        for teacher in asked:
            if self.synthesize.max_cost is not None and isinstance(teacher, RemoteTeacher) and teacher.price is None:
                raise ValueError(f"synthesize.max_cost needs a price: {{input, output}} for teacher {teacher.model!r}")

    @model_validator(mode="before")
    @classmethod
    def _losses_that_can_be_had(cls, value: Any) -> Any:
        """Without ``losses``: sft and kl, or sft alone where the teacher's logits can't be had."""
        if not isinstance(value, dict) or not isinstance(value.get("teachers"), list):
            return value
        distill = value.get("distill", {})
        kinds = [teacher.get("kind") for teacher in value["teachers"] if isinstance(teacher, dict)]
        if kinds in (["transformers"], ["trained"]) or not isinstance(distill, dict) or "losses" in distill:
            return value
        return {**value, "distill": {**distill, "losses": [{"kind": "sft"}]}}

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        for target in self.quantize:
            format, _ = split_name(target)
            if format not in self.export:
                raise ValueError(f"quantize {target!r} needs {format!r} in export")
        if self.bundle.ship is not None and self.bundle.ship not in self.artifact_names():
            raise ValueError(f"bundle.ship {self.bundle.ship!r} is not one of {', '.join(self.artifact_names())}")
        return self

    def artifact_names(self) -> tuple[str, ...]:
        """Return the names of all artifacts that the recipe makes."""
        plain = {
            "onnx": ("onnx-fp32",),
            "gguf": ("gguf-f32", "gguf-f16"),
            "onnx-portable": ("onnx-portable-fp32",),
        }
        return (*(name for format in self.export for name in plain[format]), *self.quantize)


def load_recipe(path: Path) -> Recipe:
    """Read a YAML recipe; its paths come back resolved against the recipe's own folder.

    Raises RecipeError (one line: key, value, cure).
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RecipeError(f"{path}: larger than {_MAX_BYTES} bytes; that is not a recipe")
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: can't be read ({error.strerror}); give the path of a recipe") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: a recipe is a YAML mapping that begins with 'version: 1'")
    return parse_recipe(value, path)


def parse_recipe(value: dict[str, object], path: Path) -> Recipe:
    """Check a recipe's parsed YAML; ``path`` is its file, for messages and for relative paths."""
    if value.get("version") != RECIPE_VERSION:
        raise RecipeError(f"{path}: version {value.get('version')!r} is not {RECIPE_VERSION}; write 'version: 1'")
    try:
        recipe = Recipe.model_validate(value)
    except ValidationError as error:
        raise RecipeError(f"{path}: {_first_problem(error)}") from error
    return _resolved(recipe, path.resolve().parent)


def _resolved(recipe: Recipe, folder: Path) -> Recipe:
    def absolute(path: Path | None) -> Path | None:
        return None if path is None else (folder / path.expanduser()).resolve()

    data = recipe.data
    files = {"train": absolute(data.train), "validation": absolute(data.validation), "test": absolute(data.test)}

    def local(model: str) -> str:
        beside = (folder / Path(model).expanduser()).resolve()
        if beside.is_dir():
            return str(beside)
        if model.startswith((".", "/", "~")):
            raise RecipeError(f"model {model!r}: no such folder beside the recipe")
        return model

    def found(teacher: AskedSection) -> AskedSection:
        if isinstance(teacher, TransformersTeacher):
            return teacher.model_copy(update={"model": local(teacher.model)})
        if isinstance(teacher, GgufTeacher):
            file = absolute(teacher.model)
            if file is None or not file.is_file():
                raise RecipeError(f"teacher {str(teacher.model)!r}: no such file beside the recipe")
            return teacher.model_copy(update={"model": file})
        return teacher

    teachers = tuple(found(teacher) for teacher in recipe.teachers)
    section = recipe.synthesize
    judge = section.judge and section.judge.model_copy(update={"teacher": found(section.judge.teacher)})
    synthesize = section.model_copy(
        update={"prompts": absolute(section.prompts), "ledger": absolute(section.ledger), "judge": judge}
    )
    student = recipe.student
    if isinstance(student, PretrainedStudent):
        student = student.model_copy(update={"model": local(student.model)})
    return recipe.model_copy(
        update={
            "data": data.model_copy(update=files),
            "synthesize": synthesize,
            "teachers": teachers,
            "student": student,
            "bundle": recipe.bundle.model_copy(update={"sign": absolute(recipe.bundle.sign)}),
        }
    )


def _first_problem(error: ValidationError) -> str:
    return _printable(_problem(error.errors()[0]))


def _printable(text: str) -> str:
    """Escape what would break a message's one line: a user's keys and values may hold any character."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def _problem(problem: ErrorDetails) -> str:
    where = _dotted(problem["loc"])
    given = problem["input"]
    if problem["type"] == "extra_forbidden":
        known = _keys_beside(problem["loc"])
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        cure = f"did you mean {close[0]!r}?" if close else f"known keys here: {', '.join(known)}"
        return f"unknown key {where!r}; {cure}"
    if problem["type"] == "missing":
        return f"key {where!r} is missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(given, dict | list) else f" (found {given!r})"
    return f"{where + ': ' if where else ''}{message}{shown}"


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    """Return the known keys of the section in which an unknown key was found."""
    schema: Any = Recipe.model_json_schema()
    definitions = schema.get("$defs", {})

    def follow(value: Any) -> Any:
        while "$ref" in value:
            value = definitions[str(value["$ref"]).rsplit("/", 1)[-1]]
        return value

    node = schema
    for part in location[:-1]:
        node = follow(node)
        mapping = node.get("discriminator", {}).get("mapping", {})
        if part in mapping:
            node = {"$ref": mapping[part]}
        elif isinstance(part, int):
            node = node.get("items", {})
        else:
            node = node.get("properties", {}).get(part, {})
            node = next((option for option in node.get("anyOf", []) if "$ref" in option), node)
    return sorted(follow(node).get("properties", {}))
