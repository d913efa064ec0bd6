"""The sections of a recipe, one class each; :mod:`edgestill.recipe` puts them together.

Variants (teachers, students, losses) are discriminated by ``kind``; an unknown key is an error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from edgestill.filters import AnyFilter, Balance, ContaminationFilter, ExactFilter
from edgestill.section import Section

TaskName = Literal["nli", "conversation", "qa", "math", "summarization", "classification", "json", "text"]
ExportFormat = Literal["onnx", "gguf", "onnx-portable"]
Quantization = Literal[
    "onnx-int8", "onnx-int4", "onnx-int4_g128", "gguf-q8_0", "gguf-q4_0", "gguf-q4_k_m", "onnx-portable-int8"
]
ON_REQUEST: Final = ("onnx-int4_g128",)
"""Made only where a recipe names them: others of the same bits are made already."""


class Columns(Section):
    """Which column of the data files holds what, where its name is another; a task names those it reads."""

    messages: str | None = None
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    premise: str | None = None
    hypothesis: str | None = None
    label: str | None = None
    context: str | None = None
    question: str | None = None
    answer: str | None = None
    answers: str | None = None
    document: str | None = None
    summary: str | None = None
    references: str | None = None

    def given(self) -> dict[str, str]:
        """Return our name -> the file's, for those that are set."""
        return {ours: theirs for ours, theirs in self.model_dump().items() if theirs is not None}


class Data(Section):
    """Data files (JSONL, JSON, CSV, TSV, Parquet, text), relative to the recipe's own file.

    Without ``validation`` or ``test``, a fraction of train is set aside by hash of the prompt: the same rows as
    data grow. A bad row stops the run, or with ``on_bad_row: set-aside`` goes into a file of the run's folder
    and is counted. ``limit`` reads the first rows of each file alone, ``test_limit`` those of ``test``.
    """

    train: Path
    validation: Path | None = None
    test: Path | None = None
    validation_fraction: float = Field(default=0.05, gt=0, lt=0.5)
    test_fraction: float = Field(default=0.05, gt=0, lt=0.5)
    columns: Columns = Columns()
    on_bad_row: Literal["stop", "set-aside"] = "stop"
    system: str | None = None
    limit: int | None = Field(default=None, gt=0)
    test_limit: int | None = Field(default=None, gt=0)


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


class Asked(Section):
    """What all teachers have that are asked: a share of the prompts, or those that a rule gives them.

    ``weight`` is the share (``combine: sample``); ``when``, a regular expression searched in the last
    question, the rule (``combine: route``). ``name`` is how reports call it.
    """

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    weight: float = Field(default=1.0, gt=0)
    when: str | None = None

    @field_validator("when")
    @classmethod
    def _readable(cls, rule: str | None) -> str | None:
        try:
            re.compile(rule or "")
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from error
        return rule


class TransformersTeacher(Asked):
    """A Hugging Face folder or hub name, loaded with transformers."""

    kind: Literal["transformers"]
    model: str


class GgufTeacher(Asked):
    """A local GGUF file, run by the runtime that apps embed."""

    kind: Literal["gguf"]
    model: Path
    threads: int | None = Field(default=None, gt=0)
    context: int | None = Field(default=None, gt=0)


class Price(Section):
    """What a teacher costs: currency units per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class RemoteTeacher(Asked):
    """What all teachers behind a server have.

    The key comes from the environment variable that ``api_key_env`` names (null: the server wants none),
    never from the recipe. ``body`` is added to each request, such as ``{reasoning_effort: low}``.
    """

    model: str
    base_url: str
    api_key_env: str | None
    price: Price | None = None
    timeout_seconds: float = Field(default=120.0, gt=0)
    body: dict[str, Any] = Field(default={})

    @field_validator("base_url")
    @classmethod
    def _http(cls, url: str) -> str:
        if not re.match(r"https?://[^/@]+(/|$)", url):
            raise ValueError("must be an http(s) address without a user name in it")
        return url.rstrip("/")


class OpenAITeacher(RemoteTeacher):
    """Any server that speaks OpenAI's chat completions: OpenAI, Azure, DeepSeek, vLLM, llama.cpp ..."""

    kind: Literal["openai"]
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str | None = "OPENAI_API_KEY"


