"""Recipe: what a user writes, checked before any work starts.

An unknown key, a wrong type or an impossible combination raises RecipeError that names the key,
the value and the cure. Variants (teachers, students, losses) are discriminated by ``kind``.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from edgestill.errors import RecipeError

RECIPE_VERSION: Final = 1
_MAX_BYTES: Final = 1 << 20

TaskName = Literal["nli", "conversation", "qa", "math", "summarization", "classification", "json", "text"]
ExportFormat = Literal["onnx", "gguf"]
Quantization = Literal["onnx-int8", "onnx-int4", "gguf-q8_0", "gguf-q4_0", "gguf-q4_k_m"]


class Section(BaseModel):
    """Base of every section: frozen, unknown keys are errors, no silent type conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class Columns(Section):
    """Which column of a CSV, Parquet or JSONL file holds what (for prompt/completion data)."""

    prompt: str = "prompt"
    completion: str = "completion"


class Data(Section):
    """Data files (JSONL, CSV, Parquet), relative to the recipe's own file.

    Without ``validation``, a fraction of train is set aside by hash of the prompt.
    """

    train: Path
    validation: Path | None = None
    test: Path | None = None
    validation_fraction: float = Field(default=0.05, gt=0, lt=0.5)
    columns: Columns | None = None
    system: str | None = None
    limit: int | None = Field(default=None, gt=0)


class Architecture(Section):
    """Sizes of a new Llama-architecture model."""

    hidden_size: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    context: int = Field(default=512, gt=0)

    @model_validator(mode="after")
    def _heads_divide(self) -> Architecture:
        if self.hidden_size % self.heads:
            raise ValueError(f"heads {self.heads} must divide hidden_size {self.hidden_size}")
        if (self.hidden_size // self.heads) % 2:
            raise ValueError(f"hidden_size / heads must be even, found {self.hidden_size // self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} must divide heads {self.heads}")
        return self


class TransformersTeacher(Section):
    """A Hugging Face folder or hub name, loaded with transformers."""

    kind: Literal["transformers"]
    model: str
    weight: float = Field(default=1.0, gt=0)


class TrainedTeacher(Section):
    """A teacher trained first, from the gold answers of ``data.train``.

    ``tokens`` are strings that get a token of their own, such as the fixed parts of a JSON answer. With
    ``grow_from`` the model is trained with that many layers first, for ``epochs``, then grown to all its
    layers without changing what it computes, and trained for ``grown_epochs`` at a third of the rate.
    """

    kind: Literal["trained"]
    architecture: Architecture
    vocab_size: int = Field(default=1024, ge=300)
    tokens: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = ()
    epochs: float = Field(default=3.0, gt=0)
    batch_size: int = Field(default=32, gt=0)
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup_fraction: float = Field(default=0.2, ge=0, lt=1)
    grow_from: int | None = Field(default=None, gt=0)
    grown_epochs: float = Field(default=0.25, gt=0)
    weight: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _grows(self) -> TrainedTeacher:
        if self.grow_from is not None and self.grow_from >= self.architecture.layers:
            raise ValueError(f"grow_from {self.grow_from} must be below architecture.layers {self.architecture.layers}")
        return self


Teacher = Annotated[TransformersTeacher | TrainedTeacher, Field(discriminator="kind")]


class PretrainedStudent(Section):
    """A Hugging Face folder or hub name to start from."""

    kind: Literal["pretrained"]
    model: str


class PrunedStudent(Section):
    """The teacher with fewer layers and, if given, a narrower MLP.

    ``layers`` is how many are kept, evenly spaced, or the numbers of those that are, from 0 upwards.
    """

    kind: Literal["pruned"]
    layers: int | tuple[int, ...]
    intermediate_size: int | None = Field(default=None, gt=0)

    @field_validator("layers", mode="before")
    @classmethod
    def _count_or_numbers(cls, layers: object) -> object:
        numbers = list(layers) if isinstance(layers, list | tuple) else []
        whole = bool(numbers) and all(type(number) is int and number >= 0 for number in numbers)
        if (type(layers) is int and layers > 0) or (whole and sorted(set(numbers)) == numbers):
            return layers
        raise ValueError(f"must be how many layers, or their numbers from 0 upwards, found {layers!r}")


class ConfigStudent(Section):
    """New weights, with the teacher's tokenizer."""

    kind: Literal["config"]
    architecture: Architecture


Student = Annotated[PretrainedStudent | PrunedStudent | ConfigStudent, Field(discriminator="kind")]


class SftLoss(Section):
    """Cross-entropy on the completion's tokens."""

    kind: Literal["sft"]
    weight: float = Field(default=1.0, ge=0)


class KlLoss(Section):
    """Generalised Jensen-Shannon divergence between teacher and student, temperature-scaled.

    beta = 0 is forward KL(teacher || student), beta = 1 reverse KL (Agarwal et al., 2024, "GKD").
    """

    kind: Literal["kl"]
    weight: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=2.0, gt=0)
    beta: float = Field(default=0.0, ge=0, le=1)


