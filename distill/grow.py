"""Growing a trained model in depth: the deeper model computes the same, and learns on from there.

A shallow model learns most of a task in a fraction of the time (progressive stacking: Gong et al., 2019,
"Efficient Training of BERT by Progressively Stacking"). A new layer is a copy of the trained layer below
it whose two projections into the residual stream are zero: at first it passes its input through.
"""

from __future__ import annotations

import copy
from pathlib import Path

from edgestill.artifact import Checkpoint
from edgestill.distill.student import kept_layers
from edgestill.errors import InputError
from edgestill.storage import whole_folder

_WRITES_RESIDUAL = (".self_attn.o_proj.weight", ".mlp.down_proj.weight")


def grow_depth(shallow: Checkpoint, layers: int, out_dir: Path) -> Checkpoint:
    """Write ``shallow`` with ``layers`` layers to ``out_dir``; its logits stay the same.

    The trained layers are spread evenly, the first and the last among them. Raises InputError when there
    is nothing to add.
    """
    import transformers

    from edgestill.distill.models import load_model, save_model, torch_disk_errors

    model = load_model(shallow)
    trained = int(model.config.num_hidden_layers)
    if layers <= trained:
        raise InputError(f"{shallow.path} has {trained} layers; it can't grow to {layers}")
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    deep = transformers.AutoModelForCausalLM.from_config(config)
    source = model.state_dict()
    state = {name: value for name, value in source.items() if not name.startswith("model.layers.")}
    places = kept_layers(layers, trained)
    for layer in range(layers):
        below = max(number for number, place in enumerate(places) if place <= layer)
        prefix = f"model.layers.{below}."
        for name, value in source.items():
            if not name.startswith(prefix):
                continue
            rest = name.removeprefix(prefix)
            new = layer not in places and f".{rest}".endswith(_WRITES_RESIDUAL)
            state[f"model.layers.{layer}.{rest}"] = value.new_zeros(value.shape) if new else value.clone()
    deep.load_state_dict(state)
    deep.generation_config = model.generation_config
    with whole_folder(out_dir) as folder, torch_disk_errors(f"writing {out_dir}"):
        save_model(deep, shallow, folder)
    return Checkpoint.open(out_dir)
