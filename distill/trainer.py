"""The Trainer: transformers' loop around losses that see the learnt positions alone.

Imports torch and transformers: import it inside a function.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import safetensors.torch  # only with torch
import torch  # noqa: TID253
import transformers  # noqa: TID253
from torch.utils.checkpoint import checkpoint as recompute  # noqa: TID253

from edgestill.distill import losses as registry
from edgestill.distill.collate import Batch, LengthSampler, NumberedRows, collate
from edgestill.distill.encode import EncodedData, EncodedRows
from edgestill.distill.models import head_logits, hidden_states
from edgestill.distill.settings import TrainSettings
from edgestill.distill.signals import TeacherReader, TeacherSignal
from edgestill.errors import StageError
from edgestill.progress import Task
from edgestill.recipe import Loss
from edgestill.storage import write_json

WHOLE_MARKER: Final = "whole.json"
_WEIGHTS: Final = "model.safetensors"
_WINDOW: Final = 50
_CURVE_POINTS: Final = 100
_SHOW_SECONDS: Final = 0.2
_CHUNK_ELEMENTS: Final = 1 << 24
_SAVE_SPACING: Final = 20
"""Checkpoints of a large model come no oftener than this many times what one takes: 5% of the time at most."""


class LossModel(torch.nn.Module):
    """A causal language model whose forward returns its weighted losses.

    The head and the losses run over chunks of learnt positions, and a chunk's logits are computed
    again in the backward pass: ``[chunk, vocab]`` is all that ever exists, of student and of teacher.
    """

    def __init__(self, model: Any, sections: Sequence[Loss], *, chunk_elements: int = _CHUNK_ELEMENTS) -> None:
        super().__init__()
        self.model = model
        self.terms = [(section, registry.find(section.kind)) for section in sections if section.weight > 0]
        self.chunk = max(1, chunk_elements // int(model.config.vocab_size))

    @property
    def needs_teacher(self) -> bool:
        """Whether one of the losses reads the teacher."""
        return any(loss.needs_teacher for _, loss in self.terms)

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        targets: torch.Tensor,
        teacher: TeacherReader | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weighted loss (scalar) and each loss by itself ``[losses]``: means over positions, nats."""
        hidden = hidden_states(self.model, input_ids, positions)
        count = len(targets)
        if count <= self.chunk:
            values = self._chunk_losses(hidden, targets, teacher, 0, count)
        else:
            values = hidden.new_zeros(len(self.terms), dtype=torch.float32)
            for start in range(0, count, self.chunk):
                stop = min(start + self.chunk, count)
                rows = slice(start, stop)
                values = values + recompute(
                    self._chunk_losses, hidden[rows], targets[rows], teacher, start, stop, use_reentrant=False
                )
        values = values / count
        weights = torch.tensor([section.weight for section, _ in self.terms], device=values.device)
        return (values * weights).sum(), values.detach()

    def _chunk_losses(
        self, hidden: torch.Tensor, targets: torch.Tensor, teacher: TeacherReader | None, start: int, stop: int
    ) -> torch.Tensor:
        logits = head_logits(self.model, hidden)
        said = teacher(start, stop) if teacher is not None else None
        return torch.stack([loss.function(logits, targets, said, section).sum() for section, loss in self.terms])


@dataclasses.dataclass
class History:
    """What a run has done so far; it goes into each checkpoint's marker and comes back on resuming."""

    tokens: int = 0
    seconds: float = 0.0
    recent: list[list[float]] = dataclasses.field(default_factory=list)
    curve: list[list[float]] = dataclasses.field(default_factory=list)

    def means(self) -> list[float]:
        """Return each loss averaged over the last steps."""
        return [math.fsum(column) / len(column) for column in zip(*self.recent, strict=True)]