Loss = Annotated[SftLoss | KlLoss, Field(discriminator="kind")]


class Synthesize(Section):
    """How the teacher answers: ``prompts``, a file of fresh prompts without answers, or else those of train.

    ``include_gold`` lets the student also learn the gold answers of train.
    """

    prompts: Path | None = None
    include_gold: bool = False
    temperature: float = Field(default=0.0, ge=0)
    max_new_tokens: int = Field(default=128, gt=0)
    batch_size: int = Field(default=64, gt=0)


class Distill(Section):
    """Training of the student. ``baseline`` also trains it on the gold answers alone, to compare."""

    losses: tuple[Loss, ...] = (SftLoss(kind="sft", weight=0.5), KlLoss(kind="kl", weight=0.5))
    learning_rate: float = Field(default=2e-5, gt=0)
    batch_size: int = Field(default=2, gt=0)
    epochs: float = Field(default=3.0, gt=0)
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    max_length: int = Field(default=512, gt=0)
    save_every_seconds: float = Field(default=10.0, gt=0)
    baseline: bool = True

    @model_validator(mode="after")
    def _some_weight(self) -> Distill:
        if not any(loss.weight > 0 for loss in self.losses):
            raise ValueError("at least one loss needs a weight above 0")
        return self


class Gates(Section):
    """Limits an artifact must keep: parity against the student, task quality against the teacher."""

    min_top1_agreement: float = Field(default=0.98, ge=0, le=1)
    max_kl: float = Field(default=0.05, ge=0)
    min_accuracy_retention: float = Field(default=0.0, ge=0)


class Bench(Section):
    """What is measured on each device."""

    devices: tuple[Literal["local"], ...] = ("local",)
    prompt_tokens: int = Field(default=128, gt=0)
    new_tokens: int = Field(default=64, gt=1)
    repetitions: int = Field(default=10, ge=3)
    threads: int | None = Field(default=None, gt=0)


class BundleSection(Section):
    """How the bundle is packed. ``ship`` is the artifact of the headline; default: the best int4."""

    sign: None = None
    ship: str | None = None
    golden_prompts: int = Field(default=20, gt=0)
    license: str | None = None


class Recipe(Section):
    """A whole run: teacher -> student -> files -> bundle -> report."""

    version: Literal[1]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    task: TaskName
    data: Data
    teachers: tuple[Teacher, ...] = Field(min_length=1, max_length=1)
    synthesize: Synthesize = Synthesize()
    student: Student
    distill: Distill = Distill()
    export: tuple[ExportFormat, ...] = Field(default=("onnx", "gguf"), min_length=1)
    quantize: tuple[Quantization, ...] = get_args(Quantization)
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
        targets = [target for target in get_args(Quantization) if target.partition("-")[0] in value["export"]]
        return {**value, "quantize": targets}

    @field_validator("export", "quantize")
    @classmethod
    def _each_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"names one twice: {', '.join(names)}")
        return names

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        for target in self.quantize:
            if target.partition("-")[0] not in self.export:
                raise ValueError(f"quantize {target!r} needs {target.partition('-')[0]!r} in export")
        if self.bundle.ship is not None and self.bundle.ship not in self.artifact_names():
            raise ValueError(f"bundle.ship {self.bundle.ship!r} is not one of {', '.join(self.artifact_names())}")
        return self

    def artifact_names(self) -> tuple[str, ...]:
        """Return the names of all artifacts that the recipe makes."""
        plain = {"onnx": ("onnx-fp32",), "gguf": ("gguf-f32", "gguf-f16")}
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
    synthesize = recipe.synthesize.model_copy(update={"prompts": absolute(recipe.synthesize.prompts)})

    def local(model: str) -> str:
        beside = (folder / Path(model).expanduser()).resolve()
        if beside.is_dir():
            return str(beside)
        if model.startswith((".", "/", "~")):
            raise RecipeError(f"model {model!r}: no such folder beside the recipe")
        return model

    teachers = tuple(
        teacher.model_copy(update={"model": local(teacher.model)})
        if isinstance(teacher, TransformersTeacher)
        else teacher
        for teacher in recipe.teachers
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
        }
    )


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
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
