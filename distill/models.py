"""Loading, checking and saving causal language models with transformers, without its chatter.

Imports torch: import it inside a function.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors  # only with torch
import torch  # noqa: TID253
import transformers  # noqa: TID253

from edgestill.artifact import Checkpoint
from edgestill.errors import CheckpointError, UnsupportedError, disk_errors
from edgestill.storage import write_json


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and notices off the console inside the block."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


@contextlib.contextmanager
def torch_disk_errors(doing: str) -> Iterator[None]:
    """Turn a full disk into DiskFullError, as torch and safetensors report it: by message alone."""
    with disk_errors(doing):
        try:
            yield
        except (RuntimeError, safetensors.SafetensorError) as error:
            if "No space left" in str(error) or "failed writing file" in str(error):
                raise OSError(errno.ENOSPC, str(error)) from error
            raise


def load_model(checkpoint: Checkpoint, *, dtype: torch.dtype = torch.float32) -> Any:
    """Load a causal language model. Raises CheckpointError when its files are damaged or don't fit together."""
    with quiet_transformers():
        try:
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                checkpoint.path, dtype=dtype, local_files_only=True, output_loading_info=True
            )
        except MemoryError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{checkpoint.path}: can't be loaded ({type(error).__name__}: {reason})") from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"{checkpoint.path}: {len(missing)} weights are missing: {', '.join(missing[:3])}")
    return model


def save_model(model: Any, tokenizer_source: Checkpoint, folder: Path) -> None:
    """Write config, generation config and safetensors, with the tokenizer and licence files of ``tokenizer_source``."""
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer_source.copy_tokenizer(folder)
    for file in tokenizer_source.license_files():
        shutil.copyfile(file, folder / file.name)
    settings = folder / "generation_config.json"
    if not settings.is_file():
        write_json(settings, json.loads(model.generation_config.to_json_string()))


def hidden_states(model: Any, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Run the decoder without its head; return ``[positions, hidden]`` at flat positions of ``[batch, time]``."""
    hidden: torch.Tensor = model.base_model(input_ids=input_ids, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, positions)


def head_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Return float32 logits ``[positions, vocab]`` of hidden states ``[positions, hidden]``."""
    logits: torch.Tensor = model.get_output_embeddings()(hidden)
    return logits.float()


@torch.inference_mode()
def check_head(model: Any) -> None:
    """Raise UnsupportedError unless decoder and head make the model's own logits.

    Some architectures scale or cap logits after the head; none of those may be trained wrongly in silence.
    """
    device = next(model.parameters()).device
    ids = torch.arange(8, device=device).remainder(model.config.vocab_size).unsqueeze(0)
    was_training = model.training
    model.eval()
    ours = head_logits(model, hidden_states(model, ids, torch.arange(8, device=device)))
    theirs = model(input_ids=ids, use_cache=False).logits[0].float()
    model.train(was_training)
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
        name = model.config.architectures or type(model).__name__
        raise UnsupportedError(f"{name}: its logits are scaled or capped after the head; not supported yet")
