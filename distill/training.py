"""Training a checkpoint, with a teacher's signal or without: resumable, and the same to the last bit.

A run keeps its checkpoints in a hidden sibling of the output folder; a killed run, started again with
the same inputs, continues there and ends in the very weights that an undisturbed run ends in (same
machine, same number of threads). The sibling goes away when the output folder is whole; a whole folder
of the same inputs is returned as it is.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgestill.artifact import Checkpoint
from edgestill.distill import losses as registry
from edgestill.distill.encode import ChatTokenizer, EncodedData
from edgestill.distill.settings import TrainSettings
from edgestill.distill.vocabulary import vocabulary_sha256
from edgestill.errors import InputError
from edgestill.progress import SILENT, Progress
from edgestill.runtime.engines import BYTES_PER_THREAD, available_cpus
from edgestill.storage import remove, sha256_json, whole_folder, write_json

if TYPE_CHECKING:
    from edgestill.distill.signals import TeacherSignal
    from edgestill.distill.trainer import History

TRAINING_FILE: Final = "training.json"
SCHEMA: Final = "edgestill.training/1"
_PLAN: Final = "plan.json"


def train(
    student: Checkpoint,
    data: EncodedData,
    settings: TrainSettings,
    out_dir: Path,
    *,
    signal: TeacherSignal | None = None,
    seed: int = 0,
    label: str = "train",
    progress: Progress = SILENT,
) -> Checkpoint:
    """Train ``student`` on ``data`` and return the checkpoint written to ``out_dir``.

    ``out_dir`` gets the model, the student's tokenizer files and training.json (steps, tokens, losses in
    nats as means over the last steps, seconds over all attempts). Raises InputError when a loss needs a
    signal that isn't given, StageError when the loss isn't finite, DiskFullError.
    """
    import torch

    from edgestill.distill.models import check_head, load_model, quiet_transformers, save_model, torch_disk_errors
    from edgestill.distill.trainer import DistillTrainer, LossModel

    for section in settings.losses:
        if section.weight > 0 and registry.find(section.kind).needs_teacher and signal is None:
            raise InputError(f"loss {section.kind!r} needs a teacher's signal; cache one or run the teacher online")
    if signal is not None and signal.vocabulary != vocabulary_sha256(student):
        raise InputError(
            f"{student.path}: the teacher's signal has another vocabulary than this student's tokenizer.json; kl needs "
            "the same one: drop the kl loss, or take a student with the teacher's tokenizer (kind: pruned or config)"
        )
    work = out_dir.with_name(f".{out_dir.name}.training")
    key = sha256_json(
        {
            "student": student.sha256(),
            "data": data.sha256(),
            "settings": settings.result_key(),
            "signal": signal.identity if signal is not None else None,
            "seed": seed,
            "versions": library_versions(),
        }
    )
    if _finished(out_dir) == key:  # killed before its caller noted that it was done
        remove(work)
        return Checkpoint.open(out_dir)
    with torch_disk_errors(f"writing checkpoints to {work}"), quiet_transformers():
        resume, history = _open_work(work, key, _threads(student))
        model = load_model(student)
        check_head(model)
        if settings.precision == "bf16" and not torch.cuda.is_available():
            model.set_attn_implementation("eager")  # torch's fused CPU attention in bf16 is slower
        with progress.task(label, unit="steps") as task:
            trainer = DistillTrainer(
                LossModel(model, settings.losses),
                _arguments(work / "checkpoints", settings, seed),
                data,
                pad_id=ChatTokenizer.open(student).pad_id,
                signal=signal,
                settings=settings,
                history=history,
                task=task,
            )
            trainer.train(resume_from_checkpoint=str(resume) if resume is not None else None)
    model.to("cpu").eval()
    with whole_folder(out_dir) as folder, torch_disk_errors(f"writing {out_dir}"):
        save_model(model, student, folder)
        names = [section.kind for section in settings.losses if section.weight > 0]
        write_json(
            folder / TRAINING_FILE,
            {
                "schema": SCHEMA,
                "key": key,
                "steps": trainer.state.global_step,
                "rows": len(data.rows),
                "tokens": history.tokens,
                "losses": dict(zip(names, history.means(), strict=True)),
                "curve": [dict(zip(["step", *names], point, strict=True)) for point in history.curve],
                "seconds": history.seconds,
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "settings": settings.result_key(),
                "seed": seed,
            },
        )
    remove(work)
    return Checkpoint.open(out_dir)


def library_versions() -> list[str]:
    """Return the versions of what trains: another one may end in other weights."""
    import torch
    import transformers

    return [torch.__version__, transformers.__version__]


def _finished(folder: Path) -> str | None:
    """Return the key of the training that left ``folder`` whole, if one did."""
    try:
        value = json.loads((folder / TRAINING_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    key = value.get("key") if isinstance(value, dict) else None
    return key if isinstance(key, str) else None


def _arguments(folder: Path, settings: TrainSettings, seed: int) -> Any:
    import torch
    import transformers

    on_gpu = torch.cuda.is_available()
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        # An int of at least 1 is steps, a float below 1 a fraction; both go through here.
        warmup_steps=settings.warmup_fraction,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        adam_beta2=settings.adam_beta2,
        optim="adamw_torch_fused",
        bf16=settings.precision == "bf16",
        seed=seed,
        save_strategy="no",
        save_total_limit=2,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        log_level="error",
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
        dataloader_num_workers=0,
        use_cpu=not on_gpu,
    )
    if arguments.n_gpu > 1:
        # DataParallel would cut the flat positions of a batch, which count over all its rows.
        arguments._n_gpu = 1
    return arguments


def _threads(student: Checkpoint) -> int:
    """Return a thread for each ``BYTES_PER_THREAD`` of the weights, at most the CPUs there are.

    Measured at 0.4M parameters and 416 tokens a step: 18 ms on one thread, 26 ms on two.
    """
    size = sum(file.stat().st_size for file in student.weight_files())
    return max(1, min(available_cpus(), -(-size // BYTES_PER_THREAD)))


def _open_work(work: Path, key: str, threads: int) -> tuple[Path | None, History]:
    """Return the newest whole checkpoint of the same run (None: none) and its history.

    The number of threads is kept with the run: another one would add floats in another order.
    """
    import torch

    from edgestill.distill.trainer import WHOLE_MARKER, History

    plan = work / _PLAN
    try:
        known = json.loads(plan.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if known.get("key") != key:
        remove(work)
        work.mkdir(parents=True)
        known = {"key": key, "threads": threads}
        write_json(plan, known)
    torch.set_num_threads(int(known["threads"]))
    whole: list[tuple[int, Path]] = []
    for folder in (work / "checkpoints").glob("checkpoint-*"):
        step = re.fullmatch(r"checkpoint-(\d+)", folder.name)
        if step is not None and (folder / WHOLE_MARKER).is_file():
            whole.append((int(step[1]), folder))
        else:
            remove(folder)
    if not whole:
        return None, History()
    newest = max(whole)[1]
    value = json.loads((newest / WHOLE_MARKER).read_text(encoding="utf-8"))
    fields = {field.name for field in dataclasses.fields(History)}
    return newest, History(**{name: value[name] for name in fields})


def steps_of(rows: int, settings: TrainSettings) -> int:
    """Return how many optimizer steps a run over ``rows`` rows takes."""
    return math.ceil(settings.epochs * math.ceil(rows / settings.batch_size))