class AnthropicTeacher(RemoteTeacher):
    """Anthropic's messages."""

    kind: Literal["anthropic"]
    base_url: str = "https://api.anthropic.com"
    api_key_env: str | None = "ANTHROPIC_API_KEY"


class TrainedTeacher(Asked):
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

    @model_validator(mode="after")
    def _grows(self) -> TrainedTeacher:
        if self.grow_from is not None and self.grow_from >= self.architecture.layers:
            raise ValueError(f"grow_from {self.grow_from} must be below architecture.layers {self.architecture.layers}")
        return self


Teacher = Annotated[
    TransformersTeacher | TrainedTeacher | GgufTeacher | OpenAITeacher | AnthropicTeacher, Field(discriminator="kind")
]


class JudgeSection(Section):
    """Who rates answers from 1 to 10, and by what ``instructions`` (they end with the line 'Rating: N')."""

    teacher: Annotated[
        TransformersTeacher | GgufTeacher | OpenAITeacher | AnthropicTeacher, Field(discriminator="kind")
    ]
    instructions: str | None = Field(default=None, min_length=1)
    max_new_tokens: int = Field(default=256, gt=0)


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
    """How the teachers answer: ``prompts``, a file of fresh prompts without answers, or else those of train.

    ``include_gold`` lets the student also learn the gold answers of train. With several teachers, ``combine``
    says who answers what: ``sample`` (each prompt one teacher, drawn by weight), ``route`` (the first whose
    ``when`` matches) or ``agreement`` (all of them; an answer is kept when at least ``min_agreement`` of the
    answers say the same) or ``judge`` (all of them; the answer that ``judge`` rates highest is kept).
    ``samples`` above 1 asks each teacher so often and keeps by agreement, or by the judge.
    ``concurrency`` is the most requests to a server at once, ``max_cost`` what all of them may cost together.
    ``ledger`` is the file of paid answers, by default one for all recipes in the user's cache folder. What
    was answered (and gold, if included) passes the ``filters``; ``balance: label`` or ``length`` evens out.
    """

    prompts: Path | None = None
    include_gold: bool = False
    temperature: float = Field(default=0.0, ge=0)
    max_new_tokens: int = Field(default=128, gt=0)
    batch_size: int = Field(default=64, gt=0)
    samples: int = Field(default=1, gt=0, le=64)
    combine: Literal["sample", "route", "agreement", "judge"] = "sample"
    min_agreement: float = Field(default=0.5, gt=0, le=1)
    judge: JudgeSection | None = None
    concurrency: int = Field(default=16, gt=0, le=1024)
    max_cost: float | None = Field(default=None, ge=0)
    ledger: Path | None = None
    filters: tuple[AnyFilter, ...] = (ExactFilter(), ContaminationFilter())
    balance: Balance | None = None

    @field_validator("balance", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return {"by": value} if isinstance(value, str) else value


class Distill(Section):
    """Training of the student. ``baseline`` also trains it on the gold answers alone, to compare.

    ``turns`` says which answers of a conversation are learnt: all, or the final one. Before training, a
    ``preflight`` looks for the mistakes that make it silently wrong, and stops or warns.
    """

    losses: tuple[Loss, ...] = (SftLoss(kind="sft", weight=0.5), KlLoss(kind="kl", weight=0.5))
    learning_rate: float = Field(default=2e-5, gt=0)
    batch_size: int = Field(default=2, gt=0)
    epochs: float = Field(default=3.0, gt=0)
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    max_length: int = Field(default=512, gt=0)
    save_every_seconds: float = Field(default=10.0, gt=0)
    baseline: bool = True
    turns: Literal["all", "final"] = "all"
    preflight: Literal["stop", "warn", "off"] = "stop"

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
    """How the bundle is packed. ``ship`` is the artifact of the headline; default: the best int4.

    ``sign`` is the private key that signs it, a PEM file. ``system`` is a system prompt: what each artifact computes
    for it travels along.
    """

    sign: Path | None = None
    ship: str | None = None
    golden_prompts: int = Field(default=20, gt=0)
    license: str | None = None
    system: str | None = Field(default=None, min_length=1)