class DistillTrainer(transformers.Trainer):  # type: ignore[misc]
    """transformers' Trainer with our batches, losses and checkpoints."""

    def __init__(
        self,
        model: LossModel,
        arguments: transformers.TrainingArguments,
        data: EncodedData,
        *,
        pad_id: int,
        signal: TeacherSignal | None,
        settings: TrainSettings,
        history: History,
        task: Task,
    ) -> None:
        lengths = data.rows.lengths if isinstance(data.rows, EncodedRows) else [len(row.input_ids) for row in data.rows]
        self.sampler = LengthSampler(lengths, settings.batch_size, arguments.seed)
        self.signal = signal if model.needs_teacher else None
        self.history = history
        super().__init__(
            model=model,
            args=arguments,
            data_collator=functools.partial(collate, pad_id=pad_id),
            train_dataset=NumberedRows(data.rows),
            callbacks=[_Watch(self, settings, task)],
        )
        self.remove_callback(transformers.PrinterCallback)

    def _get_train_sampler(self, train_dataset: object = None) -> LengthSampler:
        return self.sampler

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: object = None
    ) -> torch.Tensor:
        """Return the weighted mean loss over the batch's learnt positions."""
        teacher = self.signal.for_batch(inputs) if self.signal is not None else None
        loss, values = model(inputs["input_ids"], inputs["positions"], inputs["targets"], teacher)
        self.last_values: torch.Tensor = values
        self.history.tokens += int(inputs["tokens"])
        result: torch.Tensor = loss
        return result

    def _save(self, output_dir: str | None = None, state_dict: object = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_model(self.model, str(folder / _WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        safetensors.torch.load_model(model or self.model, str(Path(resume_from_checkpoint) / _WEIGHTS))


class _Watch(transformers.TrainerCallback):  # type: ignore[misc]
    """Epoch order, progress, time-based checkpoints, and the marker that makes a checkpoint whole."""

    def __init__(self, trainer: DistillTrainer, settings: TrainSettings, task: Task) -> None:
        self.trainer = trainer
        self.every = settings.save_every_seconds
        self.save_took = 0.0
        self.names = [section.kind for section in settings.losses if section.weight > 0]
        self.task = task
        self.recent: collections.deque[list[float]] = collections.deque(trainer.history.recent, maxlen=_WINDOW)
        self.unshown = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.saved = self.shown = self.mark = time.monotonic()
        self.shown_tokens = self.trainer.history.tokens
        self.curve_every = max(1, state.max_steps // _CURVE_POINTS)
        self.task.set_total(state.max_steps)
        if state.global_step:
            self.task.advance(state.global_step)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.sampler.set_epoch(math.floor(state.epoch + 1e-6))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        values = self.trainer.last_values.tolist()
        if not all(map(math.isfinite, values)):
            raise StageError(f"the loss became {values} at step {state.global_step}; lower learning_rate")
        self.recent.append(values)
        history = self.trainer.history
        if state.global_step % self.curve_every == 0 or state.global_step == state.max_steps:
            history.recent = list(self.recent)
            history.curve.append([state.global_step, *history.means()])
        now = time.monotonic()
        history.seconds += now - self.mark
        self.mark = now
        self.unshown += 1
        last = state.global_step >= state.max_steps
        if now - self.shown >= _SHOW_SECONDS or last:
            rate = (history.tokens - self.shown_tokens) / max(now - self.shown, 1e-9)
            fields = {name: f"{value:.3f}" for name, value in zip(self.names, values, strict=True)}
            self.task.advance(self.unshown, **fields, tokens_per_second=f"{rate:,.0f}")
            self.unshown, self.shown, self.shown_tokens = 0, now, history.tokens
        if now - self.saved >= max(self.every, _SAVE_SPACING * self.save_took) and not last:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Written last: a checkpoint without it is half-written and never resumed.
        self.trainer.history.recent = list(self.recent)
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_json(folder / WHOLE_MARKER, dataclasses.asdict(self.trainer.history))
        self.saved = time.monotonic()
        self.save_took = self.saved - self.mark  # the step before it ended at the mark

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.history.recent = list(self.recent)
