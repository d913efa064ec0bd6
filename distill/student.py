"""The student before training: pretrained, pruned from the teacher, or new."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgestill.artifact import Checkpoint
from edgestill.distill.new_model import initialize
from edgestill.distill.teacher import load_teacher
from edgestill.errors import InputError, UnsupportedError
from edgestill.recipe import ConfigStudent, PretrainedStudent, PrunedStudent, Student
from edgestill.storage import whole_folder

if TYPE_CHECKING:
    import torch


def make_student(section: Student, teacher: Checkpoint, out_dir: Path, *, seed: int) -> Checkpoint:
    """Return the checkpoint that training starts from, written to ``out_dir``.

    A pretrained student given as a folder or hub name is used where it lies. Raises InputError for
    sizes that don't fit the teacher, UnsupportedError for an architecture that can't be pruned.
    """
    if isinstance(section, PretrainedStudent):
        return load_teacher(section.model)
    if isinstance(section, ConfigStudent):
        return initialize(section.architecture, teacher, out_dir, seed=seed)
    return _pruned(section, teacher, out_dir)


def kept_layers(layers: int, kept: int) -> list[int]:
    """Return ``kept`` evenly spaced layer numbers of ``layers``, the first and the last among them."""
    if kept == 1:
        return [0]
    return [(index * (layers - 1) + (kept - 1) // 2) // (kept - 1) for index in range(kept)]


def kept_neurons(gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, kept: int) -> torch.Tensor:
    """Return the ``kept`` most important neurons of a gated MLP, in their order.

    ``gate`` and ``up`` are ``[intermediate, hidden]``, ``down`` ``[hidden, intermediate]``; importance
    is the product of the neuron's three weight norms.
    """
    importance = gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)
    neurons: torch.Tensor = importance.topk(kept).indices.sort().values
    return neurons


def _pruned(section: PrunedStudent, teacher: Checkpoint, out_dir: Path) -> Checkpoint:
    from edgestill.distill.models import load_model, save_model, torch_disk_errors

    model = load_model(teacher)
    config = copy.deepcopy(model.config)
    layers = getattr(model.base_model, "layers", None)
    if layers is None or not all(hasattr(getattr(layer, "mlp", None), "gate_proj") for layer in layers):
        raise UnsupportedError(
            f"{teacher.path}: {type(model).__name__} can't be pruned; "
            "Llama- and Qwen2-style decoders can (layers with a gated MLP)"
        )
    chosen = _chosen_layers(section, len(layers))
    width = section.intermediate_size or int(config.intermediate_size)
    if width > int(config.intermediate_size):
        raise InputError(f"student.intermediate_size {width} is more than the teacher's {config.intermediate_size}")
    config.num_hidden_layers = len(chosen)
    config.intermediate_size = width
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[number] for number in chosen]
    pruned = type(model)(config)
    pruned.load_state_dict(_pruned_state(model, chosen, width), strict=False)
    pruned.tie_weights()
    pruned.generation_config = model.generation_config
    with whole_folder(out_dir) as folder, torch_disk_errors(f"writing {out_dir}"):
        save_model(pruned.to(model.dtype), teacher, folder)
    return Checkpoint.open(out_dir)


def _chosen_layers(section: PrunedStudent, layers: int) -> list[int]:
    if isinstance(section.layers, tuple):
        if section.layers[-1] >= layers:
            raise InputError(f"student.layers names layer {section.layers[-1]}; the teacher's are 0 to {layers - 1}")
        return list(section.layers)
    if section.layers > layers:
        raise InputError(f"student.layers {section.layers} is more than the teacher's {layers}")
    return kept_layers(layers, section.layers)


def _pruned_state(model: Any, chosen: list[int], width: int) -> dict[str, torch.Tensor]:
    """Return the teacher's state dict with layers renumbered and MLPs narrowed."""
    prefix = f"{model.base_model_prefix}.layers."
    source: dict[str, torch.Tensor] = model.state_dict()
    state = {name: value for name, value in source.items() if not name.startswith(prefix)}
    for new, old in enumerate(chosen):
        mlp = model.base_model.layers[old].mlp
        gate, up, down = mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight
        neurons = kept_neurons(gate.float(), up.float(), down.float(), width)
        start = f"{prefix}{old}."
        for name, value in source.items():
            if not name.startswith(start):
                continue
            rest = name.removeprefix(start)
            if rest.startswith(("mlp.gate_proj.", "mlp.up_proj.")):
                value = value[neurons]
            elif rest == "mlp.down_proj.weight":
                value = value[:, neurons]
            state[f"{prefix}{new}.{rest}"] = value
    return state
